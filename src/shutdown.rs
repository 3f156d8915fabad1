//! From a signal to the end of everything.
//!
//! First SIGTERM or SIGINT: leave (say so on `/readyz`, and take calls for `shutdown.delay`), then drain (stop accepting,
//! finish what is in flight, exit 0). Second: exit at once.
//!
//! Owns: the three stages, as cancellation tokens that every task listens to; one listener's end is a child of the whole.
//! Invariants: no stage comes before the one above it, but that a listener is retired without leaving.

use std::io;

use tokio_util::sync::CancellationToken;

/// What a task is told when the program ends. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// The end is near; go on, and let callers know.
    pub leave: CancellationToken,
    /// Accept nobody new; whoever is connected goes on. By itself, of a listener whose successor has the same address.
    pub retire: CancellationToken,
    /// Take nothing new; finish what is in flight.
    pub drain: CancellationToken,
    /// Drop everything.
    pub force: CancellationToken,
}

impl Stop {
    pub fn new() -> Self {
        Self::default()
    }

    /// One that ends with this one, or before it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            retire: self.retire.child_token(),
            leave: self.leave.child_token(),
            drain: self.drain.child_token(),
            force: self.force.child_token(),
        }
    }

    pub fn leave_now(&self) {
        self.leave.cancel();
    }

    pub fn retire_now(&self) {
        self.retire.cancel();
    }

    pub fn drain_now(&self) {
        self.retire_now();
        self.leave_now();
        self.drain.cancel();
    }

    pub fn force_now(&self) {
        self.drain_now();
        self.force.cancel();
    }
}

/// The operator's signals.
pub struct Signals {
    #[cfg(unix)]
    term: tokio::signal::unix::Signal,
    #[cfg(unix)]
    int: tokio::signal::unix::Signal,
}

impl Signals {
    /// Installs the handlers; from here on a signal does not kill the process by itself (as process 1 none would).
    pub fn install() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                term: signal(SignalKind::terminate())?,
                int: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// The next signal's name. Cancel safe.
    pub async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
        #[cfg(not(unix))]
        {
            // Without a console there is no signal to wait for; then this program is ended from outside.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            "Ctrl-C"
        }
    }
}

/// SIGHUP: look at the configuration again.
pub struct Hangups {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangups {
    /// From here on SIGHUP does not end the process.
    pub fn install() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                signal: Some(signal(SignalKind::hangup())?),
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Of a program in a program, which signals do not concern.
    pub fn none() -> Self {
        Self {
            #[cfg(unix)]
            signal: None,
        }
    }

    /// The next one; never, where there are none. Cancel safe.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}
