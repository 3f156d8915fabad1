//! What a new configuration changes.
//!
//! Pure. Invariants: what stands the same in both keeps running untouched.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    config::{Config, Grant, Org, OrgName},
    token::kept::key,
};

/// What becomes of an org.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Add,
    Keep,
    Change(Changed),
    Remove,
}

/// Which part of an org's room is not what it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// How tokens are got and kept.
    pub(super) tokens: bool,
    /// The tokens are another identity's, or lead elsewhere.
    pub(super) identity: bool,
    /// How calls are sent.
    pub(super) calls: bool,
}

/// Every org of either; `authorities`: the trusted ones have changed.
pub(super) fn orgs(old: &Config, new: &Config, authorities: bool) -> BTreeMap<OrgName, Fate> {
    let removed = old.orgs.keys().filter(|name| !new.orgs.contains_key(name));
    let removed = removed.map(|name| (name.clone(), Fate::Remove));
    let others = new.orgs.iter().map(|(name, org)| {
        let fate = match old.orgs.get(name) {
            None => Fate::Add,
            Some(before) => fate(name, [old, new], [before, org], authorities),
        };
        (name.clone(), fate)
    });
    removed.chain(others).collect()
}

/// For each listener the one before that goes on in it, with its connections' permits and its users: the one with the same
/// addresses, else one with which it shares an address. Each goes on once.
pub(super) fn listeners(before: &[&[SocketAddr]], next: &[&[SocketAddr]]) -> Vec<Option<usize>> {
    let mut free = vec![true; before.len()];
    let mut going_on = vec![None; next.len()];
    let same = |old: &[SocketAddr], new: &[SocketAddr]| old == new;
    let shares = |old: &[SocketAddr], new: &[SocketAddr]| old.iter().any(|address| new.contains(address));
    for goes_on in [same as fn(&[SocketAddr], &[SocketAddr]) -> bool, shares] {
        for (new, found) in next.iter().zip(&mut going_on).filter(|(_, found)| found.is_none()) {
            *found = (0..before.len()).find(|index| free[*index] && goes_on(before[*index], new));
            if let Some(index) = *found {
                free[index] = false;
            }
        }
    }
    going_on
}

fn fate(name: &OrgName, [old, new]: [&Config; 2], [before, org]: [&Org; 2], authorities: bool) -> Fate {
    let ways = authorities || old.upstream.proxy != new.upstream.proxy;
    let Org {
        login,
        grant,
        instance_url,
        token,
        budget,
        data_cloud,
        pub_sub,
        api,
        cache,
    } = org;
    let of_login = *login != before.login || *grant != before.grant;
    let elsewhere = *instance_url != before.instance_url || api.host != before.api.host;
    // Where such a token is looked for is all that is known of whose it is.
    let found = matches!(grant, Grant::Static(_) | Grant::Command(_));
    let changed = Changed {
        tokens: ways
            || of_login
            || elsewhere
            || *token != before.token
            || *budget != before.budget
            || *data_cloud != before.data_cloud,
        identity: elsewhere || key(name, before, None) != key(name, org, None) || found && *grant != before.grant,
        calls: ways
            || old.upstream != new.upstream
            || old.replay != new.replay
            || old.log.requests != new.log.requests
            || *pub_sub != before.pub_sub
            || *api != before.api
            || *cache != before.cache
            || data_cloud.is_some() != before.data_cloud.is_some(),
    };
    match changed == Changed::default() {
        true => Fate::Keep,
        false => Fate::Change(changed),
    }
}

