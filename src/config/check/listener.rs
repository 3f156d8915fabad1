//! The rules for listeners: addresses, certificates, host names, web origins, extra paths.
//!
//! Invariants: an address that others can reach is served only when the operator says so; no extra path leads to a
//! place where a token would open a browser session or mint another token.
//! Source: `design.md` §6.2, §9.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Check, HOUR, SECOND};
use crate::config::{
    Listener, ListenerTls, OrgName,
    file::{AdminFile, ListenerFile, ListenerTlsFile, OneOrMany, OrgFile},
    problem::{shown, url_shown},
};

/// Under these a token is exchanged for a session or for another token (SF §5: never forwarded).
const NEVER_FORWARDED: [&str; 2] = ["/secur/", "/services/oauth2/"];

type Orgs = BTreeMap<String, OrgFile>;

impl Check {
    pub(super) fn listeners(&mut self, files: &[ListenerFile], orgs: &Orgs) -> Option<Vec<Listener>> {
        if files.is_empty() {
            return self.refuse(
                "listeners",
                "expected at least one, found none; leave the key out for localhost:8080",
            );
        }
        let checked = files.iter().enumerate();
        let checked = checked.map(|(i, file)| self.listener(&format!("listeners[{i}]"), file, orgs));
        // Every one is checked before the first that failed ends the collecting.
        checked.collect::<Vec<_>>().into_iter().collect()
    }

    fn listener(&mut self, at: &str, file: &ListenerFile, orgs: &Orgs) -> Option<Listener> {
        let address_at = format!("{at}.address");
        let addresses = self.addresses(&address_at, &file.address);
        self.only_local(&address_at, addresses.as_deref(), file.insecure_allow_any_caller);
        let org = self.org_of(&format!("{at}.org"), file.org.as_deref(), orgs);
        let users = match &file.users {
            Some(users) => {
                let of = org.as_ref().and_then(|name| orgs.get(name.as_str()));
                self.users(&format!("{at}.users"), users, of).map(Some)
            }
            None => Some(None),
        };
        let tls = match &file.tls {
            Some(tls) => self.listener_tls(&format!("{at}.tls"), tls).map(Some),
            None => Some(None),
        };
        let hosts = self.each(&format!("{at}.hosts"), &file.hosts, Self::host);
        let origins = self.each(
            &format!("{at}.allowed_origins"),
            &file.allowed_origins,
            Self::web_origin,
        );
        let paths = self.each(&format!("{at}.extra_paths"), &file.extra_paths, Self::extra_path);
        let connections = self.number(&format!("{at}.max_connections"), file.max_connections, 1..=1_000_000);
        let idle: Option<Duration> = self.span(&format!("{at}.idle_timeout"), &file.idle_timeout, SECOND..=HOUR);
        Some(Listener {
            addresses: addresses?,
            org: org?,
            hosts: hosts?,
            allowed_origins: origins?,
            extra_paths: paths?,
            local_login: file.local_login,
            insecure_allow_any_caller: file.insecure_allow_any_caller,
            tls: tls?,
            users: users?,
            max_connections: connections?,
            idle_timeout: idle?,
        })
    }

    /// Exactly one of the two forms.
    fn listener_tls(&mut self, at: &str, file: &ListenerTlsFile) -> Option<ListenerTls> {
        let ListenerTlsFile {
            certificate_file,
            key_file,
            generate_in,
        } = file;
        if let Some(directory) = generate_in {
            let directory = self.folder(&format!("{at}.generate_in"), directory);
            if certificate_file.is_some() || key_file.is_some() {
                let text = "expected either generate_in, or certificate_file and key_file, found both; take one out";
                return self.refuse(at, text);
            }
            return Some(ListenerTls::Generated { directory: directory? });
        }
        if certificate_file.is_none() && key_file.is_none() {
            let text =
                "expected certificate_file and key_file, or generate_in, found nothing; leave `tls` out for plain http";
            return self.refuse(at, text);
        }
        let certificate = self.tls_file(at, "certificate_file", certificate_file.as_deref(), "key_file");
        let key = self.tls_file(at, "key_file", key_file.as_deref(), "certificate_file");
        Some(ListenerTls::Files {
            certificate: certificate?,
            key: key?,
        })
    }

