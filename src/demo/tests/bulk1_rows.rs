//! What batches of Bulk API 1.0 do, and what they give back, in each content type.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    DATA,
    bulk1::{NAMESPACE, batch, call, created, job, refusal, root},
    start,
};

#[tokio::test]
async fn csv_rows_go_in_and_tell_how_it_went() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let job = created(
        &practice,
        &token,
        &[("operation", "insert"), ("object", "Account"), ("contentType", "CSV")],
    )
    .await;
    let csv = "Name,AnnualRevenue\n\"One, two\",1\n,2\n";
    let (path, info) = batch(&practice, &token, &job, "text/csv", csv).await;
    assert_eq!(
        (
            info.word("state"),
            info.word("numberRecordsProcessed"),
            info.word("numberRecordsFailed")
        ),
        ("Completed", "2", "1")
    );
    assert!(info.word("createdDate").ends_with('Z'));
    let result = call(&practice, Method::GET, &format!("{path}/result"), &token, "", "").await;
    assert_eq!(result.header("content-type"), Some("text/csv"));
    let lines: Vec<&str> = result.text.lines().collect();
    assert_eq!(lines[0], "\"Id\",\"Success\",\"Created\",\"Error\"");
    assert!(
        lines[1].starts_with("\"001") && lines[1].ends_with("\"true\",\"true\",\"\""),
        "{}",
        lines[1]
    );
    assert_eq!(
        lines[2],
        "\"\",\"false\",\"false\",\"REQUIRED_FIELD_MISSING:Required fields are missing: [Name]:Name --\""
    );
    let sent = call(&practice, Method::GET, &format!("{path}/request"), &token, "", "").await;
    assert_eq!(
        (sent.text.as_str(), sent.header("content-type")),
        (csv, Some("text/csv"))
    );
    let id = lines[1].split('"').nth(1).unwrap().to_owned();

    // By id, 15 characters long, and by an external id.
    for (operation, csv, created_too) in [
        ("update", format!("Id,Industry\n{},Media\n", &id[..15]), "false"),
        ("upsert", "External_Id__c,Name\nB1-1,New\n".to_owned(), "true"),
        ("hardDelete", format!("Id\n{id}\n"), "false"),
    ] {
        let fields = [
            ("operation", operation),
            ("object", "Account"),
            ("externalIdFieldName", "External_Id__c"),
            ("contentType", "CSV"),
        ];
        let job = created(&practice, &token, &fields).await;
        let (path, info) = batch(&practice, &token, &job, "text/csv", &csv).await;
        assert_eq!(
            (info.word("state"), info.word("numberRecordsFailed")),
            ("Completed", "0"),
            "{operation}"
        );
        let result = call(&practice, Method::GET, &format!("{path}/result"), &token, "", "").await;
        assert!(
            result.text.contains(&format!("\"true\",\"{created_too}\",\"\"")),
            "{}",
            result.text
        );
    }
    assert_eq!(
        practice
            .get(&format!("{DATA}/sobjects/Account/{id}"), &token)
            .await
            .status,
        404
    );

    let (_, failed) = batch(&practice, &token, &job, "text/csv", "Wrong\nx\n").await;
    assert_eq!(
        (failed.word("state"), failed.word("stateMessage")),
        ("Failed", "InvalidBatch : Field name not found : Wrong")
    );
    let list = root(
        &call(&practice, Method::GET, &format!("{job}/batch"), &token, "", "").await,
        "batchInfoList",
    );
    let states: Vec<_> = list.all("batchInfo").map(|b| b.word("state")).collect();
    assert_eq!(states, ["Completed", "Failed"]);
    let closed = call(
        &practice,
        Method::POST,
        &job,
        &token,
        "application/xml",
        &self::job(&[("state", "Closed")]),
    )
    .await;
    let info = root(&closed, "jobInfo");
    assert_eq!(
        [
            info.word("state"),
            info.word("numberBatchesTotal"),
            info.word("numberBatchesFailed"),
            info.word("numberRecordsProcessed")
        ],
        ["Closed", "2", "1", "2"]
    );
    let late = call(
        &practice,
        Method::POST,
        &format!("{job}/batch"),
        &token,
        "text/csv",
        csv,
    )
    .await;
    assert_eq!(refusal(&late).0, "InvalidJobState");
    practice.stop().await;
}

