//! The life of a refresh token.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{DATA, Practice, got, start};

const DEAD: &str = "invalid_grant: expired access/refresh token";

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}"))
}

impl Practice {
    /// As the first web app sees it.
    async fn introspected(&self, token: &str) -> Value {
        let app = self.org.settings().web_apps[0].clone();
        let form = [
            ("token", token),
            ("token_type_hint", "refresh_token"),
            ("client_id", &app.client_id),
            ("client_secret", app.secret.as_ref().unwrap().expose_secret()),
        ];
        let url = format!("{}/services/oauth2/introspect", self.org.login_url());
        got(self.client.post(url).form(&form)).await.json()
    }
}

#[tokio::test]
async fn without_rotation_it_works_again_and_again() {
    let practice = start(|_| {}).await;
    let login = practice.approved().await;
    let token = text(&login, "refresh_token");
    practice.org.revoke();
    for _ in 0..2 {
        let answer = practice.refresh(0, token).await.json();
        assert!(answer.get("refresh_token").is_none());
        assert!(answer["signature"].is_string() && answer["issued_at"].is_string());
        assert_eq!(answer["scope"], "api id refresh_token cdp_query_api");
        let access = text(&answer, "access_token");
        assert_eq!(practice.get(&format!("{DATA}/limits"), access).await.status, 200);
    }
    assert_eq!(practice.refresh(0, "5Aep861unknown").await.refusal(), DEAD);
    assert_eq!(practice.refresh(1, token).await.refusal(), DEAD, "another app's");
    let stats = practice.org.stats();
    assert_eq!(
        (stats.by_grant.refresh_token, stats.by_grant.authorization_code),
        (4, 1)
    );
    assert_eq!((stats.logins, stats.spent_refresh_presented), (3, 0));
    practice.stop().await;
}

#[tokio::test]
async fn with_rotation_the_old_one_is_spent_and_presenting_it_ends_everything() {
    let practice = start(|_| {}).await;
    practice.control("rotation", json!({"on": true})).await;
    let login = practice.approved().await;
    let first = text(&login, "refresh_token");
    let answer = practice.refresh(0, first).await.json();
    let (second, access) = (text(&answer, "refresh_token"), text(&answer, "access_token"));
    assert_ne!(second, first);
    let bystander = practice.approved().await;

    assert_eq!(practice.introspected(first).await, json!({"active": false}));
    assert_eq!(practice.introspected(second).await["active"], true);
    assert_eq!(
        practice.org.stats().spent_refresh_presented,
        0,
        "asking presents nothing"
    );
    assert!(practice.org.knows(access));

    assert_eq!(practice.refresh(0, first).await.refusal(), DEAD);
    assert_eq!(practice.org.stats().spent_refresh_presented, 1);
    assert!(!practice.org.knows(access), "its access tokens end too");
    assert_eq!(practice.introspected(second).await, json!({"active": false}));
    assert_eq!(practice.refresh(0, second).await.refusal(), DEAD);
    assert_eq!(
        practice.org.stats().spent_refresh_presented,
        1,
        "the current one was not spent, only revoked"
    );
    assert!(practice.org.knows(text(&bystander, "access_token")));
    assert_eq!(practice.refresh(0, text(&bystander, "refresh_token")).await.status, 200);
    practice.stop().await;
}

#[tokio::test]
async fn what_somebody_else_spent_is_dead_for_us() {
    let practice = start(|_| {}).await;
    let login = practice.approved().await;
    assert_eq!(practice.control("spend", json!({})).await, json!({"spent": 1}));
    assert!(
        practice.org.knows(text(&login, "access_token")),
        "until it is presented"
    );
    assert_eq!(practice.refresh(0, text(&login, "refresh_token")).await.refusal(), DEAD);
    assert!(!practice.org.knows(text(&login, "access_token")));
    assert_eq!(practice.org.stats().spent_refresh_presented, 1);
    practice.stop().await;
}

#[tokio::test]
async fn one_refresh_token_is_answered_once_at_a_time() {
    let practice = start(|_| {}).await;
    let login = practice.approved().await;
    practice.control("latency", json!({"token_ms": 1000})).await;
    let token = text(&login, "refresh_token");
    let (a, b, c) = tokio::join!(
        practice.refresh(0, token),
        practice.refresh(0, token),
        practice.refresh(0, token)
    );
    let mut good = 0;
    for answer in [a, b, c] {
        if answer.status == 200 {
            good += 1;
        } else {
            assert_eq!(
                answer.refusal(),
                "invalid_grant: token request is already being processed"
            );
        }
    }
    let stats = practice.org.stats();
    assert_eq!((good, stats.refused_parallel_refreshes), (1, 2));
    assert_eq!(practice.refresh(0, token).await.status, 200, "when the first is done");

    // a caller that left does not block the next one
    practice.control("latency", json!({"token_ms": 60_000})).await;
    let left = tokio::time::timeout(Duration::from_millis(100), practice.refresh(0, token)).await;
    assert!(left.is_err());
    practice.control("latency", json!({})).await;
    let mut status = 400;
    for _ in 0..100 {
        status = practice.refresh(0, token).await.status;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status, 200);
    practice.stop().await;
}

