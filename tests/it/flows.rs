//! Each way to a token, through the binary and the practice org: that it works, survives a restart, explains a refusal,
//! and repeats only what may be repeated (SF §1.5).
//!
//! The names are cited by the documentation: `flow_{grant}_is_proven`, `…_survives_a_restart`, `…_explains_a_refusal`,
//! `…_follows_its_replay_rule`.

use serde_json::{Value, json};
use sf_token_proxy::demo::{Settings, Stats};

use crate::program::{LIMITS, Program, Site, file, get, until};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    JwtBearer,
    ClientCredentials,
    Password,
    SamlBearer,
    TokenExchange,
    RefreshToken,
    Static,
    Command,
}

use Flow::{ClientCredentials, Command, JwtBearer, Password, RefreshToken, SamlBearer, Static, TokenExchange};

async fn site(adapt: impl FnOnce(&mut Settings)) -> Site {
    Site::new(|settings| {
        adapt(settings);
        // A second one, for when the first is used up.
        let subjects = &mut settings.exchange_apps[0].subjects;
        subjects.push(sf_token_proxy::demo::Subject {
            token: SECOND_SUBJECT.into(),
            ..subjects[0].clone()
        });
    })
    .await
}

const SECOND_SUBJECT: &str = "the-second-subject-token";

impl Flow {
    /// The simplest configuration of it.
    fn grant(self, site: &Site) -> Value {
        let files = &site.files;
        let bearer = files.jwt.as_ref().unwrap();
        let by_key = json!({
            "client_id": bearer.client_id, "username": bearer.username, "private_key": file(&bearer.key_file),
        });
        match self {
            JwtBearer => json!({ "jwt_bearer": by_key }),
            SamlBearer => json!({ "saml_bearer": by_key }),
            ClientCredentials => site.credentials(),
            RefreshToken => site.refresh_grant(0, Some(&site.approved(0))),
            Password => {
                let user = files.password.as_ref().unwrap();
                json!({"password": {
                    "client_id": user.client_id, "client_secret": file(&user.secret_file), "username": user.username,
                    "password": file(&user.password_file), "security_token": file(&user.security_token_file),
                }})
            }
            TokenExchange => {
                let app = files.exchange.as_ref().unwrap();
                let subject = std::fs::read_to_string(&app.subject_token_file).unwrap();
                json!({"token_exchange": {
                    "client_id": app.client_id, "client_secret": file(app.secret_file.as_ref().unwrap()),
                    "subject_token": site.put("subject", &subject), "subject_token_type": app.subject_token_type,
                    "token_handler": app.handler,
                }})
            }
            Static => {
                self.replaced(site);
                json!({"static": {"access_token": file(&site.path("static"))}})
            }
            Command => {
                self.replaced(site);
                let script = "#!/bin/sh\nif [ -e \"$1/broken\" ]; then exit 3; fi\ncat \"$1/display.json\"\n";
                let script = site.put("sf", script);
                let script = script.strip_prefix("file:").unwrap();
                json!({"command": {"run": ["/bin/sh", script, site.folder.path()]}})
            }
        }
    }

    fn config(self, site: &Site) -> Value {
        let mut config = site.config(&self.grant(site));
        if self == Static {
            config["orgs"]["main"]["instance_url"] = site.files.base_url.clone().into();
        }
        config
    }

    /// Puts a living token where one is found.
    fn replaced(self, site: &Site) {
        let token = site.foreign_token();
        site.put("static", &token);
        let display = json!({"status": 0, "result": {"accessToken": token, "instanceUrl": site.files.base_url}});
        site.put("display.json", &display.to_string());
    }

    fn is_found(self) -> bool {
        matches!(self, Static | Command)
    }

    /// Its token requests.
    fn logins(self, stats: &Stats) -> u64 {
        let by = &stats.by_grant;
        match self {
            JwtBearer => by.jwt_bearer,
            ClientCredentials => by.client_credentials,
            Password => by.password,
            SamlBearer => by.saml_bearer,
            TokenExchange => by.token_exchange,
            RefreshToken => by.refresh_token,
            Static | Command => stats.token_requests,
        }
    }

    /// The first call works, and a revoked session is not seen by the caller.
    fn proves(self, site: &Site, config: &Value) {
        site.org.reset();
        let program = site.start(config);
        program.serves();
        for round in 1..=3 {
            assert!(site.org.revoke() >= 1);
            if self.is_found() {
                self.replaced(site);
            }
            program.serves();
            let stats = site.org.stats();
            assert_eq!(stats.api_401, round);
            if !self.is_found() {
                assert_eq!((self.logins(&stats), stats.token_requests), (round + 1, round + 1));
            }
        }
        assert_eq!(site.org.stats().spent_refresh_presented, 0);
    }

    async fn is_proven(self) {
        let site = site(|_| {}).await;
        self.proves(&site, &self.config(&site));
        site.org.stop().await;
    }

