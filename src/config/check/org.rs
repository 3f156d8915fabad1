//! The rules for orgs: names, login hosts, grants, token life.
//!
//! Invariants: a credential goes over TLS or to loopback; a URL that carries a password is never quoted.
//! Source: SF §1.4.2 (where client credentials work), §7.1 (host forms and the JWT audience).

use std::{collections::BTreeMap, time::Duration};

use url::{Host, Url};

use super::{Check, HOUR, INSTANT, MINUTE, SECOND};
use crate::config::{
    Api, Budget, ClientCredentials, Grant, JwtBearer, LoginHost, Org, OrgName, SecretRef, SendSecret, TokenSettings,
    file::{BudgetFile, ClientCredentialsFile, GrantFile, JwtBearerFile, OrgFile, SecretFile, TokenFile},
    problem::{shown, url_shown},
};

/// Hosts of Salesforce's web pages; they answer no token request.
const UI_HOSTS: [&str; 4] = [
    "lightning.force.com",
    "lightning.crmforce.mil",
    "crmforce.mil",
    "sfcrmapps.cn",
];

const GENERIC_LOGIN_HOSTS: [&str; 2] = ["login.salesforce.com", "test.salesforce.com"];

impl Check {
    pub(super) fn orgs(&mut self, files: &BTreeMap<String, OrgFile>) -> Option<BTreeMap<OrgName, Org>> {
        match files.len() {
            0 => {
                let text = "expected one org, found none; add `orgs: {main: {login_url: …, grant: …}}`";
                self.problems.add("orgs", text);
            }
            1 => {}
            many => {
                let names: Vec<_> = files.keys().map(String::as_str).collect();
                let text = format!(
                    "expected one org, found {many} ({}); several orgs come in a later version, until then run one proxy for each",
                    names.join(", ")
                );
                self.problems.add("orgs", text);
            }
        }
        let checked = files.iter().map(|(name, file)| {
            let org = self.org(&format!("orgs.{name}"), name, file);
            org.map(|org| (OrgName::new(name.as_str()), org))
        });
        checked.collect::<Vec<_>>().into_iter().collect()
    }

    fn org(&mut self, at: &str, name: &str, file: &OrgFile) -> Option<Org> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if !(1..=63).contains(&name.len()) || !name.bytes().all(known) {
            let text = format!("expected a name of 1 to 63 of a-z, 0-9, - and _, found {}", shown(name));
            self.problems.add(at, text);
        }
        let login = self.login_url(&format!("{at}.login_url"), file.login_url.as_deref());
        let instance = self.instance_url(&format!("{at}.instance_url"), file.instance_url.as_deref());
        let grant = self.grant(&format!("{at}.grant"), &file.grant, login.as_ref());
        let token = self.token(&format!("{at}.token"), &file.token);
        let budget = self.budget(&format!("{at}.login_budget"), &file.login_budget);
        Some(Org {
            login: LoginHost { url: login? },
            grant: grant?,
            instance_url: instance?,
            token: token?,
            budget: budget?,
            data_cloud: None,
            api: Api::default(),
        })
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
    fn origin_url(&mut self, at: &str, text: &str) -> Option<Url> {
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

    fn grant(&mut self, at: &str, file: &GrantFile, login: Option<&Url>) -> Option<Grant> {
        let jwt = file.jwt_bearer.as_ref();
        let secret = file.client_credentials.as_ref();
        if jwt.is_some() == secret.is_some() {
            let found = if jwt.is_some() { "both" } else { "neither" };
            self.problems.add(
                at,
                format!("expected one of jwt_bearer and client_credentials, found {found}"),
            );
        }
        let jwt = jwt.map(|file| {
            self.jwt_bearer(&format!("{at}.jwt_bearer"), file, login)
                .map(Grant::JwtBearer)
        });
        let secret = secret.map(|file| {
            let checked = self.client_credentials(&format!("{at}.client_credentials"), file);
            self.my_domain_only(at, login);
            checked.map(Grant::ClientCredentials)
        });
        jwt.or(secret)?
    }

    fn jwt_bearer(&mut self, at: &str, file: &JwtBearerFile, login: Option<&Url>) -> Option<JwtBearer> {
        let client_id = self.client_id(at, file.client_id.as_deref());
        let username = self.username(&format!("{at}.username"), file.username.as_deref());
        let key = self.secret(&format!("{at}.private_key"), file.private_key.as_ref(), "key.pem");
        let audience = match file.audience.as_deref() {
            Some(text) => self.audience(&format!("{at}.audience"), text),
            None => login.map(audience_for),
        };
        Some(JwtBearer {
            client_id: client_id?,
            username: username?,
            private_key: key?,
            audience: audience?,
        })
    }

    fn client_credentials(&mut self, at: &str, file: &ClientCredentialsFile) -> Option<ClientCredentials> {
        let client_id = self.client_id(at, file.client_id.as_deref());
        let secret = self.secret(
            &format!("{at}.client_secret"),
            file.client_secret.as_ref(),
            "client-secret",
        );
        let send = match file.send_secret.as_str() {
            "basic" => Some(SendSecret::Basic),
            "body" => Some(SendSecret::Body),
            other => self.refuse(
                format!("{at}.send_secret"),
                format!("expected basic or body, found {}", shown(other)),
            ),
        };
        Some(ClientCredentials {
            client_id: client_id?,
            client_secret: secret?,
            send_secret: send?,
        })
    }

    /// Elsewhere Salesforce says `invalid_grant: request not supported on this domain`.
    fn my_domain_only(&mut self, grant_at: &str, login: Option<&Url>) {
        let host = login.and_then(Url::host_str).unwrap_or_default();
        if GENERIC_LOGIN_HOSTS.contains(&host) {
            let at = grant_at.replace(".grant", ".login_url");
            let text = format!(
                "client_credentials does not work on {host}; use the org's My Domain URL, such as `https://acme.my.salesforce.com`"
            );
            self.problems.add(at, text);
        }
    }

    fn client_id(&mut self, at: &str, text: Option<&str>) -> Option<String> {
        let at = format!("{at}.client_id");
        let text = self.given(&at, text, "the consumer key of the app")?.trim();
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return self.refuse(at, "expected the consumer key of the app, found text with blanks in it");
        }
        Some(text.to_owned())
    }

