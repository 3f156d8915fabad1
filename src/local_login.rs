//! The logins that SDKs insist on, answered here.
//!
//! An SDK that will not start without a login finds on the listener what it expects: the token endpoint for any grant, SOAP's
//! `login` and `logout`, the revocation endpoint, Data Cloud's exchange. It gets a placeholder in the form of a session, which is no
//! credential and is replaced wherever it comes back as one, and URLs that lead back to the address that it called.
//!
//! Pure: texts in, texts out. Invariants: what the SDK presents is not looked at, not passed on, not kept; nothing secret
//! is in an answer. Source: `design.md` §7; SF §1.3 (fields), §5.4; `clients.md` (what each client takes from an answer).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use quick_xml::escape::escape;
use serde_json::{Value, json};

use crate::token::Token;

/// In `Proxy-Status`: nobody should take these answers for the org's.
const OURS: HeaderValue = HeaderValue::from_static("sf-token-proxy; details=\"answered by local_login\"");

/// Where nobody said whose token it is. Both have the form of an Id, and belong to nobody.
const NO_ORG: &str = "00D000000000000EAA";
const NO_USER: &str = "005000000000000AAA";

/// A call that is answered here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// `/services/oauth2/token`.
    Token {
        grant_type: String,
    },
    /// `/services/oauth2/revoke`.
    Revoke,
    /// `/services/a360/token`.
    DataCloud,
    /// SOAP's `login` at this path, in this namespace.
    SoapLogin {
        path: String,
        namespace: String,
    },
    SoapLogout {
        namespace: String,
    },
}

impl Login {
    /// The call at one of the paths that are answered here; parameters come in the body or in the query (`clients.md`).
    pub fn at(path: &str, query: &str, body: &[u8]) -> Self {
        match path.rsplit('/').next() {
            Some("revoke") => Self::Revoke,
            _ if path.ends_with("a360/token") => Self::DataCloud,
            _ => {
                let of = |text: &[u8]| {
                    let found = url::form_urlencoded::parse(text).find(|(name, _)| name == "grant_type");
                    found.map(|(_, value)| value.into_owned())
                };
                let grant_type = of(body).or_else(|| of(query.as_bytes())).unwrap_or_default();
                Self::Token { grant_type }
            }
        }
    }

    /// The answer to who leaves: it says nothing of a token, and needs none.
    pub fn farewell(&self) -> Option<Response<Bytes>> {
        match self {
            Self::Revoke => Some(revoked()),
            Self::SoapLogout { namespace } => Some(logged_out(namespace)),
            Self::Token { .. } | Self::DataCloud | Self::SoapLogin { .. } => None,
        }
    }

    /// `base` is the address that the caller used, without a slash at its end.
    pub fn answer(&self, base: &str, token: &Token) -> Response<Bytes> {
        let who = Who::of(token);
        match self {
            Self::Token { grant_type } => json_answer(&token_fields(base, &who, grant_type, token.minted_at)),
            Self::Revoke => revoked(),
            Self::DataCloud => json_answer(&json!({
                "access_token": who.placeholder(),
                // Without a scheme, as Salesforce answers (SF §5.4).
                "instance_url": base.split_once("://").map_or(base, |(_, host)| host),
                "token_type": "Bearer",
                "issued_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "expires_in": 7200,
            })),
            Self::SoapLogin { path, namespace } => soap_answer(namespace, &soap_login(base, path, &who)),
            Self::SoapLogout { namespace } => logged_out(namespace),
        }
    }
}

/// What the identity service would say of the user; for those whose token may not ask it. `None`: nobody said who it is.
pub fn userinfo(base: &str, token: &Token) -> Option<Response<Bytes>> {
    let identity = token.identity.as_ref()?;
    Some(json_answer(&json!({
        "sub": format!("{base}/id/{}/{}", identity.org_id, identity.user_id),
        "user_id": identity.user_id,
        "organization_id": identity.org_id,
        "urls": {"rest": format!("{base}/services/data/v{{version}}/")},
    })))
}

/// Whose token it is, as far as is known.
struct Who {
    org: String,
    user: String,
}

impl Who {
    fn of(token: &Token) -> Self {
        Self {
            org: token.org_id().unwrap_or_else(|| NO_ORG.to_owned()),
            user: token
                .identity
                .as_ref()
                .map_or_else(|| NO_USER.to_owned(), |identity| identity.user_id.clone()),
        }
    }

    /// The form that SDKs check: the org's Id of 15, `!`, word characters and dots.
    fn placeholder(&self) -> String {
        format!("{}!SFPROXY.placeholder.that_is_no_credential", self.org_15())
    }

    fn org_15(&self) -> &str {
        self.org.get(..15).unwrap_or(&self.org)
    }
}

