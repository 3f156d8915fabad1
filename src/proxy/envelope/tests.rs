//! Tables: real envelopes, every kind of holder. What is refused is in `tests/refused.rs`, generated envelopes in `tests/generated.rs`.

mod generated;
mod refused;

use super::*;

/// Has what XML escapes.
const TOKEN: &str = "00D<new>&\"'!AQ";
const ESCAPED: &str = "00D&lt;new&gt;&amp;&quot;&apos;!AQ";

const PARTNER: &str = "urn:partner.soap.sforce.com";
const METADATA: &str = "http://soap.sforce.com/2006/04/metadata";
const SESSION: Credential<'_> = Credential::Session { fallback: PARTNER };

/// What the caller writes for `edits`: the splice in its simplest form.
fn apply(envelope: &[u8], edits: &[Edit], token: &str) -> Vec<u8> {
    let mut result = vec![];
    let mut from = 0;
    for edit in edits {
        assert!(from <= edit.at.start && edit.at.start <= edit.at.end && edit.at.end <= envelope.len());
        result.extend_from_slice(&envelope[from..edit.at.start]);
        result.extend_from_slice(&edit.before);
        result.extend_from_slice(escaped(token).as_bytes());
        result.extend_from_slice(&edit.after);
        from = edit.at.end;
    }
    result.extend_from_slice(&envelope[from..]);
    result
}

fn found(envelope: &[u8], credential: Credential<'_>) -> Envelope {
    match read(envelope, true, credential) {
        Ok(Reading::Found(found)) => found,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(envelope)),
    }
}

/// From `…[[old|new]]…` what comes in and what has to come out; `{T}` is the credential as text.
fn cases(marked: &str) -> (String, String) {
    let (mut before, mut after) = (String::new(), String::new());
    let mut rest = marked;
    while let Some((same, marked)) = rest.split_once("[[") {
        let (old, more) = marked.split_once('|').unwrap();
        let (new, more) = more.split_once("]]").unwrap();
        before.extend([same, old]);
        after.extend([same, new]);
        rest = more;
    }
    before.push_str(rest);
    after.push_str(rest);
    (before, after.replace("{T}", ESCAPED))
}

fn check(name: &str, marked: &str, credential: Credential<'_>) {
    let (before, after) = cases(marked);
    let found = found(before.as_bytes(), credential);
    let result = String::from_utf8(apply(before.as_bytes(), &found.edits, TOKEN)).unwrap();
    assert_eq!(result, after, "{name}");
}

