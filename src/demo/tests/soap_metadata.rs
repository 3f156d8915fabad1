//! Metadata, Apex, Tooling and the sample web service from outside.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Practice,
    soap::{APEX, ECHO, METADATA, TOOLING, envelope, fault, post, soap},
    start,
};
use crate::demo::{soap::zip, xml::Element};

async fn metadata(practice: &Practice, token: &str, operation: &str) -> Element {
    soap(practice, "m/66.0/", METADATA, token, operation).await
}

#[tokio::test]
async fn components_are_described_listed_and_read() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let described = metadata(
        &practice,
        &token,
        "<describeMetadata><asOfVersion>66.0</asOfVersion></describeMetadata>",
    )
    .await;
    let result = described.child("result").unwrap();
    let objects: Vec<_> = result
        .all("metadataObjects")
        .map(|o| (o.word("xmlName"), o.word("directoryName")))
        .collect();
    assert!(objects.contains(&("CustomObject", "objects")) && objects.contains(&("ApexClass", "classes")));
    assert_eq!(result.word("testRequired"), "false");
    let listed = metadata(&practice, &token, "<listMetadata><queries><type>ApexClass</type></queries><queries><type>CustomObject</type></queries></listMetadata>").await;
    let names: Vec<_> = listed.all("result").map(|r| r.word("fullName")).collect();
    assert!(names.contains(&"Echo") && names.contains(&"Account"), "{names:?}");
    assert_eq!(listed.children[0].children.len(), 11);
    let read = metadata(&practice, &token, "<readMetadata><type>CustomObject</type><fullNames>Account</fullNames><fullNames>No__c</fullNames></readMetadata>").await;
    let records: Vec<_> = read.child("result").unwrap().all("records").collect();
    assert_eq!(
        (records[0].kind.as_deref(), records[0].word("fullName")),
        (Some("CustomObject"), "Account")
    );
    assert!(records[1].nil);
    for operation in [
        "<listMetadata><queries><type>Nothing</type></queries></listMetadata>",
        "<readMetadata><type>Nothing</type></readMetadata>",
        "<deleteMetadata><type>ApexClass</type><fullNames>Echo</fullNames></deleteMetadata>",
    ] {
        let answer = post(&practice, "m/66.0", envelope(METADATA, &token, "", operation)).await;
        assert_eq!(fault(&answer).0, "sf:INVALID_TYPE", "{operation}");
    }
    let many = "<fullNames>A</fullNames>".repeat(11);
    let many = format!("<readMetadata><type>CustomObject</type>{many}</readMetadata>");
    let answer = post(&practice, "m/66.0", envelope(METADATA, &token, "", &many)).await;
    assert_eq!(fault(&answer).0, "sf:EXCEEDED_ID_LIMIT");
    practice.stop().await;
}

#[tokio::test]
async fn components_are_made_changed_and_removed() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let custom = |operation: &str, name: &str, label: &str| {
        format!(
            "<{operation}><metadata xsi:type=\"w:CustomObject\"><fullName>{name}</fullName><label>{label}</label>\
            <nameField><type>Text</type></nameField></metadata></{operation}>"
        )
    };
    let outcome = async |operation: String| {
        let response = metadata(&practice, &token, &operation).await;
        let result = response.child("result").unwrap();
        let code = result.child("errors").map_or("", |e| e.word("statusCode"));
        format!(
            "{} {} {}{code}",
            result.word("fullName"),
            result.word("success"),
            result.word("created")
        )
    };
    assert_eq!(outcome(custom("createMetadata", "A__c", "A")).await, "A__c true ");
    assert_eq!(
        outcome(custom("createMetadata", "A__c", "A")).await,
        "A__c false DUPLICATE_DEVELOPER_NAME"
    );
    assert_eq!(outcome(custom("updateMetadata", "A__c", "B")).await, "A__c true ");
    assert_eq!(
        outcome(custom("updateMetadata", "B__c", "B")).await,
        "B__c false INVALID_CROSS_REFERENCE_KEY"
    );
    assert_eq!(
        outcome(custom("upsertMetadata", "A__c", "C &amp; D")).await,
        "A__c true false"
    );
    assert_eq!(outcome(custom("upsertMetadata", "B__c", "B")).await, "B__c true true");
    let read = "<readMetadata><type>CustomObject</type><fullNames>A__c</fullNames></readMetadata>";
    let read = metadata(&practice, &token, read).await;
    let record = read.child("result").unwrap().child("records").unwrap();
    assert_eq!(
        (record.word("label"), record.child("nameField").unwrap().word("type")),
        ("C & D", "Text")
    );
    let delete = "<deleteMetadata><type>CustomObject</type><fullNames>A__c</fullNames></deleteMetadata>".to_owned();
    assert_eq!(outcome(delete.clone()).await, "A__c true ");
    assert_eq!(outcome(delete).await, "A__c false INVALID_CROSS_REFERENCE_KEY");
    practice.stop().await;
}

