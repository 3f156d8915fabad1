//! Which API family a path belongs to, and so where its token goes, to which host, and how a dead one is told: [`TABLE`].
//!
//! Pure. Invariants: the path is only looked at, never changed: the org receives it byte for byte. A path that a server
//! might resolve to somewhere else (dot segments, plain or percent-encoded) belongs to no family.
//! Source: SF §5.1, §5.3, §10; leading `//`: the `sf` CLI sends it and real orgs take it (`clients.md`).

use std::time::Duration;

const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// An API family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    Rest,
    ApexRest,
    Identity,
    Bulk1,
    Soap,
    Cometd,
    PubSub,
    LocalLogin,
    Extra,
    DataCloud,
    MarketingSoap,
    Platform,
}

/// What there is to know of a family.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub surface: Surface,
    /// In metrics and logs.
    pub word: &'static str,
    /// The paths, for people.
    pub paths: &'static str,
    pub token: Placement,
    pub host: Host,
    pub told: Told,
    pub protocol: Protocol,
}

/// Where the token goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `X-SFDC-Session: …`.
    SessionHeader,
    /// `SessionHeader/sessionId` in the SOAP envelope.
    Envelope,
    /// `fueloauth` in the header of Marketing Cloud's SOAP envelope.
    Fuel,
    /// `accesstoken`, `instanceurl` and `tenantid`, in the metadata of each RPC.
    Metadata,
    /// The call is answered here.
    Nowhere,
}

/// Which host the call goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The token's own.
    Instance,
    /// `orgs.NAME.pub_sub.endpoint`.
    PubSub,
    Here,
}

/// How the API says that a token is no good; `verdict.rs` reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// 401 with the code `INVALID_SESSION_ID`.
    RestError,
    /// The same, or 403 with the text `Bad_OAuth_Token`.
    IdentityText,
    /// 400 or 401 with the code `InvalidSessionId`.
    BulkError,
    /// 500 with the fault `INVALID_SESSION_ID`.
    SoapFault,
    /// 200 with a message `401::…`.
    BayeuxMessage,
    /// The `error-code` of a status.
    RpcStatus,
    /// 401 with whatever body.
    Any401,
    /// Any 401, or a fault of Marketing Cloud's.
    FuelFault,
    Never,
}

/// What is spoken with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 where the operator wants it (`upstream.http2`).
    Either,
    Http1,
    Http2,
}

const fn core(surface: Surface, word: &'static str, paths: &'static str, token: Placement, told: Told) -> Row {
    Row {
        surface,
        word,
        paths,
        token,
        host: Host::Instance,
        told,
        protocol: Protocol::Either,
    }
}

/// In the order of the variants.
pub const TABLE: [Row; 12] = {
    use Placement::{Bearer, Envelope, Fuel, Metadata, Nowhere, SessionHeader};
    [
        // REST, Tooling, UI, Composite, GraphQL, Connect, Bulk 2.0.
        core(Surface::Rest, "rest", "/services/data/…", Bearer, Told::RestError),
        // Code of the org's own, which may answer 401 for reasons of its own.
        core(
            Surface::ApexRest,
            "apex_rest",
            "/services/apexrest/…",
            Bearer,
            Told::RestError,
        ),
        core(
            Surface::Identity,
            "identity",
            "/services/oauth2/userinfo, /id/…",
            Bearer,
            Told::IdentityText,
        ),
        core(
            Surface::Bulk1,
            "bulk1",
            "/services/async/…",
            SessionHeader,
            Told::BulkError,
        ),
        // Partner, Enterprise, Metadata, Tooling, Apex, and classes of the org's own.
        core(Surface::Soap, "soap", "/services/Soap/…", Envelope, Told::SoapFault),
        Row {
            // Sticky routing by cookies (SF §5.1).
            protocol: Protocol::Http1,
            ..core(Surface::Cometd, "cometd", "/cometd/…", Bearer, Told::BayeuxMessage)
        },
        Row {
            host: Host::PubSub,
            protocol: Protocol::Http2,
            ..core(
                Surface::PubSub,
                "pub_sub",
                "/eventbus.v1.PubSub/…",
                Metadata,
                Told::RpcStatus,
            )
        },
        Row {
            host: Host::Here,
            ..core(
                Surface::LocalLogin,
                "local_login",
                "/services/oauth2/token, /services/oauth2/revoke, /services/a360/token",
                Nowhere,
                Told::Never,
            )
        },
        core(
            Surface::Extra,
            "extra",
            "`listeners[].extra_paths`",
            Bearer,
            Told::RestError,
        ),
        // The Data Cloud tenant's.
        core(
            Surface::DataCloud,
            "data_cloud",
            "/api/v1/…, /api/v2/…",
            Bearer,
            Told::Any401,
        ),
        core(
            Surface::MarketingSoap,
            "marketing_soap",
            "…/Service.asmx of another cloud",
            Fuel,
            Told::FuelFault,
        ),
        core(
            Surface::Platform,
            "platform",
            "any other path of another cloud",
            Bearer,
            Told::Any401,
        ),
    ]
};