    async fn survives_a_restart(self) {
        let site = site(|settings| settings.web_apps[0].rotation = true).await;
        let config = self.config(&site);
        site.org.reset();
        let program = site.start(&config);
        program.serves();
        program.kill();
        let before = site.org.stats().token_requests;
        assert_eq!(before, u64::from(!self.is_found()));
        for _ in 0..3 {
            let program = site.start(&config);
            program.serves();
            program.kill();
        }
        assert_eq!(site.org.stats().token_requests, before, "a restart costs no login");
        site.org.stop().await;
    }

    /// Refused from the start: the caller is told why, and what to do.
    async fn explains_a_refusal(self, refuse: impl FnOnce(&Site), reason: &str, advice: &str) {
        let site = site(|_| {}).await;
        let config = self.config(&site);
        refuse(&site);
        let program = site.start(&config);
        explained(&program, reason, advice);
        site.org.stop().await;
    }

    /// The org did it, and the answer was lost: it is presented again, for that is safe.
    async fn repeats_after_a_lost_answer(self) {
        let site = site(|_| {}).await;
        let config = self.config(&site);
        site.org.reset();
        site.org.lose_token_answers(1);
        let program = site.start(&config);
        program.serves();
        assert_eq!(self.logins(&site.org.stats()), 2);
        site.org.stop().await;
    }

    /// There is nothing to present, so nothing is repeated: a refused token is asked about by one cheap call, and sent
    /// no more until another is there.
    async fn sends_a_refused_token_no_more(self, advice: &str) {
        let site = site(|_| {}).await;
        let config = self.config(&site);
        let program = site.start(&config);
        program.serves();
        site.org.revoke();
        site.org.reset();
        explained(
            &program,
            if self == Static {
                "static_token_dead"
            } else {
                "command_failed"
            },
            advice,
        );
        let first = site.org.stats();
        assert_eq!(
            (first.api_401, first.token_requests),
            (2, 0),
            "the call, and the cheap one"
        );
        for _ in 0..5 {
            assert_eq!(program.get(LIMITS).0, 503);
        }
        assert_eq!(site.org.stats().api_401, 2);
        self.replaced(&site);
        program.serves_soon();
        site.org.stop().await;
    }
}

fn explained(program: &Program, reason: &str, advice: &str) {
    let (status, text) = program.get(LIMITS);
    assert_eq!(status, 503, "{text}");
    assert!(text.contains(advice), "{text}");
    let told = format!("\"reason\":\"{reason}\"");
    until("the reason is logged", || program.printed().contains(&told));
}