    fn username(&mut self, at: &str, text: Option<&str>) -> Option<String> {
        let text = self
            .given(at, text, "a Salesforce user name, such as `integration@acme.example`")?
            .trim();
        if !text.contains('@') || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let text = format!(
                "expected a Salesforce user name in the form of an e-mail address, found {}",
                shown(text)
            );
            return self.refuse(at, text);
        }
        Some(text.to_owned())
    }

    /// Kept as written: the login host compares it letter by letter.
    fn audience(&mut self, at: &str, text: &str) -> Option<String> {
        let text = text.trim();
        let good = Url::parse(text).is_ok_and(|url| {
            let tls = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
            tls && url.username().is_empty() && url.password().is_none()
        });
        match good {
            true => Some(text.to_owned()),
            false => {
                let found = url_shown(text);
                self.refuse(
                    at,
                    format!("expected a URL such as `https://login.salesforce.com`, found {found}"),
                )
            }
        }
    }

    /// What is not a reference is likely the secret itself, so it is never quoted.
    fn secret(&mut self, at: &str, file: Option<&SecretFile>, example: &str) -> Option<SecretRef> {
        let expected = format!("expected a reference: `file:/run/secrets/sf/{example}` or `env:NAME`");
        let (path, variable) = match file {
            None => return self.refuse(at, format!("{expected}, found nothing")),
            Some(SecretFile::Text(text)) => (text.strip_prefix("file:"), text.strip_prefix("env:")),
            Some(SecretFile::Keys(keys)) => (keys.file.as_deref(), keys.env.as_deref()),
        };
        match (path, variable) {
            (Some(path), None) => self.path(at, path.trim()).map(SecretRef::File),
            (None, Some(name)) => self.variable(at, name.trim()).map(SecretRef::Env),
            (Some(_), Some(_)) => self.refuse(at, format!("{expected}, found both")),
            (None, None) => {
                let text = format!(
                    "{expected}, found something else (not shown); a secret may not stand in the configuration itself"
                );
                self.refuse(at, text)
            }
        }
    }

    fn variable(&mut self, at: &str, name: &str) -> Option<String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = name.bytes().all(word) && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        match good && name.len() <= 128 {
            true => Some(name.to_owned()),
            false => self.refuse(at, "expected the name of an environment variable after `env:` (A-Z, 0-9, _), found something else (not shown)"),
        }
    }

    fn token(&mut self, at: &str, file: &TokenFile) -> Option<TokenSettings> {
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
            introspect: false,
            keep_alive: false,
        })
    }

    fn budget(&mut self, at: &str, file: &BudgetFile) -> Option<Budget> {
        let burst = self.number(&format!("{at}.burst"), file.burst, 1..=3600);
        let per_minute = self.number(&format!("{at}.per_minute"), file.per_minute, 1..=60);
        Some(Budget {
            burst: burst?,
            per_minute: per_minute?,
        })
    }

    fn given<'a>(&mut self, at: &str, text: Option<&'a str>, expected: &str) -> Option<&'a str> {
        match text {
            Some(text) if !text.trim().is_empty() => Some(text),
            _ => self.refuse(at, format!("expected {expected}, found nothing")),
        }
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

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn is_or_is_under(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