/// As the clients' code, or a call that was recorded, has them: name, envelope, namespace and name of the operation.
const REAL: [(&str, &str, &str, &str); 13] = [
    (
        "jsforce without a token",
        r#"<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Header xmlns="http://soap.sforce.com/2006/04/metadata">[[|<SessionHeader xmlns="http://soap.sforce.com/2006/04/metadata"><sessionId>{T}</sessionId></SessionHeader>]]</soapenv:Header><soapenv:Body xmlns="http://soap.sforce.com/2006/04/metadata"><listMetadata><queries><type>CustomObject</type></queries></listMetadata></soapenv:Body></soapenv:Envelope>"#,
        METADATA,
        "listMetadata",
    ),
    (
        "jsforce with a token and call options",
        r#"<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Header xmlns="urn:partner.soap.sforce.com"><SessionHeader><sessionId>[[00Dxx!old|{T}]]</sessionId></SessionHeader><CallOptions><client>x</client></CallOptions></soapenv:Header><soapenv:Body xmlns="urn:partner.soap.sforce.com"><getUserInfo></getUserInfo></soapenv:Body></soapenv:Envelope>"#,
        PARTNER,
        "getUserInfo",
    ),
    (
        "jsforce's logout",
        r#"<se:Envelope xmlns:se="http://schemas.xmlsoap.org/soap/envelope/"><se:Header><SessionHeader xmlns="urn:partner.soap.sforce.com"><sessionId>[[null|{T}]]</sessionId></SessionHeader></se:Header><se:Body><logout xmlns="urn:partner.soap.sforce.com"/></se:Body></se:Envelope>"#,
        PARTNER,
        "logout",
    ),
    (
        "simple-salesforce, deploy",
        "<soapenv:Envelope\nxmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"\nxmlns:met=\"http://soap.sforce.com/2006/04/metadata\">\n   <soapenv:Header>\n      <met:CallOptions>\n         <met:client>simple_salesforce_deploy</met:client>\n      </met:CallOptions>\n      <met:SessionHeader>\n         <met:sessionId>[[x|{T}]]</met:sessionId>\n      </met:SessionHeader>\n   </soapenv:Header>\n   <soapenv:Body>\n      <met:deploy>\n         <met:ZipFile>UEsDBA==</met:ZipFile>\n      </met:deploy>\n   </soapenv:Body>\n</soapenv:Envelope>",
        METADATA,
        "deploy",
    ),
    (
        "zeep, by which simple-salesforce talks to Metadata",
        "<?xml version='1.0' encoding='utf-8'?>\n<soap-env:Envelope xmlns:soap-env=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap-env:Header><ns0:SessionHeader xmlns:ns0=\"http://soap.sforce.com/2006/04/metadata\"><ns0:sessionId>[[x|{T}]]</ns0:sessionId></ns0:SessionHeader></soap-env:Header><soap-env:Body><ns0:describeMetadata xmlns:ns0=\"http://soap.sforce.com/2006/04/metadata\"><ns0:asOfVersion>60.0</ns0:asOfVersion></ns0:describeMetadata></soap-env:Body></soap-env:Envelope>",
        METADATA,
        "describeMetadata",
    ),
    (
        "WSC, the Java toolkit",
        r#"<?xml version="1.0" encoding="UTF-8"?><env:Envelope xmlns:env="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><env:Header><SessionHeader xmlns="urn:partner.soap.sforce.com"><sessionId>[[old|{T}]]</sessionId></SessionHeader></env:Header><env:Body><m:query xmlns:m="urn:partner.soap.sforce.com" xmlns:sobj="urn:sobject.partner.soap.sforce.com"><m:queryString>select Id from Account</m:queryString></m:query></env:Body></env:Envelope>"#,
        PARTNER,
        "query",
    ),
    (
        "Apache Axis 1",
        r#"<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Header><ns1:SessionHeader soapenv:actor="http://schemas.xmlsoap.org/soap/actor/next" soapenv:mustUnderstand="0" xmlns:ns1="urn:enterprise.soap.sforce.com"><ns1:sessionId>[[old|{T}]]</ns1:sessionId></ns1:SessionHeader></soapenv:Header><soapenv:Body><query xmlns="urn:enterprise.soap.sforce.com"><queryString>select Id from Account</queryString></query></soapenv:Body></soapenv:Envelope>"#,
        "urn:enterprise.soap.sforce.com",
        "query",
    ),
    (
        ".NET, with a session that was never set",
        r#"<?xml version="1.0" encoding="utf-8"?><soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema"><soap:Header><SessionHeader xmlns="urn:enterprise.soap.sforce.com" [[/|><sessionId>{T}</sessionId></SessionHeader]]></soap:Header><soap:Body><getServerTimestamp xmlns="urn:enterprise.soap.sforce.com" /></soap:Body></soap:Envelope>"#,
        "urn:enterprise.soap.sforce.com",
        "getServerTimestamp",
    ),
    (
        "PHP's toolkit",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<SOAP-ENV:Envelope xmlns:SOAP-ENV=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:ns1=\"urn:partner.soap.sforce.com\"><SOAP-ENV:Header><ns1:SessionHeader><ns1:sessionId>[[x|{T}]]</ns1:sessionId></ns1:SessionHeader></SOAP-ENV:Header><SOAP-ENV:Body><ns1:describeGlobal/></SOAP-ENV:Body></SOAP-ENV:Envelope>\n",
        PARTNER,
        "describeGlobal",
    ),
    (
        "by hand, no header at all",
        "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\">\n  [[|<e:Header><SessionHeader xmlns=\"urn:tooling.soap.sforce.com\"><sessionId>{T}</sessionId></SessionHeader></e:Header>]]<e:Body><t:query xmlns:t=\"urn:tooling.soap.sforce.com\"/></e:Body></e:Envelope>",
        "urn:tooling.soap.sforce.com",
        "query",
    ),
    (
        "by hand, all in default namespaces, SOAP 1.2",
        r#"<Envelope xmlns='http://www.w3.org/2003/05/soap-envelope'>[[|<Header><SessionHeader xmlns="http://soap.sforce.com/2006/08/apex"><sessionId>{T}</sessionId></SessionHeader></Header>]]<Body><executeAnonymous xmlns='http://soap.sforce.com/2006/08/apex'><String>x</String></executeAnonymous></Body></Envelope>"#,
        "http://soap.sforce.com/2006/08/apex",
        "executeAnonymous",
    ),
    (
        "an Apex class's service",
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:c="http://soap.sforce.com/schemas/class/Orders"><s:Header[[/|><SessionHeader xmlns="http://soap.sforce.com/schemas/class/Orders"><sessionId>{T}</sessionId></SessionHeader></s:Header]]><s:Body><c:place/></s:Body></s:Envelope>"#,
        "http://soap.sforce.com/schemas/class/Orders",
        "place",
    ),
    (
        "in another encoding that is ASCII and more",
        r#"<?xml version="1.0" encoding="ISO-8859-1"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header><!-- Zürich --><SessionHeader xmlns="urn:partner.soap.sforce.com"><sessionId>[[ß|{T}]]</sessionId></SessionHeader></s:Header><s:Body><create xmlns="urn:partner.soap.sforce.com"><Name>Zürich</Name></create></s:Body></s:Envelope>"#,
        PARTNER,
        "create",
    ),
];

