//! `logout`: the refresh token is revoked at the login host, with every access token made from it, and forgotten here.
//!
//! Invariants: under the record's lock, so that nobody renews meanwhile; what could not be revoked is not forgotten, unless
//! `--force` says so: it would live on at Salesforce, out of sight.
//! Fails with: [`Ended`].
//! Source: SF §3.5.

use std::process::ExitCode;

use super::{
    Source,
    login::{Ended, on_the_spot, place::Place},
    say,
};

#[derive(clap::Args)]
pub(super) struct Options {
    /// The org's name in the configuration; may be left out when there is one.
    org: Option<String>,
    #[command(flatten)]
    source: Source,
    /// Forget the tokens also when they cannot be revoked.
    #[arg(long)]
    force: bool,
}

pub(super) fn logout(options: &Options) -> ExitCode {
    on_the_spot(&options.source, options.org.as_deref(), "logout", async |place| {
        log_out(&place, options.force).await
    })
}

async fn log_out(place: &Place, force: bool) -> Result<(), Ended> {
    let name = &place.name;
    let locked = place.store.lock(&place.key, place.http.timeout()).await;
    let locked = locked.map_err(Ended::failed)?;
    let record = locked.read().await.map_err(Ended::failed)?.unwrap_or_default();
    let grant = record.grant.map(|grant| grant.refresh_token);
    let Some(secret) = grant.or(record.token.map(|token| token.secret)) else {
        say(&format!("Nothing is stored for org `{name}`.\n{}", seed_note(place)));
        return Ok(());
    };
    let revoked = match place.http.revoke(&secret).await {
        Ok(true) => {
            place.audit.revoked();
            "Revoked at Salesforce, with the access tokens made from it"
        }
        Ok(false) => "Salesforce knew the token no more",
        Err(failed) if force => {
            say(&format!("Not revoked: {}\n", failed.refusal));
            "Not revoked: remove it in Setup > Connected Apps OAuth Usage"
        }
        Err(failed) => {
            return Err(Ended::failed(format!(
                "not revoked, so it is kept: {}; `logout --force` forgets it all the same",
                failed.refusal
            )));
        }
    };
    locked.forget().await.map_err(Ended::failed)?;
    place.audit.forgotten();
    say(&format!(
        "Logged out: org `{name}`. {revoked}.\nForgotten in {}.\n{}",
        place.directory.display(),
        seed_note(place)
    ));
    Ok(())
}

/// A proxy would go on with it.
fn seed_note(place: &Place) -> String {
    match &place.grant.refresh_token {
        Some(reference) => format!(
            "Note: `orgs.{}.grant.refresh_token.refresh_token` is still configured ({reference}); the proxy presents it when \
             the store has none.\n",
            place.name
        ),
        None => String::new(),
    }
}
