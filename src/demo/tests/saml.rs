//! SAML bearer assertions, signed as the usual libraries do it.

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    rsa::KeyPair,
    signature::RSA_PKCS1_SHA256,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::json;

use super::{DATA, Got, Practice, now, start};
use crate::demo::{
    RsaKey,
    store::{iso, unix_millis},
};

/// What goes into an assertion.
#[derive(Clone)]
struct Claims {
    issuer: String,
    user: String,
    audience: String,
    recipient: String,
    from: u64,
    until: u64,
    confirmed_until: u64,
    more: &'static str,
}

/// `2026-09-21T14:13:20.000Z`.
fn time(seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    iso(unix_millis(at)).replace("+0000", "Z")
}

/// In exclusive canonical form; the signature is to go after the issuer.
fn assertion(claims: &Claims) -> (String, String) {
    let Claims {
        issuer,
        user,
        audience,
        recipient,
        more,
        ..
    } = claims;
    let [from, until, confirmed] = [claims.from, claims.until, claims.confirmed_until].map(time);
    let head = format!(
        "<saml:Assertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\" ID=\"_a1\" IssueInstant=\"{from}\" Version=\"2.0\">\
         <saml:Issuer>{issuer}</saml:Issuer>"
    );
    let tail = format!(
        "<saml:Subject><saml:NameID>{user}</saml:NameID>\
         <saml:SubjectConfirmation Method=\"urn:oasis:names:tc:SAML:2.0:cm:bearer\">\
         <saml:SubjectConfirmationData NotOnOrAfter=\"{confirmed}\" Recipient=\"{recipient}\"></saml:SubjectConfirmationData>\
         </saml:SubjectConfirmation></saml:Subject>\
         <saml:Conditions NotBefore=\"{from}\" NotOnOrAfter=\"{until}\"><saml:AudienceRestriction>\
         <saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction></saml:Conditions>{more}</saml:Assertion>"
    );
    (head, tail)
}

/// `prefix` as in `ds:` or empty.
fn signed(claims: &Claims, key: &RsaKey, prefix: &str) -> String {
    let (head, tail) = assertion(claims);
    let hash = STANDARD.encode(digest(&SHA256, format!("{head}{tail}").as_bytes()));
    let namespace = format!(
        "xmlns{}{}=\"http://www.w3.org/2000/09/xmldsig#\"",
        if prefix.is_empty() { "" } else { ":" },
        prefix.trim_end_matches(':')
    );
    let info = |declared: &str| {
        let p = prefix;
        format!(
            "<{p}SignedInfo{declared}>\
             <{p}CanonicalizationMethod Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"></{p}CanonicalizationMethod>\
             <{p}SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256\"></{p}SignatureMethod>\
             <{p}Reference URI=\"#_a1\"><{p}Transforms>\
             <{p}Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"></{p}Transform>\
             <{p}Transform Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"></{p}Transform></{p}Transforms>\
             <{p}DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"></{p}DigestMethod>\
             <{p}DigestValue>{hash}</{p}DigestValue></{p}Reference></{p}SignedInfo>"
        )
    };
    let pair = KeyPair::from_der(key.pkcs1()).unwrap();
    let mut signature = vec![0; 256];
    let text = info(&format!(" {namespace}"));
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .unwrap();
    let value = STANDARD.encode(signature);
    format!(
        "{head}<{prefix}Signature {namespace}>{}<{prefix}SignatureValue>{value}</{prefix}SignatureValue></{prefix}Signature>{tail}",
        info("")
    )
}

impl Practice {
    fn saml_claims(&self) -> Claims {
        let app = &self.org.settings().jwt_clients[0];
        Claims {
            issuer: app.client_id.clone(),
            user: app.username.clone(),
            audience: "https://login.salesforce.com".into(),
            recipient: format!("{}/services/oauth2/token", self.org.login_url()),
            from: now() - 1,
            until: now() + 300,
            confirmed_until: now() + 300,
            more: "",
        }
    }

    fn key(&self) -> RsaKey {
        self.org.settings().practice_key.clone().unwrap()
    }

    async fn saml(&self, xml: &str) -> Got {
        self.login(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:saml2-bearer"),
            ("assertion", &URL_SAFE_NO_PAD.encode(xml)),
        ])
        .await
    }
}

#[tokio::test]
async fn a_signed_assertion_is_a_login() {
    let practice = start(|_| {}).await;
    let (claims, key) = (practice.saml_claims(), practice.key());
    let declaration = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}",
        signed(&claims, &key, "ds:")
    );
    for xml in [signed(&claims, &key, "ds:"), signed(&claims, &key, ""), declaration] {
        let answer = practice.saml(&xml).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let answer = answer.json();
        assert!(answer.get("refresh_token").is_none() && answer.get("issued_at").is_none());
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(practice.get(&format!("{DATA}/limits"), token).await.status, 200);
    }
    assert_eq!(practice.org.stats().by_grant.saml_bearer, 3);
    practice.org.approve(false);
    let refused = practice.saml(&signed(&claims, &key, "")).await.refusal();
    assert_eq!(refused, "invalid_grant: user hasn't approved this consumer");
    practice.stop().await;
}

