//! Rows, queries and composites from outside.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};

use super::{DATA, got, start};

#[tokio::test]
async fn a_row_is_created_read_changed_upserted_and_deleted() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let accounts = format!("{DATA}/sobjects/Account");
    let made = practice
        .send(
            Method::POST,
            &accounts,
            &token,
            json!({"Name": "New", "External_Id__c": "X 1"}),
        )
        .await;
    assert_eq!(
        (made.status, &made.json()["success"], &made.json()["errors"]),
        (201, &json!(true), &json!([]))
    );
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let path = format!("{accounts}/{id}");
    assert_eq!(made.header("location"), Some(path.as_str()));
    let row = practice.get(&path, &token).await.json();
    assert_eq!((&row["Name"], &row["attributes"]["url"]), (&json!("New"), &json!(path)));

    let changed = practice
        .send(Method::PATCH, &path, &token, json!({"Name": "Changed"}))
        .await;
    assert_eq!((changed.status, changed.text.as_str()), (204, ""));
    let by_external = format!("{accounts}/External_Id__c/X%201");
    assert_eq!(
        practice.get(&format!("{by_external}?fields=Name"), &token).await.json()["Name"],
        "Changed"
    );
    let upserted = practice
        .send(Method::PATCH, &by_external, &token, json!({"Phone": "1"}))
        .await;
    assert_eq!((upserted.status, &upserted.json()["created"]), (200, &json!(false)));
    let upserted = practice
        .send(
            Method::PATCH,
            &format!("{accounts}/External_Id__c/X2"),
            &token,
            json!({"Name": "Two"}),
        )
        .await;
    assert_eq!((upserted.status, &upserted.json()["created"]), (201, &json!(true)));

    assert_eq!(
        practice.send(Method::DELETE, &path, &token, Value::Null).await.status,
        204
    );
    let gone = practice.get(&path, &token).await;
    assert_eq!(
        (gone.status, gone.json()),
        (
            404,
            json!([{"errorCode": "NOT_FOUND", "message": "The requested resource does not exist"}])
        )
    );
    let again = practice.send(Method::DELETE, &path, &token, Value::Null).await;
    assert_eq!(
        (again.status, again.json()),
        (
            404,
            json!([{"errorCode": "ENTITY_IS_DELETED", "message": "entity is deleted"}])
        )
    );
    practice.stop().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_is_refused() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let accounts = format!("{DATA}/sobjects/Account");
    for (body, code, fields) in [
        (json!({}), "REQUIRED_FIELD_MISSING", json!(["Name"])),
        (json!({"Name": "x", "Wrong": 1}), "INVALID_FIELD", Value::Null),
        (json!({"Name": 5}), "JSON_PARSER_ERROR", Value::Null),
        (json!({"Name": "x".repeat(256)}), "STRING_TOO_LONG", json!(["Name"])),
        (
            json!({"Name": "x", "External_Id__c": "A-0001"}),
            "DUPLICATE_VALUE",
            Value::Null,
        ),
    ] {
        let refused = practice.send(Method::POST, &accounts, &token, body).await;
        let error = &refused.json()[0];
        assert_eq!(
            (refused.status, &error["errorCode"], &error["fields"]),
            (400, &json!(code), &fields)
        );
    }
    let put = practice.send(Method::PUT, &accounts, &token, json!({})).await;
    assert_eq!(
        (put.status, put.json()[0]["errorCode"].clone()),
        (405, json!("METHOD_NOT_ALLOWED"))
    );
    assert_eq!(
        practice
            .get(&format!("{DATA}/sobjects/Nothing/describe"), &token)
            .await
            .status,
        404
    );
    practice.stop().await;
}

