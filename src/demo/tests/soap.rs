//! SOAP from outside: sessions, faults, rows, login.

use std::{io::Write as _, time::Duration};

use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{DATA, Got, Practice, got, start};
use crate::demo::{
    TokenFormat,
    xml::{self, Element},
};

pub(super) const PARTNER: &str = "urn:partner.soap.sforce.com";
pub(super) const ENTERPRISE: &str = "urn:enterprise.soap.sforce.com";
pub(super) const METADATA: &str = "http://soap.sforce.com/2006/04/metadata";
pub(super) const APEX: &str = "http://soap.sforce.com/2006/08/apex";
pub(super) const TOOLING: &str = "urn:tooling.soap.sforce.com";
pub(super) const ECHO: &str = "http://soap.sforce.com/schemas/class/Echo";

pub(super) fn envelope(namespace: &str, token: &str, headers: &str, operation: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
        xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:w=\"{namespace}\"><soapenv:Header><w:SessionHeader>\
        <w:sessionId>{token}</w:sessionId></w:SessionHeader>{headers}</soapenv:Header>\
        <soapenv:Body xmlns=\"{namespace}\">{operation}</soapenv:Body></soapenv:Envelope>"
    )
}

pub(super) async fn post(practice: &Practice, path: &str, body: impl Into<reqwest::Body>) -> Got {
    let url = format!("{}/services/Soap/{path}", practice.org.base_url());
    let request = practice.client.post(url).header("content-type", "text/xml");
    got(request.header("soapaction", "\"\"").body(body)).await
}

/// What stands in the response of a call that went well.
pub(super) async fn soap(practice: &Practice, path: &str, namespace: &str, token: &str, operation: &str) -> Element {
    let answer = post(practice, path, envelope(namespace, token, "", operation)).await;
    good(&answer, namespace, token)
}

pub(super) fn good(answer: &Got, namespace: &str, token: &str) -> Element {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("text/xml;charset=UTF-8"));
    assert_eq!(answer.header("sforce-limit-info"), None);
    assert!(!answer.text.contains(token), "no token in an answer");
    let root = xml::parse(answer.text.as_bytes()).unwrap();
    let response = root.child("Body").unwrap().children[0].clone();
    assert_eq!(response.namespace, namespace);
    response
}

/// The fault's code and string.
pub(super) fn fault(answer: &Got) -> (String, String) {
    assert_eq!(answer.status, 500, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("text/xml;charset=UTF-8"));
    let root = xml::parse(answer.text.as_bytes()).unwrap();
    let fault = root.child("Body").unwrap().child("Fault").unwrap();
    (fault.word("faultcode").to_owned(), fault.word("faultstring").to_owned())
}

fn seen(practice: &Practice) -> bool {
    practice.org.requests(1000).last().unwrap().token_known
}