#[test]
fn real_envelopes_get_the_session_and_nothing_else() {
    for (name, marked, namespace, operation) in REAL {
        check(name, marked, Credential::Session { fallback: "urn:unused" });
        let found = found(cases(marked).0.as_bytes(), SESSION);
        assert_eq!(found.operation.namespace, namespace, "{name}");
        assert_eq!(found.operation.name, operation, "{name}");
    }
}

/// Every beginning of a good envelope is fine, and the operation's start tag is where waiting ends.
#[test]
fn what_is_not_all_there_is_no_error() {
    for (name, marked, _, operation) in REAL {
        let envelope = cases(marked).0.into_bytes();
        let all = found(&envelope, SESSION);
        let mut first = None;
        for end in 0..=envelope.len() {
            match read(&envelope[..end], false, SESSION) {
                Ok(Reading::More) => assert_eq!(first, None, "{name}: more, after it was found, at {end}"),
                Ok(Reading::Found(found)) => {
                    assert_eq!(found, all, "{name} at {end}");
                    first.get_or_insert(end);
                }
                Err(unfit) => panic!("{name} at {end}: {unfit:?}"),
            }
            let whole = read(&envelope[..end], true, SESSION);
            assert_eq!(
                whole.err(),
                first.is_none().then_some(Unfit::CutShort),
                "{name} at {end}"
            );
        }
        let text = String::from_utf8_lossy(&envelope);
        let body = text.find("Body").unwrap();
        let tag = body + text[body..].find(operation).unwrap();
        let end = tag + text[tag..].find('>').unwrap() + 1;
        assert_eq!(first, Some(end), "{name}");
    }
}

/// The holder, as it stands in the header of an envelope that declares `p`, `q` and `xsi`; `[[old|new]]`.
fn check_header(header: &str) {
    let envelope = format!(
        r#"<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:p="{PARTNER}" xmlns:q="urn:other"><e:Header>{header}</e:Header><e:Body><p:query/></e:Body></e:Envelope>"#
    );
    check(header, &envelope, SESSION);
}

