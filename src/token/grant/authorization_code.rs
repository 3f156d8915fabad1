//! The browser login: an address to open, and the code that comes back for a refresh token.
//!
//! Used by `sf-token-proxy login`, never by the keeper.
//! Invariants: PKCE with S256; a code is presented once; the callback is the configured one, letter for letter.
//! Fails with: `secret_unreadable`, `key_unusable`.
//! Source: SF §1.4.4; RFC 7636 §4; RFC 6749 §4.1.

use std::time::SystemTime;

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use zeroize::Zeroizing;

use super::{Attempt, Body, TOKEN_PATH, client_auth, field, random};
use crate::{
    config::RefreshToken,
    token::refusal::{Refusal, Sent},
};

/// A new PKCE verifier, or a `state`: 43 characters of chance.
pub fn verifier() -> SecretString {
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(random());
    BASE64_URL_SAFE_NO_PAD.encode(&bytes[..]).into()
}

/// The S256 challenge for a verifier.
pub fn challenge(verifier: &SecretString) -> String {
    let hash = digest::digest(&digest::SHA256, verifier.expose_secret().as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(hash)
}

/// The address that the person opens. `state` comes back with the code and has to be compared.
pub fn authorize_url(grant: &RefreshToken, login: &Url, verifier: &SecretString, state: &str) -> Url {
    let mut url = login.clone();
    url.set_path("/services/oauth2/authorize");
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &grant.client_id)
        .append_pair("redirect_uri", grant.login.callback_url.as_str())
        .append_pair("scope", &grant.login.scopes.join(" "))
        .append_pair("state", state)
        .append_pair("code_challenge", &challenge(verifier))
        .append_pair("code_challenge_method", "S256");
    url
}

/// The code for tokens; once only (SF §1.5).
pub fn attempt(
    grant: &RefreshToken,
    login: &Url,
    code: &SecretString,
    verifier: &SecretString,
    now: SystemTime,
) -> Result<Attempt, Refusal> {
    let mut sent = Sent::default();
    sent.secret(code.expose_secret());
    sent.secret(verifier.expose_secret());
    let proof = client_auth::prove(&grant.auth, &grant.client_id, login, now, &mut sent)?;
    let mut form = vec![
        field("grant_type", "authorization_code"),
        field("code", code.clone()),
        field("redirect_uri", grant.login.callback_url.as_str().to_owned()),
        field("code_verifier", verifier.clone()),
    ];
    form.extend(proof.fields);
    Ok(Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(form),
        authorization: proof.authorization,
        sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ClientAuth, SendSecret},
        token::grant::tests::{form, kept_out, login, refresh_grant, secret},
    };

    /// RFC 7636, appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        assert_eq!(
            challenge(&VERIFIER.into()),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
        let (one, two) = (verifier(), verifier());
        assert_eq!(one.expose_secret().len(), 43);
        assert_ne!(one.expose_secret(), two.expose_secret());
    }

    #[test]
    fn the_address_asks_for_what_is_documented() {
        let url = authorize_url(&refresh_grant(ClientAuth::None), &login(), &VERIFIER.into(), "st/te");
        assert_eq!(
            url.as_str(),
            "https://acme.my.salesforce.com/services/oauth2/authorize?response_type=code&client_id=3MVG9.id\
             &redirect_uri=http%3A%2F%2Flocalhost%3A1717%2FOauthRedirect&scope=api+refresh_token&state=st%2Fte\
             &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
        );
        assert!(!url.as_str().contains(VERIFIER));
    }

    #[test]
    fn the_code_goes_with_the_verifier_and_the_callback() {
        let (_file, reference) = secret("CANARYapp");
        let grant = refresh_grant(ClientAuth::Secret(reference, SendSecret::Body));
        let now = SystemTime::UNIX_EPOCH;
        let attempt = attempt(&grant, &login(), &"aPrxCANARY==".into(), &VERIFIER.into(), now).unwrap();
        assert_eq!(
            form(&attempt),
            [
                ("grant_type", "authorization_code"),
                ("code", "aPrxCANARY=="),
                ("redirect_uri", "http://localhost:1717/OauthRedirect"),
                ("code_verifier", VERIFIER),
                ("client_id", "3MVG9.id"),
                ("client_secret", "CANARYapp"),
            ]
        );
        kept_out(&attempt, &["aPrxCANARY==", VERIFIER, "CANARYapp"]);
    }
}
