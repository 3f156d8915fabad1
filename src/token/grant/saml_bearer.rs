//! The SAML bearer grant: an assertion in SAML's form, built here and signed with the app's key.
//!
//! Invariants: a new assertion for every attempt, valid for less than three minutes; the XML is written in exclusive
//! canonical form, so that the digest and the signature are over exactly the text that is sent; every name is escaped.
//! Units: times in UTC, to the second.
//! Fails with: `secret_unreadable`; `key_unusable`.
//! Source: SF §1.4.8; RFC 7522 §2.1, §3; XML Signature 1.1; Exclusive XML Canonicalization 1.0.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{Attempt, Body, Inputs, TOKEN_PATH, field, jwt_bearer, random, read_key, token_url};
use crate::{
    clock::rfc3339,
    config::SamlBearer,
    token::refusal::{Refusal, Sent},
};

pub(super) fn attempt(grant: &SamlBearer, inputs: Inputs<'_>) -> Result<Attempt, Refusal> {
    let pem = read_key(&grant.private_key)?;
    let unusable = |problem: &str| Refusal::of("key_unusable", format!("`private_key` {problem}"));
    let key = jwt_bearer::rsa_key(pem.expose_secret()).map_err(unusable)?;
    let xml = assertion(grant, &token_url(inputs.login), inputs.now, &random());
    let xml = signed(&xml, &key).ok_or_else(|| unusable("cannot sign"))?;
    let mut sent = Sent::default();
    sent.secret(&xml.text);
    sent.secret(&xml.signature);
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(xml.text.as_bytes());
    sent.secret(&encoded);
    Ok(Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(vec![field("grant_type", GRANT_TYPE), field("assertion", encoded)]),
        authorization: None,
        sent,
    })
}

/// The assertion in two parts; the signature comes between them. Attributes are in the order of their names.
struct Unsigned {
    id: String,
    head: String,
    tail: String,
}

fn assertion(grant: &SamlBearer, recipient: &str, now: SystemTime, chance: &[u8; 16]) -> Unsigned {
    let id = chance.iter().fold("_".to_owned(), |id, byte| format!("{id}{byte:02x}"));
    // A clock that is a little ahead must not make an assertion of the future.
    let (before, issued, until) = (rfc3339(now - LEEWAY), rfc3339(now), rfc3339(now + jwt_bearer::LIFETIME));
    let [issuer, user, audience] = [&grant.client_id, &grant.username, &grant.audience].map(|text| escaped(text));
    let recipient = escaped(recipient);
    let head = format!(
        "<saml:Assertion xmlns:saml=\"{SAML}\" ID=\"{id}\" IssueInstant=\"{issued}\" Version=\"2.0\">\
         <saml:Issuer>{issuer}</saml:Issuer>"
    );
    let tail = format!(
        "<saml:Subject>\
         <saml:NameID Format=\"urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified\">{user}</saml:NameID>\
         <saml:SubjectConfirmation Method=\"urn:oasis:names:tc:SAML:2.0:cm:bearer\">\
         <saml:SubjectConfirmationData NotOnOrAfter=\"{until}\" Recipient=\"{recipient}\">\
         </saml:SubjectConfirmationData></saml:SubjectConfirmation></saml:Subject>\
         <saml:Conditions NotBefore=\"{before}\" NotOnOrAfter=\"{until}\">\
         <saml:AudienceRestriction><saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction>\
         </saml:Conditions>\
         <saml:AuthnStatement AuthnInstant=\"{issued}\"><saml:AuthnContext>\
         <saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified</saml:AuthnContextClassRef>\
         </saml:AuthnContext></saml:AuthnStatement></saml:Assertion>"
    );
    Unsigned { id, head, tail }
}

struct Signed {
    text: Zeroizing<String>,
    signature: Zeroizing<String>,
}

/// An enveloped signature: over the assertion as it is without the signature.
fn signed(xml: &Unsigned, key: &RsaKeyPair) -> Option<Signed> {
    let Unsigned { id, head, tail } = xml;
    let hash = digest::digest(&digest::SHA256, format!("{head}{tail}").as_bytes());
    let hash = BASE64_STANDARD.encode(hash);
    // It declares its prefix itself, so that its canonical form is this very text.
    let info = format!(
        "<ds:SignedInfo xmlns:ds=\"{DSIG}\">\
         <ds:CanonicalizationMethod Algorithm=\"{EXCLUSIVE}\"></ds:CanonicalizationMethod>\
         <ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256\"></ds:SignatureMethod>\
         <ds:Reference URI=\"#{id}\"><ds:Transforms>\
         <ds:Transform Algorithm=\"{DSIG}enveloped-signature\"></ds:Transform>\
         <ds:Transform Algorithm=\"{EXCLUSIVE}\"></ds:Transform></ds:Transforms>\
         <ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"></ds:DigestMethod>\
         <ds:DigestValue>{hash}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    );
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), info.as_bytes(), &mut signature)
        .ok()?;
    let signature = Zeroizing::new(BASE64_STANDARD.encode(signature));
    let value = signature.as_str();
    let text = Zeroizing::new(format!(
        "{head}<ds:Signature xmlns:ds=\"{DSIG}\">{info}<ds:SignatureValue>{value}</ds:SignatureValue></ds:Signature>{tail}"
    ));
    Some(Signed { text, signature })
}

