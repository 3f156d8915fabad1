//! Bulk 2.0 from outside.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{DATA, Got, Practice, got, start};

async fn job_of(practice: &Practice, token: &str, kind: &str, body: Value) -> String {
    let answer = practice
        .send(Method::POST, &format!("{DATA}/jobs/{kind}"), token, body)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    format!("{DATA}/jobs/{kind}/{}", answer.json()["id"].as_str().unwrap())
}

async fn finished(practice: &Practice, token: &str, job: &str) -> Value {
    for _ in 0..1000 {
        let state = practice.get(job, token).await.json();
        if ["JobComplete", "Failed", "Aborted"].contains(&state["state"].as_str().unwrap()) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the job did not end");
}

async fn ingest(practice: &Practice, token: &str, job_body: Value, csv: String) -> (String, Value) {
    let job = job_of(practice, token, "ingest", job_body).await;
    let upload = practice
        .call(Method::PUT, &format!("{job}/batches"), token)
        .header("content-type", "text/csv");
    assert_eq!(got(upload.body(csv)).await.status, 201);
    let closed = practice
        .send(Method::PATCH, &job, token, json!({"state": "UploadComplete"}))
        .await;
    assert_eq!(closed.json()["state"], "UploadComplete");
    let state = finished(practice, token, &job).await;
    (job, state)
}

fn lines(got: &Got) -> Vec<String> {
    got.text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn fifty_thousand_rows_go_in_quickly_and_come_out_in_pages() {
    let practice = start(|settings| settings.seed_accounts = 0).await;
    let token = practice.token().await;
    let mut csv = String::from("Name,Industry,AnnualRevenue,External_Id__c\n");
    for n in 0..50_000 {
        csv += &format!("\"Bulk, {n}\",Energy,{n},B-{n}\n");
    }
    #[expect(clippy::disallowed_methods, reason = "the speed is what is tested")]
    let began = Instant::now();
    let (job, state) = ingest(
        &practice,
        &token,
        json!({"object": "Account", "operation": "insert"}),
        csv,
    )
    .await;
    let took = began.elapsed();
    assert_eq!(
        (
            &state["state"],
            &state["numberRecordsProcessed"],
            &state["numberRecordsFailed"]
        ),
        (&json!("JobComplete"), &json!(50_000), &json!(0))
    );
    assert!(took < Duration::from_secs(4), "{took:?}");
    println!("50,000 rows in {took:?}");

    let good = practice.get(&format!("{job}/successfulResults"), &token).await;
    assert_eq!(good.header("sforce-numberofrecords"), Some("50000"));
    let good = lines(&good);
    assert_eq!(good.len(), 50_001);
    assert_eq!(
        good[0],
        "\"sf__Id\",\"sf__Created\",\"Name\",\"Industry\",\"AnnualRevenue\",\"External_Id__c\""
    );
    assert!(
        good[1].starts_with("\"001") && good[1].ends_with("\"true\",\"Bulk, 0\",\"Energy\",\"0\",\"B-0\""),
        "{}",
        good[1]
    );

    let query = job_of(
        &practice,
        &token,
        "query",
        json!({"operation": "query", "query": "SELECT Id, Name FROM Account"}),
    )
    .await;
    assert_eq!(
        finished(&practice, &token, &query).await["numberRecordsProcessed"],
        50_000
    );
    let (mut locator, mut rows, mut pages) = (String::new(), 0, 0);
    while locator != "null" {
        let page = practice
            .get(&format!("{query}/results?maxRecords=20000&locator={locator}"), &token)
            .await;
        assert_eq!(lines(&page)[0], "\"Id\",\"Name\"");
        let count: usize = page.header("sforce-numberofrecords").unwrap().parse().unwrap();
        assert_eq!(lines(&page).len(), count + 1);
        rows += count;
        pages += 1;
        locator = page.header("sforce-locator").unwrap().to_owned();
    }
    assert_eq!((rows, pages), (50_000, 3));
    let page = practice.get(&format!("{query}/results"), &token).await;
    assert_eq!(
        page.header("sforce-numberofrecords"),
        Some("20000"),
        "pages come unasked"
    );
    practice.stop().await;
}

#[tokio::test]
async fn bad_rows_fail_alone_and_the_others_go_in() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let csv =
        "External_Id__c;Name;AnnualRevenue\r\nA-0001;Renamed;5\r\nN-1;New;6\r\nN-2;;7\r\nN-3;Bad;many\r\n;NoId;1\r\n";
    let body = json!({"object": "Account", "operation": "upsert", "externalIdFieldName": "External_Id__c", "columnDelimiter": "SEMICOLON", "lineEnding": "CRLF"});
    let (job, state) = ingest(&practice, &token, body, csv.into()).await;
    assert_eq!(
        (&state["numberRecordsProcessed"], &state["numberRecordsFailed"]),
        (&json!(5), &json!(3))
    );
    let good = practice.get(&format!("{job}/successfulResults"), &token).await.text;
    assert!(
        good.contains("\"false\";\"A-0001\"") && good.contains("\"true\";\"N-1\""),
        "{good}"
    );
    let bad = practice.get(&format!("{job}/failedResults"), &token).await.text;
    for part in [
        "REQUIRED_FIELD_MISSING:Required fields are missing: [Name]:Name --",
        "INVALID_TYPE_ON_FIELD_IN_RECORD",
        "MISSING_ARGUMENT",
    ] {
        assert!(bad.contains(part), "{part} in {bad}");
    }
    let rest = practice.get(&format!("{job}/unprocessedrecords"), &token).await;
    assert_eq!(lines(&rest).len(), 1);
    let row = practice
        .get(&format!("{DATA}/sobjects/Account/External_Id__c/A-0001"), &token)
        .await
        .json();
    assert_eq!(row["Name"], "Renamed");
    practice.stop().await;
}

#[tokio::test]
async fn rows_are_updated_and_deleted_by_id() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let path = format!("{DATA}/sobjects/Account/External_Id__c/A-0003");
    let id = practice.get(&path, &token).await.json()["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    ingest(
        &practice,
        &token,
        json!({"object": "Account", "operation": "update"}),
        format!("Id,Phone,Industry\n{id},#N/A,\n"),
    )
    .await;
    let row = practice.get(&path, &token).await.json();
    assert_eq!((&row["Phone"], &row["Industry"]), (&Value::Null, &json!("Retail")));
    let (_, state) = ingest(
        &practice,
        &token,
        json!({"object": "Account", "operation": "delete"}),
        format!("Id\n{id}\n001SB0000000zzz\n"),
    )
    .await;
    assert_eq!(state["numberRecordsFailed"], 1);
    assert_eq!(practice.get(&path, &token).await.status, 404);
    practice.stop().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_says_why() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let ingest_path = format!("{DATA}/jobs/ingest");
    for body in [
        json!({"object": "Nothing", "operation": "insert"}),
        json!({"object": "Account"}),
        json!({"object": "Account", "operation": "upsert"}),
    ] {
        let refused = practice.send(Method::POST, &ingest_path, &token, body).await;
        assert_eq!(
            (refused.status, &refused.json()[0]["errorCode"]),
            (400, &json!("INVALIDJOB"))
        );
    }
    let (job, state) = ingest(
        &practice,
        &token,
        json!({"object": "Account", "operation": "insert"}),
        "Name,Wrong\na,b\n".into(),
    )
    .await;
    assert_eq!(state["state"], "Failed");
    assert_eq!(state["errorMessage"], "InvalidBatch : Field name not found : Wrong");
    let rest = practice.get(&format!("{job}/unprocessedrecords"), &token).await;
    assert_eq!(rest.text, "Name,Wrong\na,b\n");
    assert_eq!(
        practice
            .get(&format!("{ingest_path}/750SB0000000zzz"), &token)
            .await
            .status,
        404
    );
    let again = practice
        .send(Method::PATCH, &job, &token, json!({"state": "UploadComplete"}))
        .await;
    assert_eq!(again.json()[0]["errorCode"], "INVALIDJOBSTATE");
    practice.stop().await;
}