#[tokio::test]
async fn a_dead_session_is_a_fault_of_the_captured_shape() {
    let practice = start(|_| {}).await;
    let dead = "00DSB0000001pRC!dead.session";
    let body = envelope(PARTNER, dead, "", "<getUserInfo/>");
    let answer = post(&practice, "u/66.0", body).await;
    assert!(!answer.text.contains(dead), "the token is told by its hash only");
    let (code, text) = fault(&answer);
    assert_eq!(code, "sf:INVALID_SESSION_ID");
    let (said, rest) = text.split_once("missing session hash: ").unwrap();
    assert_eq!(
        said,
        "INVALID_SESSION_ID: Invalid Session ID found in SessionHeader: Illegal Session. Session not found, "
    );
    assert!(
        rest.len() > 64 && rest[..64].bytes().all(|b| b.is_ascii_hexdigit()),
        "{rest}"
    );
    for part in [
        "xmlns:sf=\"urn:fault.partner.soap.sforce.com\"",
        "<faultcode>sf:INVALID_SESSION_ID</faultcode>",
        "<detail><sf:UnexpectedErrorFault xsi:type=\"sf:UnexpectedErrorFault\"><sf:exceptionCode>INVALID_SESSION_ID</sf:exceptionCode>",
    ] {
        assert!(answer.text.contains(part), "{part} in {}", answer.text);
    }
    for (path, namespace, operation, of_faults) in [
        (
            "c/66.0",
            ENTERPRISE,
            "<getUserInfo/>",
            "urn:fault.enterprise.soap.sforce.com",
        ),
        ("m/66.0/00DSB0000001pRC", METADATA, "<describeMetadata/>", METADATA),
        ("s/66.0", APEX, "<executeAnonymous/>", APEX),
        ("T/66.0", TOOLING, "<getUserInfo/>", "urn:fault.tooling.soap.sforce.com"),
        ("class/Echo", ECHO, "<echo/>", ECHO),
    ] {
        let answer = post(&practice, path, envelope(namespace, dead, "", operation)).await;
        assert_eq!(fault(&answer).0, "sf:INVALID_SESSION_ID", "{path}");
        assert!(
            answer.text.contains(&format!("xmlns:sf=\"{of_faults}\"")),
            "{}",
            answer.text
        );
        let detailed = of_faults.starts_with("urn:fault");
        assert_eq!(answer.text.contains("<detail>"), detailed, "{path}");
    }
    let stats = practice.org.stats();
    assert_eq!(
        (stats.soap_invalid_session, stats.api_401, stats.api_requests),
        (6, 0, 6)
    );
    assert!(!seen(&practice));
    practice.stop().await;
}

#[tokio::test]
async fn the_session_is_taken_from_the_right_header_only() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let path = format!("{}/services/Soap/u/66.0", practice.org.base_url());
    let none = envelope(PARTNER, "", "", "<getServerTimestamp/>");
    // `Authorization` does not help.
    let request = practice.client.post(&path).bearer_auth(&token).header("soapaction", "");
    let answer = got(request.body(none.clone())).await;
    assert_eq!(
        fault(&answer),
        (
            "sf:INVALID_SESSION_ID".into(),
            "INVALID_SESSION_ID: Invalid Session ID found in SessionHeader: Illegal Session".into()
        )
    );
    assert!(!seen(&practice));
    for other in [ENTERPRISE, METADATA, TOOLING, ""] {
        let headers = format!("<SessionHeader xmlns=\"{other}\"><sessionId>{token}</sessionId></SessionHeader>");
        let body = envelope(PARTNER, "", &headers, "<getServerTimestamp/>");
        assert_eq!(
            fault(&post(&practice, "u/66.0", body).await).0,
            "sf:INVALID_SESSION_ID",
            "{other}"
        );
        assert!(!seen(&practice), "{other}");
    }
    // Neither does a header that is in the body, or an id outside of the header.
    for headers in [
        format!("<w:sessionId>{token}</w:sessionId>"),
        format!("<w:CallOptions><w:SessionHeader><w:sessionId>{token}</w:sessionId></w:SessionHeader></w:CallOptions>"),
    ] {
        let body = envelope(PARTNER, "", &headers, "<getServerTimestamp/>");
        assert_eq!(fault(&post(&practice, "u/66.0", body).await).0, "sf:INVALID_SESSION_ID");
    }
    for path in ["u/66.0", "u/v66.0", "u/66.0/00DSB0000001pRC", "/u/66.0"] {
        let space = format!("\n  {token}\n");
        let body = envelope(PARTNER, &space, "", "<getServerTimestamp/>");
        let response = good(&post(&practice, path, body).await, PARTNER, &token);
        assert!(response.child("result").unwrap().word("timestamp").ends_with('Z'));
        assert!(seen(&practice), "{path}");
    }
    let doubled = format!("{}//services/Soap/u/66.0", practice.org.base_url());
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let answer = got(practice.client.post(doubled).header("soapaction", "x").body(body)).await;
    let info = good(&answer, PARTNER, &token);
    assert_eq!(
        info.child("result").unwrap().word("userName"),
        "integration@practice.example"
    );
    let recorded = format!("{:?}", practice.org.requests(1000));
    assert!(!recorded.contains(&token));
    practice.stop().await;
}

