//! SOAP: the session goes into the envelope, and nothing else of it changes. Scripted orgs for exact bytes, the practice org for
//! real sessions.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config as Cases, TestRunner},
};
use serde_json::json;
use sf_token_proxy::config::{self, Vars};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{RawOrg, RawRequest, Reply, Running, Script, Trace, call, connect, read_reply};

const PATH: &str = "/services/Soap/u/60.0";
const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// What the scripted org hands out; a number follows.
const TOKEN: &str = "00Dxx0000001gER!token_";
/// The app's own, which must not leave.
const OLD: &str = "00DCANARY!app.session";

/// With a session of the app's own.
pub(crate) fn envelope(operation: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<env:Envelope xmlns:env=\"{SOAP}\" xmlns=\"urn:partner.soap.sforce.com\">\
         <env:Header><SessionHeader><sessionId>{OLD}</sessionId></SessionHeader></env:Header>\
         <env:Body>{operation}</env:Body></env:Envelope>"
    )
}

const QUERY: &str = "<query><queryString>SELECT Id FROM Account</queryString></query>";

fn query() -> String {
    envelope(QUERY)
}

fn with_session(envelope: &str, n: u32) -> String {
    envelope.replace(OLD, &format!("{TOKEN}{n}"))
}

fn text(request: &RawRequest) -> String {
    String::from_utf8_lossy(&request.body).into_owned()
}

fn xml(status: &str, body: &str) -> Script {
    Script::Say(
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/xml;charset=UTF-8\r\nX-Org: 1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

/// A fault as the org's are, its code with this prefix.
fn fault(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{SOAP}\" xmlns:sf=\"urn:fault.partner.soap.sforce.com\">\
         <soapenv:Body><soapenv:Fault><faultcode>{code}</faultcode><faultstring>{code}: of the org</faultstring></soapenv:Fault></soapenv:Body></soapenv:Envelope>"
    )
}

fn dead() -> Script {
    xml("500 Internal Server Error", &fault("sf:INVALID_SESSION_ID"))
}

fn good() -> Script {
    xml("200 OK", "<good/>")
}

fn first_session_is_dead(request: &RawRequest) -> Script {
    match text(request).contains("token_1<") || request.token().ends_with("token_1") {
        true => dead(),
        false => good(),
    }
}

/// The beginning of a call's head.
fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\nContent-Type: text/xml; charset=utf-8\nSOAPAction: \"\"{more}")
}

async fn post(proxy: SocketAddr, path: &str, body: &[u8]) -> Reply {
    let length = format!("\nContent-Length: {}", body.len());
    call(proxy, &head(path, &length), body).await
}

/// In chunks of these sizes, then the rest.
async fn post_chunked(proxy: SocketAddr, path: &str, body: &[u8], sizes: &[usize]) -> Reply {
    let mut framed = Vec::new();
    let mut rest = body;
    for size in sizes.iter().copied().chain([usize::MAX]) {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        if !chunk.is_empty() {
            framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
        }
        rest = after;
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    call(proxy, &head(path, "\nTransfer-Encoding: chunked"), &framed).await
}

fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text).unwrap();
    gzip.finish().unwrap()
}

/// The answer is a SOAP fault of ours that says `code` and each of `words`.
#[track_caller]
fn assert_our_fault(reply: &Reply, status: u16, code: &str, words: &[&str]) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{text}");
    assert_eq!(reply.header("content-type"), ["text/xml;charset=UTF-8"], "{text}");
    assert!(
        text.contains(&format!("<faultcode>sfproxy:{code}</faultcode>")),
        "{text}"
    );
    assert!(reply.header("proxy-status").join(" ").contains(code), "{}", reply.head);
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("CANARY"), "{text}");
    // Well-formed.
    let mut reader = quick_xml::Reader::from_str(&text);
    while reader.read_event().unwrap() != quick_xml::events::Event::Eof {}
}