#[tokio::test]
async fn a_query_comes_in_pages_of_the_size_asked_for() {
    let practice = start(|settings| settings.seed_accounts = 2_100).await;
    let token = practice.token().await;
    let url = format!("{DATA}/query?q=SELECT+Id,Account.Name,LastName+FROM+Contact+ORDER+BY+LastName+DESC");
    for (size, pages) in [(None, 3), (Some("batchSize=1000"), 5), (Some("batchSize=1"), 21)] {
        let mut next = Some(url.clone());
        let (mut ids, mut seen) = (std::collections::HashSet::new(), 0);
        while let Some(path) = next {
            let mut call = practice.call(Method::GET, &path, &token);
            if let Some(size) = size {
                call = call.header("sforce-query-options", size);
            }
            let page = got(call).await.json();
            assert_eq!(page["totalSize"], 4_200);
            for record in page["records"].as_array().unwrap() {
                assert!(
                    record["Account"]["Name"]
                        .as_str()
                        .unwrap()
                        .starts_with("Practice Account")
                );
                ids.insert(record["Id"].as_str().unwrap().to_owned());
            }
            seen += 1;
            next = page["nextRecordsUrl"].as_str().map(str::to_owned);
            assert_eq!(page["done"], next.is_none());
        }
        assert_eq!((ids.len(), seen), (4_200, pages), "{size:?}");
    }
    let first = practice
        .get(
            &format!("{DATA}/query?q=SELECT+LastName+FROM+Contact+ORDER+BY+LastName+DESC+LIMIT+1"),
            &token,
        )
        .await
        .json();
    assert_eq!(first["records"][0]["LastName"], "Practice 2099");
    practice.stop().await;
}

#[tokio::test]
async fn queries_filter_count_and_refuse() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let query = |kind: &str, text: &str| {
        let text: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let path = format!("{DATA}/{kind}/?q={text}");
        let (practice, token) = (&practice, token.clone());
        async move { practice.get(&path, &token).await }
    };
    let count = query(
        "query",
        "SELECT COUNT() FROM Account WHERE Industry = 'Media' AND AnnualRevenue > 5000",
    )
    .await
    .json();
    assert_eq!(count, json!({"totalSize": 5, "done": true, "records": []}));
    let id = query("query", "SELECT Id FROM Account LIMIT 1").await.json()["records"][0]["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    practice
        .send(
            Method::DELETE,
            &format!("{DATA}/sobjects/Account/{id}"),
            &token,
            Value::Null,
        )
        .await;
    let total = |got: super::Got| got.json()["totalSize"].clone();
    assert_eq!(total(query("query", "SELECT Id FROM Account").await), 24);
    assert_eq!(total(query("queryAll", "SELECT Id FROM Account").await), 25);
    for (text, code) in [
        ("SELECT Id FRM Account", "MALFORMED_QUERY"),
        ("SELECT Id FROM Nothing", "INVALID_TYPE"),
        ("SELECT Wrong FROM Account", "INVALID_FIELD"),
        ("SELECT Id FROM Account WHERE Wrong = 1", "INVALID_FIELD"),
    ] {
        let refused = query("query", text).await;
        assert_eq!(
            (refused.status, &refused.json()[0]["errorCode"]),
            (400, &json!(code)),
            "{text}"
        );
    }
    let text = "SELECT+Id,Account.Name+FROM+Contact";
    let columns = practice
        .get(&format!("{DATA}/query?q={text}&columns=true"), &token)
        .await
        .json();
    let name = |column: &Value| column["columnName"].clone();
    let both = columns["columnMetadata"].as_array().unwrap();
    assert_eq!(both.iter().map(name).collect::<Vec<_>>(), ["Id", "Account"]);
    assert_eq!(name(&both[1]["joinColumns"][0]), "Name");
    let lost = practice
        .get(&format!("{DATA}/query/01gSB0000000999AAA-2000"), &token)
        .await;
    assert_eq!(lost.json()[0]["errorCode"], "INVALID_QUERY_LOCATOR");
    let found = practice
        .get(&format!("{DATA}/search/?q=FIND+%7Baccount+0007%7D"), &token)
        .await
        .json();
    assert_eq!(found["searchRecords"].as_array().unwrap().len(), 1);
    practice.stop().await;
}

