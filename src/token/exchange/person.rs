//! The conversations beside a login that a person takes part in: what the consent page will say, the start of a device
//! login, whose token it is, and the end of a refresh token.
//!
//! Used by `sf-token-proxy login` and `logout`.
//! Invariants: as [`HttpExchange`]'s; a token goes to the login host and to its own instance only.
//! Source: SF §1.4.4, §1.4.6, §2, §3.5.

use std::time::Duration;

use http::header;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{BODY_MAX, Failed, HttpExchange, Minted, Outcome};
use crate::token::{
    grant::{
        Attempt, Body,
        device::{self, Started},
        field,
    },
    refusal::{Refusal, Sent, refusal},
};

impl HttpExchange {
    /// Asks for the two codes of a device login.
    pub async fn start_device(&self, attempt: Attempt) -> Result<Started, Failed> {
        let (status, body, sent) = self.asked(attempt).await?;
        let started = status.is_success().then(|| device::started(&body)).flatten();
        started.ok_or_else(|| Failed {
            refusal: refusal(status.as_u16(), &body, &sent),
            outcome: Outcome::Refused,
            successor: None,
        })
    }

    /// Ends a token; a refresh token takes its access tokens along. `false`: the login host knows no such token.
    pub async fn revoke(&self, token: &SecretString) -> Result<bool, Failed> {
        let mut sent = Sent::default();
        sent.secret(token.expose_secret());
        let attempt = Attempt {
            path: "/services/oauth2/revoke".into(),
            body: Body::Form(vec![field("token", token.clone())]),
            authorization: None,
            sent,
        };
        let (status, body, sent) = self.asked(attempt).await?;
        if status.is_success() {
            return Ok(true);
        }
        let refusal = refusal(status.as_u16(), &body, &sent);
        if status.is_client_error() && refusal.code.as_deref() == Some("invalid_token") {
            return Ok(false);
        }
        Err(Failed {
            refusal,
            outcome: Outcome::Unknown,
            successor: None,
        })
    }

    async fn asked(&self, attempt: Attempt) -> Result<(http::StatusCode, zeroize::Zeroizing<Vec<u8>>, Sent), Failed> {
        let asked = timeout(self.timeout, Box::pin(self.conversation(attempt))).await;
        let (status, _, body, sent) = asked.unwrap_or_else(|_| {
            Err(Failed {
                refusal: Refusal::of("timeout", None),
                outcome: Outcome::Unknown,
                successor: None,
            })
        })?;
        Ok((status, body, sent))
    }

    /// The user name behind a new token, if anybody tells it.
    pub async fn username(&self, minted: &Minted) -> Option<String> {
        let document = minted.identity.as_ref().and_then(|identity| {
            let path = format!("/id/{}/{}", identity.org_id, identity.user_id);
            self.login.join(&path).ok()
        });
        let userinfo = url::Url::parse(&minted.instance.url()).and_then(|url| url.join("/services/oauth2/userinfo"));
        for url in [document, userinfo.ok()].into_iter().flatten() {
            let told = timeout(BESIDE, self.told(url, &minted.secret)).await;
            if let Some(name) = told.ok().flatten() {
                return Some(name);
            }
        }
        None
    }

    async fn told(&self, url: url::Url, token: &SecretString) -> Option<String> {
        let request = self.client.get(url).header(header::ACCEPT, "application/json");
        let response = request.bearer_auth(token.expose_secret()).send().await.ok()?;
        let good = response.status().is_success();
        let body = beginning(response).await.filter(|_| good)?;
        let document: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let name = document
            .get("username")
            .or_else(|| document.get("preferred_username"))?;
        // Shown on a terminal and on a page; user names are e-mail addresses in form.
        let fits = |name: &&str| name.len() <= 120 && name.contains('@') && name.bytes().all(|b| b.is_ascii_graphic());
        name.as_str().filter(fits).map(str::to_owned)
    }

    /// Whether the authorize address leads to a page to log in at, or to an error that only the browser would show: a
    /// wrong client id or callback is never told to the callback. Errors that may be of the page alone are let pass.
    pub async fn preview(&self, page: url::Url) -> Result<(), Refusal> {
        let sent = Sent::default();
        let request = self.client.get(page).header(header::ACCEPT, "text/html");
        let looked = timeout(BESIDE, async {
            let response = request.send().await.map_err(|error| self.broken(error, &sent))?;
            let to = response.headers().get(header::LOCATION);
            let to = to.and_then(|to| Some(to.to_str().ok()?.to_owned()));
            let status = response.status();
            let body = match status.is_server_error() || status.is_redirection() {
                true => vec![],
                false => beginning(response).await.unwrap_or_default(),
            };
            Ok::<_, Refusal>((to.unwrap_or_default(), body))
        });
        let (to, body) = match looked.await {
            Err(_) => return Ok(()),
            Ok(Err(refusal)) if matches!(refusal.reason, "tls" | "unreachable") => return Err(refusal),
            Ok(Err(_)) => return Ok(()),
            Ok(Ok(looked)) => looked,
        };
        match shown_error(&to).or_else(|| shown_error(&String::from_utf8_lossy(&body))) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }
}

/// At most [`BODY_MAX`] bytes of a body; `None`: it broke off.
async fn beginning(mut response: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await.ok()? {
        let room = BODY_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == BODY_MAX {
            break;
        }
    }
    Some(body)
}

/// `error=…&error_description=…`, as Salesforce's error page shows it; only causes that the catalogue knows.
fn shown_error(text: &str) -> Option<Refusal> {
    let text = text.replace("&amp;", "&");
    let mut starts = text.match_indices("error=").map(|(at, _)| &text[at..]);
    starts.find_map(|from| {
        let told = from.split(['<', '>', '"', '\'', '#', '\n']).next()?;
        let (error, rest) = told.split_once('&')?;
        let description = rest.strip_prefix("error_description=")?.split('&').next()?;
        let form = format!("{error}&error_description={description}");
        let refusal = refusal(400, form.as_bytes(), &Sent::default());
        let known = !matches!(refusal.reason, "refused" | "unexpected_answer");
        known.then_some(refusal)
    })
}

/// For one question beside the login.
const BESIDE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_of_the_catalogue_is_read_from_a_page() {
        let long = "error=".repeat(10_000);
        for (page, reason) in [
            (
                "<pre>error=invalid_client_id&amp;error_description=client identifier invalid</pre>",
                Some("client_id"),
            ),
            (
                "error=redirect_uri_mismatch&error_description=redirect_uri%20must%20match%20configuration",
                Some("redirect_uri"),
            ),
            (
                "http://localhost:1717/x?error=invalid_scope&error_description=the+requested+scope+is+not+allowed&state=s",
                Some("no_scope"),
            ),
            ("<a href=\"/x?error=1&amp;error_description=2\">", None),
            ("<form action='/login?startURL=x&amp;error=invalid_client_id'>", None),
            ("<html>Log in</html>", None),
            (long.as_str(), None),
            ("", None),
        ] {
            let found = shown_error(page);
            assert_eq!(found.as_ref().map(|refusal| refusal.reason), reason, "{page:.60}");
        }
        let refusal = shown_error("error=invalid_client_id&error_description=client%20identifier%20invalid").unwrap();
        assert_eq!(refusal.description.as_deref(), Some("client identifier invalid"));
    }
}