async fn nothing_kept(app: &Running) {
    for _ in 0..1000 {
        let page = call(app.admin, "GET /metrics HTTP/1.1", b"").await.text();
        let at_zero = |name: &str| page.lines().any(|line| line == format!("{name} 0"));
        if at_zero("sf_token_proxy_replay_bytes") && at_zero("sf_token_proxy_requests_in_flight{org=\"main\"}") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("something is still kept or in flight");
}

/// `[[old|new]]` marks what changes, `{T}` is the token.
fn cases() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let marked: [(&str, &str); 7] = [
        (
            "//services/Soap/u/60.0",
            "\u{feff}<?xml version='1.0'?><!-- hi --><e:Envelope xmlns:e='{S}' xmlns:p='urn:partner.soap.sforce.com'>\r\n <e:Header>\r\n  <p:CallOptions><p:client>a/1</p:client></p:CallOptions><p:SessionHeader e:mustUnderstand=\"1\"><p:sessionId>[[00DCANARY!x|{T}]]</p:sessionId></p:SessionHeader>\n</e:Header><e:Body><p:query><p:queryString>SELECT '00DCANARY?' &amp; <![CDATA[<x>]]></p:queryString></p:query></e:Body></e:Envelope>\n\n",
        ),
        (
            "/services/Soap/u/60.0/00Dxx0000001gER",
            "<Envelope xmlns='{S}'>[[|<Header><SessionHeader xmlns=\"urn:partner.soap.sforce.com\"><sessionId>{T}</sessionId></SessionHeader></Header>]]<Body><query xmlns='urn:partner.soap.sforce.com'/></Body></Envelope>",
        ),
        (
            "/services/Soap/u/60.0?x=%2f",
            "<Envelope xmlns='{S}'>[[|<Header><SessionHeader xmlns=\"urn:partner.soap.sforce.com\"><sessionId>{T}</sessionId></SessionHeader></Header>]]<Body><query xmlns=''/></Body></Envelope>",
        ),
        (
            "/services/Soap/m/60.0",
            "<s:Envelope xmlns:s='{S}'><s:Header[[/>|><SessionHeader xmlns=\"http://soap.sforce.com/2006/04/metadata\"><sessionId>{T}</sessionId></SessionHeader></s:Header>]]<s:Body><listMetadata xmlns='http://soap.sforce.com/2006/04/metadata'/></s:Body></s:Envelope>",
        ),
        (
            "/services/Soap/class/Echo",
            "<s:Envelope xmlns:s='{S}'>[[|<s:Header><SessionHeader xmlns=\"http://soap.sforce.com/schemas/class/Echo\"><sessionId>{T}</sessionId></SessionHeader></s:Header>]]<s:Body><login xmlns='http://soap.sforce.com/schemas/class/Echo'><password>of the class</password></login></s:Body></s:Envelope>",
        ),
        (
            "/services/soap/u/v60.0",
            "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope'><s:Header><SessionHeader xmlns='urn:partner.soap.sforce.com'><sessionId[[/>|>{T}</sessionId>]]</SessionHeader></s:Header><s:Body><query xmlns=''/></s:Body></s:Envelope>",
        ),
        (
            "/services/Soap/c/60.0",
            "<s:Envelope xmlns:s='{S}'><s:Header><SessionHeader xmlns='urn:enterprise.soap.sforce.com'><sessionId>[[<![CDATA[00DCANARY]]]]>|{T}]]</sessionId></SessionHeader></s:Header><s:Body/></s:Envelope>",
        ),
    ];
    let mut cases = Vec::new();
    for (path, marked) in marked {
        let marked = marked.replace("{S}", SOAP).replace("]]]]>|", "\u{1}|");
        let (before, rest) = marked.split_once("[[").unwrap();
        let (old, rest) = rest.split_once('|').unwrap();
        let (new, after) = rest.split_once("]]").unwrap();
        let old = old.replace('\u{1}', "]]>");
        let new = new.replace("{T}", &format!("{TOKEN}1"));
        // No text any more, after the place: nothing may look at it.
        let tail: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        let cut = after.find("<s:Body/>").unwrap_or(after.len());
        let end = if cut == after.len() { &tail[..] } else { &[] };
        cases.push((
            path,
            [before.as_bytes(), old.as_bytes(), after.as_bytes(), end].concat(),
            [before.as_bytes(), new.as_bytes(), after.as_bytes(), end].concat(),
        ));
    }
    cases
}

#[tokio::test]
async fn the_session_is_set_and_every_other_byte_stays() {
    let org = RawOrg::start(|_| good()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for (n, (path, before, after)) in cases().into_iter().enumerate() {
        let lines = head(
            path,
            &format!(
                "\nContent-Length: {}\nAuthorization: Bearer CANARY-header\nX-SFDC-Session: CANARY-bulk\nCookie: sid=CANARY-cookie; a=b\nSforce-Call-Options: client=x\nX-Twice: 1\nX-Twice: 2",
                before.len()
            ),
        );
        let reply = call(app.proxy, &lines, &before).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "<good/>"), "{path}");
        assert_eq!(reply.header("x-org"), ["1"]);
        let reply = post_chunked(app.proxy, path, &before, &[1, 2, 3, 50, 60_000]).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let seen = org.seen();
        let (sized, chunked) = (&seen[2 * n], &seen[2 * n + 1]);
        for request in [sized, chunked] {
            assert_eq!(request.line(), format!("POST {path} HTTP/1.1"));
            assert!(request.body == after, "{path}: {}", text(request));
            assert_eq!(request.header("content-type"), ["text/xml; charset=utf-8"]);
            assert_eq!(request.header("soapaction"), ["\"\""]);
            for gone in ["authorization", "x-sfdc-session"] {
                assert!(request.header(gone).is_empty(), "{}", request.head);
            }
            assert!(!request.head.contains("CANARY"), "{}", request.head);
        }
        assert_eq!(sized.header("content-length"), [after.len().to_string()]);
        assert!(sized.header("transfer-encoding").is_empty());
        assert_eq!(sized.header("x-twice"), ["1", "2"]);
        assert_eq!(sized.header("cookie"), ["a=b"]);
        assert_eq!(chunked.header("transfer-encoding"), ["chunked"]);
        assert!(chunked.header("content-length").is_empty());
    }
    app.stop().await;
}