#[tokio::test]
async fn composite_calls_see_each_other_and_fail_together() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let body = |second: &str, all_or_none: bool| {
        json!({"allOrNone": all_or_none, "compositeRequest": [
            {"method": "POST", "url": format!("{DATA}/sobjects/Account"), "referenceId": "a", "body": {"Name": "Composite"}},
            {"method": "POST", "url": format!("{DATA}/sobjects/Contact"), "referenceId": "c", "body": {second: "Person", "AccountId": "@{a.id}"}},
            {"method": "GET", "url": format!("{DATA}/sobjects/Account/@{{a.id}}?fields=Name"), "referenceId": "g"},
        ]})
    };
    let count = async || {
        practice
            .get(&format!("{DATA}/query?q=SELECT+Id+FROM+Account"), &token)
            .await
            .json()["totalSize"]
            .as_u64()
            .unwrap()
    };
    let path = format!("{DATA}/composite");
    let good = practice
        .send(Method::POST, &path, &token, body("LastName", true))
        .await
        .json();
    let results = good["compositeResponse"].as_array().unwrap();
    assert_eq!(
        results
            .iter()
            .map(|r| r["httpStatusCode"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [201, 201, 200]
    );
    assert_eq!(results[2]["body"]["Name"], "Composite");
    assert!(
        results[0]["httpHeaders"]["Location"]
            .as_str()
            .unwrap()
            .contains("/sobjects/Account/001")
    );
    assert_eq!(count().await, 26);

    let bad = practice
        .send(Method::POST, &path, &token, body("FirstName", true))
        .await
        .json();
    assert_eq!(bad["compositeResponse"][0]["body"][0]["errorCode"], "PROCESSING_HALTED");
    assert_eq!(
        bad["compositeResponse"][1]["body"][0]["errorCode"],
        "REQUIRED_FIELD_MISSING"
    );
    assert_eq!(count().await, 26, "undone");
    practice
        .send(Method::POST, &path, &token, body("FirstName", false))
        .await;
    assert_eq!(count().await, 27, "not all or none");

    let batch = json!({"batchRequests": [{"method": "GET", "url": "v66.0/limits"}, {"method": "GET", "url": "v66.0/sobjects/Nothing"}]});
    let batch = practice
        .send(Method::POST, &format!("{path}/batch"), &token, batch)
        .await
        .json();
    assert_eq!(
        (
            &batch["hasErrors"],
            &batch["results"][0]["statusCode"],
            &batch["results"][1]["statusCode"]
        ),
        (&json!(true), &json!(200), &json!(404))
    );
    let tree = json!({"records": [{"attributes": {"type": "Account", "referenceId": "t"}, "Name": "Tree"}]});
    let tree = practice
        .send(Method::POST, &format!("{path}/tree/Account"), &token, tree)
        .await;
    assert_eq!(
        (tree.status, &tree.json()["results"][0]["referenceId"]),
        (201, &json!("t"))
    );
    practice.stop().await;
}

#[tokio::test]
async fn collections_create_read_update_upsert_and_delete() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let path = format!("{DATA}/composite/sobjects");
    let account = |name: Value| json!({"attributes": {"type": "Account"}, "Name": name});
    let both = |all: bool| json!({"allOrNone": all, "records": [account(json!("One")), account(Value::Null)]});
    let some = practice.send(Method::POST, &path, &token, both(false)).await.json();
    assert_eq!(
        (&some[0]["success"], &some[1]["errors"][0]["statusCode"]),
        (&json!(true), &json!("REQUIRED_FIELD_MISSING"))
    );
    let none = practice.send(Method::POST, &path, &token, both(true)).await.json();
    assert_eq!(none[0]["errors"][0]["statusCode"], "ALL_OR_NONE_OPERATION_ROLLED_BACK");
    let id = some[0]["id"].as_str().unwrap();

    let update = json!({"records": [{"attributes": {"type": "Account"}, "id": id, "Name": "Two"}]});
    assert_eq!(
        practice.send(Method::PATCH, &path, &token, update).await.json()[0]["success"],
        true
    );
    let upsert = json!({"records": [{"attributes": {"type": "Account"}, "External_Id__c": "C-1", "Name": "Three"}]});
    let upserted = practice
        .send(Method::PATCH, &format!("{path}/Account/External_Id__c"), &token, upsert)
        .await
        .json();
    assert_eq!(upserted[0]["created"], true);
    let read = practice
        .get(&format!("{path}/Account?ids={id},001SB0000000zzz&fields=Name"), &token)
        .await
        .json();
    assert_eq!((&read[0]["Name"], &read[1]), (&json!("Two"), &Value::Null));
    let gone = practice
        .send(Method::DELETE, &format!("{path}?ids={id},xyz"), &token, Value::Null)
        .await
        .json();
    assert_eq!(
        (&gone[0]["success"], &gone[1]["errors"][0]["statusCode"]),
        (&json!(true), &json!("MALFORMED_ID"))
    );
    let many: Vec<Value> = (0..201).map(|n| account(json!(n.to_string()))).collect();
    assert_eq!(
        practice
            .send(Method::POST, &path, &token, json!({"records": many}))
            .await
            .status,
        400
    );
    practice.stop().await;
}

