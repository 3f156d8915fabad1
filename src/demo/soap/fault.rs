//! How a SOAP call is refused.
//!
//! Owns: nothing. Invariants: a session is told by its SHA-256 only; partner and enterprise faults carry a detail of the WSDL's type, those of
//! the Metadata and Apex APIs none.
//! Fails with: nothing. Source: captured faults (partner, enterprise, Apex); the partner WSDL for the details. What a web service's and
//! Tooling's faults declare is not confirmed.

use aws_lc_rs::digest::{SHA256, digest};

use super::{Api, ENVELOPE, INSTANCE};
use crate::demo::{answer::Problem, record::hex, xml::Writer};

#[derive(Debug)]
pub(super) struct Fault {
    /// `None`: the message was no SOAP call (`soapenv:Client`).
    code: Option<&'static str>,
    message: String,
}

impl Fault {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            message: message.into(),
        }
    }

    /// Refused before it was a call of the API.
    pub(super) fn client(message: &str) -> Self {
        Self {
            code: None,
            message: message.into(),
        }
    }

    /// Dead, unknown, of the wrong kind, or missing. What is said of a missing one is not confirmed.
    pub(super) fn session(token: &str) -> Self {
        let illegal = "Invalid Session ID found in SessionHeader: Illegal Session";
        if token.is_empty() {
            return Self::new("INVALID_SESSION_ID", illegal);
        }
        let hash = hex(digest(&SHA256, token.as_bytes()).as_ref());
        Self::new(
            "INVALID_SESSION_ID",
            format!(
                "{illegal}. Session not found, missing session hash: {hash}\nThis error usually occurs after a session expires or a user logs \
                out. Decoder: DataInDbSessionKeyDecoder"
            ),
        )
    }

    pub(super) fn is_about_the_session(&self) -> bool {
        self.code == Some("INVALID_SESSION_ID")
    }

    pub(super) fn envelope(&self, api: &Api) -> String {
        let namespace = match api {
            Api::Enterprise => "urn:fault.enterprise.soap.sforce.com".to_owned(),
            Api::Partner => "urn:fault.partner.soap.sforce.com".to_owned(),
            Api::Tooling => "urn:fault.tooling.soap.sforce.com".to_owned(),
            Api::Metadata | Api::Apex | Api::Class(_) => api.namespace(),
        };
        let detailed = matches!(api, Api::Enterprise | Api::Partner | Api::Tooling);
        let mut out = Writer::default();
        out.0 += "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
        let open =
            format!("soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" xmlns:sf=\"{namespace}\" xmlns:xsi=\"{INSTANCE}\"");
        out.group(&open, |out| {
            out.group("soapenv:Body", |out| {
                out.group("soapenv:Fault", |out| match self.code {
                    None => {
                        out.word("faultcode", "soapenv:Client");
                        out.word("faultstring", &self.message);
                    }
                    Some(code) => {
                        out.word("faultcode", &format!("sf:{code}"));
                        out.word("faultstring", &format!("{code}: {}", self.message));
                        if detailed {
                            out.group("detail", |out| self.detail(code, out));
                        }
                    }
                });
            });
        });
        out.0
    }

    fn detail(&self, code: &str, out: &mut Writer) {
        let (kind, of_query) = match code {
            "INVALID_LOGIN" => ("LoginFault", false),
            "MALFORMED_QUERY" => ("MalformedQueryFault", true),
            "INVALID_FIELD" => ("InvalidFieldFault", true),
            "INVALID_TYPE" => ("InvalidSObjectFault", true),
            "INVALID_QUERY_LOCATOR" => ("InvalidQueryLocatorFault", false),
            _ => ("UnexpectedErrorFault", false),
        };
        out.group(&format!("sf:{kind} xsi:type=\"sf:{kind}\""), |out| {
            out.word("sf:exceptionCode", code);
            out.word("sf:exceptionMessage", &self.message);
            if of_query {
                out.word("sf:row", "-1");
                out.word("sf:column", "-1");
            }
        });
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::new(problem.code, problem.message)
    }
}
