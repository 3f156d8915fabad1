//! The SAML bearer grant: an XML assertion signed with the app's key.
//!
//! Owns: nothing; a decision. Invariants: nothing is believed before the signature fits the key uploaded for the issuer; only elements at
//! their place in the signed assertion are read, so that nothing can be wrapped around them.
//! Units: `xs:dateTime` in UTC; no grace (not confirmed).
//! Fails with: `invalid_grant` with an `error_uri` to the SAML validator.
//! Source: SF §1.4.8, §2; SAML 2.0 core §5.4, XML signature §4, exclusive canonicalization.
//!
//! The form is exclusive canonicalization without comments and without `InclusiveNamespaces`; an assertion with either is refused, which
//! Salesforce may not do.

mod xml;

use std::time::SystemTime;

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::json;

use super::{
    Form,
    assertion::{AUDIENCE, MALFORMED, NOT_APPROVED, Refusal, UNKNOWN_CLIENT, WRONG_KEY},
    audiences, bearer, field, jwt_clients, missing,
};
use crate::demo::{
    answer::{Answer, Said},
    key::PublicKey,
    settings::JwtClient,
    world::World,
};
use xml::Element;

const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const SIGNATURE: &str = "http://www.w3.org/2000/09/xmldsig#";
const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
const DIGEST_SHA256: &str = "http://www.w3.org/2001/04/xmlenc#sha256";
const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";

// The texts of these three are not confirmed.
const RECIPIENT: Refusal = ("invalid_grant", "recipient is invalid");
const NOT_YET: Refusal = ("invalid_grant", "assertion is not yet valid");
const EXPIRED: Refusal = ("invalid_grant", "assertion is expired");

pub(super) fn answer(world: &World, form: &Form) -> Result<Answer, Answer> {
    let coded = field(form, "assertion").ok_or_else(|| missing("assertion"))?;
    let audiences = audiences(world);
    match verify(coded, &jwt_clients(world), &audiences, world.now()) {
        Ok(client) => bearer(world, &client.client_id, &client.username, &client.scopes),
        Err((error, text)) => {
            let mut answer = Answer::oauth_error(error, text);
            if let Said::Json(body) = &mut answer.content {
                body["error_uri"] = json!(format!("{}/setup/secur/SAMLValidationPage.apexp", world.urls.login));
            }
            Err(answer)
        }
    }
}

/// The app that the assertion proves.
fn verify<'a>(
    coded: &str,
    clients: &'a [JwtClient],
    audiences: &[String],
    now: SystemTime,
) -> Result<&'a JwtClient, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(coded).or_else(|_| URL_SAFE.decode(coded));
    let whole = String::from_utf8(bytes.map_err(|_| MALFORMED)?).map_err(|_| MALFORMED)?;
    let root = xml::parse(&whole).ok_or(MALFORMED)?;
    if root.local() != "Assertion" || root.namespace() != SAML || root.attribute("Version") != Some("2.0") {
        return Err(MALFORMED);
    }
    let issuer = root.text_at(&["Issuer"]).ok_or(MALFORMED)?;
    let client = clients.iter().find(|c| c.client_id == issuer).ok_or(UNKNOWN_CLIENT)?;
    if !is_signed(&root, &client.key)? {
        return Err(WRONG_KEY);
    }

    let conditions = root.child("Conditions").ok_or(MALFORMED)?;
    let named = conditions
        .text_at(&["AudienceRestriction", "Audience"])
        .ok_or(AUDIENCE)?;
    if !audiences.contains(&named) {
        return Err(AUDIENCE);
    }
    let subject = root.child("Subject").ok_or(MALFORMED)?;
    let confirmation = subject.child("SubjectConfirmation").ok_or(MALFORMED)?;
    let data = confirmation.child("SubjectConfirmationData").ok_or(MALFORMED)?;
    if confirmation.attribute("Method") != Some(BEARER) {
        return Err(MALFORMED);
    }
    let recipient = data.attribute("Recipient").ok_or(RECIPIENT)?;
    let host = recipient.strip_suffix("/services/oauth2/token").ok_or(RECIPIENT)?;
    if !audiences.iter().any(|a| a == host) {
        return Err(RECIPIENT);
    }
    let time = |element: &Element<'_>, name: &str| match element.attribute(name) {
        None => Ok(None),
        Some(text) => humantime::parse_rfc3339(text).map(Some).map_err(|_| MALFORMED),
    };
    if time(conditions, "NotBefore")?.is_some_and(|from| now < from) {
        return Err(NOT_YET);
    }
    // The end of the confirmation is required (SAML profiles §3.3, RFC 7522 §3).
    let ends = [
        time(conditions, "NotOnOrAfter")?,
        Some(time(data, "NotOnOrAfter")?.ok_or(MALFORMED)?),
    ];
    if ends.into_iter().flatten().any(|end| now >= end) {
        return Err(EXPIRED);
    }
    match subject.text_at(&["NameID"]) {
        None => Err(MALFORMED),
        Some(user) if user == client.username => Ok(client),
        Some(_) => Err(NOT_APPROVED),
    }
}

