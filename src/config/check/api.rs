//! The rules for what is called: the API's host, its headers, Data Cloud, and the users of a listener.
//!
//! Invariants: no setting puts a credential or a hop-by-hop header on a call.
//! Source: SF §5.4, §5.5, §9; RFC 9110 §7.6.1.

use http::{HeaderName, HeaderValue};

use super::{Check, HOUR, MINUTE, SECOND, grant::Kind};
use crate::config::{
    Api, ApiHost, Budget, Cache, DataCloud, Users,
    file::{ApiFile, CacheFile, DataCloudFile, OrgFile, UsersFile},
    problem::shown,
    units::size_text,
};

/// Set by the connection, or credentials, which are never a setting.
const NOT_YOURS: [&str; 19] = [
    "accesstoken",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-sfdc-session",
    "content-encoding",
];

/// Where answers may be kept.
const CACHEABLE: [&str; 2] = ["/services/data/", "/services/apexrest/"];

const PLATFORM: &str = "https://api.salesforce.com";

impl Check {
    pub(super) fn api(&mut self, at: &str, file: &ApiFile, kind: Option<Kind>) -> Option<Api> {
        self.only_with(at, "platform", file, &[("url", file.url.is_some())]);
        let other = [
            ("host_field", file.host_field.is_some()),
            ("also", !file.also.is_empty()),
        ];
        self.only_with(at, "other", file, &other);
        if let Some(kind) = kind.filter(|kind| kind.finds()) {
            for (key, _) in other.iter().filter(|(_, given)| *given) {
                let text = format!(
                    "the grant {} has no token answer to read; set `instance_url`",
                    kind.word()
                );
                self.problems.add(format!("{at}.{key}"), text);
            }
        }
        let host = match file.host.as_str() {
            "instance" => Some(ApiHost::Instance),
            "platform" => self
                .origin_url(&format!("{at}.url"), file.url.as_deref().unwrap_or(PLATFORM))
                .map(|fallback| ApiHost::Platform { fallback }),
            "other" => self.other(at, file),
            other => self.refuse(
                format!("{at}.host"),
                format!("expected instance, platform or other, found {}", shown(other)),
            ),
        };
        let headers = self.headers(&format!("{at}.headers"), file);
        Some(Api {
            host: host?,
            headers: headers?,
        })
    }

    fn only_with(&mut self, at: &str, host: &str, file: &ApiFile, keys: &[(&str, bool)]) {
        let known = ["instance", "platform", "other"].contains(&file.host.as_str());
        for (key, _) in keys.iter().filter(|(_, given)| *given && known && file.host != host) {
            let text = format!(
                "counts with `host: {host}` only, found {}; take it out",
                shown(&file.host)
            );
            self.problems.add(format!("{at}.{key}"), text);
        }
    }

    fn other(&mut self, at: &str, file: &ApiFile) -> Option<ApiHost> {
        let field = match &file.host_field {
            Some(field) => self.answer_field(&format!("{at}.host_field"), field).map(Some),
            None => Some(None),
        };
        let also: Vec<_> = file
            .also
            .iter()
            .map(|(path, field)| {
                let at = format!("{at}.also.{path}");
                let path = self.extra_path(at.clone(), path);
                Some((path?, self.answer_field(&at, field)?))
            })
            .collect();
        let mut also: Vec<_> = also.into_iter().collect::<Option<_>>()?;
        // The first that fits counts.
        also.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Some(ApiHost::Other { field: field?, also })
    }

