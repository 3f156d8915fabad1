//! The rows of the error catalogue, in the order in which they are tried.
//!
//! Invariants: `error` is matched exactly, the description by a lower-case substring; texts before bare codes.
//! Source: SF §2, row by row.

use super::Class::{self, Permanent, Propagating, RateLimited, Transient, Unsent};

/// What one cause means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meaning {
    pub(super) reason: &'static str,
    pub(super) class: Class,
    pub(super) advice: &'static str,
}

/// How one cause is told.
pub(super) struct Row {
    /// One of these, exactly; empty: any.
    codes: &'static [&'static str],
    /// A part of the description, in lower case; empty: any.
    text: &'static str,
    pub(super) meaning: Meaning,
}

impl Row {
    /// `description` in lower case.
    pub(super) fn fits(&self, code: &str, description: &str) -> bool {
        (self.codes.is_empty() || self.codes.contains(&code)) && description.contains(self.text)
    }
}

const fn row(
    codes: &'static [&'static str],
    text: &'static str,
    reason: &'static str,
    class: Class,
    advice: &'static str,
) -> Row {
    Row {
        codes,
        text,
        meaning: Meaning { reason, class, advice },
    }
}

/// A failure with a word but without a text of Salesforce's.
pub(super) fn own(reason: &str) -> Meaning {
    OWN.iter()
        .find(|meaning| meaning.reason == reason)
        .copied()
        .unwrap_or(OWN[0])
}

const fn meaning(reason: &'static str, class: Class, advice: &'static str) -> Meaning {
    Meaning { reason, class, advice }
}

/// Why a login failed: the words used alike in metrics, logs, errors and probes.
pub const REASONS: &[&str] = &[
    // The login host answered.
    "user_not_approved",
    "app_access",
    "authentication_failed",
    "audience",
    "assertion_invalid",
    "assertion_expired",
    "refresh_busy",
    "refresh_token_dead",
    "authorization_code",
    "ip_restricted",
    "wrong_login_host",
    "no_run_as_user",
    "no_scope",
    "run_as_user_unsuitable",
    "login_rate",
    "user_inactive",
    "org_inactive",
    "rate_limited",
    "client_id",
    "client_credentials",
    "flow_not_enabled",
    "flow_not_allowed",
    "grant_type",
    "no_refresh_token_scope",
    "invalid_request",
    "redirect_uri",
    "browser_flow",
    "authorization_pending",
    "data_cloud_scope",
    "refused",
    // The login host is not well, or is not one.
    "outage",
    "no_route",
    "redirected",
    "unexpected_answer",
    "malformed_answer",
    "unsafe_instance_url",
    // It was not reached.
    "unreachable",
    "timeout",
    "tls",
    "refresh_outcome_unknown",
    // Nothing was sent.
    "budget_spent",
    "core_token",
    "store",
    "secret_unreadable",
    "key_unusable",
    "needs_login",
    "subject_token",
    "command_failed",
    "static_token_dead",
];