/// What a listener's org serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serves {
    /// Salesforce's API families.
    #[default]
    Core,
    /// And Data Cloud's.
    CoreAndDataCloud,
    /// Another cloud: any path.
    Everything,
}

impl Surface {
    /// In the order of the variants: `Surface::Rest as usize` is its place.
    pub const ALL: [Self; TABLE.len()] = {
        let mut all = [Self::Rest; TABLE.len()];
        let mut i = 0;
        while i < TABLE.len() {
            all[i] = TABLE[i].surface;
            i += 1;
        }
        all
    };

    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        self.row().word
    }

    /// Whether the token goes into the body.
    pub const fn is_enveloped(self) -> bool {
        matches!(self.row().token, Placement::Envelope | Placement::Fuel)
    }

    /// How long a body may stand still. A subscription is silent for as long as nothing happens; pings tell whether its
    /// connection lives (SF §5.3).
    pub fn body_idle(self, usual: Duration) -> Duration {
        match self {
            Self::PubSub => A_YEAR,
            _ => usual,
        }
    }
}

/// Why a path gets no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRefusal {
    /// A segment is `.` or `..`, also percent-encoded.
    DotSegment,
    NotServed,
}

/// The family of `path`, which is the request target's path as it was sent.
pub fn surface(path: &str, serves: Serves, extra_paths: &[String]) -> Result<Surface, PathRefusal> {
    if has_dot_segment(path) {
        return Err(PathRefusal::DotSegment);
    }
    let inner = path.trim_start_matches('/');
    if !path.starts_with('/') {
        return Err(PathRefusal::NotServed);
    }
    if serves == Serves::Everything {
        // A token is exchanged for a session or for another token there, whatever the cloud.
        return match leads_to_a_login(path) {
            true => Err(PathRefusal::NotServed),
            false if is_fuel_service(path) => Ok(Surface::MarketingSoap),
            false => Ok(Surface::Platform),
        };
    }
    let under = |root: &str| {
        inner
            .strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let has_data_cloud = serves == Serves::CoreAndDataCloud;
    let found = Surface::ALL.into_iter().find(|surface| match surface {
        Surface::Rest => under("services/data"),
        Surface::ApexRest => under("services/apexrest"),
        Surface::Identity => inner == "services/oauth2/userinfo" || is_identity(inner),
        Surface::Bulk1 => under("services/async"),
        Surface::Soap => under("services/Soap") || under("services/soap"),
        Surface::Cometd => under("cometd"),
        Surface::PubSub => under("eventbus.v1.PubSub"),
        Surface::LocalLogin => {
            matches!(inner, "services/oauth2/token" | "services/oauth2/revoke")
                || (has_data_cloud && inner == "services/a360/token")
        }
        Surface::Extra => extra_paths.iter().any(|extra| is_under(path, extra)),
        Surface::DataCloud => has_data_cloud && (under("api/v1") || under("api/v2")),
        Surface::MarketingSoap | Surface::Platform => false,
    });
    found.ok_or(PathRefusal::NotServed)
}

/// Marketing Cloud's SOAP service (SF §5.5), as a server may read the path: an envelope that came by another spelling would keep
/// the token of the app's own.
fn is_fuel_service(path: &str) -> bool {
    let decoded = decode(path.as_bytes());
    let last = segments(&decoded).filter(|segment| !segment.is_empty()).last();
    last.is_some_and(|last| last.eq_ignore_ascii_case(b"service.asmx"))
}

/// The org answers it without a login: it says nothing of the token (SF §6).
pub fn is_list_of_versions(path: &str) -> bool {
    path.trim_matches('/') == "services/data"
}

/// `id/{org}/{user}`.
fn is_identity(inner: &str) -> bool {
    inner.strip_prefix("id/").is_some_and(|ids| {
        ids.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'/')
            && !ids.contains("//")
            && !ids.starts_with('/')
    })
}

