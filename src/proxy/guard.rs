//! May this call pass? Decided before a token is near it.
//!
//! Pure. A local port is reachable by every page in the user's browser, so `Host` (DNS rebinding), `Origin` and
//! `Sec-Fetch-Site` are judged; never `Sec-Fetch-Mode`, which Node's fetch sends too (`clients.md`).
//! Source: `design.md` §6.2.

use http::{HeaderName, HeaderValue, Method, Version, header, request::Parts};

use super::surface::{PathRefusal, Serves, Surface, Told, surface};
use crate::config::Listener;

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What one listener lets pass.
#[derive(Debug, Clone)]
pub struct Rules {
    hosts: Vec<String>,
    allowed_origins: Vec<String>,
    extra_paths: Vec<String>,
    local_login: bool,
    serves: Serves,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Plain http on a listener that speaks https.
    PlainHttp,
    /// No or several `Host` headers, or one that is no host.
    BadHost,
    /// The host is not one of the listener's names.
    WrongHost,
    /// `CONNECT`, or an absolute-form target elsewhere.
    ForeignTarget,
    /// `TRACE`, which is answered with what was sent (RFC 9110 §9.3.8).
    Trace,
    /// A web page of another site.
    CrossSite,
    DotSegment,
    PathNotServed,
    /// A login, where `local_login` is off.
    LoginNotServed,
    /// The call must name a user, and names none.
    UserMissing,
    /// It names a user who is not on the listener's list, or several.
    UserNotAllowed,
    /// It names a user where only the org's own identity is served.
    UserNotServed,
}

impl Refusal {
    pub const ALL: [Self; 12] = [
        Self::PlainHttp,
        Self::BadHost,
        Self::WrongHost,
        Self::ForeignTarget,
        Self::Trace,
        Self::CrossSite,
        Self::DotSegment,
        Self::PathNotServed,
        Self::LoginNotServed,
        Self::UserMissing,
        Self::UserNotAllowed,
        Self::UserNotServed,
    ];

    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http",
            Self::BadHost => "bad_host",
            Self::WrongHost => "wrong_host",
            Self::ForeignTarget => "foreign_target",
            Self::Trace => "trace",
            Self::CrossSite => "cross_site",
            Self::DotSegment => "dot_segment",
            Self::PathNotServed => "path_not_served",
            Self::LoginNotServed => "login_not_served",
            Self::UserMissing => "user_missing",
            Self::UserNotAllowed => "user_not_allowed",
            Self::UserNotServed => "user_not_served",
        }
    }
}

impl Rules {
    /// The listener's names are the loopback names, its own addresses, and `hosts`.
    pub fn new(listener: &Listener, serves: Serves) -> Self {
        Self {
            hosts: listener.names(),
            allowed_origins: listener.allowed_origins.clone(),
            extra_paths: listener.extra_paths.clone(),
            local_login: listener.local_login,
            serves,
        }
    }

    /// For the admin port's changes: loopback names, and no page of any site.
    pub fn of_loopback() -> Self {
        Self {
            hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
            allowed_origins: vec![],
            extra_paths: vec![],
            local_login: false,
            serves: Serves::Core,
        }
    }

    /// Whether the caller may call at all, whatever the path.
    pub fn check_caller(&self, call: &Parts) -> Result<(), Refusal> {
        self.check_host(call)?;
        self.check_site(call)
    }

    /// The call's API family, or why it may not pass.
    pub fn check(&self, call: &Parts) -> Result<Surface, Refusal> {
        if call.method == Method::CONNECT {
            return Err(Refusal::ForeignTarget);
        }
        self.check_caller(call)?;
        if call.method == Method::TRACE {
            return Err(Refusal::Trace);
        }
        let found = surface(call.uri.path(), self.serves, &self.extra_paths).map_err(|refusal| match refusal {
            PathRefusal::DotSegment => Refusal::DotSegment,
            PathRefusal::NotServed => Refusal::PathNotServed,
        })?;
        if found == Surface::LocalLogin {
            self.check_login()?;
        }
        Ok(found)
    }

    /// The family of a refused call's path: it says what the caller understands.
    pub fn family(&self, path: &str, version: Version) -> Option<Surface> {
        let found = surface(path, self.serves, &self.extra_paths).ok();
        // gRPC's errors are none to who does not speak HTTP/2.
        found.filter(|found| found.row().told != Told::RpcStatus || version == Version::HTTP_2)
    }

    /// Whether logins are answered here. They are never passed on: the org would give the app a session of its own.
    pub fn check_login(&self) -> Result<(), Refusal> {
        match self.local_login {
            true => Ok(()),
            false => Err(Refusal::LoginNotServed),
        }
    }

