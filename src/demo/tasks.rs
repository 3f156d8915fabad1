//! The org's tasks: owned, joined, and loud when they panic.
//!
//! Owns: every task of the org's runtime and the first panic among them.
//! Invariants: a panic is kept for the thread that stops the org; it never vanishes in a connection.
//! Fails with: nothing.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

type Panic = Box<dyn Any + Send>;

/// Cheap to clone; all clones speak of the same tasks.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    panic: Arc<Mutex<Option<Panic>>>,
}

impl Tasks {
    /// Runs until done, or until the org stops (then dropped at its next await).
    pub(crate) fn spawn(&self, work: impl Future + Send + 'static) {
        let tasks = self.clone();
        self.tracker.spawn(async move {
            let stop = tasks.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tasks.watch(work) => {}
            }
        });
    }

    /// Runs `work`, keeping its panic.
    async fn watch(&self, work: impl Future) {
        let mut work = pin!(work);
        poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(poll) => poll.map(drop),
            Err(panic) => {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(panic);
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Ends every task and waits for it.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    pub(crate) fn take_panic(&self) -> Option<Panic> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
{
    fn execute(&self, work: F) {
        self.spawn(work);
    }
}