#[rustfmt::skip]
const OWN: &[Meaning] = &[
    meaning("refused", Permanent, "Salesforce gives a code that is not in our catalogue: see Setup > Login History for the user"),
    meaning("outage", Transient, "the login host is not well; see status.salesforce.com if it lasts"),
    meaning("no_route", Transient, "Salesforce Edge knows no org at this address: check `login_url`; a new or refreshed org needs some minutes"),
    meaning("redirected", Transient, "the login host answered with a redirect, which is never followed: set `login_url` to the org's current My Domain URL"),
    meaning("rate_limited", RateLimited, "the login host asks for fewer logins; a token in use stays in use"),
    meaning("unexpected_answer", Transient, "the answer is not of Salesforce's token endpoint: check `login_url`, and any proxy on the way"),
    meaning("malformed_answer", Transient, "the answer is no token answer: check `login_url`, and any proxy on the way"),
    meaning("unsafe_instance_url", Permanent, "the answer names an instance URL that is not https: check `login_url`, or set `instance_url`"),
    meaning("unreachable", Transient, "check `login_url`, DNS, the firewall, and HTTPS_PROXY/NO_PROXY"),
    meaning("timeout", Transient, "the login host did not answer in time: check the network, or raise `token.exchange_timeout`"),
    meaning("tls", Transient, "the login host's certificate is not trusted: set `upstream.ca_file` if a proxy on the way re-signs TLS"),
    meaning("budget_spent", Transient, "the login budget is spent; if something revokes tokens all the time, stop it, or else raise `login_budget`"),
    meaning("refresh_outcome_unknown", Permanent, "an attempt to renew ended without an answer, and the refresh token may be spent: authorise again with `sf-token-proxy login ORG`"),
    meaning("data_cloud_scope", Permanent, "add the scope cdp_query_api to the app's OAuth Scopes (cdp_ingest_api to ingest, cdp_profile_api for profiles), beside api"),
    meaning("core_token", Transient, "the org's own token comes first, and there is none: see why its login failed"),
    meaning("store", Transient, "make `store.file.directory` writable and keep `store.file.key` as it was when the records were written"),
    meaning("secret_unreadable", Unsent, "make the secret readable where the configuration points to"),
    meaning("key_unusable", Unsent, "set `private_key` to an unencrypted RSA private key in PEM, 2048 bits or more"),
    meaning("needs_login", Unsent, "run `sf-token-proxy login ORG` once as the user whom the proxy is to be, or set `refresh_token`"),
    meaning("subject_token", Unsent, "put a token of the identity provider in place where `subject_token` points to, of 10,000 characters at most"),
    meaning("command_failed", Unsent, "run the command of `grant.command.run` by hand, as the user and with the environment of the proxy; it has to print the token as JSON"),
    meaning("static_token_dead", Unsent, "the org refused the token: put a new one in place where `access_token` points to; it counts within seconds"),
];

const GRANT: &[&str] = &["invalid_grant"];
const CC_NOT_ENABLED: &[&str] = &["invalid_grant", "unauthorized_client", "unsupported_grant_type"];