#[tokio::test]
async fn each_refusal_of_a_signed_assertion_has_its_text_and_an_error_uri() {
    let practice = start(|_| {}).await;
    let (good, key) = (practice.saml_claims(), practice.key());
    let with = |change: &dyn Fn(&mut Claims)| {
        let mut claims = good.clone();
        change(&mut claims);
        signed(&claims, &key, "ds:")
    };
    let malformed = "invalid_grant: invalid assertion";
    let cases = [
        (
            with(&|c| c.issuer = "unknown".into()),
            "invalid_client_id: client identifier invalid",
        ),
        (
            with(&|c| c.user = "another".into()),
            "invalid_grant: user hasn't approved this consumer",
        ),
        (
            with(&|c| c.audience = "https://example.com".into()),
            "invalid_grant: audience is invalid",
        ),
        (
            with(&|c| c.recipient = "https://example.com/services/oauth2/token".into()),
            "invalid_grant: recipient is invalid",
        ),
        (
            with(&|c| c.recipient = "https://login.salesforce.com".into()),
            "invalid_grant: recipient is invalid",
        ),
        (
            with(&|c| c.from = now() + 60),
            "invalid_grant: assertion is not yet valid",
        ),
        (with(&|c| c.until = now()), "invalid_grant: assertion is expired"),
        (
            with(&|c| c.confirmed_until = now()),
            "invalid_grant: assertion is expired",
        ),
        (with(&|c| c.more = "<saml:Subject></saml:Subject>"), malformed),
        (with(&|c| c.more = "<!-- c -->"), malformed),
        ("<a>".to_owned(), malformed),
    ];
    for (xml, refusal) in cases {
        let answer = practice.saml(&xml).await;
        assert_eq!(answer.refusal(), refusal);
        let uri = answer.json()["error_uri"].as_str().unwrap().to_owned();
        assert!(uri.ends_with("/setup/secur/SAMLValidationPage.apexp"), "{uri}");
    }
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:saml2-bearer"),
        ("assertion", "***"),
    ];
    assert_eq!(practice.login(&form).await.refusal(), malformed);
    practice.stop().await;
}

#[tokio::test]
async fn what_was_changed_after_signing_is_refused() {
    let practice = start(|_| {}).await;
    let (claims, key) = (practice.saml_claims(), practice.key());
    let good = signed(&claims, &key, "ds:");
    let wrong = "invalid_client: invalid client credentials";
    let other = RsaKey::generate().unwrap();
    let unsigned = assertion(&claims);
    let digest_of_other = {
        // a digest that fits another text, under a signature that does not know it
        let mut changed = claims.clone();
        changed.user = "another".into();
        let other = signed(&changed, &key, "ds:");
        let value = |xml: &str| xml.split("DigestValue>").nth(1).unwrap().to_owned();
        good.replace(&claims.user, "another")
            .replace(&value(&good), &value(&other))
    };
    for (xml, refusal) in [
        (good.replace(&claims.user, "another"), wrong),
        (good.replace("Version=\"2.0\"", "Version=\"2.0\" x=\"1\""), wrong),
        (digest_of_other, wrong),
        (signed(&claims, &other, "ds:"), wrong),
        (
            good.replace("URI=\"#_a1\"", "URI=\"\""),
            "invalid_grant: invalid assertion",
        ),
        (
            good.replace("rsa-sha256", "rsa-sha1"),
            "invalid_grant: invalid assertion",
        ),
        (
            format!("{}{}", unsigned.0, unsigned.1),
            "invalid_grant: invalid assertion",
        ),
        // the signed one inside a forged one
        (
            format!(
                "{}<x>{good}</x>{}",
                unsigned.0.replace("_a1", "_b2"),
                unsigned.1.replace(&claims.user, "another")
            ),
            "invalid_grant: invalid assertion",
        ),
    ] {
        assert_eq!(practice.saml(&xml).await.refusal(), refusal, "{xml}");
    }
    practice.stop().await;
}

#[tokio::test]
async fn the_orgs_own_tokens_can_be_checked_with_its_published_key() {
    let practice = start(|settings| {
        let lifetime = std::time::Duration::from_secs(600);
        settings.token_format = crate::demo::TokenFormat::Jwt { lifetime };
    })
    .await;
    let token = practice.token().await;
    let keys = practice.get("/id/keys", "").await.json();
    let key = &keys["keys"][0];
    let part = |name: &str| key[name].as_str().unwrap();
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert_eq!(json!(header.kid), key["kid"]);
    let key = jsonwebtoken::DecodingKey::from_rsa_components(part("n"), part("e")).unwrap();
    let mut checks = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    checks.set_audience(&[practice.org.base_url()]);
    jsonwebtoken::decode::<serde_json::Value>(&token, &key, &checks).unwrap();
    practice.stop().await;
}
