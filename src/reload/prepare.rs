//! Everything of a changed configuration that takes time or may fail, before anything changes.
//!
//! Owns: nothing. Invariants: what is equal to what is in use stays the same object.
//! Units: none. Fails with: [`Problems`], all at once. Source: design §9.

use std::collections::BTreeSet;

use crate::{
    app::Prepared,
    clock::Clock,
    config::{Config, Org, OrgName, Problems, Reference, SecretCheck},
    tls,
    token::grant::check_key,
};

/// What is the same stays the same object: a secret remembers what it last was.
pub(super) fn keep_equal_orgs(before: &Config, config: &mut Config) {
    for (name, org) in &mut config.orgs {
        if let Some(before) = before.orgs.get(name).filter(|before| *before == org) {
            *org = before.clone();
        } else if let Some(before) = before.orgs.get(name).filter(|before| before.grant == org.grant) {
            org.grant = before.grant.clone();
        }
    }
}

/// Everything that takes time or may fail, before anything changes. Blocks.
pub(super) fn prepare(
    before: &Config,
    config: Config,
    authorities: bool,
    certificates: &[bool],
    clock: &Clock,
) -> Result<Prepared, Problems> {
    let mut problems = Problems::default();
    for (name, org) in &config.orgs {
        if before.orgs.get(name).is_none_or(|before| before.grant != org.grant) {
            problems.extend(check_secrets(name, org));
        }
    }
    let authorities = match authorities {
        true => match tls::client_config(config.upstream.ca_file.as_deref()) {
            Ok(authorities) => Some(authorities),
            Err(error) => {
                problems.add("upstream.ca_file", error.to_string());
                None
            }
        },
        false => None,
    };
    let mut opened = Vec::new();
    for (index, (listener, needed)) in config.listeners.iter().zip(certificates).enumerate() {
        opened.push(match needed {
            false => None,
            true => match tls::listener::open(index, listener, clock.now()) {
                Ok(opened) => Some(opened),
                Err(wrong) => {
                    problems.extend(wrong);
                    None
                }
            },
        });
    }
    problems.or(Some(Prepared {
        config,
        authorities,
        tls: opened,
    }))
}

fn check_secrets(name: &OrgName, org: &Org) -> Problems {
    let mut problems = Problems::default();
    for (key, reference) in org.grant.references() {
        if let Some(secret) = reference.secret()
            && let Err(problem) = secret.refreshed(check_of(reference))
        {
            problems.add(format!("orgs.{name}.grant.{key}"), problem);
        }
    }
    problems
}

pub(super) fn check_of(reference: Reference<'_>) -> SecretCheck {
    match reference {
        Reference::PrivateKey(_) => check_key,
        _ => |_| Ok(()),
    }
}

/// The key paths of secrets that are what they were.
pub(super) fn unchanged_keys(before: &Config, config: &Config) -> BTreeSet<String> {
    let same = |name: &OrgName, org: &Org| before.orgs.get(name).is_some_and(|before| before.grant == org.grant);
    let orgs = config.orgs.iter().filter(|(name, org)| same(name, org));
    orgs.flat_map(|(name, org)| {
        let references = org.grant.references().into_iter();
        references.map(move |(key, _)| format!("orgs.{name}.grant.{key}"))
    })
    .collect()
}
