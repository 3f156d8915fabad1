//! What becomes of changed files while the program runs.
//!
//! Every `reload.interval`, and at once on SIGHUP, the configuration file and the files that it names (keys, secrets,
//! trusted authorities, certificates of listeners) are looked at. What counts is their content, by path: an edit in place, a
//! file moved over the old one, and the swap of `..data` by which Kubernetes updates a volume are all the same. A configuration that is good becomes the
//! one in use, whole; one that is not is reported, and the old one goes on. A secret that is good counts from the next
//! login on, and ends the wait of a login that failed; one that is not is reported, and the one before it serves.
//!
//! `watch.rs` looks, `files.rs` says what has changed, `prepare.rs` makes ready what a changed configuration needs, `told.rs`
//! tells what became of it.
//!
//! Owns: the watch over files, as one task; [`Reloads`], what became of them. Invariants: nothing is reported twice for the
//! same content; contents are remembered as digests only.
//! Units: `Duration`. Fails with: nothing; a failure is a line in the log, a metric, and in `/status`.
//! Source: `kubernetes.md` §3; design §9.

use tokio::sync::{mpsc, oneshot};

use crate::{
    app::Prepared,
    config::{OrgName, Problems},
};

mod files;
mod prepare;
mod told;
mod watch;

pub use told::Reloads;
pub(crate) use watch::Watch;

/// What one look brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it was.
    Unchanged,
    /// A configuration was taken, or secrets were.
    Taken,
    /// The old goes on.
    Refused(Problems),
}

/// What the task that owns everything is asked to do.
pub(crate) enum Order {
    Become(Box<Prepared>, oneshot::Sender<Result<Vec<&'static str>, Problems>>),
    /// A secret of this org has changed.
    Retry(OrgName),
}

/// Asks for a look now. Cheap to clone.
#[derive(Clone)]
pub struct Reloader(mpsc::Sender<oneshot::Sender<Outcome>>);

impl Reloader {
    /// As SIGHUP does; `None` when the program ends.
    pub async fn reload(&self) -> Option<Outcome> {
        let (reply, outcome) = oneshot::channel();
        self.0.send(reply).await.ok()?;
        outcome.await.ok()
    }
}