    fn tls_file(&mut self, at: &str, key: &str, path: Option<&str>, other: &str) -> Option<PathBuf> {
        match path {
            Some(path) => self.path(&format!("{at}.{key}"), path),
            None => self.refuse(
                format!("{at}.{key}"),
                format!("expected the path of a file beside {other}, found nothing"),
            ),
        }
    }

    /// Two makers of certificates in one folder would each replace what the other's apps trust.
    pub(super) fn tls_folders(&mut self, listeners: &[ListenerFile]) {
        let mut taken: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (i, file) in listeners.iter().enumerate() {
            let Some(folder) = file.tls.as_ref().and_then(|tls| tls.generate_in.as_deref()) else {
                continue;
            };
            // Without a last slash and single dots.
            let folder: PathBuf = Path::new(folder.trim()).components().collect();
            if let Some(first) = taken.get(&folder) {
                let text =
                    format!("listeners[{first}] makes its certificate there; choose a folder for this listener alone");
                self.problems.add(format!("listeners[{i}].tls.generate_in"), text);
            } else {
                taken.insert(folder, i);
            }
        }
    }

    fn only_local(&mut self, at: &str, addresses: Option<&[SocketAddr]>, allowed: bool) {
        let open = addresses.unwrap_or_default().iter().find(|a| !a.ip().is_loopback());
        if let Some(address) = open.filter(|_| !allowed) {
            let text = format!(
                "{address} is not loopback: whoever reaches it acts as the org's user, and this version cannot \
                 authenticate callers yet; use localhost:{}, or set insecure_allow_any_caller: true beside it",
                address.port()
            );
            self.problems.add(at, text);
        }
    }

    fn org_of(&mut self, at: &str, name: Option<&str>, orgs: &Orgs) -> Option<OrgName> {
        let known: Vec<&str> = orgs.keys().map(String::as_str).collect();
        match (name, known.as_slice()) {
            (Some(name), known) if known.contains(&name) => Some(OrgName::new(name)),
            (Some(name), _) => {
                let text = format!(
                    "expected one of the configured orgs ({}), found {}",
                    known.join(", "),
                    shown(name)
                );
                self.refuse(at, text)
            }
            (None, [only]) => Some(OrgName::new(*only)),
            // Told at `orgs`.
            (None, []) => None,
            (None, several) => {
                let text = format!(
                    "expected the org that calls go to, one of {}, found nothing",
                    several.join(", ")
                );
                self.refuse(at, text)
            }
        }
    }

