//! How many files and sockets this process may have open.
//!
//! The soft limit is often 1,024, for the sake of programs that use select(2); the hard one is the real one. What callers may use
//! leaves room for the org's side of each call, and for the admin port: a probe that finds no descriptor would end the pod.
//!
//! Owns: nothing. Invariants: only raised, and no further than the system allows.
//! Units: descriptors. Fails with: never; what cannot be raised is told.
//! Source: getrlimit(2); systemd's "File Descriptor Limits".

/// For all that is no caller and no call: listeners, probes, logins, files.
const OTHERS: u64 = 128;

/// As many as there can be; called once, before anything is opened.
pub(crate) fn raise() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let before = limit.current;
        if before == limit.maximum {
            return;
        }
        limit.current = limit.maximum;
        match setrlimit(Resource::Nofile, limit) {
            Ok(()) => tracing::debug!(from = before, to = limit.maximum, "raised the limit of open files"),
            Err(error) => tracing::debug!(%error, limit = before, "cannot raise the limit of open files"),
        }
    }
}

/// How many of the wanted callers there can be at one time.
pub(crate) fn affordable(wanted: usize) -> usize {
    let affordable = within(limit(), wanted);
    if affordable < wanted {
        tracing::warn!(
            wanted,
            affordable,
            "the system allows too few open files for listeners[].max_connections: raise the hard limit (ulimit -Hn, \
             LimitNOFILE=), or lower the setting"
        );
    }
    affordable
}

/// Each caller may need a connection to the org.
fn within(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let callers = usize::try_from(limit.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX);
    wanted.min(callers.max(1))
}

/// `None`: without limit.
fn limit() -> Option<u64> {
    #[cfg(unix)]
    {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
    #[cfg(not(unix))]
    {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_leave_room_for_the_org_and_the_probes() {
        assert_eq!(within(None, 10_000), 10_000);
        assert_eq!(within(Some(1 << 20), 10_000), 10_000);
        assert_eq!(within(Some(1024), 10_000), 448);
        assert_eq!(within(Some(1024), 100), 100);
        assert_eq!(within(Some(16), 100), 1);
    }
}