    fn answer_field(&mut self, at: &str, text: &str) -> Option<String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        // Of a field with a token in its name nothing is kept.
        match !text.is_empty() && text.bytes().all(word) && !text.contains("token") {
            true => Some(text.to_owned()),
            false => {
                let text = format!(
                    "expected the name of a field of the token answer, such as rest_instance_url, found {}",
                    shown(text)
                );
                self.refuse(at, text)
            }
        }
    }

    /// The settings are shown, and logged at the start: a secret does not belong among them.
    pub(super) fn no_secret(&mut self, at: &str, name: &str) {
        let name = name.to_ascii_lowercase().replace(['-', '_'], "");
        let telling = ["password", "secret", "token", "assertion", "apikey", "privatekey"];
        if telling.iter().any(|word| name.contains(word)) {
            let text = "looks like a secret (not shown), and this setting is shown in logs; it takes none";
            self.problems.add(at, text);
        }
    }

    fn headers(&mut self, at: &str, file: &ApiFile) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let all: Vec<_> = file
            .headers
            .iter()
            .map(|(name, value)| {
                let at = format!("{at}.{name}");
                self.no_secret(&at, name);
                let name = self.header_name(&at, name);
                let Ok(value) = HeaderValue::try_from(value) else {
                    return self.refuse(
                        at,
                        "expected a text that fits a header, found control characters (not shown)",
                    );
                };
                Some((name?, value))
            })
            .collect();
        let mut all: Vec<_> = all.into_iter().collect::<Option<_>>()?;
        all.sort_by(|(one, _), (two, _)| one.as_str().cmp(two.as_str()));
        if let Some(twice) = all.windows(2).find(|two| two[0].0 == two[1].0) {
            let text = format!("{} stands twice; keep one", twice[0].0);
            return self.refuse(at, text);
        }
        Some(all)
    }

    pub(super) fn header_name(&mut self, at: &str, text: &str) -> Option<HeaderName> {
        let Ok(name) = HeaderName::try_from(text) else {
            return self.refuse(at, format!("expected the name of a header, found {}", shown(text)));
        };
        if NOT_YOURS.contains(&name.as_str()) {
            let text = format!("{name} is set by the proxy or the connection alone; choose another header");
            return self.refuse(at, text);
        }
        Some(name)
    }

    pub(super) fn data_cloud(&mut self, at: &str, file: &DataCloudFile, host: &str) -> Option<DataCloud> {
        if host != "instance" {
            let text = format!(
                "works with `api.host: instance` only, found {}; take one of them out",
                shown(host)
            );
            self.problems.add(at, text);
        }
        let name = file.dataspace.trim();
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let dataspace = match (1..=80).contains(&name.len()) && name.bytes().all(word) {
            true => Some((name != "default").then(|| name.to_owned())),
            false => {
                let text = format!(
                    "expected the API name of a dataspace (A-Z, a-z, 0-9, _), found {}",
                    shown(name)
                );
                self.refuse(format!("{at}.dataspace"), text)
            }
        };
        let before = self.span(&format!("{at}.renew_before"), &file.renew_before, 30 * SECOND..=HOUR);
        let age = self.span(&format!("{at}.renew_age"), &file.renew_age, MINUTE..=2 * HOUR);
        Some(DataCloud {
            dataspace: dataspace?,
            renew_before: before?,
            renew_age: age?,
        })
    }

    pub(super) fn cache(&mut self, at: &str, file: &CacheFile, host: &str) -> Option<Cache> {
        if host != "instance" {
            let text = format!(
                "works with `api.host: instance` only, found {}; take one of them out",
                shown(host)
            );
            self.problems.add(at, text);
        }
        let ttl = self.span(&format!("{at}.ttl"), &file.ttl, SECOND..=24 * HOUR);
        let max_size = self.size(&format!("{at}.max_size"), &file.max_size, 64 << 10..=4 << 30);
        let entry_at = format!("{at}.max_entry");
        let max_entry = self.size(&entry_at, &file.max_entry, 1 << 10..=64 << 20);
        if let (Some(all), Some(one)) = (max_size, max_entry)
            && one > all
        {
            let text = format!(
                "expected at most max_size ({}), found {}; lower it or raise the other",
                size_text(all),
                size_text(one)
            );
            self.problems.add(entry_at, text);
        }
        let paths = self.each(&format!("{at}.paths"), &file.paths, Self::cached_path);
        Some(Cache {
            ttl: ttl?,
            max_size: max_size?,
            max_entry: max_entry?,
            paths: paths?,
        })
    }

    /// As `extra_paths`, with `*` for a segment.
    fn cached_path(&mut self, at: String, text: &str) -> Option<String> {
        if text.split('/').any(|segment| segment.contains('*') && segment != "*") {
            let text = format!(
                "expected `*` as a whole segment, as in `/services/data/*/theme`, found {}",
                shown(text)
            );
            return self.refuse(at, text);
        }
        // Elsewhere answers are of one moment, or hold a session.
        if !CACHEABLE
            .iter()
            .any(|root| text.strip_prefix(root).is_some_and(|rest| !rest.is_empty()))
        {
            let text = format!(
                "expected a path under {}, found {}",
                CACHEABLE.join(" or "),
                shown(text)
            );
            return self.refuse(at, text);
        }
        self.extra_path(at, &text.replace('*', "-"))?;
        Some(text.to_owned())
    }

    /// `org`: the one that the listener leads to, if it is known.
    pub(super) fn users(&mut self, at: &str, file: &UsersFile, org: Option<&OrgFile>) -> Option<Users> {
        let kind = org.and_then(|org| Kind::of(&org.grant));
        if let Some(kind) = kind.filter(|kind| *kind != Kind::JwtBearer) {
            let text = format!(
                "needs an org with the grant jwt_bearer, found {}; take it out",
                kind.word()
            );
            self.problems.add(at, text);
        }
        let allow_at = format!("{at}.allow");
        let allow = match file.allow.is_empty() {
            true => self.refuse(
                allow_at,
                "expected user names or patterns, such as `*@acme.example`, found nothing",
            ),
            false => self.each(&allow_at, &file.allow, Self::user_pattern),
        };
        let header = self.header_name(&format!("{at}.header"), &file.header);
        let max = self.number(&format!("{at}.max"), file.max, 1..=100_000);
        let idle = self.span(&format!("{at}.idle"), &file.idle, MINUTE..=24 * HOUR);
        let budget = &file.login_budget;
        let burst = self.number(&format!("{at}.login_budget.burst"), budget.burst, 1..=3600);
        let per_minute = self.number(&format!("{at}.login_budget.per_minute"), budget.per_minute, 1..=3600);
        Some(Users {
            header: header?,
            allow: allow?,
            required: file.required,
            max: max?,
            idle: idle?,
            budget: Budget {
                burst: burst?,
                per_minute: per_minute?,
            },
        })
    }

    fn user_pattern(&mut self, at: String, text: &str) -> Option<String> {
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        match (text.contains('@') || text.contains('*')) && text.chars().all(plain) {
            true => Some(text.to_lowercase()),
            false => {
                let text = format!(
                    "expected a user name or a pattern, such as `*@acme.example`, found {}",
                    shown(text)
                );
                self.refuse(at, text)
            }
        }
    }
}