#[tokio::test]
async fn files_come_back_byte_for_byte() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let content: Vec<u8> = (0..200_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let path = format!("{DATA}/sobjects/ContentVersion");
    let by_json = json!({"PathOnClient": "a.bin", "VersionData": STANDARD.encode(&content)});
    let by_json = practice.send(Method::POST, &path, &token, by_json).await;
    // The description with a file name, as FormData gives one to every Blob, and without.
    let mut parts = b"--line\r\nContent-Disposition: form-data; name=\"entity_content\"\r\nContent-Type: application/json\r\n\r\n{\"PathOnClient\":\"b.bin\"}\r\n--line\r\nContent-Disposition: form-data; name=\"VersionData\"; filename=\"b.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n".to_vec();
    parts.extend_from_slice(&content);
    parts.extend_from_slice(b"\r\n--line--\r\n");
    let kind = "multipart/form-data; boundary=\"line\"";
    let send_parts = |parts: Vec<u8>| {
        got(practice
            .call(Method::POST, &path, &token)
            .header("content-type", kind)
            .body(parts))
    };
    let mut as_blob =
        b"--line\r\nContent-Disposition: form-data; name=\"entity_content\"; filename=\"blob\"\r\n".to_vec();
    as_blob.extend_from_slice(&parts[b"--line\r\nContent-Disposition: form-data; name=\"entity_content\"\r\n".len()..]);
    let (by_parts, by_blob) = (send_parts(parts).await, send_parts(as_blob).await);
    for made in [by_json, by_parts, by_blob] {
        assert_eq!(made.status, 201, "{}", made.text);
        let id = made.json()["id"].as_str().unwrap().to_owned();
        let file = practice
            .call(Method::GET, &format!("{path}/{id}/VersionData"), &token)
            .send()
            .await
            .unwrap();
        assert_eq!(file.bytes().await.unwrap(), content);
        assert_eq!(
            practice.get(&format!("{path}/{id}"), &token).await.json()["ContentSize"],
            200_000
        );
    }
    let broken = practice
        .send(Method::POST, &path, &token, json!({"PathOnClient": "c"}))
        .await;
    assert_eq!(broken.status, 400);
    practice.stop().await;
}

#[tokio::test]
async fn the_small_resources_answer() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    for (path, pointer, expected) in [
        ("", "/query", json!("/services/data/v66.0/query")),
        ("/", "/sobjects", json!("/services/data/v66.0/sobjects")),
        ("/limits/", "/DailyApiRequests/Max", json!(15_000)),
        ("/sobjects/", "/sobjects/0/name", json!("Account")),
        ("/sobjects/Account", "/objectDescribe/keyPrefix", json!("001")),
        ("/sobjects/Account/describe", "/fields/0/name", json!("Id")),
        ("/tooling/query/?q=SELECT+Id+FROM+ApexClass", "/done", json!(true)),
        ("/tooling/executeAnonymous?anonymousBody=x", "/success", json!(true)),
    ] {
        let answer = practice.get(&format!("{DATA}{path}"), &token).await;
        assert_eq!(
            (answer.status, answer.json().pointer(pointer)),
            (200, Some(&expected)),
            "{path}"
        );
    }
    let graphql = practice
        .send(
            Method::POST,
            &format!("{DATA}/graphql"),
            &token,
            json!({"query": "query x { uiapi { query { Account { edges { node { Id } } } } } }"}),
        )
        .await
        .json();
    assert_eq!(graphql["data"]["uiapi"]["query"]["Account"]["totalCount"], 10);
    practice.stop().await;
}
