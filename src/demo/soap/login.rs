//! SOAP's own login, and who is logged in.
//!
//! Owns: nothing; sessions are the world's.
//! Invariants: a login counts against the user's rate before anything is opened; its session is opaque always, and the living one again if there
//! is one; every wrong thing about the user is the same `INVALID_LOGIN`.
//! Units: `sessionSecondsValid` in seconds. Fails with: [`Fault`].
//! Source: the partner WSDL; Salesforce's notice on the retirement of `login()` (none from API version 65.0 on); SF §3.4. The code that a login
//! beyond the rate or in a version without `login()` is answered with is not confirmed.

use std::sync::atomic::Ordering::Relaxed;

use secrecy::ExposeSecret as _;

use super::{Api, Call, Fault};
use crate::demo::{
    session::{Policy, Session, opaque_token},
    settings::TokenFormat,
    store::{id18, iso, unix_millis, user_id},
    world::{ORG_ID, World},
    xml::Writer,
};

/// The first API version without `login()`.
const WITHOUT_LOGIN: u32 = 65;
/// Instead of an app.
const CLIENT: &str = "SOAP login";

pub(super) fn login(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let number = call.version.strip_suffix(".0").and_then(|v| v.parse().ok());
    if number.is_none_or(|number: u32| number >= WITHOUT_LOGIN) {
        return Err(Fault::new(
            "UNSUPPORTED_API_VERSION",
            "login() is not available in this API version",
        ));
    }
    let (username, password) = (call.operation.word("username"), call.operation.word("password"));
    let users = &call.world.settings.password_users;
    let known = users.iter().any(|user| {
        let whole = [&user.password, &user.security_token].map(|part| part.expose_secret());
        user.username == username && whole.concat() == password
    });
    if !known {
        return Err(Fault::new(
            "INVALID_LOGIN",
            "Invalid username, password, security token; or user locked out.",
        ));
    }
    let token = open(call.world, username)?;
    let instance = call.world.instance_url();
    let letter = if *call.api == Api::Enterprise { 'c' } else { 'u' };
    let at = |letter: char| format!("{instance}/services/Soap/{letter}/{}/{}", call.version, &ORG_ID[..15]);
    out.group("result", |out| {
        out.word("metadataServerUrl", &at('m'));
        out.show("passwordExpired", false);
        out.show("sandbox", false);
        out.word("serverUrl", &at(letter));
        out.word("sessionId", &token);
        out.word("userId", &user_id(username));
        out.group("userInfo", |out| info(call.world, username, out));
    });
    Ok(())
}

fn open(world: &World, username: &str) -> Result<String, Fault> {
    let (settings, now) = (&world.settings, world.now());
    let policy = Policy {
        timeout: settings.session_timeout,
        same_token: world.faults().same_on_remint,
        remint_extends: settings.remint_extends,
    };
    let mut session = Session::new(CLIENT, username, "full", now, policy.timeout, TokenFormat::Opaque);
    session.password = true;
    let mut sessions = world.sessions();
    sessions
        .login(username, settings.login_limit, now)
        .map_err(|_| Fault::new("LOGIN_RATE_EXCEEDED", "login rate exceeded"))?;
    world.counters.logins.fetch_add(1, Relaxed);
    Ok(sessions.again(&session, policy, now).unwrap_or_else(|| {
        let token = opaque_token(ORG_ID);
        sessions.open(token.clone(), session);
        token
    }))
}

pub(super) fn logout(call: &Call<'_>, _: &mut Writer) -> Result<(), Fault> {
    call.world.sessions().revoke(call.token, call.world.now());
    Ok(())
}

pub(super) fn user_info(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    out.group("result", |out| info(call.world, &call.username, out));
    Ok(())
}

pub(super) fn server_timestamp(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let now = date(unix_millis(call.world.now()));
    out.group("result", |out| out.word("timestamp", &now));
    Ok(())
}

/// `xsd:dateTime`.
pub(super) fn date(millis: u64) -> String {
    iso(millis).replace("+0000", "Z")
}

/// All fields of the WSDL's `GetUserInfoResult`, in its order.
fn info(world: &World, username: &str, out: &mut Writer) {
    out.show("accessibilityMode", false);
    out.show("chatterExternal", false);
    out.word("currencySymbol", "€");
    out.show("orgAttachmentFileSizeLimit", 5_242_880);
    out.word("orgDefaultCurrencyIsoCode", "EUR");
    out.word("orgDefaultCurrencyLocale", "de_DE_EURO");
    out.show("orgDisallowHtmlAttachments", false);
    out.show("orgHasPersonAccounts", false);
    out.word("organizationId", ORG_ID);
    out.show("organizationMultiCurrency", false);
    out.word("organizationName", "Practice Org");
    out.word("profileId", &id18("00e", 0));
    out.nil("roleId");
    out.show("sessionSecondsValid", world.settings.session_timeout.as_secs());
    out.nil("userDefaultCurrencyIsoCode");
    out.word("userEmail", username);
    out.word("userFullName", "Practice User");
    out.word("userId", &user_id(username));
    out.word("userLanguage", "en_US");
    out.word("userLocale", "en_US");
    out.word("userName", username);
    out.word("userTimeZone", "Europe/Berlin");
    out.word("userType", "Standard");
    out.word("userUiSkin", "Theme3");
}