/// As simple-salesforce speaks: JSON throughout.
#[tokio::test]
async fn json_jobs_speak_json() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    const KIND: &str = "application/json";
    let post = async |path: &str, body: &str| call(&practice, Method::POST, path, &token, KIND, body).await;
    let get = async |path: &str| call(&practice, Method::GET, path, &token, KIND, "").await.json();
    let body = r#"{"operation":"insert","object":"Contact","concurrencyMode":1,"contentType":"JSON"}"#;
    let made = post("/job", body).await;
    assert_eq!((made.status, made.header("content-type")), (201, Some(KIND)));
    let made = made.json();
    assert_eq!(
        (
            &made["concurrencyMode"],
            &made["apiVersion"],
            &made["numberBatchesTotal"]
        ),
        (&json!("Serial"), &json!(66.0), &json!(0))
    );
    let job = format!("/job/{}", made["id"].as_str().unwrap());
    let rows =
        r#"[{"attributes":{"type":"Contact"},"LastName":"One","DoNotCall":true,"Email":null},{"FirstName":"x"}]"#;
    let (path, _) = batch(&practice, &token, &job, KIND, rows).await;
    assert_eq!(get(&path).await["state"], "Completed");
    let results = get(&format!("{path}/result")).await;
    assert_eq!(
        (&results[0]["success"], &results[0]["created"], &results[0]["errors"]),
        (&json!(true), &json!(true), &json!([]))
    );
    assert_eq!(
        (&results[1]["id"], &results[1]["errors"][0]["statusCode"]),
        (&Value::Null, &json!("REQUIRED_FIELD_MISSING"))
    );
    assert_eq!(get(&format!("{path}/request")).await[0]["LastName"], "One");
    assert_eq!(
        get(&format!("{job}/batch")).await["batchInfo"][0]["numberRecordsFailed"],
        1
    );
    assert_eq!(post(&job, r#"{"state":"Closed"}"#).await.json()["state"], "Closed");

    let query = post(
        "/job",
        r#"{"operation":"query","object":"Contact","contentType":"JSON"}"#,
    )
    .await
    .json();
    let job = format!("/job/{}", query["id"].as_str().unwrap());
    let soql = "SELECT Id, LastName, DoNotCall FROM Contact WHERE LastName = 'One'";
    let (path, _) = batch(&practice, &token, &job, KIND, soql).await;
    let list = get(&format!("{path}/result")).await;
    let rows = get(&format!("{path}/result/{}", list[0].as_str().unwrap())).await;
    assert_eq!(
        (
            &rows[0]["LastName"],
            &rows[0]["DoNotCall"],
            &rows[0]["attributes"]["type"]
        ),
        (&json!("One"), &json!(true), &json!("Contact"))
    );
    let bad = call(&practice, Method::POST, "/job", &token, KIND, "{").await;
    assert_eq!(
        (bad.status, &bad.json()["exceptionCode"]),
        (400, &json!("ClientInputError"))
    );
    practice.stop().await;
}

#[tokio::test]
async fn xml_jobs_and_queries_of_every_kind() {
    let practice = start(|settings| settings.seed_accounts = 3).await;
    let token = practice.token().await;
    // XML is what a job is without a content type.
    let job = created(
        &practice,
        &token,
        &[
            ("operation", "upsert"),
            ("object", "Account"),
            ("externalIdFieldName", "External_Id__c"),
        ],
    )
    .await;
    let rows = format!(
        "<sObjects xmlns=\"{NAMESPACE}\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><sObject><External_Id__c>A-0001</External_Id__c>\
        <Name>A &amp; B</Name><Phone xsi:nil=\"true\"/></sObject><sObject><Name>No id</Name></sObject></sObjects>"
    );
    let (path, info) = batch(&practice, &token, &job, "text/xml", &rows).await;
    assert_eq!(info.word("state"), "Completed");
    let results = root(
        &call(&practice, Method::GET, &format!("{path}/result"), &token, "", "").await,
        "results",
    );
    assert_eq!(
        (results.children[0].word("success"), results.children[0].word("created")),
        ("true", "false")
    );
    assert_eq!(
        results.children[1].child("errors").unwrap().word("statusCode"),
        "MISSING_ARGUMENT"
    );

    let soql = "SELECT Name, Phone FROM Account WHERE External_Id__c = 'A-0001'";
    for (kind, content) in [("text/csv", "CSV"), ("application/xml", "XML")] {
        let job = created(
            &practice,
            &token,
            &[
                ("operation", "queryAll"),
                ("object", "Account"),
                ("contentType", content),
            ],
        )
        .await;
        let (path, info) = batch(&practice, &token, &job, kind, soql).await;
        assert_eq!(
            (info.word("state"), info.word("numberRecordsProcessed")),
            ("Completed", "1"),
            "{content}"
        );
        // tap-salesforce asks with JSON's content type and reads XML.
        let list = call(
            &practice,
            Method::GET,
            &format!("{path}/result"),
            &token,
            "application/json",
            "",
        )
        .await;
        let result = root(&list, "result-list").word("result").to_owned();
        let rows = call(
            &practice,
            Method::GET,
            &format!("{path}/result/{}", &result[..15]),
            &token,
            "",
            "",
        )
        .await;
        if content == "CSV" {
            assert_eq!(rows.text, "\"Name\",\"Phone\"\n\"A & B\",\"\"\n");
        } else {
            let record = root(&rows, "queryResult").children[0].clone();
            assert_eq!((record.word("type"), record.word("Name")), ("Account", "A & B"));
            assert!(record.child("Phone").unwrap().nil);
        }
        let wrong = call(
            &practice,
            Method::GET,
            &format!("{path}/result/752SB0000000zzz"),
            &token,
            "",
            "",
        )
        .await;
        assert_eq!(refusal(&wrong).0, "InvalidBatch");
    }
    let job = created(
        &practice,
        &token,
        &[("operation", "query"), ("object", "Account"), ("contentType", "CSV")],
    )
    .await;
    let (path, _) = batch(
        &practice,
        &token,
        &job,
        "text/csv",
        "SELECT Id FROM Account WHERE Name = 'nobody'",
    )
    .await;
    let list = call(&practice, Method::GET, &format!("{path}/result"), &token, "", "").await;
    let result = root(&list, "result-list").word("result").to_owned();
    let none = call(
        &practice,
        Method::GET,
        &format!("{path}/result/{result}"),
        &token,
        "",
        "",
    )
    .await;
    assert_eq!(none.text, "Records not found for this query");
    for soql in ["SELECT", "SELECT Id FROM Contact", "SELECT COUNT() FROM Account"] {
        let (path, info) = batch(&practice, &token, &job, "text/csv", soql).await;
        assert_eq!(info.word("state"), "Failed", "{soql}");
        assert!(
            info.word("stateMessage")
                .starts_with("InvalidBatch : Failed to process query")
        );
        let result = call(&practice, Method::GET, &format!("{path}/result"), &token, "", "").await;
        assert_eq!(
            refusal(&result),
            ("InvalidBatch".into(), "Records not processed".into())
        );
    }
    practice.stop().await;
}