/// The settings that have changed and count only after a restart.
pub(super) fn for_a_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let all = [
        ("threads", old.threads != new.threads),
        ("store", old.store != new.store),
        ("log.format", old.log.format != new.log.format),
    ];
    all.into_iter()
        .filter_map(|(setting, changed)| changed.then_some(setting))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Vars, from_yaml};

    const ORG: &str = "login_url: https://acme.my.salesforce.com, grant: {client_credentials: {client_id: id, client_secret: 'file:/s'}}";

    fn config(more_of_org: &str, more: &str) -> Config {
        from_yaml(
            &format!("orgs: {{main: {{{ORG}{more_of_org}}}}}\n{more}"),
            "c.yaml",
            &Vars::default(),
        )
        .unwrap()
    }

    fn fate_of_main(old: &Config, new: &Config) -> Fate {
        orgs(old, new, false)[&OrgName::new("main")]
    }

    #[test]
    fn only_what_is_not_the_same_changes() {
        const TOKENS: Changed = Changed {
            tokens: true,
            identity: false,
            calls: false,
        };
        const CALLS: Changed = Changed {
            tokens: false,
            identity: false,
            calls: true,
        };
        const ALL: Changed = Changed {
            tokens: true,
            identity: true,
            calls: true,
        };
        let before = config("", "");
        let table = [
            ("", "", Fate::Keep),
            ("", "shutdown: {drain: 3s}", Fate::Keep),
            ("", "admin: {startup_patience: 3s}", Fate::Keep),
            ("", "listeners: [{address: '127.0.0.1:1'}]", Fate::Keep),
            ("", "threads: 3", Fate::Keep),
            ("", "log: {level: debug}", Fate::Keep),
            ("", "log: {requests: true}", Fate::Change(CALLS)),
            ("", "replay: {max_body: 1MiB}", Fate::Change(CALLS)),
            ("", "upstream: {connect_timeout: 3s}", Fate::Change(CALLS)),
            (", cache: {}", "", Fate::Change(CALLS)),
            (
                ", pub_sub: {endpoint: 'https://api.deu.pubsub.salesforce.com'}",
                "",
                Fate::Change(CALLS),
            ),
            (", token: {lifetime: 3m}", "", Fate::Change(TOKENS)),
            (", login_budget: {burst: 3}", "", Fate::Change(TOKENS)),
            (", data_cloud: {}", "", Fate::Change(Changed { tokens: true, ..CALLS })),
            (", api: {host: platform}", "", Fate::Change(ALL)),
            (
                ", instance_url: https://b.my.salesforce.com",
                "",
                Fate::Change(Changed { calls: false, ..ALL }),
            ),
        ];
        for (of_org, more, expected) in table {
            let after = config(of_org, more);
            assert_eq!(fate_of_main(&before, &after), expected, "{of_org} {more}");
            assert_eq!(fate_of_main(&after, &after), Fate::Keep);
        }
        let ways = orgs(&before, &before, true)[&OrgName::new("main")];
        assert_eq!(ways, Fate::Change(Changed { tokens: true, ..CALLS }));
    }

    #[test]
    fn a_listener_goes_on_once_with_its_own_addresses_first() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (a, b, c) = (address(1), address(2), address(3));
        type Addresses<'a> = &'a [&'a [SocketAddr]];
        let table: [(Addresses<'_>, Addresses<'_>, &[Option<usize>]); 7] = [
            (&[&[a], &[b]], &[&[b], &[a]], &[Some(1), Some(0)]),
            // One address more, one less, another order.
            (&[&[a]], &[&[a, b]], &[Some(0)]),
            (&[&[a, b]], &[&[b]], &[Some(0)]),
            (&[&[a, b]], &[&[b, a]], &[Some(0)]),
            // Cut in two: one of them is new.
            (&[&[a, b]], &[&[a], &[b]], &[Some(0), None]),
            // Who has the same addresses comes first, though later in the list.
            (&[&[a], &[b]], &[&[a, b], &[b]], &[Some(0), Some(1)]),
            (&[&[a]], &[&[c]], &[None]),
        ];
        for (before, next, expected) in table {
            assert_eq!(listeners(before, next), expected, "{before:?} {next:?}");
        }
    }

    #[test]
    fn orgs_come_and_go() {
        let two = from_yaml(
            &format!("orgs: {{main: {{{ORG}}}, b: {{{ORG}}}}}\nlisteners: [{{org: main}}, {{address: 'localhost:1', org: b}}]"),
            "c.yaml",
            &Vars::default(),
        )
        .unwrap();
        let one = config("", "");
        let b = OrgName::new("b");
        assert_eq!(orgs(&one, &two, false)[&b], Fate::Add);
        assert_eq!(orgs(&two, &one, false)[&b], Fate::Remove);
        assert_eq!(fate_of_main(&one, &two), Fate::Keep);
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let before = config("", "");
        assert!(for_a_restart(&before, &config("", "log: {level: debug}")).is_empty());
        assert_eq!(
            for_a_restart(&before, &config("", "threads: 2\nlog: {format: text}")),
            ["threads", "log.format"]
        );
    }
}
