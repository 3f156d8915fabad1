use proptest::prelude::*;

use super::*;

fn told(status: u16, body: &str) -> Refusal {
    refusal(status, body.as_bytes(), &Sent::default())
}

fn json(code: &str, description: &str) -> String {
    serde_json::json!({"error": code, "error_description": description}).to_string()
}

/// Every row of SF §2: code, description, class, word.
const ROWS: &[(&str, &str, Class, &str)] = {
    use Class::*;
    &[
        (
            "invalid_grant",
            "user hasn't approved this consumer",
            Propagating,
            "user_not_approved",
        ),
        (
            "invalid_grant",
            "User hasn't approved the connected app",
            Propagating,
            "user_not_approved",
        ),
        ("invalid_grant", "user isn't approved", Propagating, "user_not_approved"),
        (
            "invalid_app_access",
            "user is not admin approved to access this app",
            Propagating,
            "app_access",
        ),
        (
            "invalid_grant",
            "authentication failure",
            Permanent,
            "authentication_failed",
        ),
        ("invalid_grant", "audience is invalid", Permanent, "audience"),
        ("invalid_grant", "Audience validation failed", Permanent, "audience"),
        ("invalid_grant", "invalid assertion", Permanent, "assertion_invalid"),
        (
            "invalid_grant",
            "expired authorization code",
            Permanent,
            "assertion_expired",
        ),
        (
            "invalid_grant",
            "token request is already being processed",
            Transient,
            "refresh_busy",
        ),
        (
            "invalid_grant",
            "expired access/refresh token",
            Permanent,
            "refresh_token_dead",
        ),
        (
            "invalid_grant",
            "invalid authorization code",
            Permanent,
            "authorization_code",
        ),
        ("invalid_grant", "IP restricted", Permanent, "ip_restricted"),
        (
            "invalid_grant",
            "request not supported on this domain",
            Permanent,
            "wrong_login_host",
        ),
        (
            "invalid_grant",
            "no client credentials user enabled",
            Permanent,
            "no_run_as_user",
        ),
        ("invalid_grant", "No valid scopes defined", Permanent, "no_scope"),
        (
            "invalid_grant",
            "Maximum Logins Exceeded",
            Permanent,
            "run_as_user_unsuitable",
        ),
        ("invalid_grant", "login rate exceeded", RateLimited, "login_rate"),
        ("invalid_grant", "user is locked out", Permanent, "user_inactive"),
        ("invalid_grant", "inactive user", Permanent, "user_inactive"),
        ("invalid_grant", "outside of login hours", Permanent, "user_inactive"),
        ("invalid_grant", "something new", Permanent, "refused"),
        ("inactive_user", "", Permanent, "user_inactive"),
        ("inactive_org", "", Permanent, "org_inactive"),
        ("rate_limit_exceeded", "", RateLimited, "rate_limited"),
        (
            "invalid_client_id",
            "client identifier invalid",
            Propagating,
            "client_id",
        ),
        (
            "invalid_client",
            "invalid client credentials",
            Permanent,
            "client_credentials",
        ),
        (
            "invalid_grant",
            "client credentials flow not enabled",
            Permanent,
            "flow_not_enabled",
        ),
        (
            "unauthorized_client",
            "Client Credentials flow not enabled",
            Permanent,
            "flow_not_enabled",
        ),
        (
            "unsupported_grant_type",
            "client credentials flow not enabled",
            Permanent,
            "flow_not_enabled",
        ),
        ("unauthorized_client", "", Permanent, "flow_not_allowed"),
        (
            "unsupported_grant_type",
            "grant type not supported",
            Permanent,
            "grant_type",
        ),
        (
            "invalid_request",
            "missing required parameter",
            Permanent,
            "invalid_request",
        ),
        (
            "invalid_request",
            "The JWT bearer and SAML assertion bearer flows require a refresh_token scope",
            Permanent,
            "no_refresh_token_scope",
        ),
        ("invalid_request", "", Permanent, "invalid_request"),
        ("invalid_scope", "", Permanent, "no_scope"),
        ("redirect_uri_mismatch", "", Permanent, "redirect_uri"),
        (
            "invalid_grant",
            "redirect URI does not match configuration",
            Permanent,
            "redirect_uri",
        ),
        ("access_denied", "", Permanent, "browser_flow"),
        ("immediate_unsuccessful", "", Permanent, "browser_flow"),
        ("unsupported_response_type", "", Permanent, "browser_flow"),
        ("authorization_pending", "", Transient, "authorization_pending"),
        ("slow_down", "", Transient, "authorization_pending"),
        ("unknown_error", "retry your request", Transient, "outage"),
        ("server_error", "", Transient, "outage"),
        ("temporarily_unavailable", "", Transient, "outage"),
        ("anything", "Data Not Available", Permanent, "org_inactive"),
        ("brand_new_code", "", Permanent, "refused"),
    ]
};

#[test]
fn every_row_of_the_catalogue_has_its_class_and_word() {
    for (code, description, class, reason) in ROWS {
        for description in [description.to_string(), description.to_uppercase()] {
            for body in [
                json(code, &description),
                url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("error", code)
                    .append_pair("error_description", &description)
                    .finish(),
            ] {
                for status in [400, 401, 403] {
                    let refusal = told(status, &body);
                    assert_eq!((refusal.class, refusal.reason), (*class, *reason), "{body}");
                    assert_eq!(refusal.code.as_deref(), Some(*code));
                    assert!(!refusal.advice.is_empty());
                }
            }
        }
    }
}