/// As canonical XML writes texts and attributes, for texts without control characters; `"` is escaped in attributes
/// alone, and only the recipient, a URL, stands in one.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace(char::is_control, "")
}

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:saml2-bearer";
const LEEWAY: Duration = Duration::from_secs(60);
const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use aws_lc_rs::{encoding::AsDer as _, signature::KeyPair as _};

    use super::*;
    use crate::token::grant::{
        jwt_bearer::tests::{PKCS8, pem},
        tests::{form, kept_out, key, login},
    };

    fn tried(username: &str) -> (Attempt, String) {
        let (_file, private_key) = key();
        let grant = SamlBearer {
            client_id: "3MVG9.<&\"'>id".into(),
            username: username.into(),
            private_key,
            audience: "https://login.salesforce.com".into(),
        };
        let inputs = Inputs {
            login: &login(),
            refresh_token: None,
            now: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_900),
        };
        let attempt = attempt(&grant, inputs).unwrap();
        let fields = form(&attempt);
        assert_eq!(fields[0], ("grant_type", GRANT_TYPE));
        let xml = BASE64_URL_SAFE_NO_PAD.decode(fields[1].1).unwrap();
        let (encoded, xml) = (fields[1].1.to_owned(), String::from_utf8(xml).unwrap());
        kept_out(&attempt, &[&encoded]);
        (attempt, xml)
    }

    /// `xmlsec1` (Debian's package of that name) knows nothing of this code; `make tools` installs it.
    fn verifies(xml: &str) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let (file, public) = (dir.path().join("a.xml"), dir.path().join("public.pem"));
        std::fs::write(&file, xml).unwrap();
        let key = RsaKeyPair::from_pkcs8(&PKCS8).unwrap();
        let der = key.public_key().as_der().unwrap();
        std::fs::write(&public, pem("PUBLIC KEY", der.as_ref())).unwrap();
        let id = format!("--id-attr:ID={SAML}:Assertion");
        let (_, id) = id.split_once('=').unwrap();
        let told = Command::new("xmlsec1")
            .args(["--verify", "--id-attr:ID", id, "--pubkey-pem"])
            .args([&public, &file])
            .output()
            .expect("xmlsec1 must be installed: `make tools`");
        told.status.success()
    }

    #[test]
    fn an_independent_verifier_accepts_the_signature_and_no_change() {
        let (_, xml) = tried("o'neil&<ütf>@acme.com");
        assert!(verifies(&xml), "{xml}");
        assert!(xml.contains(">o'neil&amp;&lt;ütf&gt;@acme.com</saml:NameID>"), "{xml}");
        assert!(
            xml.contains("<saml:Issuer>3MVG9.&lt;&amp;\"'&gt;id</saml:Issuer>"),
            "{xml}"
        );
        for (from, to) in [
            ("@acme.com<", "@evil.com<"),
            ("2026-09-21T", "2027-09-21T"),
            ("#rsa-sha256", "#rsa-sha512"),
        ] {
            assert!(xml.contains(from), "{from}");
            assert!(!verifies(&xml.replace(from, to)), "{from}");
        }
    }

    #[test]
    fn the_assertion_says_what_salesforce_documents() {
        let (attempt, xml) = tried("i@acme.com");
        assert_eq!(attempt.path, TOKEN_PATH);
        for part in [
            "IssueInstant=\"2026-09-21T14:13:20Z\" Version=\"2.0\">",
            "<saml:SubjectConfirmationData NotOnOrAfter=\"2026-09-21T14:16:10Z\" \
             Recipient=\"https://acme.my.salesforce.com/services/oauth2/token\">",
            "<saml:Conditions NotBefore=\"2026-09-21T14:12:20Z\" NotOnOrAfter=\"2026-09-21T14:16:10Z\">",
            "<saml:Audience>https://login.salesforce.com</saml:Audience>",
            "Method=\"urn:oasis:names:tc:SAML:2.0:cm:bearer\"",
        ] {
            assert!(xml.contains(part), "{part}\n{xml}");
        }
        let (_, again) = tried("i@acme.com");
        let id = |xml: &str| xml.split(" ID=\"").nth(1).unwrap()[..33].to_owned();
        assert_ne!(id(&xml), id(&again));
    }
}