#[test]
fn every_kind_of_holder_is_filled() {
    for header in [
        // The content, whatever it is.
        "<p:SessionHeader><p:sessionId>[[old|{T}]]</p:sessionId></p:SessionHeader>",
        "<p:SessionHeader><p:sessionId>[[|{T}]]</p:sessionId></p:SessionHeader>",
        "<p:SessionHeader><p:sessionId>[[<![CDATA[old</p:sessionId>]]&gt;]]|{T}]]</p:sessionId></p:SessionHeader>".replace("]]&gt;]]", "]]>").as_str(),
        "<p:SessionHeader><p:sessionId>[[ o<!-- old -->l&#100;&amp;<?pi old?> |{T}]]</p:sessionId></p:SessionHeader>",
        "<p:SessionHeader><p:sessionId>[[<p:sessionId>old</p:sessionId><x><x/></x>|{T}]]</p:sessionId></p:SessionHeader>",
        "<p:SessionHeader><p:sessionId xsi:type=\"xsd:string\" >[[old|{T}]]</p:sessionId ></p:SessionHeader>",
        // Two, and beside others.
        "<p:SessionHeader><p:sessionId>[[a|{T}]]</p:sessionId><p:x>y</p:x><p:sessionId>[[b|{T}]]</p:sessionId></p:SessionHeader>",
        "<p:SessionHeader><p:other>kept</p:other><p:sessionId>[[a|{T}]]</p:sessionId></p:SessionHeader>",
        "<p:CallOptions><p:sessionId>kept</p:sessionId></p:CallOptions><p:SessionHeader><p:sessionId>[[a|{T}]]</p:sessionId></p:SessionHeader>",
        "<p:SessionHeader><p:sessionId>[[a|{T}]]</p:sessionId></p:SessionHeader><p:SessionHeader><p:sessionId>[[b|{T}]]</p:sessionId></p:SessionHeader>",
        // None, empty, nil.
        "<p:SessionHeader> <!-- none -->[[|<p:sessionId>{T}</p:sessionId>]]</p:SessionHeader>",
        "<p:SessionHeader e:mustUnderstand='1'[[/|><p:sessionId>{T}</p:sessionId></p:SessionHeader]]>",
        "<SessionHeader xmlns='urn:partner.soap.sforce.com' [[/|><sessionId>{T}</sessionId></SessionHeader]]>",
        "<p:SessionHeader><p:sessionId[[/|>{T}</p:sessionId]]></p:SessionHeader>",
        "<p:SessionHeader><p:sessionId a='b' [[/|>{T}</p:sessionId]]></p:SessionHeader>",
        "<p:SessionHeader>[[<p:sessionId xsi:nil=\"true\"/>|<p:sessionId>{T}</p:sessionId>]]</p:SessionHeader>",
        "<p:SessionHeader>[[<r:sessionId a='\"' xsi:nil='1' xmlns:r='urn:partner.soap.sforce.com'></r:sessionId>|<r:sessionId a='\"' xmlns:r=\"urn:partner.soap.sforce.com\">{T}</r:sessionId>]]</p:SessionHeader>",
        "<p:SessionHeader><p:sessionId xsi:nil='false'>[[old|{T}]]</p:sessionId></p:SessionHeader>",
        "[[<p:SessionHeader xsi:nil='true'/>|<p:SessionHeader><p:sessionId>{T}</p:sessionId></p:SessionHeader>]]",
        "[[<p:SessionHeader xsi:nil='true'> </p:SessionHeader>|<p:SessionHeader><p:sessionId>{T}</p:sessionId></p:SessionHeader>]]",
        // Of another namespace: filled, and the right one joins.
        "<q:SessionHeader><q:sessionId>[[old|{T}]]</q:sessionId></q:SessionHeader>[[|<SessionHeader xmlns=\"urn:partner.soap.sforce.com\"><sessionId>{T}</sessionId></SessionHeader>]]",
        "<SessionHeader><sessionId>[[old|{T}]]</sessionId></SessionHeader>[[|<SessionHeader xmlns=\"urn:partner.soap.sforce.com\"><sessionId>{T}</sessionId></SessionHeader>]]",
        "<q:SessionHeader><q:sessionId>[[a|{T}]]</q:sessionId></q:SessionHeader><p:SessionHeader><p:sessionId>[[b|{T}]]</p:sessionId></p:SessionHeader>",
        "<p:SessionHeader>[[<sessionId>old</sessionId>|<p:sessionId>{T}</p:sessionId>]]</p:SessionHeader>",
        "<p:SessionHeader>[[<q:sessionId/>|<p:sessionId>{T}</p:sessionId>]]</p:SessionHeader>",
        // The namespace as it may be written.
        "<SessionHeader xmlns='urn:partner&#46;soap.sforce.com'><sessionId>[[old|{T}]]</sessionId></SessionHeader>",
        // What only looks like one.
        "<!-- <p:SessionHeader><p:sessionId>kept</p:sessionId></p:SessionHeader> --><p:x a='<p:SessionHeader>'><p:SessionHeader><p:sessionId>kept</p:sessionId></p:SessionHeader></p:x><![CDATA[<p:SessionHeader>]]&gt;[[|<SessionHeader xmlns=\"urn:partner.soap.sforce.com\"><sessionId>{T}</sessionId></SessionHeader>]]".replace("]]&gt;[[", "]]>[[").as_str(),
    ] {
        check_header(header);
    }
}