fn is_under(path: &str, extra: &str) -> bool {
    if extra.ends_with('/') {
        path.starts_with(extra)
    } else {
        path == extra
    }
}

/// Whether a server that decodes before it resolves `..` could leave the family. Looks through percent-encoding, also of
/// itself, backslashes, `;parameters`, control characters, and the overlong UTF-8 form of the dot.
fn has_dot_segment(path: &str) -> bool {
    if !path.contains(['.', '%']) {
        return false;
    }
    let mut decoded = path.as_bytes().to_vec();
    for _ in 0..DECODED {
        decoded = decode(&decoded);
    }
    segments(&decoded).any(is_dots)
}

/// Whether a server could come to `/secur/…` or `/services/oauth2/…`, however often it decodes; looks through the same,
/// and through empty segments and case.
fn leads_to_a_login(path: &str) -> bool {
    let mut decoded = path.as_bytes().to_vec();
    // Between two decodings, too: what is a segment there may be a parameter's part here.
    (0..=DECODED).any(|_| {
        let found = is_login(&decoded);
        decoded = decode(&decoded);
        found
    })
}

fn is_login(path: &[u8]) -> bool {
    let is = |segment: &[u8], name: &str| {
        let seen = segment.iter().filter(|byte| !is_blank(**byte));
        seen.map(u8::to_ascii_lowercase).eq(name.bytes())
    };
    let mut names = segments(path).filter(|segment| !segment.iter().all(|byte| is_blank(*byte)));
    names.next().is_some_and(|first| {
        is(first, "secur") || (is(first, "services") && names.next().is_some_and(|second| is(second, "oauth2")))
    })
}

/// As servers see them: a backslash is a slash, parameters are no part of the name.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| matches!(byte, b'/' | b'\\')).map(|segment| {
        let end = segment.iter().position(|byte| matches!(byte, b';' | b'?' | b'#'));
        &segment[..end.unwrap_or(segment.len())]
    })
}