#[tokio::test]
async fn a_jwt_is_no_session_here() {
    let lifetime = Duration::from_secs(600);
    let practice = start(|settings| settings.token_format = TokenFormat::Jwt { lifetime }).await;
    let token = practice.token().await;
    assert_eq!(practice.get(&format!("{DATA}/limits"), &token).await.status, 200);
    let answer = post(&practice, "u/66.0", envelope(PARTNER, &token, "", "<getUserInfo/>")).await;
    assert_eq!(fault(&answer).0, "sf:INVALID_SESSION_ID");
    assert!(!answer.text.contains(&token));
    assert!(seen(&practice), "it is alive all the same");
    practice.stop().await;
}

#[tokio::test]
async fn a_soap_call_is_use_of_the_session() {
    let practice = start(|settings| settings.session_timeout = Duration::from_secs(1800)).await;
    let token = practice.token().await;
    for _ in 0..3 {
        practice.org.advance(Duration::from_secs(20 * 60));
        soap(&practice, "u/66.0", PARTNER, &token, "<getServerTimestamp/>").await;
    }
    practice.org.advance(Duration::from_secs(31 * 60));
    let body = envelope(PARTNER, &token, "", "<getServerTimestamp/>");
    assert_eq!(fault(&post(&practice, "u/66.0", body).await).0, "sf:INVALID_SESSION_ID");
    practice.stop().await;
}

#[tokio::test]
async fn what_is_no_call_is_told() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let good = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let doctype = good.replace("?>", "?><!DOCTYPE x [<!ENTITY e \"e\">]>");
    for (path, body, code, part) in [
        ("u/66.0", String::new(), "soapenv:Client", "Premature end of file."),
        ("u/66.0", good[..good.len() - 5].to_owned(), "soapenv:Client", ""),
        ("u/66.0", doctype, "soapenv:Client", "DOCTYPE"),
        ("u/66.0", "<a/>".into(), "soapenv:Client", "Envelope"),
        (
            "u/66.0",
            envelope(PARTNER, &token, "", ""),
            "soapenv:Client",
            "No operation",
        ),
        (
            "u/66.0",
            envelope(PARTNER, &token, "", "<nothing/>"),
            "soapenv:Client",
            "No operation available for request {urn:partner.soap.sforce.com}nothing, please check the WSDL for the service.",
        ),
        (
            "c/66.0",
            good.clone(),
            "soapenv:Client",
            "No operation available for request {urn:partner",
        ),
        (
            "class/Other",
            envelope(ECHO, &token, "", "<echo/>"),
            "soapenv:Client",
            "No operation available",
        ),
        (
            "u/30.0",
            good.clone(),
            "sf:UNSUPPORTED_API_VERSION",
            "Invalid Api version specified on URL",
        ),
        (
            "u/99.0",
            good.clone(),
            "sf:UNSUPPORTED_API_VERSION",
            "Invalid Api version",
        ),
        ("u", good.clone(), "sf:UNSUPPORTED_API_VERSION", "Invalid Api version"),
    ] {
        let answer = post(&practice, path, body).await;
        let (found, text) = fault(&answer);
        assert!(found == code && text.contains(part), "{path}: {found} {text}");
        assert!(!answer.text.contains(&token));
    }
    let url = |path: &str| format!("{}/services/Soap/{path}", practice.org.base_url());
    let answer = got(practice.client.post(url("u/66.0")).body(good.clone())).await;
    assert_eq!(
        fault(&answer),
        ("soapenv:Client".into(), "SOAPAction HTTP header missing".into())
    );
    assert_eq!(got(practice.client.get(url("u/66.0"))).await.status, 405);
    assert_eq!(post(&practice, "U/66.0", good.clone()).await.status, 404);
    assert_eq!(practice.org.stats().soap_invalid_session, 0);
    practice.stop().await;
}