#[rustfmt::skip]
pub(super) const CATALOGUE: &[Row] = &[
    row(&[], "data not available", "org_inactive", Permanent, "the org was deleted or has expired: check `login_url`"),
    row(GRANT, "hasn't approved this consumer", "user_not_approved", Propagating, APPROVE),
    row(GRANT, "hasn't approved the connected app", "user_not_approved", Propagating, APPROVE),
    row(GRANT, "hasn't approved", "user_not_approved", Propagating, APPROVE),
    row(GRANT, "isn't approved", "user_not_approved", Propagating, APPROVE),
    row(&["invalid_app_access"], "", "app_access", Propagating, "on the app's policy page (App Policies), add the user's profile or a permission set that the user has; for client credentials, the Run As user's"),
    row(GRANT, "audience", "audience", Permanent, "set `audience`: https://login.salesforce.com for production, https://test.salesforce.com for a sandbox, the site's URL for Experience Cloud"),
    row(GRANT, "invalid assertion", "assertion_invalid", Permanent, "check that `private_key` belongs to the certificate uploaded to the app (Use digital signatures), and `client_id` and `username`"),
    row(GRANT, "expired authorization code", "assertion_expired", Permanent, "check this machine's clock (NTP): Salesforce saw an assertion that had expired; in a browser login, start again: a code serves once, for 15 minutes"),
    row(GRANT, "already being processed", "refresh_busy", Transient, "somebody else uses the same refresh token at the same time"),
    row(GRANT, "expired access/refresh token", "refresh_token_dead", Permanent, "authorise again with `sf-token-proxy login ORG`, or set a new `refresh_token`: the one in use was revoked, replaced or has expired"),
    row(GRANT, "invalid authorization code", "authorization_code", Permanent, "start the browser login again"),
    row(GRANT, "ip restricted", "ip_restricted", Permanent, "add this machine's public addresses (IPv4 and IPv6) to the profile's Login IP Ranges, or set the app's IP Relaxation to Relax IP restrictions"),
    row(GRANT, "not supported on this domain", "wrong_login_host", Permanent, "client credentials and token exchange need the org's My Domain URL: set `login_url` to https://<your domain>.my.salesforce.com"),
    row(GRANT, "no client credentials user", "no_run_as_user", Permanent, "on the app's Policies tab, tick Enable Client Credentials Flow and set Run As (a username)"),
    row(GRANT, "no valid scopes", "no_scope", Permanent, SCOPES),
    row(GRANT, "maximum logins exceeded", "run_as_user_unsuitable", Permanent, "choose another Run As user on the app's Policies tab: an agent's or service user cannot be used"),
    row(GRANT, "login rate exceeded", "login_rate", RateLimited, "the user had over 3,600 logins in an hour: find who else logs in as this user; wait up to an hour"),
    row(GRANT, "user is locked", "user_inactive", Permanent, USER),
    row(GRANT, "inactive user", "user_inactive", Permanent, USER),
    row(GRANT, "login hours", "user_inactive", Permanent, USER),
    row(GRANT, "redirect uri", "redirect_uri", Permanent, CALLBACK),
    row(GRANT, "redirect_uri", "redirect_uri", Permanent, CALLBACK),
    row(CC_NOT_ENABLED, "client credentials flow not enabled", "flow_not_enabled", Permanent, "tick Enable Client Credentials Flow in the app's OAuth settings and on its Policies tab"),
    row(CC_NOT_ENABLED, "client credentials flow is not enabled", "flow_not_enabled", Permanent, "tick Enable Client Credentials Flow in the app's OAuth settings and on its Policies tab"),
    row(GRANT, "authentication failure", "authentication_failed", Permanent, "see Setup > Login History for the user: a wrong user, password or security token, a frozen or locked user, or `login_url` of the wrong kind (production or sandbox); the password flow is blocked by default in newer orgs, and Salesforce ends it on 20 February 2027"),
    row(GRANT, "", "refused", Permanent, "see Setup > Login History for the user"),
    row(&["inactive_user"], "", "user_inactive", Permanent, USER),
    row(&["inactive_org"], "", "org_inactive", Permanent, "the org is locked, suspended or has expired: see the org's Company Information, or ask Salesforce"),
    row(&["rate_limit_exceeded"], "", "rate_limited", RateLimited, "the login host asks for fewer logins; a token in use stays in use"),
    row(&["invalid_client_id"], "", "client_id", Propagating, "set `client_id` to the app's Consumer Key, and `login_url` to the org that has the app; a new app needs up to ten minutes"),
    row(&["invalid_client"], "", "client_credentials", Permanent, "check `client_secret` against the app's Consumer Secret, or that `private_key` belongs to the certificate uploaded to the app"),
    row(&["unauthorized_client"], "", "flow_not_allowed", Permanent, "allow the flow in the app's OAuth settings (Flow Enablement) and on its Policies tab"),
    row(&["unsupported_grant_type"], "", "grant_type", Permanent, "the login host does not offer this flow: check the app's OAuth settings and `login_url`"),
    row(&["invalid_request"], "refresh_token scope", "no_refresh_token_scope", Permanent, "add the scope \"Perform requests at any time (refresh_token, offline_access)\" to the app's OAuth Scopes, beside \"Manage user data via APIs (api)\""),
    row(&["invalid_request"], "", "invalid_request", Permanent, "check the app's OAuth settings; for JWT bearer, upload the certificate again (it may not have been saved); a browser or device login starts again"),
    row(&["invalid_scope"], "", "no_scope", Permanent, SCOPES),
    row(&["redirect_uri_mismatch"], "", "redirect_uri", Permanent, CALLBACK),
    row(&["access_denied", "immediate_unsuccessful", "unsupported_response_type", "OAUTH_APPROVAL_ERROR_GENERIC", "OAUTH_APP_BLOCKED"], "", "browser_flow", Permanent, "the browser login was refused: see Setup > Connected Apps OAuth Usage whether the app is blocked, and log in again"),
    row(&["authorization_pending", "slow_down"], "", "authorization_pending", Transient, "somebody has to approve the login in a browser"),
    row(&["unknown_error", "server_error", "temporarily_unavailable"], "", "outage", Transient, "the login host is not well; see status.salesforce.com if it lasts"),
];

const APPROVE: &str = "set the app's Permitted Users to \"Admin approved users are pre-authorized\" and add the user's profile or permission set; a new app needs up to ten minutes; check that `login_url` is the user's org";
const USER: &str = "activate, unfreeze or unlock the user in Setup > Users, and check the profile's Login Hours";
const SCOPES: &str = "add the scope \"Manage user data via APIs (api)\" to the app's OAuth Scopes";
const CALLBACK: &str = "make `login.callback_url` one of the app's callback URLs, letter for letter";
