//! How many files and sockets this process may have open.
//!
//! The soft limit is often 1,024, for the sake of programs that use select(2); the hard one is the real one. What callers may use
//! leaves room for the org's side of each call, and for the admin port: a probe that finds no descriptor would end the pod.
//!
//! Owns: nothing. Invariants: only raised, and no further than the system allows.
//! Units: descriptors. Fails with: never; what cannot be raised is told.
//! Source: getrlimit(2); systemd's "File Descriptor Limits".

/// For all that is no caller, no call and no probe: listeners, logins, files.
const OTHERS: u64 = 64;

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

/// How many callers each listener may have at one time, of those that it wants.
pub(crate) fn affordable(wanted: &[usize]) -> Vec<usize> {
    let given = within(limit(), wanted);
    let (wanted, affordable) = (wanted.iter().sum::<usize>(), given.iter().sum::<usize>());
    if affordable < wanted / 2 {
        tracing::warn!(
            wanted,
            affordable,
            "the system allows too few open files for listeners[].max_connections: raise the hard limit (ulimit -Hn, \
             LimitNOFILE=), or lower the setting"
        );
    } else if affordable < wanted {
        // The setting's default is generous.
        tracing::info!(wanted, affordable, "as many callers at one time as open files allow");
    }
    given
}

/// How many connections the admin port may have: whoever reaches it may open them, and a probe has to find room.
pub(crate) fn for_admin() -> usize {
    admin_within(limit())
}

fn admin_within(limit: Option<u64>) -> usize {
    limit.map_or(1000, |limit| {
        usize::try_from(limit / 8).unwrap_or(usize::MAX).clamp(32, 1000)
    })
}

/// Each caller may need a connection to the org; what there is is shared as the wishes are.
fn within(limit: Option<u64>, wanted: &[usize]) -> Vec<usize> {
    let all: u128 = wanted.iter().map(|wanted| *wanted as u128).sum();
    let Some(some) = limit else { return wanted.to_vec() };
    let others = OTHERS + admin_within(limit) as u64;
    let callers = u128::from(some.saturating_sub(others) / 2);
    let share = |wanted: &usize| match all <= callers {
        true => *wanted,
        // Not above what was wanted.
        false => usize::try_from(*wanted as u128 * callers / all).map_or(*wanted, |share| share.max(1)),
    };
    wanted.iter().map(share).collect()
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
        let one = |limit, wanted| within(limit, &[wanted])[0];
        assert_eq!(one(None, 10_000), 10_000);
        assert_eq!(one(Some(1 << 20), 10_000), 10_000);
        assert_eq!(one(Some(1024), 10_000), (1024 - 64 - 128) / 2);
        assert_eq!(one(Some(1024), 100), 100);
        assert_eq!(one(Some(16), 100), 1);
        assert_eq!(within(Some(256), &[10_000, 10_000, 20_000, 1]), [19, 19, 39, 1]);
        assert_eq!((admin_within(None), admin_within(Some(1 << 20))), (1000, 1000));
        assert_eq!((admin_within(Some(1024)), admin_within(Some(16))), (128, 32));
    }
}