#[tokio::test]
async fn compressed_and_chunked_requests_are_read() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let url = format!("{}/services/Soap/u/66.0", practice.org.base_url());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body.as_bytes()).unwrap();
    let request = practice.client.post(&url).header("soapaction", "\"\"");
    let packed = request
        .header("content-encoding", "gzip")
        .body(encoder.finish().unwrap());
    good(&got(packed).await, PARTNER, &token);
    assert!(seen(&practice));
    // HTTP/1.1 by hand: three chunks, one of which ends within the token.
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(super::tls(&practice.org))
        .http1_only()
        .no_proxy()
        .build()
        .unwrap();
    let at = body.find(&token).unwrap() + 10;
    let parts = [&body[..at], &body[at..at + 1], &body[at + 1..]].map(|part| part.to_owned().into());
    let chunks = reqwest::Body::wrap(Chunks(parts.into()));
    let request = client.post(&url).header("soapaction", "\"\"");
    good(&got(request.body(chunks)).await, PARTNER, &token);
    practice.stop().await;
}

/// A body without a length.
pub(super) struct Chunks(pub(super) std::collections::VecDeque<bytes::Bytes>);

impl hyper::body::Body for Chunks {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        let next = self.0.pop_front();
        std::task::Poll::Ready(next.map(|part| Ok(hyper::body::Frame::data(part))))
    }
}

#[tokio::test]
async fn rows_are_created_changed_and_found() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let call = async |operation: &str| soap(&practice, "u/66.0", PARTNER, &token, operation).await;
    let made = call(
        "<create><sObjects><type>Account</type><Name>A &amp; B</Name><AnnualRevenue>7</AnnualRevenue><Phone>1</Phone></sObjects>\
        <sObjects><type>Account</type><Phone>2</Phone></sObjects></create>",
    )
    .await;
    assert_eq!(made.name, "createResponse");
    let results: Vec<_> = made.all("result").collect();
    assert_eq!(
        (results[0].word("success"), results[1].word("success")),
        ("true", "false")
    );
    assert!(results[1].child("id").unwrap().nil);
    let error = results[1].child("errors").unwrap();
    assert_eq!(
        (error.word("statusCode"), error.word("fields")),
        ("REQUIRED_FIELD_MISSING", "Name")
    );
    let id = results[0].word("id");

    call(&format!(
        "<update><sObjects><type>Account</type><fieldsToNull>Phone</fieldsToNull><Id>{id}</Id><Industry>Media</Industry></sObjects></update>"
    ))
    .await;
    let found = call(&format!("<query><queryString>SELECT Id, Name, Phone, Industry, CreatedDate FROM Account WHERE Id = '{id}'</queryString></query>")).await;
    let result = found.child("result").unwrap();
    assert_eq!((result.word("done"), result.word("size")), ("true", "1"));
    let row = result.child("records").unwrap();
    assert_eq!(row.kind.as_deref(), Some("sObject"));
    assert_eq!(
        (row.word("type"), row.word("Id"), row.word("Name"), row.word("Industry")),
        ("Account", id, "A & B", "Media")
    );
    assert_eq!(row.children[0].namespace, "urn:sobject.partner.soap.sforce.com");
    assert!(row.child("Phone").unwrap().nil && row.word("CreatedDate").ends_with('Z'));

    let upserted = call(
        "<upsert><externalIDFieldName>External_Id__c</externalIDFieldName><sObjects><type>Account</type><External_Id__c>A-0001</External_Id__c>\
        <Name>Old</Name></sObjects><sObjects><type>Account</type><External_Id__c>N-1</External_Id__c><Name>New</Name></sObjects></upsert>",
    )
    .await;
    let created: Vec<_> = upserted.all("result").map(|r| r.word("created")).collect();
    assert_eq!(created, ["false", "true"]);
    let deleted = call(&format!("<delete><ids>{id}</ids><ids>001SB0000000zzz</ids></delete>")).await;
    let codes: Vec<_> = deleted
        .all("result")
        .map(|r| r.child("errors").map(|e| e.word("statusCode")))
        .collect();
    assert_eq!(codes, [None, Some("INVALID_CROSS_REFERENCE_KEY")]);
    let query = format!("SELECT COUNT() FROM Account WHERE Id = '{id}'");
    for (operation, size) in [("query", "0"), ("queryAll", "1")] {
        let found = call(&format!(
            "<{operation}><queryString>{query}</queryString></{operation}>"
        ))
        .await;
        assert_eq!(found.child("result").unwrap().word("size"), size, "{operation}");
    }
    let retrieved = call(&format!(
        "<retrieve><fieldList>Id, Name</fieldList><sObjectType>Account</sObjectType><ids>{}</ids><ids>{id}</ids></retrieve>",
        upserted.children[1].word("id")
    ))
    .await;
    assert_eq!(retrieved.children[0].word("Name"), "New");
    assert!(retrieved.children[1].nil, "deleted");
    practice.stop().await;
}