async fn finished(practice: &Practice, token: &str, check: &str, id: &str) -> Element {
    let operation =
        format!("<{check}><asyncProcessId>{id}</asyncProcessId><includeDetails>true</includeDetails></{check}>");
    for _ in 0..1000 {
        let response = metadata(practice, token, &operation).await;
        if response.child("result").unwrap().word("done") == "true" {
            return response.child("result").unwrap().clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the job did not end");
}

/// The id of the job.
async fn begun(practice: &Practice, token: &str, operation: &str) -> String {
    let response = metadata(practice, token, operation).await;
    let result = response.child("result").unwrap();
    assert_eq!((result.word("done"), result.word("state")), ("false", "Queued"));
    result.word("id").to_owned()
}

fn package(files: &[(&str, &str)]) -> String {
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned().into()))
        .collect();
    STANDARD.encode(zip::write(&files).unwrap())
}

fn deploy(package: &str, options: &str) -> String {
    format!(
        "<deploy><ZipFile>{package}</ZipFile><DeployOptions><singlePackage>true</singlePackage>{options}</DeployOptions></deploy>"
    )
}

#[tokio::test]
async fn a_package_goes_in_and_comes_back() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let meta = "<ApexClass xmlns=\"http://soap.sforce.com/2006/04/metadata\"><apiVersion>66.0</apiVersion></ApexClass>";
    let object = "<CustomObject xmlns=\"http://soap.sforce.com/2006/04/metadata\"><label>Thing</label></CustomObject>";
    let files = [
        ("package.xml", "<Package/>"),
        ("classes/Hello.cls", "public class Hello {}"),
        ("classes/Hello.cls-meta.xml", meta),
        ("objects/Thing__c.object", object),
    ];
    let checked = begun(
        &practice,
        &token,
        &deploy(&package(&files), "<checkOnly>true</checkOnly>"),
    )
    .await;
    let result = finished(&practice, &token, "checkDeployStatus", &checked).await;
    assert_eq!(
        (
            result.word("success"),
            result.word("checkOnly"),
            result.word("numberComponentsTotal")
        ),
        ("true", "true", "2")
    );
    let list = "<listMetadata><queries><type>ApexClass</type></queries></listMetadata>";
    assert_eq!(
        metadata(&practice, &token, list).await.children.len(),
        1,
        "only checked"
    );

    let id = begun(&practice, &token, &deploy(&package(&files), "")).await;
    assert!(id.starts_with("0Af"));
    let result = finished(&practice, &token, "checkDeployStatus", &id).await;
    assert_eq!(
        (result.word("status"), result.word("numberComponentsDeployed")),
        ("Succeeded", "2")
    );
    let names: Vec<_> = result
        .child("details")
        .unwrap()
        .all("componentSuccesses")
        .map(|c| c.word("fileName"))
        .collect();
    assert_eq!(names, ["classes/Hello.cls", "objects/Thing__c.object"]);
    let read = metadata(
        &practice,
        &token,
        "<readMetadata><type>CustomObject</type><fullNames>Thing__c</fullNames></readMetadata>",
    )
    .await;
    assert_eq!(
        read.child("result").unwrap().child("records").unwrap().word("label"),
        "Thing"
    );

    let retrieve = "<retrieve><NAME><apiVersion>66.0</apiVersion><singlePackage>SINGLE</singlePackage><unpackaged>\
        <types><members>Hello</members><name>ApexClass</name></types><types><members>*</members><name>CustomObject</name></types>\
        </unpackaged></NAME></retrieve>";
    for (single, folder, name) in [("True", "", "retrieveRequest"), ("false", "unpackaged/", "request")] {
        let id = begun(
            &practice,
            &token,
            &retrieve.replace("SINGLE", single).replace("NAME", name),
        )
        .await;
        let result = finished(&practice, &token, "checkRetrieveStatus", &id).await;
        assert_eq!((result.word("status"), result.word("success")), ("Succeeded", "true"));
        let back = zip::read(&STANDARD.decode(result.word("zipFile")).unwrap()).unwrap();
        let text = |path: &str| {
            let path = format!("{folder}{path}");
            let found = back.iter().find(|(name, _)| *name == path);
            found.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
        };
        for (path, content) in &files[1..] {
            assert_eq!(text(path).as_deref(), Some(*content), "{path}");
        }
        assert!(
            text("objects/Account.object")
                .unwrap()
                .contains("<label>Account</label>")
        );
        assert!(
            text("package.xml")
                .unwrap()
                .contains("<members>Hello</members><name>ApexClass</name>")
        );
        assert_eq!(text("classes/Echo.cls"), None, "not asked for");
        let without = format!(
            "<checkRetrieveStatus><asyncProcessId>{id}</asyncProcessId><includeZip>false</includeZip></checkRetrieveStatus>"
        );
        let result = metadata(&practice, &token, &without).await;
        assert!(result.child("result").unwrap().child("zipFile").unwrap().nil);
    }
    practice.stop().await;
}