    /// One address or several; `localhost:PORT` is both loopback addresses, `*:PORT` every address of both families.
    pub(super) fn addresses(&mut self, at: &str, file: &OneOrMany) -> Option<Vec<SocketAddr>> {
        let texts = file.as_slice();
        if texts.is_empty() {
            return self.refuse(at, "expected at least one address, found an empty list");
        }
        let place = |i: usize| match file {
            OneOrMany::One(_) => at.to_owned(),
            OneOrMany::Many(_) => format!("{at}[{i}]"),
        };
        let parsed: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| self.address(place(i), text))
            .collect();
        let parsed: Option<Vec<_>> = parsed.into_iter().collect();
        parsed.map(|parsed| parsed.into_iter().flatten().collect())
    }

    fn address(&mut self, at: String, text: &str) -> Option<Vec<SocketAddr>> {
        parse_address(text).or_else(|| {
            let text = format!(
                "expected localhost:PORT, *:PORT (every address), IP:PORT or [IPv6]:PORT, found {}; names other than localhost are not taken",
                shown(text)
            );
            self.refuse(at, text)
        })
    }

    /// Two sockets cannot have one address; port 0 asks the system for a free one.
    pub(super) fn duplicate_addresses(&mut self, listeners: &[ListenerFile], admin: &AdminFile) {
        let listeners = listeners.iter().enumerate();
        let places = listeners.map(|(i, file)| (format!("listeners[{i}].address"), &file.address));
        let places = places.chain([("admin.address".to_owned(), &admin.address)]);
        let mut taken: Vec<(SocketAddr, String)> = vec![];
        for (at, file) in places {
            for address in file.as_slice().iter().filter_map(|text| parse_address(text)).flatten() {
                if let Some((other, first)) = taken.iter().find(|(other, _)| clash(*other, address)) {
                    let text = format!("{address} is taken by {first} ({other}); choose another port");
                    self.problems.add(at.clone(), text);
                }
                taken.push((address, at.clone()));
            }
        }
    }

    pub(super) fn each(
        &mut self,
        at: &str,
        texts: &[String],
        one: fn(&mut Self, String, &str) -> Option<String>,
    ) -> Option<Vec<String>> {
        let all = texts.iter().enumerate();
        let all: Vec<_> = all
            .map(|(i, text)| one(self, format!("{at}[{i}]"), text.trim()))
            .collect();
        all.into_iter().collect()
    }

    fn host(&mut self, at: String, text: &str) -> Option<String> {
        let label = |label: &str| {
            // Longer ones are no names in DNS, nor in a certificate.
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if text.parse::<Ipv6Addr>().is_ok() || text.split('.').all(label) {
            return Some(text.to_ascii_lowercase());
        }
        let text = format!(
            "expected a host name without scheme, port or wildcard, found {}",
            shown(text)
        );
        self.refuse(at, text)
    }

    fn web_origin(&mut self, at: String, text: &str) -> Option<String> {
        let url = url::Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
                && !text.contains('*')
        });
        url.map(|url| url.origin().ascii_serialization()).or_else(|| {
            let found = url_shown(text);
            self.refuse(
                at,
                format!("expected an origin such as `https://app.example`, found {found}"),
            )
        })
    }

    pub(super) fn extra_path(&mut self, at: String, text: &str) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~!$&'()+,;=:@".contains(c);
        let odd = !text.starts_with('/') || !text.chars().all(plain) || text.contains("//");
        if odd || text.split('/').any(|segment| matches!(segment, "." | "..")) {
            let text = format!(
                "expected a path that begins with `/`, without `..`, `//`, `%`, `?`, `#` or blanks, found {}",
                shown(text)
            );
            return self.refuse(at, text);
        }
        if let Some(never) = NEVER_FORWARDED.into_iter().find(|never| reaches(text, never)) {
            let text = format!(
                "{} would open {never}, where a token may never go; name a narrower path",
                shown(text)
            );
            return self.refuse(at, text);
        }
        Some(text.to_owned())
    }
}

/// Whether the prefix (or exact path) lets calls through to `never`.
fn reaches(path: &str, never: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let covers = path.ends_with('/') && never.starts_with(&path);
    covers || path.starts_with(never) || path == never.trim_end_matches('/')
}

fn parse_address(text: &str) -> Option<Vec<SocketAddr>> {
    const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    const ALL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let text = text.trim();
    let both = [("localhost:", LOOPBACK), ("*:", ALL)];
    let both = both
        .into_iter()
        .find_map(|(name, ips)| Some((text.strip_prefix(name)?, ips)));
    let Some((port, ips)) = both else {
        return text.parse().ok().map(|address| vec![address]);
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok()?;
    Some(ips.map(|ip| SocketAddr::new(ip, port)).to_vec())
}

/// Whether both cannot be bound: same port and family, and the same address or one that stands for all.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let all = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_family && (a.ip() == b.ip() || all)
}