#[tokio::test]
async fn all_or_none_takes_all_back_and_unknown_names_are_faults() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let create = "<create><sObjects><type>Account</type><Name>Alone</Name></sObjects><sObjects><type>Account</type></sObjects></create>";
    let header = "<w:AllOrNoneHeader><w:allOrNone>true</w:allOrNone></w:AllOrNoneHeader>";
    let answer = post(&practice, "u/66.0", envelope(PARTNER, &token, header, create)).await;
    let response = good(&answer, PARTNER, &token);
    let codes: Vec<_> = response
        .all("result")
        .map(|r| r.child("errors").unwrap().word("statusCode"))
        .collect();
    assert_eq!(codes, ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING"]);
    let query = "<query><queryString>SELECT COUNT() FROM Account WHERE Name = 'Alone'</queryString></query>";
    let found = soap(&practice, "u/66.0", PARTNER, &token, query).await;
    assert_eq!(found.child("result").unwrap().word("size"), "0");
    for (operation, code, kind) in [
        (
            "<create><sObjects><type>Nothing</type></sObjects></create>",
            "INVALID_TYPE",
            "InvalidSObjectFault",
        ),
        (
            "<create><sObjects><type>Account</type><Wrong>1</Wrong></sObjects></create>",
            "INVALID_FIELD",
            "InvalidFieldFault",
        ),
        (
            "<query><queryString>SELECT</queryString></query>",
            "MALFORMED_QUERY",
            "MalformedQueryFault",
        ),
        (
            "<queryMore><queryLocator>x</queryLocator></queryMore>",
            "INVALID_QUERY_LOCATOR",
            "InvalidQueryLocatorFault",
        ),
        (
            "<describeSObject><sObjectType>Nothing</sObjectType></describeSObject>",
            "INVALID_TYPE",
            "InvalidSObjectFault",
        ),
    ] {
        let answer = post(&practice, "u/66.0", envelope(PARTNER, &token, "", operation)).await;
        assert_eq!(fault(&answer).0, format!("sf:{code}"), "{operation}");
        assert!(
            answer.text.contains(&format!("<sf:{kind} xsi:type=")),
            "{}",
            answer.text
        );
    }
    practice.stop().await;
}