/// Whether the one signature of the assertion is the key's, over exactly this assertion. An error: it has not the form.
fn is_signed(root: &Element<'_>, key: &PublicKey) -> Result<bool, Refusal> {
    let signature = root.child("Signature").ok_or(MALFORMED)?;
    let info = signature.child("SignedInfo").ok_or(MALFORMED)?;
    let reference = info.child("Reference").ok_or(MALFORMED)?;
    let transforms = reference.child("Transforms").ok_or(MALFORMED)?;
    let algorithm = |element: Option<&Element<'_>>| element.and_then(|e| e.attribute("Algorithm").map(str::to_owned));
    let method = info.child("CanonicalizationMethod").ok_or(MALFORMED)?;
    // What is inside of a transform would change what it does.
    let plain = transforms
        .children()
        .chain([method])
        .all(|step| step.children().next().is_none());
    let transforms: Vec<_> = transforms
        .children()
        .map(|t| algorithm(Some(t)).unwrap_or_default())
        .collect();
    let whole = reference.attribute("URI").and_then(|uri| uri.strip_prefix('#'));
    let as_agreed = signature.namespace() == SIGNATURE
        && algorithm(Some(method)).as_deref() == Some(EXCLUSIVE)
        && algorithm(info.child("SignatureMethod")).as_deref() == Some(RSA_SHA256)
        && algorithm(reference.child("DigestMethod")).as_deref() == Some(DIGEST_SHA256)
        && plain
        && transforms == [ENVELOPED, EXCLUSIVE]
        && whole.is_some()
        && whole == root.attribute("ID");
    if !as_agreed {
        return Err(MALFORMED);
    }
    let decoded = |element: &Element<'_>, name: &str| {
        let text = element.text_at(&[name])?.split_whitespace().collect::<String>();
        STANDARD.decode(text).ok()
    };
    let said = decoded(reference, "DigestValue").ok_or(MALFORMED)?;
    let value = decoded(signature, "SignatureValue").ok_or(MALFORMED)?;
    let rest = root.canonical(Some(signature));
    let signed = info.canonical(None);
    let fits = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.der()).verify(signed.as_bytes(), &value);
    Ok(digest(&SHA256, rest.as_bytes()).as_ref() == said && fits.is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// Signed by xmlsec1 1.2 with libxml2: pretty printed, with a declaration, empty-element tags and an unused namespace.
    #[test]
    fn an_assertion_signed_by_another_program_is_read() {
        let whole = include_str!("saml/xmlsec1.xml");
        let clients = [JwtClient {
            client_id: "3MVG9practice".into(),
            username: "integration@practice.example".into(),
            key: PublicKey::from_certificate_pem(include_str!("saml/xmlsec1.pem")).unwrap(),
            scopes: Vec::new(),
        }];
        let audiences = ["https://login.salesforce.com".to_owned()];
        let at = |xml: &str, seconds| {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            verify(&URL_SAFE.encode(xml), &clients, &audiences, now).err()
        };
        assert_eq!(at(whole, 1_790_000_000), None);
        assert_eq!(at(whole, 1_790_000_300), Some(EXPIRED));
        assert_eq!(at(whole, 1_789_999_999), Some(NOT_YET));
        assert_eq!(
            at(&whole.replace("integration@", "other@"), 1_790_000_000),
            Some(WRONG_KEY)
        );
        assert_eq!(
            at(&whole.replace("  <saml:Subject>", "<saml:Subject>"), 1_790_000_000),
            Some(WRONG_KEY)
        );
        let inclusive =
            "<ec:InclusiveNamespaces xmlns:ec=\"http://www.w3.org/2001/10/xml-exc-c14n#\" PrefixList=\"xs\"/>";
        for element in ["Transform", "CanonicalizationMethod"] {
            let start = format!("<{element} Algorithm=\"{EXCLUSIVE}\"");
            let filled = whole.replace(&format!("{start}/>"), &format!("{start}>{inclusive}</{element}>"));
            assert_ne!(filled, whole);
            assert_eq!(at(&filled, 1_790_000_000), Some(MALFORMED), "{element}");
        }
    }
}
