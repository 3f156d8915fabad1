//! The rules for orgs: names, login hosts, token life. `grant.rs` has those for grants, `api.rs` those for what is called.
//!
//! Invariants: a credential goes over TLS or to loopback; a URL that carries a password is never quoted.
//! Source: SF §7.1 (host forms and the JWT audience), §3.5 (what introspection needs).

use std::{collections::BTreeMap, time::Duration};

use url::{Host, Url};

use super::{Check, HOUR, INSTANT, MINUTE, SECOND, grant::Kind};
use crate::config::{
    Budget, LoginHost, Org, OrgName, TokenSettings,
    file::{BudgetFile, File, OrgFile},
    problem::{shown, url_shown},
};

/// Hosts of Salesforce's web pages; they answer no token request.
const UI_HOSTS: [&str; 4] = [
    "lightning.force.com",
    "lightning.crmforce.mil",
    "crmforce.mil",
    "sfcrmapps.cn",
];

impl Check {
    pub(super) fn orgs(&mut self, files: &BTreeMap<String, OrgFile>) -> Option<BTreeMap<OrgName, Org>> {
        if files.is_empty() {
            let text = "expected at least one org, found none; add `orgs: {main: {login_url: …, grant: …}}`";
            self.problems.add("orgs", text);
        }
        let checked = files.iter().map(|(name, file)| {
            let org = self.org(&format!("orgs.{name}"), name, file);
            org.map(|org| (OrgName::new(name.as_str()), org))
        });
        checked.collect::<Vec<_>>().into_iter().collect()
    }

    /// An org that is only configured would log in for nobody.
    pub(super) fn every_org_is_used(&mut self, file: &File) {
        // A listener without a good name is told at the listener; it may be the one.
        let named = |org: &Option<String>| org.as_ref().is_some_and(|org| file.orgs.contains_key(org));
        if file.orgs.len() < 2 || !file.listeners.iter().all(|listener| named(&listener.org)) {
            return;
        }
        for name in file.orgs.keys() {
            let leads = |org: &Option<String>| org.as_ref() == Some(name);
            if !file.listeners.iter().any(|listener| leads(&listener.org)) {
                let text = format!("no listener leads to it; add one with `org: {name}`, or take the org out");
                self.problems.add(format!("orgs.{name}"), text);
            }
        }
    }