#[tokio::test]
async fn pages_objects_and_parents_are_told() {
    let practice = start(|settings| settings.seed_accounts = 250).await;
    let token = practice.token().await;
    let header = "<w:QueryOptions><w:batchSize>200</w:batchSize></w:QueryOptions>";
    let query = "<query><queryString>SELECT Name, Account.Name FROM Contact</queryString></query>"
        .replace("Name, ", "LastName, ");
    let answer = post(&practice, "u/66.0", envelope(PARTNER, &token, header, &query)).await;
    let mut page = good(&answer, PARTNER, &token);
    let (mut rows, mut pages) = (0, 0);
    loop {
        let result = page.child("result").unwrap();
        for row in result.all("records") {
            assert!(row.child("Id").unwrap().nil, "not selected");
            let parent = row.child("Account").unwrap();
            assert_eq!((parent.word("type"), row.word("type")), ("Account", "Contact"));
            assert!(parent.word("Name").starts_with("Practice Account"));
            rows += 1;
        }
        pages += 1;
        assert_eq!(result.word("size"), "500");
        if result.word("done") == "true" {
            assert!(result.child("queryLocator").unwrap().nil);
            break;
        }
        let more = format!(
            "<queryMore><queryLocator>{}</queryLocator></queryMore>",
            result.word("queryLocator")
        );
        page = soap(&practice, "u/66.0", PARTNER, &token, &more).await;
    }
    assert_eq!((rows, pages), (500, 3));
    let global = soap(&practice, "c/66.0", ENTERPRISE, &token, "<describeGlobal/>").await;
    let names: Vec<_> = global
        .child("result")
        .unwrap()
        .all("sobjects")
        .map(|o| o.word("name"))
        .collect();
    assert_eq!(names.first(), Some(&"Account"));
    let objects =
        "<describeSObjects><sObjectType>Account</sObjectType><sObjectType>contact</sObjectType></describeSObjects>";
    let described = soap(&practice, "u/66.0", PARTNER, &token, objects).await;
    let contact = described.all("result").nth(1).unwrap();
    let field = contact.all("fields").find(|f| f.word("name") == "AccountId").unwrap();
    assert_eq!(
        (
            field.word("type"),
            field.word("referenceTo"),
            field.word("relationshipName"),
            field.word("soapType")
        ),
        ("reference", "Account", "Account", "tns:ID")
    );
    // The enterprise WSDL tells types by `xsi:type`, both ways.
    let create = "<create><sObjects xsi:type=\"w:Lead\"><LastName>L</LastName><Company>C</Company></sObjects></create>";
    let made = soap(&practice, "c/66.0", ENTERPRISE, &token, create).await;
    assert_eq!(made.child("result").unwrap().word("success"), "true");
    let query = "<query><queryString>SELECT Id FROM Lead</queryString></query>";
    let found = soap(&practice, "c/66.0", ENTERPRISE, &token, query).await;
    let row = found.child("result").unwrap().child("records").unwrap();
    assert_eq!((row.kind.as_deref(), row.children.len()), (Some("Lead"), 1));
    practice.stop().await;
}