#[test]
fn the_namespace_is_the_operations_or_else_the_paths() {
    let of_path = Credential::Session { fallback: METADATA };
    let head = r#"<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/">"#;
    for (body, namespace) in [
        ("<e:Body><query/></e:Body>", METADATA),
        ("<e:Body/>", METADATA),
        ("<e:Body> <!-- none --> </e:Body>", METADATA),
        (r#"<e:Body xmlns="urn:a"><query xmlns=""/></e:Body>"#, METADATA),
        (r#"<e:Body xmlns="urn:a"><query/></e:Body>"#, "urn:a"),
        (r#"<e:Body xmlns="urn:a"><q:query xmlns:q="urn:b"/></e:Body>"#, "urn:b"),
        (
            r#"<e:Body xmlns="urn:a&quot;&#38;&lt;"><query/></e:Body>"#,
            "urn:a&quot;&amp;&lt;",
        ),
    ] {
        let session = format!(r#"<SessionHeader xmlns="{namespace}"><sessionId>{{T}}</sessionId></SessionHeader>"#);
        check(
            body,
            &format!("{head}[[|<e:Header>{session}</e:Header>]]{body}</e:Envelope>"),
            of_path,
        );
    }
    let none = found(format!("{head}<e:Body/></e:Envelope>").as_bytes(), of_path);
    assert_eq!(none.operation, Operation::default());
    let bare = found(
        format!("{head}<e:Body><login/></e:Body></e:Envelope>").as_bytes(),
        of_path,
    );
    assert_eq!(
        (bare.operation.namespace.as_str(), bare.operation.name.as_str()),
        ("", "login")
    );
}

#[test]
fn marketing_cloud_gets_its_own() {
    for header in [
        "<s:Header><a:To s:mustUnderstand=\"1\">x</a:To><fueloauth xmlns=\"http://exacttarget.com\">[[old|{T}]]</fueloauth></s:Header>",
        "<s:Header><a:To>x</a:To>[[|<fueloauth xmlns=\"http://exacttarget.com\">{T}</fueloauth>]]</s:Header>",
        "<s:Header[[/|><fueloauth xmlns=\"http://exacttarget.com\">{T}</fueloauth></s:Header]]>",
        "[[|<s:Header><fueloauth xmlns=\"http://exacttarget.com\">{T}</fueloauth></s:Header>]]",
        "<s:Header><f:fueloauth xmlns:f=\"http://exacttarget.com\"[[/|>{T}</f:fueloauth]]></s:Header>",
        "<s:Header>[[<fueloauth a:nil='true' xmlns=\"http://exacttarget.com\"/>|<fueloauth xmlns=\"http://exacttarget.com\">{T}</fueloauth>]]</s:Header>",
        "<s:Header><fueloauth>[[old|{T}]]</fueloauth>[[|<fueloauth xmlns=\"http://exacttarget.com\">{T}</fueloauth>]]</s:Header>",
        // A session of the core is none there, and nobody's business.
        "<s:Header><SessionHeader xmlns=\"urn:x\"><sessionId>kept</sessionId></SessionHeader><fueloauth xmlns=\"http://exacttarget.com\">[[old|{T}]]</fueloauth></s:Header>",
    ] {
        let envelope = format!(
            r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing">{header}<s:Body><RetrieveRequestMsg xmlns="http://exacttarget.com/wsdl/partnerAPI"/></s:Body></s:Envelope>"#
        );
        check(header, &envelope, Credential::Fuel);
    }
}

/// A small envelope, to be broken.
const GOOD: &str = r#"<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:p="urn:p"><e:Header><p:SessionHeader><p:sessionId>CANARY</p:sessionId></p:SessionHeader></e:Header><e:Body><p:query/></e:Body></e:Envelope>"#;

#[test]
fn a_mark_counts() {
    let plain = found(GOOD.as_bytes(), SESSION);
    let marked = [b"\xef\xbb\xbf", GOOD.as_bytes()].concat();
    let found = found(&marked, SESSION);
    assert_eq!(found.edits.len(), 1);
    for (plain, marked) in plain.edits.iter().zip(&found.edits) {
        assert_eq!(plain.at.start + 3..plain.at.end + 3, marked.at);
    }
    for end in 0..3 {
        assert_eq!(read(&marked[..end], false, SESSION), Ok(Reading::More));
    }
}

#[test]
fn bytes_of_other_encodings_are_passed() {
    let (before, _) = cases(REAL[12].1);
    let latin: Vec<u8> = before.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    assert!(std::str::from_utf8(&latin).is_err());
    let result = apply(&latin, &found(&latin, SESSION).edits, "new");
    let (_, after) = cases(&REAL[12].1.replace("{T}", "new"));
    let result: String = result.into_iter().map(char::from).collect();
    assert_eq!(result, after);

    // Bytes that begin a character of several, and do not end it.
    let longer = GOOD.as_bytes().to_vec();
    let at = GOOD.find("<e:Header>").unwrap();
    let cut = [&longer[..at], b"<!-- \xe4\xb8 \xf0\x9f\x98 -->", &longer[at..]].concat();
    let plain = found(GOOD.as_bytes(), SESSION).edits.remove(0).at;
    let moved = cut.len() - longer.len();
    assert_eq!(found(&cut, SESSION).edits[0].at, plain.start + moved..plain.end + moved);
}

#[test]
fn paths_name_their_wsdl() {
    for (path, namespace) in [
        ("/services/Soap/u/60.0", Some(PARTNER)),
        ("/services/Soap/u", Some(PARTNER)),
        ("//services/Soap/u/v60.0/00D000000000001", Some(PARTNER)),
        (
            "/services/Soap/c/60.0/00D000000000001",
            Some("urn:enterprise.soap.sforce.com"),
        ),
        ("/services/Soap/m/60.0", Some(METADATA)),
        ("/services/Soap/T/60.0", Some("urn:tooling.soap.sforce.com")),
        ("/services/Soap/s/60.0", Some("http://soap.sforce.com/2006/08/apex")),
        (
            "/services/Soap/class/Orders",
            Some("http://soap.sforce.com/schemas/class/Orders"),
        ),
        (
            "/services/Soap/class/acme/Orders/",
            Some("http://soap.sforce.com/schemas/class/acme/Orders"),
        ),
        ("/services/Soap/class/", None),
        ("/services/Soap/class/a/b/c", None),
        ("/services/Soap/class/a%22b", None),
        ("/services/Soap/class//Orders", None),
        ("/services/Soap/x/60.0", None),
        ("/services/Soap/", None),
        ("/services/Soap", None),
        ("/services/Soapu/60.0", None),
        ("services/Soap/u/60.0", None),
        ("/services/data/v60.0", None),
        ("", None),
    ] {
        assert_eq!(namespace_of(path).as_deref(), namespace, "{path}");
    }
}