/// Some servers drop such characters.
fn is_blank(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

/// Nobody decodes more often than that.
const DECODED: usize = 3;

/// `.` or `..`, whatever is hidden between.
fn is_dots(segment: &[u8]) -> bool {
    let mut dots = 0;
    let mut rest = segment;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'.', _) => {
                dots += 1;
                after
            }
            (0xc0, [0xae, more @ ..]) => {
                dots += 1;
                more
            }
            (control, _) if is_blank(*control) => after,
            _ => return false,
        };
    }
    (1..=2).contains(&dots)
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_variants() {
        for (place, surface) in Surface::ALL.into_iter().enumerate() {
            assert_eq!(surface as usize, place, "{surface:?}");
        }
    }

    #[test]
    fn what_is_served_depends_on_the_org() {
        use Serves::{Core, CoreAndDataCloud, Everything};
        let table = [
            (CoreAndDataCloud, "/api/v2/query", Ok(Surface::DataCloud)),
            (CoreAndDataCloud, "/api/v1/profile/x", Ok(Surface::DataCloud)),
            (CoreAndDataCloud, "/api/v3/query", Err(PathRefusal::NotServed)),
            (CoreAndDataCloud, "/api/v20", Err(PathRefusal::NotServed)),
            (CoreAndDataCloud, "/api/v2/../x", Err(PathRefusal::DotSegment)),
            (
                CoreAndDataCloud,
                "/services/data/v60.0/ssot/query-sql",
                Ok(Surface::Rest),
            ),
            (Core, "/api/v2/query", Err(PathRefusal::NotServed)),
            (CoreAndDataCloud, "/services/a360/token", Ok(Surface::LocalLogin)),
            (Everything, "/Service.asmx", Ok(Surface::MarketingSoap)),
            (Everything, "//service.ASMX/", Ok(Surface::MarketingSoap)),
            (Everything, "/Service.asmx;a=b", Ok(Surface::MarketingSoap)),
            (Everything, "/Service%2Easmx", Ok(Surface::MarketingSoap)),
            (Everything, "/Service.asmx/x", Ok(Surface::Platform)),
            (Everything, "/hub/v1/dataevents", Ok(Surface::Platform)),
            (Everything, "/services/data/v60.0/", Ok(Surface::Platform)),
            (Everything, "/secur/frontdoor.jsp", Err(PathRefusal::NotServed)),
            (
                Everything,
                "//services/oauth2/singleaccess",
                Err(PathRefusal::NotServed),
            ),
            (Everything, "/a/%2e%2e/secur", Err(PathRefusal::DotSegment)),
            (Everything, "*", Err(PathRefusal::NotServed)),
            (Everything, "/%73ecur/frontdoor.jsp", Err(PathRefusal::NotServed)),
            (Everything, "/%2573ecur/frontdoor.jsp", Err(PathRefusal::NotServed)),
            (Everything, "/secur;a=b/frontdoor.jsp", Err(PathRefusal::NotServed)),
            (Everything, "/secur%2ffrontdoor.jsp", Err(PathRefusal::NotServed)),
            (Everything, "/secur%00/frontdoor.jsp", Err(PathRefusal::NotServed)),
            (Everything, "/;a/SECUR/frontdoor.jsp", Err(PathRefusal::NotServed)),
            (Everything, "/%5csecur/frontdoor.jsp", Err(PathRefusal::NotServed)),
            (Everything, "/services//oauth2/token", Err(PathRefusal::NotServed)),
            (Everything, "/services%2foauth2/token", Err(PathRefusal::NotServed)),
            (Everything, "/services/;%2fx/oauth2", Err(PathRefusal::NotServed)),
            (Everything, "/services/x/oauth2", Ok(Surface::Platform)),
            (Everything, "/secure/a%2Fb;c", Ok(Surface::Platform)),
        ];
        for (serves, path, expected) in table {
            assert_eq!(surface(path, serves, &[]), expected, "{serves:?} {path}");
        }
    }

    #[test]
    fn each_family_is_found_by_its_path() {
        let extra = vec!["/b/".to_owned(), "/sink".to_owned()];
        let table = [
            ("/services/data", Ok(Surface::Rest)),
            ("/services/data/", Ok(Surface::Rest)),
            ("/services/data/v60.0/query", Ok(Surface::Rest)),
            ("//services/data/v60.0/limits", Ok(Surface::Rest)),
            (
                "/services/data/v60.0/sobjects/Account/Ext__c/a|b;c[d]",
                Ok(Surface::Rest),
            ),
            ("/services/data/v60.0/sobjects/X/Ext__c/..foo", Ok(Surface::Rest)),
            ("/services/data/v60.0/sobjects/X/Ext__c/a%2Fb", Ok(Surface::Rest)),
            ("/services/apexrest/my/class", Ok(Surface::ApexRest)),
            ("/services/oauth2/userinfo", Ok(Surface::Identity)),
            ("/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS", Ok(Surface::Identity)),
            ("/b/1024", Ok(Surface::Extra)),
            ("/sink", Ok(Surface::Extra)),
            ("/sink/deeper", Err(PathRefusal::NotServed)),
            ("/", Err(PathRefusal::NotServed)),
            ("", Err(PathRefusal::NotServed)),
            ("*", Err(PathRefusal::NotServed)),
            ("/services/database", Err(PathRefusal::NotServed)),
            ("/services/oauth2/singleaccess", Err(PathRefusal::NotServed)),
            ("/services/oauth2/token", Ok(Surface::LocalLogin)),
            ("//services/oauth2/revoke", Ok(Surface::LocalLogin)),
            ("/services/oauth2/revoke/x", Err(PathRefusal::NotServed)),
            ("/services/oauth2/authorize", Err(PathRefusal::NotServed)),
            ("/services/oauth2/introspect", Err(PathRefusal::NotServed)),
            ("/services/a360/token", Err(PathRefusal::NotServed)),
            ("/services/async/60.0/job", Ok(Surface::Bulk1)),
            ("/services/asynchronous", Err(PathRefusal::NotServed)),
            ("/services/Soap/u/60.0/00Dxx0000001gER", Ok(Surface::Soap)),
            ("//services/Soap/class/Echo", Ok(Surface::Soap)),
            ("/services/soap/m/60.0", Ok(Surface::Soap)),
            ("/services/Soapy", Err(PathRefusal::NotServed)),
            ("/services/wsdl/partner", Err(PathRefusal::NotServed)),
            ("/cometd/60.0", Ok(Surface::Cometd)),
            ("/cometd/60.0/connect", Ok(Surface::Cometd)),
            ("/cometd/replay/36.0", Ok(Surface::Cometd)),
            ("/cometdx", Err(PathRefusal::NotServed)),
            ("/eventbus.v1.PubSub/Subscribe", Ok(Surface::PubSub)),
            ("/eventbus.v1.PubSubX/Subscribe", Err(PathRefusal::NotServed)),
            ("/grpc.health.v1.Health/Check", Err(PathRefusal::NotServed)),
            ("/services/oauth2/userinfo/x", Err(PathRefusal::NotServed)),
            ("/secur/frontdoor.jsp", Err(PathRefusal::NotServed)),
            ("//evil.example/services/data", Err(PathRefusal::NotServed)),
            ("/services/data/../../secur/frontdoor.jsp", Err(PathRefusal::DotSegment)),
            (
                "/services/data/%2e%2E/%2e%2e/secur/frontdoor.jsp",
                Err(PathRefusal::DotSegment),
            ),
            ("/services/data/..%2f..%2fsecur", Err(PathRefusal::DotSegment)),
            ("/services/data/..;x=y/secur", Err(PathRefusal::DotSegment)),
            ("/services/data/..\\..\\secur", Err(PathRefusal::DotSegment)),
            ("/services/data/%5c..%5csecur", Err(PathRefusal::DotSegment)),
            ("/services/data/.", Err(PathRefusal::DotSegment)),
            ("/services/data/..%3b/secur", Err(PathRefusal::DotSegment)),
            ("/services/data/%252e%252e/secur", Err(PathRefusal::DotSegment)),
            ("/services/data/..%00/secur", Err(PathRefusal::DotSegment)),
            ("/services/data/.%09./secur", Err(PathRefusal::DotSegment)),
            ("/services/data/%c0%ae%c0%ae/secur", Err(PathRefusal::DotSegment)),
            ("/services/data/..%23/secur", Err(PathRefusal::DotSegment)),
            ("/id//secur/frontdoor.jsp", Err(PathRefusal::NotServed)),
            ("/services/data/v60.0/sobjects/X/Ext__c/50%25", Ok(Surface::Rest)),
            ("/services/data/v60.0/sobjects/X/Ext__c/%", Ok(Surface::Rest)),
            ("/services/data/v60.0/sobjects/X/Ext__c/...", Ok(Surface::Rest)),
        ];
        for (path, expected) in table {
            assert_eq!(surface(path, Serves::Core, &extra), expected, "{path}");
        }
    }
}