#[tokio::test]
async fn login_gives_a_session_and_counts() {
    let practice = start(|settings| settings.login_limit = 3).await;
    let user = practice.org.settings().password_users[0].clone();
    let whole = format!(
        "{}{}",
        user.password.expose_secret(),
        user.security_token.expose_secret()
    );
    let login = |username: &str, password: &str| {
        format!(
            "<se:Envelope xmlns:se=\"http://schemas.xmlsoap.org/soap/envelope/\"><se:Header/><se:Body><login xmlns=\"{PARTNER}\">\
            <username>{username}</username><password>{password}</password></login></se:Body></se:Envelope>"
        )
    };
    let answer = post(&practice, "u/64.0", login(&user.username, &whole)).await;
    let response = good(&answer, PARTNER, "no token to look for");
    let result = response.child("result").unwrap();
    let token = result.word("sessionId").to_owned();
    let base = practice.org.base_url();
    assert_eq!(
        result.word("serverUrl"),
        format!("{base}/services/Soap/u/64.0/00DSB0000001pRC")
    );
    assert_eq!(
        result.word("metadataServerUrl"),
        format!("{base}/services/Soap/m/64.0/00DSB0000001pRC")
    );
    assert_eq!(
        (result.word("passwordExpired"), result.word("sandbox")),
        ("false", "false")
    );
    let info = result.child("userInfo").unwrap();
    assert_eq!(
        (info.children.len(), info.word("userName")),
        (24, user.username.as_str())
    );
    assert_eq!(
        (info.word("organizationId"), info.word("sessionSecondsValid")),
        (practice.org.org_id(), "7200")
    );
    // It is a session for REST, too, and the same one the next time.
    assert_eq!(practice.get(&format!("{DATA}/limits"), &token).await.status, 200);
    let again = post(&practice, "u/64.0", login(&user.username, &whole)).await;
    assert!(again.text.contains(&token));
    for (username, password) in [
        (&*user.username, "wrong"),
        ("nobody", &whole),
        (&user.username, user.password.expose_secret()),
    ] {
        let refused = post(&practice, "u/64.0", login(username, password)).await;
        assert_eq!(
            fault(&refused),
            (
                "sf:INVALID_LOGIN".into(),
                "INVALID_LOGIN: Invalid username, password, security token; or user locked out.".into()
            )
        );
        assert!(refused.text.contains("<sf:LoginFault xsi:type=\"sf:LoginFault\">"));
    }
    assert_eq!(practice.org.stats().logins, 2);
    let retired = post(&practice, "u/65.0", login(&user.username, &whole)).await;
    assert_eq!(fault(&retired).0, "sf:UNSUPPORTED_API_VERSION");
    soap(&practice, "u/64.0", PARTNER, &token, "<logout/>").await;
    assert!(!practice.org.knows(&token));
    let fresh = post(&practice, "u/64.0", login(&user.username, &whole)).await;
    assert!(fresh.status == 200 && !fresh.text.contains(&token));
    let exceeded = post(&practice, "u/64.0", login(&user.username, &whole)).await;
    assert_eq!(fault(&exceeded).0, "sf:LOGIN_RATE_EXCEEDED");
    practice.stop().await;
}

#[tokio::test]
async fn the_switches_work_here_too() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    practice
        .control(
            "api",
            json!({"status": 503, "body": "<busy/>", "content_type": "text/xml", "path_prefix": "/services/Soap/u"}),
        )
        .await;
    let scripted = post(&practice, "u/66.0", body.clone()).await;
    assert_eq!((scripted.status, scripted.text.as_str()), (503, "<busy/>"));
    assert!(seen(&practice), "the session was alive");
    assert_eq!(post(&practice, "u/66.0", body.clone()).await.status, 200);
    practice.control("latency", json!({"api_ms": 150})).await;
    let late = tokio::time::timeout(Duration::from_millis(100), post(&practice, "u/66.0", body.clone())).await;
    assert!(late.is_err());
    practice.control("reset", json!({})).await;
    practice.control("down", json!({"api": true})).await;
    let url = format!("{}/services/Soap/u/66.0", practice.org.base_url());
    let request = practice.client.post(&url).header("soapaction", "").body(body.clone());
    assert!(request.send().await.is_err());
    practice.control("reset", json!({})).await;
    practice.org.revoke();
    assert_eq!(fault(&post(&practice, "u/66.0", body).await).0, "sf:INVALID_SESSION_ID");
    assert!(!seen(&practice));
    let stats = got(practice
        .client
        .get(format!("{}/control/stats", practice.org.control_url())))
    .await;
    assert_eq!(stats.json()["soap_invalid_session"], 1);
    practice.stop().await;
}

#[tokio::test]
async fn at_another_host_there_is_no_session() {
    let practice = start(|settings| settings.login_port = Some(0)).await;
    let token = practice.token().await;
    let url = format!("{}/services/Soap/u/66.0", practice.org.login_url());
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let answer = got(practice
        .client
        .request(Method::POST, url)
        .header("soapaction", "")
        .body(body))
    .await;
    assert_eq!(fault(&answer).0, "sf:INVALID_SESSION_ID");
    practice.stop().await;
}