#[tokio::test]
async fn a_dead_session_is_renewed_and_the_call_repeated_with_the_new_one() {
    let before: String = query();
    for (code, chunked, zipped) in [
        ("sf:INVALID_SESSION_ID", false, false),
        ("soapenv:INVALID_SESSION_ID", true, false),
        ("INVALID_SESSION_ID", false, true),
    ] {
        let org = RawOrg::start(move |request| match text(request).contains("token_1<") {
            true if zipped => {
                let body = gzipped(fault(code).as_bytes());
                let head = format!(
                    "HTTP/1.1 500 Server Error\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                Script::Say([head.as_bytes(), &body].concat())
            }
            true => xml("500 Server Error", &fault(code)),
            false => good(),
        })
        .await;
        let app = Running::start(&org.url(), |_| {}).await;
        let reply = match chunked {
            true => post_chunked(app.proxy, PATH, before.as_bytes(), &[100]).await,
            false => post(app.proxy, PATH, before.as_bytes()).await,
        };
        assert_eq!((reply.status, reply.text().as_str()), (200, "<good/>"), "{code}");
        assert!(reply.header("proxy-status").is_empty());
        let seen = org.seen();
        let sent: Vec<String> = seen.iter().map(text).collect();
        assert_eq!(sent, [with_session(&before, 1), with_session(&before, 2)], "{code}");
        if !chunked {
            for request in &seen {
                assert_eq!(request.header("content-length"), [request.body.len().to_string()]);
            }
        }
        assert_eq!(org.logins(), 2);
        for series in [
            "sf_token_proxy_retries_total{org=\"main\",result=\"accepted\",surface=\"soap\"}",
            "sf_token_proxy_token_rejections_total{org=\"main\",reason=\"soap_invalid_session_id\",surface=\"soap\"}",
        ] {
            assert_eq!(app.metric(series).await, 1.0, "{series}");
        }
        app.stop().await;
    }
}

/// The second token is shorter or longer than the first: lengths are each attempt's own.
#[tokio::test]
async fn the_length_is_right_for_each_attempts_session() {
    let org = RawOrg::start(|request| match text(request).contains("long&lt;&amp;") {
        true => dead(),
        false => good(),
    })
    .await;
    let answer = |token: &str| {
        let body = json!({"access_token": token, "instance_url": org.url(), "token_type": "Bearer"}).to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    org.next_login(&answer("00D!a_rather_long<&token_of_all_that_XML_escapes"));
    org.next_login(&answer("00D!b"));
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = post(app.proxy, PATH, query().as_bytes()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = org.seen();
    assert_eq!(
        text(&seen[0]),
        query().replace(OLD, "00D!a_rather_long&lt;&amp;token_of_all_that_XML_escapes")
    );
    assert_eq!(text(&seen[1]), query().replace(OLD, "00D!b"));
    for request in &seen {
        assert_eq!(request.header("content-length"), [request.body.len().to_string()]);
    }
    app.stop().await;
}

#[tokio::test]
async fn many_callers_with_a_dead_session_cost_one_login() {
    let org = RawOrg::start(first_session_is_dead).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let proxy = app.proxy;
        callers.spawn(async move { post(proxy, PATH, query().as_bytes()).await.status });
    }
    while let Some(status) = callers.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(org.logins(), 2);
    app.stop().await;
}

#[tokio::test]
async fn a_second_refusal_passes_as_it_came() {
    let org = RawOrg::start(|_| dead()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for _ in 0..5 {
        let reply = post(app.proxy, PATH, query().as_bytes()).await;
        assert_eq!(
            (reply.status, reply.text()),
            (500, fault("sf:INVALID_SESSION_ID")),
            "{}",
            reply.head
        );
        assert_eq!(reply.header("x-org"), ["1"]);
        assert!(reply.header("proxy-status").is_empty(), "it is the org's");
    }
    assert!(org.logins() <= 2, "{} logins", org.logins());
    app.stop().await;
}

#[tokio::test]
async fn other_faults_pass_and_cost_nothing() {
    let faults = AtomicU32::new(0);
    let codes = [
        "sf:REQUEST_LIMIT_EXCEEDED",
        "sf:INVALID_LOGIN",
        "sf:API_DISABLED_FOR_ORG",
        "my:INVALID_SESSION_ID_OF_MINE",
    ];
    let org = RawOrg::start(move |_| {
        let n = faults.fetch_add(1, Ordering::SeqCst) as usize;
        match codes.get(n) {
            Some(code) => xml("500 Server Error", &fault(code)),
            None => xml("200 OK", &fault("sf:INVALID_SESSION_ID")),
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    for code in codes {
        let reply = post(app.proxy, PATH, query().as_bytes()).await;
        assert_eq!((reply.status, reply.text()), (500, fault(code)));
    }
    assert_eq!(post(app.proxy, PATH, query().as_bytes()).await.status, 200);
    assert_eq!((org.seen().len(), org.logins()), (5, 1));
    app.stop().await;
}

/// As Salesforce's own Java client sends them.
#[tokio::test]
async fn a_gzipped_envelope_goes_out_as_what_is_in_it() {
    let org = RawOrg::start(first_session_is_dead).await;
    let app = Running::start(&org.url(), |_| {}).await;
    // More than comes out of one step.
    let before = envelope(&format!(
        "<query><queryString>{}</queryString></query>",
        "SELECT Id ".repeat(500_000)
    ));
    let body = gzipped(before.as_bytes());
    for encoding in ["gzip", "GZIP", "x-gzip", " gzip "] {
        let lines = head(
            PATH,
            &format!("\nContent-Encoding: {encoding}\nContent-Length: {}", body.len()),
        );
        let reply = call(app.proxy, &lines, &body).await;
        assert_eq!(reply.status, 200, "{encoding}: {}", reply.text());
    }
    let seen = org.seen();
    assert_eq!(seen.len(), 5, "the first twice");
    for (n, request) in seen.iter().enumerate() {
        assert!(request.header("content-encoding").is_empty(), "{}", request.head);
        match n {
            // The repeat knows how long it is.
            1 => assert_eq!(request.header("content-length"), [request.body.len().to_string()]),
            _ => assert_eq!(request.header("transfer-encoding"), ["chunked"]),
        }
        let session = if n == 0 { 1 } else { 2 };
        assert!(text(request) == with_session(&before, session), "{n}");
    }
    assert_eq!(
        call(
            app.proxy,
            &head(PATH, "\nContent-Encoding: identity\nContent-Length: 9"),
            b"<not/> it"
        )
        .await
        .status,
        400
    );
    app.stop().await;
}

#[tokio::test]
async fn broken_gzip_is_told() {
    let org = RawOrg::start(|_| good()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let noise: String = (0..200_000_u32)
        .map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26))
        .collect();
    let long = gzipped(envelope(&format!("<query>{noise}</query>")).as_bytes());
    let mut damaged = long.clone();
    let last = damaged.len() - 5;
    damaged[last] ^= 1;
    for body in [
        query().into_bytes(),
        gzipped(query().as_bytes())[..40].to_vec(),
        long[..long.len() / 2].to_vec(),
        damaged,
    ] {
        let lines = head(
            PATH,
            &format!("\nContent-Encoding: gzip\nContent-Length: {}", body.len()),
        );
        let reply = call(app.proxy, &lines, &body).await;
        assert_our_fault(&reply, 400, "SFPROXY_SOAP_ENCODING", &["gzip", "compress all of it"]);
    }
    assert!(org.seen().is_empty(), "no whole call");
    let series = "sf_token_proxy_requests_total{code=\"400\",method=\"POST\",org=\"main\",outcome=\"client_error\",surface=\"soap\"}";
    assert_eq!(app.metric(series).await, 4.0);
    nothing_kept(&app).await;
    app.stop().await;
}

#[tokio::test]
async fn an_envelope_in_which_no_session_can_be_set_is_not_sent() {
    let org = RawOrg::start(|_| good()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let utf16: Vec<u8> = format!("\u{feff}{}", query())
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let start = format!("<e:Envelope xmlns:e='{SOAP}'>");
    let table: Vec<(Vec<u8>, &str)> = vec![
        (utf16, "UTF-8"),
        (query().replace("UTF-8", "UTF-16").into_bytes(), "UTF-8"),
        (
            format!("<!DOCTYPE x [<!ENTITY a 'b'>]>{}", &query()[38..]).into_bytes(),
            "DOCTYPE",
        ),
        (b"{\"json\":\"CANARY\"}".to_vec(), "XML"),
        (b"<html><body>CANARY</body></html>".to_vec(), "Envelope"),
        (format!("{start}<e:Header></e:Envelope>").into_bytes(), "well-formed"),
        (format!("{start}<e:Header/></e:Envelope>").into_bytes(), "Body"),
        (
            format!("{start}<e:Header/><e:Header/><e:Body/></e:Envelope>").into_bytes(),
            "at most one Header",
        ),
        (query().into_bytes()[..200].to_vec(), "Content-Length"),
        (Vec::new(), "send it whole"),
        (
            format!(
                "{start}<e:Header><x>{}</x></e:Header><e:Body/></e:Envelope>",
                "CANARY".repeat(50_000)
            )
            .into_bytes(),
            "256 KiB",
        ),
        // Longer than what the system holds: the answer comes before all was written.
        (vec![b'x'; 8 << 20], "XML"),
    ];
    let many = table.len();
    for (body, word) in table {
        let mut stream = connect(app.proxy).await;
        let lines = head(PATH, &format!("\nContent-Length: {}\nHost: localhost\n\n", body.len())).replace('\n', "\r\n");
        stream.write_all(lines.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let (_, reply) = tokio::join!(writer.write_all(&body), read_reply(&mut reader, false));
        assert_our_fault(&reply.expect(word), 400, "SFPROXY_SOAP_ENVELOPE", &[word]);
    }
    // What the header says of the characters goes before what the envelope says.
    for charset in ["utf-16", "\"UTF-16LE\"", "utf-7", "ebcdic-cp-us"] {
        let lines = format!(
            "POST {PATH} HTTP/1.1\nContent-Type: text/xml; action=\"x\"; Charset={charset}\nContent-Length: {}",
            query().len()
        );
        let reply = call(app.proxy, &lines, query().as_bytes()).await;
        assert_our_fault(&reply, 400, "SFPROXY_SOAP_ENVELOPE", &["UTF-8"]);
    }
    for encoding in ["br", "deflate", "gzip, gzip", "identity\nContent-Encoding: gzip"] {
        let more = format!("\nContent-Encoding: {encoding}\nContent-Length: {}", query().len());
        let reply = call(app.proxy, &head(PATH, &more), query().as_bytes()).await;
        assert_our_fault(&reply, 400, "SFPROXY_SOAP_ENCODING", &["gzip"]);
    }
    assert!(org.seen().is_empty());
    let series = "sf_token_proxy_requests_total{code=\"400\",method=\"POST\",org=\"main\",outcome=\"client_error\",surface=\"soap\"}";
    assert_eq!(app.metric(series).await, f64::from(u8::try_from(many + 8).unwrap()));
    nothing_kept(&app).await;
    app.stop().await;
}

/// With any method: an envelope has a session in it. Without a body there is none to set.
#[tokio::test]
async fn no_session_of_the_apps_own_leaves_whatever_the_method() {
    let org = RawOrg::start(first_session_is_dead).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for method in ["PUT", "PATCH", "GET", "DELETE"] {
        let lines = format!("{method} {PATH} HTTP/1.1\nContent-Length: {}", query().len());
        assert_eq!(
            call(app.proxy, &lines, query().as_bytes()).await.status,
            200,
            "{method}"
        );
    }
    let sessions: Vec<String> = org.seen().iter().map(text).collect();
    assert!(sessions.iter().all(|body| !body.contains("CANARY")), "{sessions:?}");
    assert_eq!(sessions[0], with_session(&query(), 1));
    assert_eq!(sessions[4], with_session(&query(), 2));

    let wsdl = "GET //services/Soap/wsdl/partner?wsdl HTTP/1.1\nAuthorization: Bearer CANARY\nContent-Encoding: gzip\nX-SFDC-Session: CANARY";
    assert_eq!(call(app.proxy, wsdl, b"").await.status, 200);
    let seen = org.seen().pop().unwrap();
    assert_eq!(seen.line(), "GET //services/Soap/wsdl/partner?wsdl HTTP/1.1");
    for gone in ["authorization", "x-sfdc-session", "transfer-encoding", "content-length"] {
        assert!(seen.header(gone).is_empty(), "{}", seen.head);
    }
    app.stop().await;
}

/// A page without a session says nothing of it: the upload that cannot be repeated still asks first.
#[tokio::test]
async fn an_answer_to_a_call_without_a_session_does_not_prove_it() {
    let org = RawOrg::start(|request| match request.token().ends_with("token_1") {
        true => Script::expired(),
        false => first_session_is_dead(request),
    })
    .await;
    let app = Running::start(&org.url(), |config| config.replay.max_body = 100).await;
    assert_eq!(
        call(app.proxy, &format!("GET {PATH}?wsdl HTTP/1.1"), b"").await.status,
        200
    );
    let reply = post(app.proxy, PATH, query().as_bytes()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen: Vec<String> = org.seen().iter().map(|request| request.line().to_owned()).collect();
    assert_eq!(
        seen[1], "GET /services/data/v60.0/ HTTP/1.1",
        "the dead session met the probe"
    );
    assert_eq!(seen.len(), 3);
    // It works, and that is known now.
    assert_eq!(post(app.proxy, PATH, query().as_bytes()).await.status, 200);
    assert_eq!(org.seen().len(), 4);
    app.stop().await;
}

#[tokio::test]
async fn an_envelope_that_comes_byte_by_byte_arrives_whole() {
    let org = RawOrg::start(first_session_is_dead).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let before = query();
    let mut stream = connect(app.proxy).await;
    let lines = head(
        PATH,
        &format!("\nHost: localhost\nContent-Length: {}\n\n", before.len()),
    )
    .replace('\n', "\r\n");
    stream.write_all(lines.as_bytes()).await.unwrap();
    for byte in before.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 200);
    // And as chunks of one byte each, far more than the head.
    let long = envelope(&format!("<query>{}</query>", "x".repeat(40_000)));
    let reply = post_chunked(app.proxy, PATH, long.as_bytes(), &vec![1; long.len()]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent: Vec<String> = org.seen().iter().map(text).collect();
    let expected = [
        with_session(&before, 1),
        with_session(&before, 2),
        with_session(&long, 2),
    ];
    assert!(sent == expected, "{sent:?}");
    app.stop().await;
}

/// A caller's connection with so much of a call sent.
async fn begun(app: &Running, more: &str, body: &str) -> TcpStream {
    let mut stream = connect(app.proxy).await;
    let lines = head(PATH, &format!("\nHost: localhost{more}\n\n")).replace('\n', "\r\n");
    stream.write_all(lines.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn an_envelope_that_stalls_before_its_operation_is_given_up() {
    let org = RawOrg::start(|_| good()).await;
    let app = Running::start(&org.url(), |config| {
        config.upstream.body_idle_timeout = Duration::from_millis(200);
    })
    .await;
    let mut stream = begun(&app, "\nContent-Length: 5000", &query()[..150]).await;
    let reply = tokio::time::timeout(Duration::from_secs(10), read_reply(&mut stream, false)).await;
    let reply = reply.expect("it is given up").unwrap();
    assert_our_fault(&reply, 408, "SFPROXY_REQUEST_BODY", &["too long"]);
    assert!(org.seen().is_empty());
    assert_eq!(org.connections(), 1, "the login's");
    app.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_before_the_operation_leaves_nothing_behind() {
    let org = RawOrg::start(|_| good()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for whole in [false, true] {
        let stream = begun(&app, "\nContent-Length: 5000", &query()[..150]).await;
        for _ in 0..1000 {
            if app.metric("sf_token_proxy_replay_bytes").await > 0.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if whole {
            drop(stream);
        } else {
            // Only its own direction: an answer could still be read.
            let mut stream = stream;
            stream.shutdown().await.unwrap();
            drop(stream);
        }
        nothing_kept(&app).await;
    }
    assert!(org.seen().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn expect_continue_is_answered_for_an_envelope() {
    let org = RawOrg::start(|_| good()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let length = format!("\nExpect: 100-continue\nContent-Length: {}", query().len());
    let mut stream = begun(&app, &length, "").await;
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut said).await.unwrap() > 0);
    }
    assert!(said.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&said));
    stream.write_all(query().as_bytes()).await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 200);
    assert_eq!(text(&org.seen()[0]), with_session(&query(), 1));
    assert!(org.seen()[0].header("expect").is_empty());
    // What is refused at sight is not asked for.
    let length = format!(
        "\nExpect: 100-continue\nContent-Encoding: br\nContent-Length: {}",
        query().len()
    );
    let mut stream = begun(&app, &length, "").await;
    let mut said = Vec::new();
    while said.len() < 12 {
        assert!(stream.read_buf(&mut said).await.unwrap() > 0);
    }
    assert!(said.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&said));
    app.stop().await;
}

/// The org as a listener that the test reads itself, and the proxy before it.
async fn by_hand(adapt: impl FnOnce(&mut config::Config)) -> (TcpListener, RawOrg, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let login = RawOrg::start(|_| panic!("calls go elsewhere")).await;
    let app = Running::start(&login.url(), |config| {
        let org = config.orgs.values_mut().next().unwrap();
        org.instance_url = Some(format!("http://{address}").parse().unwrap());
        adapt(config);
    })
    .await;
    (listener, login, app)
}

async fn read_until_ends_with(stream: &mut TcpStream, seen: &mut Vec<u8>, end: &[u8]) {
    while !seen.ends_with(end) {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(seen)).await;
        assert!(
            matches!(read, Ok(Ok(1..))),
            "{read:?} after {}",
            String::from_utf8_lossy(seen)
        );
    }
}

#[tokio::test]
async fn a_deploy_streams_from_its_operation_on() {
    const SIZE: usize = 20 << 20;
    let (listener, _login, app) = by_hand(|_| {}).await;
    let start = format!(
        "<e:Envelope xmlns:e=\"{SOAP}\"><e:Header><SessionHeader xmlns=\"http://soap.sforce.com/2006/04/metadata\"><sessionId>{OLD}</sessionId></SessionHeader></e:Header>\
         <e:Body><deploy xmlns=\"http://soap.sforce.com/2006/04/metadata\"><ZipFile>"
    );
    let mut caller = begun(
        &app,
        "\nTransfer-Encoding: chunked",
        &format!("{:x}\r\n{start}\r\n", start.len()),
    )
    .await;
    let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
    let (mut org, _) = accepted.expect("a connection before the body has ended").unwrap();
    let mut seen = Vec::new();
    // The caller has sent nothing more.
    read_until_ends_with(&mut org, &mut seen, b"<ZipFile>\r\n").await;
    // Chunk sizes stand around it.
    let first = String::from_utf8_lossy(&seen).into_owned();
    assert!(first.contains(&format!("{TOKEN}1")) && !first.contains(OLD), "{first}");
    // Twenty megabytes; it takes what the org takes, and the sockets in between hold no more than a few.
    let (mut reader, mut writer) = caller.split();
    let sent = AtomicU32::new(0);
    let sending = async {
        let chunk = [b"10000\r\n".as_slice(), &vec![b'Q'; 0x10000], b"\r\n"].concat();
        for _ in 0..SIZE / 0x10000 {
            writer.write_all(&chunk).await.unwrap();
            sent.fetch_add(1, Ordering::SeqCst);
        }
        writer.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let fault = fault("sf:INVALID_SESSION_ID");
    let receiving = async {
        seen.clear();
        let mut all = 0;
        let mut last = Vec::new();
        while !last.ends_with(b"0\r\n\r\n") {
            seen.clear();
            assert!(org.read_buf(&mut seen).await.unwrap() > 0);
            all += seen.len();
            last.extend_from_slice(&seen);
            last.drain(..last.len().saturating_sub(5));
        }
        assert!(all > SIZE, "{all}");
        let answer = format!(
            "HTTP/1.1 500 Server Error\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{fault}",
            fault.len()
        );
        org.write_all(answer.as_bytes()).await.unwrap();
    };
    // The sender is asked first; it gets stuck before the org reads anything.
    tokio::join!(sending, async {
        let mut before = u32::MAX;
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(
            before < 19 * 16,
            "{before} of 320 chunks went somewhere while the org read nothing"
        );
        receiving.await;
    });
    // Too long to be kept: told, and the token renewed.
    let reply = read_reply(&mut reader, false).await.unwrap();
    assert_eq!((reply.status, reply.text()), (500, fault.clone()));
    let status = reply.header("proxy-status").join(" ");
    assert!(status.contains("not repeated: body_too_long"), "{status}");
    nothing_kept(&app).await;
    let proxy = app.proxy;
    let mut calling = tokio::task::JoinSet::new();
    calling.spawn(async move { post(proxy, PATH, query().as_bytes()).await.status });
    let (mut org, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    read_until_ends_with(&mut org, &mut seen, b"Envelope>").await;
    assert!(String::from_utf8_lossy(&seen).contains(&format!("<sessionId>{TOKEN}2</sessionId>")));
    org.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(calling.join_next().await.unwrap().unwrap(), 200);
    app.stop().await;
}

/// The org answers while the caller still sends: a fault of the session is repeated, with all that was sent; another is final.
#[tokio::test]
async fn a_fault_before_the_body_has_ended_is_judged_all_the_same() {
    let (listener, _login, app) = by_hand(|_| {}).await;
    for code in ["sf:INVALID_SESSION_ID", "sf:UNKNOWN_EXCEPTION"] {
        let body = query();
        let (first, rest) = body.split_at(body.find("SELECT").unwrap());
        let mut caller = begun(&app, &format!("\nContent-Length: {}", body.len()), first).await;
        let (mut org, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        read_until_ends_with(&mut org, &mut seen, b"<queryString>").await;
        let text = fault(code);
        let answer = format!(
            "HTTP/1.1 500 Server Error\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        org.write_all(answer.as_bytes()).await.unwrap();
        if code == "sf:INVALID_SESSION_ID" {
            let (mut again, _) = listener.accept().await.unwrap();
            caller.write_all(rest.as_bytes()).await.unwrap();
            let mut seen = Vec::new();
            read_until_ends_with(&mut again, &mut seen, b"Envelope>").await;
            let seen = String::from_utf8_lossy(&seen).into_owned();
            assert!(seen.ends_with(&with_session(&body, 2)), "{seen}");
            again
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
            assert_eq!(read_reply(&mut caller, false).await.unwrap().text(), "ok");
        } else {
            assert_eq!(read_reply(&mut caller, false).await.unwrap().text(), text);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn our_own_errors_are_faults() {
    let org = RawOrg::start(|_| Script::Cut).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = post(app.proxy, PATH, query().as_bytes()).await;
    assert_our_fault(&reply, 502, "SFPROXY_ORG_BROKE_OFF", &["broke off"]);
    // The guard's, before the call is anybody's.
    let length = format!("\nContent-Length: {}", query().len());
    let foreign = head(PATH, &format!("\nOrigin: https://evil.example{length}"));
    let reply = call(app.proxy, &foreign, query().as_bytes()).await;
    assert_our_fault(&reply, 403, "SFPROXY_CROSS_SITE", &["allowed_origins"]);
    let reply = call(
        app.proxy,
        &head(PATH, &format!("\nX-SFPROXY-User: a@b.c{length}")),
        query().as_bytes(),
    )
    .await;
    assert_our_fault(&reply, 403, "SFPROXY_USER_NOT_SERVED", &["users"]);
    // Counted as before: what the guard refuses is of no family.
    let series = "sf_token_proxy_requests_total{code=\"403\",method=\"POST\",org=\"main\",outcome=\"client_error\",surface=\"none\"}";
    assert_eq!(app.metric(series).await, 1.0);
    app.stop().await;

    let org = RawOrg::start(|_| good()).await;
    org.refuse_logins(Some((
        "400 Bad Request",
        r#"{"error":"invalid_client_id","error_description":"client identifier invalid"}"#,
    )));
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = post(app.proxy, PATH, query().as_bytes()).await;
    assert_our_fault(&reply, 503, "SFPROXY_NO_TOKEN", &["client identifier invalid"]);
    assert_eq!(reply.header("retry-after").len(), 1);
    app.stop().await;
}

/// Marketing Cloud's service: its own header, and any 401 says that the token is dead, or its fault.
#[tokio::test]
async fn marketing_clouds_envelopes_get_their_token() {
    for by_fault in [false, true] {
        let org = RawOrg::start(move |request| match text(request).contains(">mc1<") {
            true if by_fault => xml(
                "500 Server Error",
                &fault("o:Security").replace("o:Security: of the org", "Token Expired"),
            ),
            true => Script::json("401 Unauthorized", ""),
            false => good(),
        })
        .await;
        let (minted, url) = (AtomicU32::new(0), org.url());
        let login = RawOrg::start(move |_| {
            let n = minted.fetch_add(1, Ordering::SeqCst) + 1;
            let answer = json!({"access_token": format!("mc{n}"), "expires_in": 1079, "soap_instance_url": url, "rest_instance_url": url});
            Script::json("200 OK", &answer.to_string())
        })
        .await;
        login.script_logins();
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        let yaml = json!({
            "listeners": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
            "orgs": {"mc": {
                "login_url": login.url(),
                "grant": {"oauth2_client_credentials": {
                    "token_path": "/v2/token", "body": "json", "send_secret": "body",
                    "client_id": "package", "client_secret": format!("file:{}", secret.display()),
                }},
                "api": {"host": "other", "host_field": "rest_instance_url", "also": {"/Service.asmx": "soap_instance_url"}},
            }},
        });
        let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
        let app = Running::start_with(config, folder).await;
        let mine = |token: &str| format!("<fueloauth xmlns=\"http://exacttarget.com\">{token}</fueloauth>");
        let around = |session: &str| {
            format!(
                "<s:Envelope xmlns:s=\"{SOAP}\"><s:Header>{session}</s:Header><s:Body><RetrieveRequestMsg xmlns=\"http://exacttarget.com/wsdl/partnerAPI\"/></s:Body></s:Envelope>"
            )
        };
        for session in [&*mine("CANARY"), ""] {
            let reply = post(app.proxy, "/Service.asmx", around(session).as_bytes()).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        let sent: Vec<String> = org.seen().iter().map(text).collect();
        assert_eq!(sent, ["mc1", "mc2", "mc2"].map(|token| around(&mine(token))));
        let seen = org.seen();
        assert!(seen.iter().all(|request| request.header("authorization").is_empty()));
        let reply = post(app.proxy, "/Service.asmx", b"<>").await;
        assert_our_fault(&reply, 400, "SFPROXY_SOAP_ENVELOPE", &["XML"]);
        app.stop().await;
    }
}

/// What a caller may write around and into the place of the session.
fn generated() -> impl Strategy<Value = (String, Vec<usize>)> {
    let space = || prop::sample::select(vec!["", " ", "\r\n\t", "<!-- <sessionId>no</sessionId> -->", "<?x y?>"]);
    let value = prop::sample::select(vec![
        "",
        OLD,
        "<![CDATA[00DCANARY<]]>",
        "&amp;00DCANARY&#65;",
        "<!-- 00DCANARY -->",
        "Zürich 00DCANARY",
    ]);
    let prefix = prop::sample::select(vec!["p:", "own-1:", ""]);
    let other = prop::sample::select(vec![
        "",
        "<x:CallOptions xmlns:x='urn:partner.soap.sforce.com'><x:client>c</x:client></x:CallOptions>",
    ]);
    let tail = prop_oneof![Just(0_usize), 1..2000_usize, 60_000..70_000_usize];
    let cuts = prop::collection::vec(prop_oneof![1..5_usize, 5..400_usize, 1000..40_000_usize], 0..12);
    (prefix, value, other, [space(), space(), space(), space()], tail, cuts).prop_map(
        |(prefix, value, other, spaces, tail, cuts)| {
            let [a, b, c, d] = spaces;
            let xmlns = match prefix.strip_suffix(':') {
                Some(prefix) => format!("xmlns:{prefix}"),
                None => "xmlns".to_owned(),
            };
            let envelope = format!(
                "<e:Envelope xmlns:e='{SOAP}'>{a}<e:Header>{b}{other}<{prefix}SessionHeader {xmlns}='urn:partner.soap.sforce.com'>{c}<{prefix}sessionId>[{value}]</{prefix}sessionId></{prefix}SessionHeader>{d}</e:Header>{a}\
                 <e:Body><q xmlns='urn:partner.soap.sforce.com'>{}</q></e:Body></e:Envelope>",
                "é".repeat(tail)
            );
            (envelope, cuts)
        },
    )
}

/// Property: with the session's value cut out, the org receives what the caller sent, however it was cut, in each attempt.
#[tokio::test]
async fn however_it_is_cut_only_the_session_changes() {
    let org = RawOrg::start(first_session_is_dead).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut runner = TestRunner::new_with_rng(
        Cases::default(),
        prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    );
    for case in 0..150 {
        let (marked, cuts) = generated().new_tree(&mut runner).unwrap().current();
        let (start, rest) = marked.split_once("sessionId>[").unwrap();
        let (value, end) = rest.split_once("]</").unwrap();
        let before = format!("{start}sessionId>{value}</{end}");
        let reply = match case % 2 {
            0 => post_chunked(app.proxy, PATH, before.as_bytes(), &cuts).await,
            _ => post(app.proxy, PATH, before.as_bytes()).await,
        };
        assert_eq!(reply.status, 200, "{before}: {}", reply.text());
        let seen = org.seen().pop().unwrap();
        assert!(
            text(&seen) == format!("{start}sessionId>{TOKEN}2</{end}"),
            "{cuts:?} of {before} became {}",
            text(&seen)
        );
    }
    assert_eq!(org.seen().len(), 151, "the first twice");
    app.stop().await;
}

#[tokio::test]
async fn no_session_is_told_to_anybody() {
    let trace = Trace::start();
    let org = RawOrg::start(first_session_is_dead).await;
    let app = Running::start(&org.url(), |config| config.log.requests = true).await;
    let mut told = String::new();
    for body in [query(), format!("<{OLD}"), query().replace("sessionId", "CANARY-name")] {
        let reply = post(app.proxy, PATH, body.as_bytes()).await;
        told.push_str(&reply.head);
        told.push_str(&reply.text());
    }
    told.push_str(&call(app.admin, "GET /metrics HTTP/1.1", b"").await.text());
    app.stop().await;
    let log = trace.text();
    assert!(
        log.contains("sf_token_proxy::access") && log.contains("token refused"),
        "or this proves little"
    );
    told.push_str(&log);
    for secret in ["CANARY", "!token_"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[cfg(feature = "demo")]
pub(crate) mod practice {
    use sf_token_proxy::demo::{Org, Settings};

    use super::*;

    pub(crate) async fn start() -> (Org, Running) {
        let mut org = Org::start(Settings::practice().unwrap()).await.unwrap();
        let files = org.write_files(None).unwrap();
        let yaml = json!({
            "listeners": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
            "orgs": {"main": {"login_url": files.login_url, "grant": crate::data_cloud::by_key(&files), "login_budget": {"burst": 3600, "per_minute": 60}}},
            "upstream": {"ca_file": files.ca_file},
        });
        let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
        (org, Running::start_with(config, tempfile::tempdir().unwrap()).await)
    }

    /// Each service, each time with a session that has just died.
    #[tokio::test]
    async fn every_service_works_while_sessions_die() {
        let (org, app) = start().await;
        let services = [
            (
                "u/60.0",
                "urn:partner.soap.sforce.com",
                "<query><queryString>SELECT Id, Name FROM Account LIMIT 1</queryString></query>",
                "queryResponse",
            ),
            (
                "c/60.0",
                "urn:enterprise.soap.sforce.com",
                "<getUserInfo/>",
                "getUserInfoResponse",
            ),
            (
                "m/60.0",
                "http://soap.sforce.com/2006/04/metadata",
                "<describeMetadata><asOfVersion>60.0</asOfVersion></describeMetadata>",
                "describeMetadataResponse",
            ),
            (
                "s/60.0",
                "http://soap.sforce.com/2006/08/apex",
                "<executeAnonymous><String>System.debug(1);</String></executeAnonymous>",
                "executeAnonymousResponse",
            ),
            (
                "T/60.0",
                "urn:tooling.soap.sforce.com",
                "<getUserInfo/>",
                "getUserInfoResponse",
            ),
            (
                "class/Echo",
                "http://soap.sforce.com/schemas/class/Echo",
                "<echo><text>hello</text></echo>",
                "echoResponse",
            ),
        ];
        let mut logins = 0;
        for (path, namespace, operation, response) in services {
            for session in [
                "",
                "<w:SessionHeader><w:sessionId>00DCANARY</w:sessionId></w:SessionHeader>",
            ] {
                let body = format!(
                    "<e:Envelope xmlns:e=\"{SOAP}\" xmlns:w=\"{namespace}\"><e:Header>{session}</e:Header><e:Body xmlns=\"{namespace}\">{operation}</e:Body></e:Envelope>"
                );
                for zipped in [false, true] {
                    let path = format!("/services/Soap/{path}");
                    let reply = match zipped {
                        true => {
                            let body = gzipped(body.as_bytes());
                            let more = format!("\nContent-Encoding: gzip\nContent-Length: {}", body.len());
                            call(app.proxy, &head(&path, &more), &body).await
                        }
                        false => post(app.proxy, &path, body.as_bytes()).await,
                    };
                    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
                    assert!(reply.text().contains(response), "{path}: {}", reply.text());
                    logins += 1;
                    assert_eq!(org.stats().token_requests, logins, "one for each death");
                    org.revoke();
                }
            }
        }
        assert_eq!(org.stats().soap_invalid_session, logins - 1);
        app.stop().await;
        org.stop().await;
    }
}