macro_rules! both {
    ($($flow:ident $proven:ident $restart:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $proven() {
            $flow.is_proven().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn $restart() {
            $flow.survives_a_restart().await;
        }
    )*};
}

both! {
    JwtBearer flow_jwt_bearer_is_proven flow_jwt_bearer_survives_a_restart
    ClientCredentials flow_client_credentials_is_proven flow_client_credentials_survives_a_restart
    Password flow_password_is_proven flow_password_survives_a_restart
    SamlBearer flow_saml_bearer_is_proven flow_saml_bearer_survives_a_restart
    TokenExchange flow_token_exchange_is_proven flow_token_exchange_survives_a_restart
    Static flow_static_is_proven flow_static_survives_a_restart
    Command flow_command_is_proven flow_command_survives_a_restart
}

/// With rotation and without, and with every way for the app to prove to be itself.
#[tokio::test(flavor = "multi_thread")]
async fn flow_refresh_token_is_proven() {
    let site = site(|_| {}).await;
    for rotation in [false, true] {
        site.org.set_rotation(rotation);
        // The secret in the body, in the header; none; a key.
        for (app, send) in [(0, Some("body")), (0, Some("basic")), (1, None), (2, None)] {
            let mut grant = site.refresh_grant(app, Some(&site.approved(app)));
            if let Some(send) = send {
                grant["refresh_token"]["send_secret"] = send.into();
            }
            let config = site.config(&grant);
            // `reset` puts rotation back to what the app's settings say.
            let program = site.start(&config);
            let before = site.org.stats();
            program.serves();
            for round in 1..=3 {
                site.org.revoke();
                program.serves();
                let stats = site.org.stats();
                assert_eq!(stats.by_grant.refresh_token - before.by_grant.refresh_token, round + 1);
            }
            let rotated = program.printed().matches("\"event\":\"rotated\"").count();
            assert_eq!(rotated, if rotation { 4 } else { 0 }, "app {app}, {send:?}");
            assert_eq!(site.org.stats().spent_refresh_presented, 0);
        }
    }
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_refresh_token_survives_a_restart() {
    RefreshToken.survives_a_restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_jwt_bearer_explains_a_refusal() {
    let refuse = |site: &Site| site.org.approve(false);
    JwtBearer
        .explains_a_refusal(refuse, "user_not_approved", "Admin approved users are pre-authorized")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_saml_bearer_explains_a_refusal() {
    let refuse = |site: &Site| site.org.approve(false);
    SamlBearer
        .explains_a_refusal(refuse, "user_not_approved", "Admin approved users are pre-authorized")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_client_credentials_explains_a_refusal() {
    let refuse = |site: &Site| site.org.approve(false);
    ClientCredentials
        .explains_a_refusal(refuse, "app_access", "the Run As user's")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_password_explains_a_refusal() {
    let refuse = |site: &Site| site.org.password_flow(false);
    Password
        .explains_a_refusal(refuse, "authentication_failed", "Login History")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_token_exchange_explains_a_refusal() {
    let refuse = |site: &Site| {
        site.put("subject", "nobody-knows-this");
    };
    TokenExchange
        .explains_a_refusal(refuse, "refused", "invalid subject token")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_refresh_token_explains_a_refusal() {
    let refuse = |site: &Site| {
        site.org.revoke_refresh_tokens();
    };
    RefreshToken
        .explains_a_refusal(
            refuse,
            "refresh_token_dead",
            "authorise again with `sf-token-proxy login",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_static_explains_a_refusal() {
    let refuse = |site: &Site| {
        site.org.revoke();
    };
    Static
        .explains_a_refusal(
            refuse,
            "static_token_dead",
            "put a new one in place where `access_token` points to",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_command_explains_a_refusal() {
    let refuse = |site: &Site| {
        site.put("broken", "");
    };
    Command
        .explains_a_refusal(refuse, "command_failed", "exit code 3")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_jwt_bearer_follows_its_replay_rule() {
    JwtBearer.repeats_after_a_lost_answer().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_client_credentials_follows_its_replay_rule() {
    ClientCredentials.repeats_after_a_lost_answer().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_saml_bearer_follows_its_replay_rule() {
    SamlBearer.repeats_after_a_lost_answer().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_password_follows_its_replay_rule() {
    Password.repeats_after_a_lost_answer().await;
}

/// Not presented again until another is there, be it that the org would take it again.
#[tokio::test(flavor = "multi_thread")]
async fn flow_token_exchange_follows_its_replay_rule() {
    let site = site(|settings| settings.exchange_apps[0].subjects[0].single_use = true).await;
    let config = TokenExchange.config(&site);
    site.org.reset();
    site.org.lose_token_answers(1);
    let program = site.start(&config);
    until("the answer was lost", || {
        program.get(LIMITS).1.contains("presented without an answer")
    });
    for _ in 0..3 {
        assert_eq!(program.get(LIMITS).0, 503);
    }
    assert_eq!(site.org.stats().by_grant.token_exchange, 1);
    site.put("subject", SECOND_SUBJECT);
    program.serves_soon();
    assert_eq!(site.org.stats().by_grant.token_exchange, 2);
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_refresh_token_follows_its_replay_rule() {
    // Rotation is off, and seen to be: repeated.
    let site = site(|_| {}).await;
    let config = RefreshToken.config(&site);
    let program = site.start(&config);
    program.serves();
    site.org.reset();
    site.org.lose_token_answers(1);
    site.org.revoke();
    program.serves();
    assert_eq!(site.org.stats().by_grant.refresh_token, 2);
    site.org.stop().await;

    // Rotation is on: an answer that is lost is not asked for twice, whether the app has a secret to ask with or not.
    for app in [0, 1] {
        let site = self::site(|settings| settings.web_apps[app].rotation = true).await;
        let config = site.config(&site.refresh_grant(app, Some(&site.approved(app))));
        let program = site.start(&config);
        program.serves();
        // The org never had the request, and can be asked: repeated. Without a secret nobody can be asked.
        if app == 0 {
            site.org.down(true, false);
            site.org.revoke();
            let proxy = program.proxy();
            let waiting = std::thread::spawn(move || get(proxy, LIMITS));
            until("it was tried", || {
                program.printed().contains("\"reason\":\"unreachable\"")
            });
            site.org.down(false, false);
            let (status, text) = waiting.join().unwrap().unwrap();
            assert_eq!(status, 200, "{text}");
        }
        site.org.lose_token_answers(1);
        site.org.revoke();
        let before = site.org.stats().by_grant.refresh_token;
        until("the answer was lost", || {
            program.get(LIMITS).1.contains("sf-token-proxy login main")
        });
        for _ in 0..3 {
            assert_eq!(program.get(LIMITS).0, 503);
        }
        let stats = site.org.stats();
        assert_eq!(
            (stats.by_grant.refresh_token, stats.spent_refresh_presented),
            (before + 1, 0),
            "app {app}"
        );
        site.org.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_static_follows_its_replay_rule() {
    Static.sends_a_refused_token_no_more("put a new one in place").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_command_follows_its_replay_rule() {
    Command
        .sends_a_refused_token_no_more("run the command of `grant.command.run` by hand")
        .await;
}