#[tokio::test]
async fn a_package_that_cannot_be_fails() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    for (package, error) in [
        (STANDARD.encode("no zip"), "the zip file cannot be read"),
        (package(&[("classes/A.cls", "x")]), "No package.xml found"),
    ] {
        let id = begun(&practice, &token, &deploy(&package, "")).await;
        let result = finished(&practice, &token, "checkDeployStatus", &id).await;
        assert_eq!((result.word("status"), result.word("errorMessage")), ("Failed", error));
        let other = format!("<checkRetrieveStatus><asyncProcessId>{id}</asyncProcessId></checkRetrieveStatus>");
        let answer = post(&practice, "m/66.0", envelope(METADATA, &token, "", &other)).await;
        assert_eq!(fault(&answer).0, "sf:INVALID_ID_FIELD");
    }
    let answer = post(&practice, "m/66.0", envelope(METADATA, &token, "", &deploy("***", ""))).await;
    assert_eq!(fault(&answer).0, "soapenv:Client");
    practice.stop().await;
}

#[tokio::test]
async fn apex_tooling_and_the_web_service_answer() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let run = "<executeAnonymous><String>System.debug(1);</String></executeAnonymous>";
    for (path, namespace) in [("s/66.0", APEX), ("T/66.0", TOOLING)] {
        let done = soap(&practice, path, namespace, &token, run).await;
        let result = done.child("result").unwrap();
        assert_eq!(
            (result.word("compiled"), result.word("success"), result.word("line")),
            ("true", "true", "-1")
        );
    }
    let info = soap(&practice, "T/66.0", TOOLING, &token, "<getUserInfo/>").await;
    assert_eq!(
        info.child("result").unwrap().word("organizationId"),
        practice.org.org_id()
    );
    let query = |text: &str| format!("<query><queryString>{text}</queryString></query>");
    let found = soap(
        &practice,
        "T/66.0",
        TOOLING,
        &token,
        &query("SELECT Id, Name, Body FROM ApexClass WHERE Name = 'Echo'"),
    )
    .await;
    let result = found.child("result").unwrap();
    let class = result.child("records").unwrap();
    assert_eq!(
        (result.word("totalSize"), class.word("Name"), class.kind.as_deref()),
        ("1", "Echo", Some("ApexClass"))
    );
    assert!(class.word("Body").starts_with("global class Echo"));
    let none = query("SELECT Id FROM ApexClass WHERE Name = 'None'");
    let found = soap(&practice, "T/66.0", TOOLING, &token, &none).await;
    assert_eq!(found.child("result").unwrap().word("size"), "0");
    for (text, code) in [
        ("SELECT Id FROM Account", "INVALID_TYPE"),
        ("SELECT Wrong FROM ApexClass", "INVALID_FIELD"),
    ] {
        let answer = post(&practice, "T/66.0", envelope(TOOLING, &token, "", &query(text))).await;
        assert_eq!(fault(&answer).0, format!("sf:{code}"));
    }
    let echo = soap(
        &practice,
        "class/Echo",
        ECHO,
        &token,
        "<echo><text> a &lt; b </text></echo>",
    )
    .await;
    assert_eq!(
        (echo.name.as_str(), echo.child("result").unwrap().text.as_str()),
        ("echoResponse", " a < b ")
    );
    let none = soap(&practice, "class/Echo", ECHO, &token, "<echo/>").await;
    assert!(none.child("result").unwrap().nil);
    practice.stop().await;
}