    fn org(&mut self, at: &str, name: &str, file: &OrgFile) -> Option<Org> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if !(1..=63).contains(&name.len()) || !name.bytes().all(known) {
            let text = format!("expected a name of 1 to 63 of a-z, 0-9, - and _, found {}", shown(name));
            self.problems.add(at, text);
        }
        let kind = Kind::of(&file.grant);
        let instance = self.instance_url(&format!("{at}.instance_url"), file.instance_url.as_deref());
        let known_instance = instance.as_ref().and_then(Option::as_ref);
        let login_at = format!("{at}.login_url");
        let login = match (&file.login_url, kind.is_some_and(Kind::finds)) {
            // Nothing is sent there.
            (None, true) => Some(known_instance.cloned().unwrap_or_else(production)),
            (text, _) => self.login_url(&login_at, text.as_deref()),
        };
        let grant = self.grant(&format!("{at}.grant"), &file.grant, login.as_ref());
        let api = self.api(&format!("{at}.api"), &file.api, kind);
        self.instance_is_known(at, file, kind);
        let token = self.token(&format!("{at}.token"), file, kind);
        let data_cloud = match &file.data_cloud {
            Some(data_cloud) => self
                .data_cloud(&format!("{at}.data_cloud"), data_cloud, &file.api.host)
                .map(Some),
            None => Some(None),
        };
        let pub_sub = self.origin_url(&format!("{at}.pub_sub.endpoint"), &file.pub_sub.endpoint);
        let cache = match &file.cache {
            Some(cache) => self.cache(&format!("{at}.cache"), cache, &file.api.host).map(Some),
            None => Some(None),
        };
        let budget = self.budget(&format!("{at}.login_budget"), &file.login_budget);
        Some(Org {
            login: LoginHost { url: login? },
            grant: grant?,
            instance_url: instance?,
            token: token?,
            budget: budget?,
            data_cloud: data_cloud?,
            pub_sub: pub_sub?,
            api: api?,
            cache: cache?,
        })
    }

    /// The host that calls go to has to be told by the token answer or here.
    fn instance_is_known(&mut self, at: &str, file: &OrgFile, kind: Option<Kind>) {
        if file.instance_url.is_some() {
            if file.api.host_field.is_some() {
                let text = "does not count beside `instance_url`, which goes before it; take one of them out";
                self.problems.add(format!("{at}.api.host_field"), text);
            }
            return;
        }
        let text = match (kind, file.api.host.as_str()) {
            (Some(Kind::Static), _) => {
                "expected the org's URL, such as `https://acme.my.salesforce.com`, found nothing; the grant static tells none"
            }
            (_, "other") if file.api.host_field.is_none() => {
                "expected the URL of the API, such as `https://pi.pardot.com`, found nothing; set it, or `api.host_field`"
            }
            _ => return,
        };
        self.problems.add(format!("{at}.instance_url"), text);
    }

    fn login_url(&mut self, at: &str, text: Option<&str>) -> Option<Url> {
        let text = self.given(
            at,
            text,
            "the org's My Domain URL, such as `https://acme.my.salesforce.com`",
        )?;
        let url = self.origin_url(at, text)?;
        let host = url.host_str().unwrap_or_default();
        if host.ends_with(".salesforce-setup.com") {
            let text = format!(
                "{} is a set-up page, which gives no tokens; use the My Domain URL (`https://….my.salesforce.com`)",
                shown(host)
            );
            return self.refuse(at, text);
        }
        Some(url)
    }

    fn instance_url(&mut self, at: &str, text: Option<&str>) -> Option<Option<Url>> {
        match text {
            Some(text) => self.origin_url(at, text).map(Some),
            None => Some(None),
        }
    }

    /// An origin that a credential may go to.
    pub(super) fn origin_url(&mut self, at: &str, text: &str) -> Option<Url> {
        let Ok(url) = Url::parse(text.trim()) else {
            let found = url_shown(text);
            return self.refuse(
                at,
                format!("expected a URL such as `https://acme.my.salesforce.com`, found {found}"),
            );
        };
        if !url.username().is_empty() || url.password().is_some() {
            return self.refuse(
                at,
                "holds a user name or password (not shown); the grant belongs under `grant`",
            );
        }
        if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
            let found = shown(url.scheme());
            return self.refuse(
                at,
                format!("expected https:// (http:// only to loopback), found {found}"),
            );
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            let origin = url.origin().ascii_serialization();
            return self.refuse(
                at,
                format!("expected only scheme, host and port, found more; write {origin}"),
            );
        }
        let host = url.host_str().unwrap_or_default();
        if UI_HOSTS.iter().any(|ui| is_or_is_under(host, ui)) {
            let org = host.split('.').next().unwrap_or_default();
            let text = format!(
                "{} serves web pages and takes no logins or API calls; use the My Domain URL, likely https://{org}.my.salesforce.com",
                shown(host)
            );
            return self.refuse(at, text);
        }
        Some(url)
    }

    fn token(&mut self, at: &str, org: &OrgFile, kind: Option<Kind>) -> Option<TokenSettings> {
        let file = &org.token;
        self.can_introspect(&format!("{at}.introspect"), org, kind);
        if file.keep_alive && org.api.host != "instance" {
            let text = format!(
                "works with `api.host: instance` only, found {}; set it to false",
                shown(&org.api.host)
            );
            self.problems.add(format!("{at}.keep_alive"), text);
        }
        let lifetime = self.span(&format!("{at}.lifetime"), &file.lifetime, MINUTE..=24 * HOUR);
        let wait = self.span(&format!("{at}.refresh_wait"), &file.refresh_wait, INSTANT..=5 * MINUTE);
        let cool_down = self.span(&format!("{at}.cool_down"), &file.cool_down, Duration::ZERO..=HOUR);
        let waiters = self.number(&format!("{at}.max_waiters"), file.max_waiters, 1..=1_000_000);
        let exchange = self.span(
            &format!("{at}.exchange_timeout"),
            &file.exchange_timeout,
            SECOND..=5 * MINUTE,
        );
        Some(TokenSettings {
            lifetime: lifetime?,
            refresh_wait: wait?,
            cool_down: cool_down?,
            max_waiters: waiters?,
            exchange_timeout: exchange?,
            introspect: file.introspect,
            keep_alive: file.keep_alive,
        })
    }

    /// Introspection asks for the app's secret, and knows no token of the password flow.
    fn can_introspect(&mut self, at: &str, org: &OrgFile, kind: Option<Kind>) {
        let Some(kind) = kind.filter(|_| org.token.introspect) else {
            return;
        };
        let grant = &org.grant;
        let with_secret = match kind {
            Kind::ClientCredentials => true,
            Kind::RefreshToken => grant.refresh_token.as_ref().is_some_and(|g| g.client_secret.is_some()),
            Kind::TokenExchange => grant.token_exchange.as_ref().is_some_and(|g| g.client_secret.is_some()),
            _ => false,
        };
        if !with_secret {
            let text = format!(
                "needs the grant client_credentials, or refresh_token or token_exchange with a client_secret; \
                 found {}; set it to false",
                kind.word()
            );
            self.problems.add(at, text);
        }
    }

    fn budget(&mut self, at: &str, file: &BudgetFile) -> Option<Budget> {
        let burst = self.number(&format!("{at}.burst"), file.burst, 1..=3600);
        let per_minute = self.number(&format!("{at}.per_minute"), file.per_minute, 1..=60);
        Some(Budget {
            burst: burst?,
            per_minute: per_minute?,
        })
    }
}

/// The `aud` claim that fits a login host: what Salesforce documents for production and sandboxes, whichever of their
/// addresses is used; for all others (sites, government, China, custom domains, loopback) the host's own origin.
pub fn audience_for(login: &Url) -> String {
    let own = || login.origin().ascii_serialization();
    let Some(Host::Domain(host)) = login.host() else {
        return own();
    };
    let host = host.trim_end_matches('.');
    let Some(org) = host.strip_suffix(".my.salesforce.com") else {
        return own();
    };
    match org.rsplit('.').next() {
        Some("sandbox" | "scratch") if org.contains('.') => SANDBOX.to_owned(),
        _ => PRODUCTION.to_owned(),
    }
}

const PRODUCTION: &str = "https://login.salesforce.com";
const SANDBOX: &str = "https://test.salesforce.com";

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn production() -> Url {
    PRODUCTION.parse().expect("the address must be a URL")
}

fn is_or_is_under(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
