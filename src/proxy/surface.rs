//! Which API family a path belongs to, and so where its token goes and how a dead one is told.
//!
//! Pure. Invariants: the path is only looked at, never changed: the org receives it byte for byte. A path that a server
//! might resolve to somewhere else (dot segments, plain or percent-encoded) belongs to no family.
//! Source: SF §5.1; leading `//`: the `sf` CLI sends it and real orgs take it (`clients.md`).

/// An API family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `/services/data/…`: REST, Tooling, UI, Composite, GraphQL, Connect, Bulk 2.0.
    Rest,
    /// `/services/apexrest/…`: code of the org's own, which may answer 401 for reasons of its own.
    ApexRest,
    /// `/services/oauth2/userinfo` and `/id/…`.
    Identity,
    /// `listeners[].extra_paths`.
    Extra,
    /// `/api/v1/…`, `/api/v2/…`: the Data Cloud tenant's.
    DataCloud,
    /// Any path of a cloud other than the core.
    Platform,
}

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
    pub const ALL: [Self; 6] = [
        Self::Rest,
        Self::ApexRest,
        Self::Identity,
        Self::Extra,
        Self::DataCloud,
        Self::Platform,
    ];

    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::ApexRest => "apex_rest",
            Self::Identity => "identity",
            Self::Extra => "extra",
            Self::DataCloud => "data_cloud",
            Self::Platform => "platform",
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
    let under = |root: &str| {
        inner
            .strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if serves == Serves::Everything {
        // A token is exchanged for a session or for another token there, whatever the cloud.
        return match leads_to_a_login(path) {
            true => Err(PathRefusal::NotServed),
            false => Ok(Surface::Platform),
        };
    }
    if under("services/data") {
        Ok(Surface::Rest)
    } else if under("services/apexrest") {
        Ok(Surface::ApexRest)
    } else if inner == "services/oauth2/userinfo" || is_identity(inner) {
        Ok(Surface::Identity)
    } else if serves == Serves::CoreAndDataCloud && (under("api/v1") || under("api/v2")) {
        Ok(Surface::DataCloud)
    } else if extra_paths.iter().any(|extra| is_under(path, extra)) {
        Ok(Surface::Extra)
    } else {
        Err(PathRefusal::NotServed)
    }
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
            ("/services/oauth2/token", Err(PathRefusal::NotServed)),
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
