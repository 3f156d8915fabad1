//! The tasks of the running program, by what ends when.
//!
//! Owns: every task. Invariants: a task that ends without having been told to is noticed; none is left behind.

use std::{future::Future, io, pin::Pin};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Which tasks end when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Listeners: they drain first.
    Callers,
    /// Keepers: a login under way may have to be recorded.
    Keepers,
    /// Pools, the admin port, the watch over files.
    Rooms,
}

/// How a task ended.
pub(super) struct Ended {
    pub(super) task: &'static str,
    pub(super) result: io::Result<()>,
    /// It was told to.
    told: bool,
}

type Work = Pin<Box<dyn Future<Output = Ended> + Send>>;

#[derive(Default)]
pub(super) struct Jobs {
    /// Until the program runs, and until a change of the configuration is whole.
    waiting: Vec<(Group, Work)>,
    callers: JoinSet<Ended>,
    keepers: JoinSet<Ended>,
    rooms: JoinSet<Ended>,
}

impl Jobs {
    /// Runs after the next [`Self::start`]; `told` is cancelled when it shall end.
    pub(super) fn add<F>(&mut self, group: Group, task: &'static str, told: &CancellationToken, work: F)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let told = told.clone();
        let work = async move {
            let result = work.await;
            let told = told.is_cancelled();
            Ended { task, result, told }
        };
        self.waiting.push((group, Box::pin(work)));
    }

    pub(super) fn start(&mut self) {
        for (group, work) in std::mem::take(&mut self.waiting) {
            self.set(group).spawn(work);
        }
    }

    /// The next task that ended although nobody had told it to. Dropping the future loses nothing: the sets keep what they
    /// have.
    pub(super) async fn next_early(&mut self) -> Ended {
        loop {
            // Dropped half-way, a join loses nothing.
            let ended = tokio::select! {
                biased;
                ended = next(&mut self.callers) => ended,
                ended = next(&mut self.keepers) => ended,
                ended = next(&mut self.rooms) => ended,
            };
            if !ended.told {
                return ended;
            }
        }
    }

    /// Until every task of the group has ended.
    pub(super) async fn join(&mut self, group: Group) {
        let set = self.set(group);
        while set.join_next().await.is_some() {}
    }

    /// Ends what is left of a group.
    pub(super) async fn abort(&mut self, group: Group) {
        self.set(group).shutdown().await;
    }

    fn set(&mut self, group: Group) -> &mut JoinSet<Ended> {
        match group {
            Group::Callers => &mut self.callers,
            Group::Keepers => &mut self.keepers,
            Group::Rooms => &mut self.rooms,
        }
    }
}

/// The next task that ends; for ever when there is none.
async fn next(tasks: &mut JoinSet<Ended>) -> Ended {
    match tasks.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(e)) => Ended {
            task: "a task",
            result: Err(io::Error::other(e)),
            told: false,
        },
        None => std::future::pending().await,
    }
}