    fn check_host(&self, call: &Parts) -> Result<(), Refusal> {
        // In HTTP/2 the authority is `:authority`; in HTTP/1.1 a target with one is absolute-form.
        let authority = call.uri.authority().map(http::uri::Authority::as_str);
        if let Some(authority) = authority
            && !self.knows(authority)
        {
            return Err(if call.version == Version::HTTP_2 {
                Refusal::WrongHost
            } else {
                Refusal::ForeignTarget
            });
        }
        let mut hosts = call.headers.get_all(header::HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                let host = host.to_str().map_err(|_| Refusal::BadHost)?;
                if self.knows(host) {
                    Ok(())
                } else {
                    Err(Refusal::WrongHost)
                }
            }
            (None, None) if authority.is_some() => Ok(()),
            _ => Err(Refusal::BadHost),
        }
    }

    /// Whether `host[:port]` is one of the listener's names. Any port: it may be forwarded or published under another. Nothing
    /// else may follow: answers of ours lead back to it (`local_login.rs`), and `localhost:1@elsewhere` is another host.
    fn knows(&self, host: &str) -> bool {
        let split = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']'),
            None => Some(host.split_at(host.bytes().position(|byte| byte == b':').unwrap_or(host.len()))),
        };
        let Some((name, _)) = split.filter(|(_, port)| is_port(port)) else {
            return false;
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    fn check_site(&self, call: &Parts) -> Result<(), Refusal> {
        if let Some(origin) = call.headers.get(header::ORIGIN) {
            let allowed = self
                .allowed_origins
                .iter()
                .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
            return if allowed { Ok(()) } else { Err(Refusal::CrossSite) };
        }
        // A page without an `Origin` (a picture, a form's GET): only its site tells.
        let mut sites = call.headers.get_all(&SEC_FETCH_SITE).iter().map(HeaderValue::as_bytes);
        match sites.any(|site| matches!(site, b"cross-site" | b"same-site")) {
            true => Err(Refusal::CrossSite),
            false => Ok(()),
        }
    }
}

/// Nothing, or `:` and a number that a port can have; none is as good as the scheme's (RFC 3986 §3.2.3).
fn is_port(text: &str) -> bool {
    let number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.is_empty() || number(port))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::config::OrgName;

    fn rules() -> Rules {
        Rules::new(
            &Listener {
                addresses: vec!["127.0.0.1:8080".parse().unwrap(), "10.1.2.3:8080".parse().unwrap()],
                org: OrgName::new("main"),
                hosts: vec!["sf.internal".into()],
                allowed_origins: vec!["https://app.example".into()],
                extra_paths: vec![],
                local_login: false,
                insecure_allow_any_caller: true,
                tls: None,
                users: None,
                max_connections: 10,
                idle_timeout: Duration::from_secs(1),
            },
            Serves::Core,
        )
    }

    fn judge(target: &str, headers: &[(&str, &str)]) -> Result<Surface, Refusal> {
        judge_as(Method::GET, Version::HTTP_11, target, headers)
    }

    fn judge_as(method: Method, version: Version, target: &str, headers: &[(&str, &str)]) -> Result<Surface, Refusal> {
        let mut call = Request::builder().method(method).version(version).uri(target);
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        rules().check(&call.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn only_the_listeners_names_are_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:9999",
            "localhost.",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "localhost:",
            "10.1.2.3",
            "sf.internal:80",
        ] {
            assert_eq!(judge("/services/data", &[("host", host)]), Ok(Surface::Rest), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.2",
            "",
            "[::2]",
            "0.0.0.0",
            "localhost:80@evil.example",
            "localhost:@evil.example",
            "localhost:+80",
            "localhost:65536",
            "localhost:1:2",
            "[::1].evil.example",
            "[::1]@evil.example:80",
            "[::1",
            "[localhost",
        ] {
            assert_eq!(
                judge("/services/data", &[("host", host)]),
                Err(Refusal::WrongHost),
                "{host}"
            );
        }
        assert_eq!(judge("/services/data", &[]), Err(Refusal::BadHost));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(judge("/services/data", &twice), Err(Refusal::BadHost));
    }

    #[test]
    fn a_target_elsewhere_is_refused_and_one_here_is_not() {
        let here = [("host", "localhost")];
        assert_eq!(
            judge("http://evil.example/services/data", &here),
            Err(Refusal::ForeignTarget)
        );
        assert_eq!(judge("http://localhost:8080/services/data", &here), Ok(Surface::Rest));
        let connect = judge_as(Method::CONNECT, Version::HTTP_11, "acme.my.salesforce.com:443", &here);
        assert_eq!(connect, Err(Refusal::ForeignTarget));
        // HTTP/2 has its host in the target
        let h2 = |target| judge_as(Method::GET, Version::HTTP_2, target, &[]);
        assert_eq!(h2("http://localhost:8080/services/data"), Ok(Surface::Rest));
        assert_eq!(h2("http://evil.example/services/data"), Err(Refusal::WrongHost));
    }

    #[test]
    fn pages_are_refused_and_nodes_fetch_is_not() {
        let with = |name: &str, value: &str| judge("/services/data", &[("host", "localhost"), (name, value)]);
        assert_eq!(with("origin", "https://evil.example"), Err(Refusal::CrossSite));
        assert_eq!(with("origin", "null"), Err(Refusal::CrossSite));
        assert_eq!(with("origin", "https://app.example"), Ok(Surface::Rest));
        assert_eq!(with("sec-fetch-site", "cross-site"), Err(Refusal::CrossSite));
        assert_eq!(with("sec-fetch-site", "same-site"), Err(Refusal::CrossSite));
        assert_eq!(with("sec-fetch-site", "none"), Ok(Surface::Rest));
        let two = [
            ("host", "localhost"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert_eq!(judge("/services/data", &two), Err(Refusal::CrossSite));
        assert_eq!(with("sec-fetch-mode", "cors"), Ok(Surface::Rest));
    }

    #[test]
    fn paths_that_are_no_api_are_refused() {
        let here = [("host", "localhost")];
        assert_eq!(judge("/secur/frontdoor.jsp", &here), Err(Refusal::PathNotServed));
        assert_eq!(judge("/services/data/../x", &here), Err(Refusal::DotSegment));
        assert_eq!(judge("/services/oauth2/token", &here), Err(Refusal::LoginNotServed));
        let options = judge_as(Method::OPTIONS, Version::HTTP_11, "*", &here);
        assert_eq!(options, Err(Refusal::PathNotServed));
        let trace = judge_as(Method::TRACE, Version::HTTP_11, "/services/data", &here);
        assert_eq!(trace, Err(Refusal::Trace));
    }
}
