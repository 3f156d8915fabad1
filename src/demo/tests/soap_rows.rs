//! SOAP's rows, objects and login from outside.

use secrecy::ExposeSecret as _;

use super::{
    DATA,
    soap::{ENTERPRISE, PARTNER, envelope, fault, good, post, soap},
    start,
};

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