#[tokio::test]
async fn an_answer_can_be_lost_after_the_org_has_done_it() {
    let practice = start(|_| {}).await;
    practice.org.set_rotation(true);
    let login = practice.approved().await;
    practice.control("lose_token_answers", json!({"count": 1})).await;
    let app = practice.org.settings().web_apps[0].clone();
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", &app.client_id),
        ("client_secret", app.secret.as_ref().unwrap().expose_secret()),
        ("refresh_token", text(&login, "refresh_token")),
    ];
    let url = format!("{}/services/oauth2/token", practice.org.login_url());
    assert!(practice.client.post(url).form(&form).send().await.is_err());
    assert_eq!(practice.refresh(0, text(&login, "refresh_token")).await.refusal(), DEAD);
    assert_eq!(practice.org.stats().spent_refresh_presented, 1);
    practice.stop().await;
}

#[tokio::test]
async fn a_caller_that_gives_up_has_its_refresh_token_rotated_all_the_same() {
    let practice = start(|_| {}).await;
    practice.org.set_rotation(true);
    let login = practice.approved().await;
    let token = text(&login, "refresh_token");
    practice
        .control("delay_token_answers", json!({"token_ms": 60_000}))
        .await;
    let done = async {
        while practice.org.stats().token_ok < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Both may be dropped: giving up is what is tested.
    tokio::select! {
        _ = practice.refresh(0, token) => panic!("answered"),
        done = tokio::time::timeout(Duration::from_secs(30), done) => done.unwrap(),
    }
    practice.control("delay_token_answers", json!({})).await;
    let mut refusal = practice.refresh(0, token).await.refusal();
    for _ in 0..100 {
        if refusal == DEAD {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        refusal = practice.refresh(0, token).await.refusal();
    }
    assert_eq!(refusal, DEAD);
    assert_eq!(practice.org.stats().spent_refresh_presented, 1);
    practice.stop().await;
}

#[tokio::test]
async fn the_sixth_approval_ends_the_first_and_its_access_tokens() {
    let practice = start(|_| {}).await;
    let mut logins = Vec::new();
    for _ in 0..6 {
        logins.push(practice.approved().await);
    }
    let lives: Vec<bool> = logins
        .iter()
        .map(|l| practice.org.knows(text(l, "access_token")))
        .collect();
    assert_eq!(lives, [false, true, true, true, true, true]);
    assert_eq!(
        practice.refresh(0, text(&logins[0], "refresh_token")).await.refusal(),
        DEAD
    );
    assert_eq!(practice.refresh(0, text(&logins[1], "refresh_token")).await.status, 200);
    practice.stop().await;
}

#[tokio::test]
async fn revocations_take_the_access_tokens_along_but_not_the_other_way_round() {
    let practice = start(|_| {}).await;
    let login = practice.approved().await;
    let (refresh, access) = (text(&login, "refresh_token"), text(&login, "access_token"));
    let revoke = async |token: &str| {
        let url = format!("{}/services/oauth2/revoke", practice.org.login_url());
        got(practice.client.post(url).form(&[("token", token)])).await
    };
    assert_eq!(revoke(access).await.status, 200);
    let again = practice.refresh(0, refresh).await.json();
    assert_ne!(text(&again, "access_token"), access);
    assert_eq!(revoke(refresh).await.status, 200);
    assert!(!practice.org.knows(text(&again, "access_token")));
    assert_eq!(practice.refresh(0, refresh).await.refusal(), DEAD);
    assert_eq!(revoke(refresh).await.refusal(), "invalid_token: invalid token");

    let login = practice.approved().await;
    let told = practice.control("revoke_refresh_tokens", json!({})).await;
    assert_eq!(told, json!({"revoked": 1}));
    assert!(!practice.org.knows(text(&login, "access_token")));
    assert_eq!(practice.refresh(0, text(&login, "refresh_token")).await.refusal(), DEAD);
    practice.stop().await;
}

#[tokio::test]
async fn every_grant_counts_as_a_login_of_its_user() {
    let practice = start(|settings| settings.login_limit = 2).await;
    practice.org.set_rotation(true);
    let login = practice.approved().await;
    let answer = practice.refresh(0, text(&login, "refresh_token")).await.json();
    let over = practice.refresh(0, text(&answer, "refresh_token")).await;
    assert_eq!(over.refusal(), "invalid_grant: login rate exceeded");
    practice.org.advance(Duration::from_secs(3601));
    let answer = practice.refresh(0, text(&answer, "refresh_token")).await;
    assert_eq!(answer.status, 200, "nothing was spent by the refusal");
    practice.stop().await;
}

#[tokio::test]
async fn an_app_introspects_its_own_tokens() {
    let practice = start(|_| {}).await;
    let login = practice.approved().await;
    let access = practice.introspected(text(&login, "access_token")).await;
    assert_eq!(
        (&access["active"], &access["token_type"], &access["username"]),
        (&json!(true), &json!("access_token"), &json!("person@practice.example"))
    );
    let refresh = practice.introspected(text(&login, "refresh_token")).await;
    assert_eq!(
        (&refresh["active"], &refresh["token_type"]),
        (&json!(true), &json!("refresh_token"))
    );
    let others = practice.token().await;
    assert_eq!(practice.introspected(&others).await, json!({"active": false}));
    practice.stop().await;
}
