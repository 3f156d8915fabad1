//! `--device`: a short code that the person types on another machine, while we ask again and again.
//!
//! Invariants: never more often than told; what the login host wants shown is shown only if it cannot upset a terminal.
//! Units: 10 minutes in all. Fails with: what is to be told.
//! Source: SF §1.4.6.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Ended, place::Place, say, told};
use crate::token::{
    exchange::Granted,
    grant::device::{Started, poll, start},
    refusal::{Class, Refusal},
};

pub(super) async fn log_in(place: &Place) -> Result<Granted, Ended> {
    let grant = &place.grant;
    let started = place.http.start_device(start(grant)).await;
    let started = started.map_err(|failed| told(place, &failed.refusal))?;
    say(&shown(&started).ok_or_else(|| Ended::failed("the login host's answer names no address or code to show"))?);
    let until = Instant::now() + super::PATIENCE;
    let mut interval = started.interval;
    loop {
        let next = Instant::now() + interval;
        if next >= until {
            return Err(Ended::failed(
                "nobody typed the code within 10 minutes; run the command again for a new one",
            ));
        }
        sleep_until(next).await;
        match place.http.present(poll(grant, &started.device_code)).await {
            Ok(granted) => return Ok(granted),
            Err(failed) => match what_next(&failed.refusal) {
                Next::Ask => {}
                Next::AskSlower => interval += SLOWER,
                Next::End => return Err(ended(place, &failed.refusal)),
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Ask,
    AskSlower,
    End,
}

fn what_next(refusal: &Refusal) -> Next {
    match (refusal.code.as_deref(), refusal.class) {
        (Some("slow_down"), _) | (_, Class::RateLimited) => Next::AskSlower,
        // Pending, or the login host is away for a moment.
        (_, Class::Transient) => Next::Ask,
        _ => Next::End,
    }
}

fn ended(place: &Place, refusal: &Refusal) -> Ended {
    // There is no `expired_token` here (SF §1.4.6); these say it.
    let old = matches!(refusal.code.as_deref(), Some("invalid_grant" | "invalid_request"));
    match told(place, refusal) {
        Ended::Failed(text) if old => Ended::failed(format!(
            "{text}\nA code lives for 10 minutes and serves once: run the command again for a new one."
        )),
        other => other,
    }
}

/// `None`: not to be shown.
fn shown(started: &Started) -> Option<String> {
    let address = url::Url::parse(&started.verification_uri).ok()?;
    let safe = address.scheme() == "https" || address.host().is_some_and(|host| crate::token::is_loopback(&host));
    let code = &started.user_code;
    let fits = (1..=32).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic());
    (safe && fits).then(|| {
        format!(
            "\nOpen this address on any machine, log in, and type the code:\n\n  {address}\n  {code}\n\n\
             Waiting for 10 minutes at most; Ctrl-C ends it.\n\
             Note: from 30 November 2026 Salesforce lets only local External Client Apps with a localhost callback log in \
             by device.\n"
        )
    })
}

const SLOWER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::refusal::{Sent, refusal};

    #[test]
    fn what_a_poll_means() {
        for (status, body, next) in [
            (400, r#"{"error":"authorization_pending"}"#, Next::Ask),
            (400, r#"{"error":"slow_down"}"#, Next::AskSlower),
            (400, r#"{"error":"access_denied"}"#, Next::End),
            (
                400,
                r#"{"error":"invalid_grant","error_description":"expired device code"}"#,
                Next::End,
            ),
            (
                400,
                r#"{"error":"invalid_request","error_description":"invalid device code"}"#,
                Next::End,
            ),
            (400, r#"{"error":"invalid_client_id"}"#, Next::End),
            (400, r#"{"error":"unauthorized_client"}"#, Next::End),
            (429, "", Next::AskSlower),
            (503, "<html>", Next::Ask),
        ] {
            let told = refusal(status, body.as_bytes(), &Sent::default());
            assert_eq!(what_next(&told), next, "{status} {body}");
        }
        assert_eq!(what_next(&Refusal::of("timeout", None)), Next::Ask);
        assert_eq!(what_next(&Refusal::of("unsafe_instance_url", None)), Next::End);
    }

    #[test]
    fn only_a_plain_code_and_a_safe_address_are_shown() {
        for (address, code, good) in [
            ("https://acme.my.salesforce.com/setup/connect", "ABCD1234", true),
            ("http://localhost:1/setup/connect", "ABCD1234", true),
            ("http://evil.example/", "ABCD1234", false),
            ("javascript:alert(1)", "ABCD1234", false),
            ("https://x/", "\u{1b}[2J", false),
            ("https://x/", "", false),
            ("https://x/\u{1b}[2J", "A", true),
        ] {
            let started = Started {
                device_code: "CANARY".into(),
                user_code: code.into(),
                verification_uri: address.into(),
                interval: Duration::from_secs(5),
            };
            let text = shown(&started);
            assert_eq!(text.is_some(), good, "{address} {code}");
            let text = text.unwrap_or_default();
            assert!(!text.contains(['\u{1b}']) && !text.contains("CANARY"), "{text}");
            assert!(!good || text.contains("30 November 2026"));
        }
    }
}