fn token_fields(base: &str, who: &Who, grant_type: &str, minted_at: SystemTime) -> Value {
    let issued = minted_at.duration_since(SystemTime::UNIX_EPOCH);
    let mut fields = json!({
        "access_token": who.placeholder(),
        "instance_url": base,
        "id": format!("{base}/id/{}/{}", who.org, who.user),
        "token_type": "Bearer",
        "scope": "api refresh_token",
        "issued_at": issued.unwrap_or(Duration::ZERO).as_millis().to_string(),
        // Of nothing: it would need the app's secret.
        "signature": "c2YtdG9rZW4tcHJveHkgc2lnbnMgbm90aGluZyBoZXJl",
    });
    // What a person approved comes with one; others would be surprised by it.
    if matches!(grant_type, "authorization_code" | "device") || grant_type.ends_with(":device_code") {
        fields["refresh_token"] = json!("5Aep.SFPROXY.placeholder.that_is_no_credential");
    }
    fields
}

/// In the order of the WSDL.
fn soap_login(base: &str, path: &str, who: &Who) -> String {
    let (org, user) = (&who.org, &who.user);
    let short = who.org_15();
    let version = version_in(path);
    let soap = |kind: &str| format!("{base}/services/Soap/{kind}/{version}/{short}");
    let kind = if path.contains("/c/") { "c" } else { "u" };
    let (server, metadata) = (soap(kind), soap("m"));
    let (server, metadata) = (escape(&server), escape(&metadata));
    let session = who.placeholder();
    format!(
        "<loginResponse><result><metadataServerUrl>{metadata}</metadataServerUrl>\
         <passwordExpired>false</passwordExpired><sandbox>false</sandbox><serverUrl>{server}</serverUrl>\
         <sessionId>{session}</sessionId><userId>{user}</userId><userInfo>\
         <accessibilityMode>false</accessibilityMode><chatterExternal>false</chatterExternal><currencySymbol xsi:nil=\"true\"/>\
         <orgAttachmentFileSizeLimit>5242880</orgAttachmentFileSizeLimit>\
         <orgDefaultCurrencyIsoCode xsi:nil=\"true\"/><orgDefaultCurrencyLocale xsi:nil=\"true\"/>\
         <orgDisallowHtmlAttachments>false</orgDisallowHtmlAttachments><orgHasPersonAccounts>false</orgHasPersonAccounts>\
         <organizationId>{org}</organizationId><organizationMultiCurrency>false</organizationMultiCurrency>\
         <organizationName>sf-token-proxy</organizationName><profileId>00e000000000000AAA</profileId><roleId xsi:nil=\"true\"/>\
         <sessionSecondsValid>7200</sessionSecondsValid><userDefaultCurrencyIsoCode xsi:nil=\"true\"/>\
         <userEmail>sf-token-proxy@localhost</userEmail><userFullName>sf-token-proxy</userFullName><userId>{user}</userId>\
         <userLanguage>en_US</userLanguage><userLocale>en_US</userLocale><userName>sf-token-proxy@localhost</userName>\
         <userTimeZone>GMT</userTimeZone><userType>Standard</userType><userUiSkin>Theme3</userUiSkin>\
         </userInfo></result></loginResponse>"
    )
}

/// `60.0` of `/services/Soap/u/60.0/…`, as it was written; the newest that is known where there is none.
fn version_in(path: &str) -> &str {
    let is_version = |segment: &&str| {
        let digits = segment.strip_prefix(['v', 'V']).unwrap_or(segment);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    path.split('/').find(is_version).unwrap_or("66.0")
}

fn revoked() -> Response<Bytes> {
    answer("text/html;charset=UTF-8", String::new())
}

fn logged_out(namespace: &str) -> Response<Bytes> {
    soap_answer(namespace, "<logoutResponse/>")
}

fn soap_answer(namespace: &str, content: &str) -> Response<Bytes> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns=\"{}\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>{content}</soapenv:Body></soapenv:Envelope>",
        escape(namespace)
    );
    answer("text/xml;charset=UTF-8", text)
}

fn json_answer(value: &Value) -> Response<Bytes> {
    answer("application/json;charset=UTF-8", value.to_string())
}