#[test]
fn every_word_is_in_the_closed_list_and_every_word_of_the_list_is_used() {
    let mut used: Vec<_> = CATALOGUE.iter().map(|row| row.meaning.reason).collect();
    used.extend(REASONS.iter().map(|word| catalogue::own(word).reason));
    for word in &used {
        assert!(REASONS.contains(word), "{word} is not in REASONS");
    }
    for word in REASONS {
        assert!(used.contains(word), "{word} is never said");
    }
    let mut unique = REASONS.to_vec();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), REASONS.len());
}

#[test]
fn an_outage_never_condemns_a_good_key() {
    let body = json("invalid_grant", "authentication failure");
    for (status, reason, class) in [
        (500, "outage", Class::Transient),
        (502, "outage", Class::Transient),
        (503, "outage", Class::Transient),
        (420, "no_route", Class::Transient),
        (429, "rate_limited", Class::RateLimited),
        (302, "redirected", Class::Transient),
        (200, "malformed_answer", Class::Transient),
    ] {
        let refusal = told(status, &body);
        assert_eq!((refusal.reason, refusal.class), (reason, class), "{status}");
        assert_eq!(refusal.code.as_deref(), Some("invalid_grant"));
    }
}

#[test]
fn an_answer_that_is_no_oauth_error_passes_by_itself() {
    for body in [
        "",
        "   ",
        "<html><body>invalid_grant</body></html>",
        "\u{feff}<?xml version=\"1.0\"?><OAuth><error>invalid_grant</error></OAuth>",
        "{",
        "[]",
        "null",
        "{\"error\":7}",
        "upstream connect error",
    ] {
        for status in [400, 401, 403, 404] {
            let refusal = told(status, body);
            assert_eq!(refusal.class, Class::Transient, "{status} {body}");
            assert_eq!(refusal.reason, "unexpected_answer", "{status} {body}");
        }
    }
    assert_eq!(told(404, "Data Not Available").reason, "org_inactive");
}

#[test]
fn the_error_code_is_matched_exactly() {
    assert_eq!(told(400, &json("Invalid_Grant", "ip restricted")).reason, "refused");
    assert_eq!(told(400, &json("xinvalid_client", "")).reason, "refused");
}

#[test]
fn texts_are_cut_and_cleaned() {
    let refusal = told(
        400,
        &json("invalid_grant", &format!("a\r\nb\u{202e}\u{1b}[31m{}", "é".repeat(500))),
    );
    let description = refusal.description.unwrap();
    assert!(description.starts_with("ab[31mé"));
    assert_eq!(description.chars().count(), 200);
    assert_eq!(told(400, &json("not a code <b>", "")).code, None);
}

#[test]
fn an_echoed_secret_is_removed_in_every_form() {
    let mut sent = Sent::default();
    sent.basic("3MVG9.id", "CANARY+s3cret/=");
    sent.assertion("eyJhbGci.CANARYpayload.CANARYsignature");
    for echoed in [
        "CANARY+s3cret/=".to_owned(),
        "CANARY%2Bs3cret%2F%3D".to_owned(),
        "canary%2bs3cret%2f%3d".to_owned(),
        BASE64_STANDARD.encode("3MVG9.id:CANARY+s3cret/="),
        "eyJhbGci.CANARYpayload.CANARYsignature".to_owned(),
        "CANARYpayload".to_owned(),
        "CANARYsignature".to_owned(),
        "CANARY+s3c\u{7}ret/=".to_owned(),
    ] {
        let text = format!("bad {echoed} given");
        let refusal = refusal(400, json("invalid_client", &text).as_bytes(), &sent);
        assert_eq!(refusal.description.as_deref(), Some("bad [removed] given"), "{echoed}");
    }
    // A secret across the cut is gone as well, not half shown.
    let text = format!("{}CANARY+s3cret/=", "x".repeat(195));
    let refusal = refusal(400, json("invalid_client", &text).as_bytes(), &sent);
    assert!(!refusal.description.unwrap().contains("CANARY"));
}

#[test]
fn a_very_short_secret_hides_the_whole_text() {
    let mut sent = Sent::default();
    sent.secret("a1");
    assert_eq!(
        refusal(400, json("x", "got a1 here").as_bytes(), &sent).description,
        None
    );
}

proptest! {
    #[test]
    fn any_bytes_have_a_meaning(status: u16, body: Vec<u8>) {
        let refusal = refusal(status, &body, &Sent::default());
        prop_assert!(REASONS.contains(&refusal.reason));
        prop_assert!(refusal.description.is_none_or(|d| d.chars().count() <= 200));
    }

    #[test]
    fn a_planted_secret_never_comes_back(
        secret in "[A-Za-z0-9+/=!@ _.-]{8,40}",
        before in "\\PC{0,220}",
        after in "\\PC{0,40}",
        encode: bool,
        in_code: bool,
        form: bool,
    ) {
        let mut sent = Sent::default();
        sent.basic("id", &secret);
        let shown = if encode { percent_encoded(&secret) } else { secret.clone() };
        let text = format!("{before}{shown}{after}");
        let code = if in_code { secret.as_str() } else { "invalid_client" };
        let body = if form {
            url::form_urlencoded::Serializer::new(String::new())
                .append_pair("error", code).append_pair("error_description", &text).finish()
        } else {
            json(code, &text)
        };
        let refusal = refusal(400, body.as_bytes(), &sent);
        let all = format!("{refusal:?} {refusal}");
        // Debug escapes; what it may escape is not among the secret's characters.
        prop_assert!(!all.contains(&secret), "{all}");
        prop_assert!(!all.contains(&percent_encoded(&secret)), "{all}");
    }
}