fn answer(content_type: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("proxy-status", OURS);
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secrecy::SecretString;

    use super::*;
    use crate::token::{Expiry, Generation, Identity, Instance};

    const BASE: &str = "https://localhost:8443";

    fn token(secret: &str, identity: Option<(&str, &str)>) -> Token {
        let mut token = Token::new(
            Generation(1),
            SecretString::from(secret),
            Arc::new(Instance::parse("https://acme.my.salesforce.com").unwrap()),
            Expiry::Assumed(SystemTime::UNIX_EPOCH),
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
            tokio::time::Instant::now(),
        )
        .unwrap();
        token.identity = identity.map(|(org_id, user_id)| {
            Arc::new(Identity {
                org_id: org_id.into(),
                user_id: user_id.into(),
            })
        });
        token
    }

    fn known() -> Token {
        token("CANARY.not.shown", Some(("00DSB0000001pRC2AY", "005SB0000001pRC2AY")))
    }

    fn text(response: Response<Bytes>) -> String {
        String::from_utf8(response.into_body().to_vec()).unwrap()
    }

    fn fields(login: &Login, token: &Token) -> Value {
        serde_json::from_str(&text(login.answer(BASE, token))).unwrap()
    }

    fn grant(name: &str) -> Login {
        Login::Token {
            grant_type: name.into(),
        }
    }

    #[test]
    fn a_token_answer_leads_back_to_the_listener() {
        let fields = fields(&grant("password"), &known());
        assert_eq!(fields["instance_url"], BASE);
        assert_eq!(
            fields["id"],
            "https://localhost:8443/id/00DSB0000001pRC2AY/005SB0000001pRC2AY"
        );
        assert_eq!(fields["token_type"], "Bearer");
        assert_eq!(fields["issued_at"], "1790000000123");
        assert_eq!(fields.get("refresh_token"), None);
    }

    /// @salesforce/core checks it: `/(00D\w{12,15})![.\w]*$/`.
    #[test]
    fn the_placeholder_has_the_form_of_a_session() {
        for token in [
            known(),
            token("opaque-without-org", None),
            token("00DSB0000001pRC!AQ.x", None),
        ] {
            let fields = fields(&grant("password"), &token);
            let session = fields["access_token"].as_str().unwrap();
            let (org, rest) = session.split_once('!').unwrap();
            assert!(org.starts_with("00D") && org.len() == 15, "{session}");
            assert!(org.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{session}");
            assert!(
                rest.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte)),
                "{session}"
            );
            assert!(!session.contains("AQ.x"));
        }
    }

    #[test]
    fn what_a_person_approves_comes_with_a_refresh_token() {
        for name in [
            "authorization_code",
            "device",
            "urn:ietf:params:oauth:grant-type:device_code",
        ] {
            assert!(fields(&grant(name), &known())["refresh_token"].is_string(), "{name}");
        }
    }

    #[test]
    fn the_call_is_known_by_its_path_and_parameters() {
        let at = Login::at;
        assert_eq!(
            at("/services/oauth2/token", "", b"grant_type=password&username=u"),
            grant("password")
        );
        assert_eq!(
            at("//services/oauth2/token", "grant_type=refresh_token", b""),
            grant("refresh_token")
        );
        assert_eq!(at("/services/oauth2/token", "", b""), grant(""));
        assert_eq!(at("/services/oauth2/revoke", "", b"token=x"), Login::Revoke);
        assert_eq!(at("/services/a360/token", "", b"grant_type=x"), Login::DataCloud);
    }

    #[test]
    fn a_soap_login_leads_back_to_the_listener() {
        let login = |path: &str| {
            let namespace = "urn:partner.soap.sforce.com".to_owned();
            let path = path.to_owned();
            text(Login::SoapLogin { path, namespace }.answer(BASE, &known()))
        };
        let partner = login("//services/Soap/u/59.0");
        for expected in [
            "<serverUrl>https://localhost:8443/services/Soap/u/59.0/00DSB0000001pRC</serverUrl>",
            "<metadataServerUrl>https://localhost:8443/services/Soap/m/59.0/00DSB0000001pRC</metadataServerUrl>",
            "<userId>005SB0000001pRC2AY</userId>",
            "<organizationId>00DSB0000001pRC2AY</organizationId>",
            "xmlns=\"urn:partner.soap.sforce.com\"",
        ] {
            assert!(partner.contains(expected), "{expected} in {partner}");
        }
        assert!(login("/services/Soap/c/v60.0/00Dxx").contains("/services/Soap/c/v60.0/00DSB0000001pRC<"));
        let logout = Login::SoapLogout {
            namespace: "urn:x\"><evil/>".into(),
        };
        let logout = text(logout.answer(BASE, &known()));
        assert!(
            logout.contains("<logoutResponse/>") && !logout.contains("<evil"),
            "{logout}"
        );
    }

    #[test]
    fn data_clouds_answer_names_the_host_alone() {
        assert_eq!(fields(&Login::DataCloud, &known())["instance_url"], "localhost:8443");
    }

    #[test]
    fn nothing_of_the_real_token_is_in_an_answer() {
        let namespace = String::new();
        let path = String::new();
        for login in [
            grant("password"),
            Login::Revoke,
            Login::DataCloud,
            Login::SoapLogin {
                path,
                namespace: namespace.clone(),
            },
            Login::SoapLogout { namespace },
        ] {
            let response = login.answer(BASE, &known());
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            assert!(response.headers().contains_key("proxy-status"));
            assert!(!text(response).contains("CANARY"), "{login:?}");
        }
        assert!(!text(userinfo(BASE, &known()).unwrap()).contains("CANARY"));
        assert!(userinfo(BASE, &token("x", None)).is_none());
    }
}
