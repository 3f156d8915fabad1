//! An org's own tokens: taken from the store if another process put a newer one there, else minted, and recorded.
//!
//! Owns: nothing but what could not be recorded yet.
//! Invariants: under the identity's lock, one process mints and the others find its token; a refresh token that came in
//! place of another is in the store, flushed, before its access token is used; one that may be spent is never presented:
//! what is about to be presented is noted first, and the note stays until an answer is recorded. A grant that is safe to
//! repeat does without a store that is away; a refresh token waits for it.
//! Units: `Duration`. Fails with: [`Refusal`].
//! Source: design §5; SF §1.4.3 (rotation), §1.5 (replay safety).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::{
    Exchange, Instance, Minted, Refusal, Token,
    audit::Audit,
    exchange::{Ask, Failed, HttpExchange, Identity, Outcome, Touch, Why},
    grant::{self, Found},
    refusal::Class,
};
use crate::{
    config::{self, ClientAuth, Grant, Org, OrgName, RotationPolicy},
    metrics::StoreMetrics,
    store::{Key, Locked, Record, Rotation, Store, StoreError, StoredGrant, StoredToken},
};

#[cfg(test)]
mod tests;

/// The tokens of one identity.
pub struct Kept {
    http: HttpExchange,
    store: Store,
    key: Key,
    /// Assumed of a stored token that does not tell its own.
    lifetime: Duration,
    audit: Audit,
    metrics: StoreMetrics,
    memory: Mutex<Memory>,
    /// The program ends: nothing is begun that could not be ended.
    stop: CancellationToken,
}

/// What one attempt leaves for the next.
#[derive(Default)]
struct Memory {
    /// A token that came with a new refresh token, until that is in the store.
    unrecorded: Option<Box<Unrecorded>>,
    /// A refresh token that must not be presented again, and why.
    dead: Option<(Fingerprint, &'static str)>,
    /// The configured refresh token, if it has been replaced since.
    spent_seed: Option<Fingerprint>,
    /// A subject token that was presented without an answer.
    spent_subject: Option<Fingerprint>,
}

type Fingerprint = [u8; 32];

/// What a renewal brought.
struct Unrecorded {
    record: Record,
    minted: Minted,
    /// The refresh token that was presented for it.
    presented: Fingerprint,
}

impl Unrecorded {
    /// Whether what is stored now is what this renewal began with, or nothing; else somebody logged in since.
    fn follows(&self, stored: &Record) -> bool {
        let ours = self
            .record
            .grant
            .as_ref()
            .map(|grant| fingerprint(&grant.refresh_token));
        let stored = stored.grant.as_ref().map(|grant| fingerprint(&grant.refresh_token));
        stored.is_none() || stored == Some(self.presented) || stored == ours
    }
}

impl Kept {
    pub fn new(
        http: HttpExchange,
        store: Store,
        key: Key,
        lifetime: Duration,
        audit: Audit,
        metrics: StoreMetrics,
    ) -> Self {
        Self {
            http,
            store,
            key,
            lifetime,
            audit,
            metrics,
            memory: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Presents nothing any more once `stop` is cancelled.
    pub fn until(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// A grant that may be repeated: a store that is away is told, and done without.
    async fn logged_in(&self, ask: Ask<'_>) -> Result<Minted, Refusal> {
        let opened = self.opened().await;
        let locked = match opened {
            Ok((locked, record)) => {
                if let Some(minted) = self.adopted(&record, ask) {
                    return Ok(minted);
                }
                Some((locked, record))
            }
            Err(error) => {
                tracing::warn!(org = %self.key.name, %error, "the store cannot be used; logging in without it");
                None
            }
        };
        let subject = self.subject().await?;
        let granted = self.http.login(None).await;
        if subject.is_some() {
            self.note_subject(subject.filter(|_| matches!(&granted, Err(f) if f.outcome == Outcome::Unknown)));
        }
        let minted = granted.map_err(|failed| failed.refusal)?.minted;
        let mut minted = self.http.with_end(minted).await;
        if let Some((locked, mut record)) = locked {
            self.number(&mut record, &mut minted, ask);
            if let Err(error) = self.write(&locked, &record).await {
                tracing::warn!(org = %self.key.name, %error, "the token was not recorded; a restart will log in again");
            }
        }
        Ok(minted)
    }

    /// For token exchange, the fingerprint of what is presented: one whose presentation got no answer is not presented
    /// again (SF §1.5), whoever fetches it has to bring a new one.
    async fn subject(&self) -> Result<Option<Fingerprint>, Refusal> {
        let Grant::TokenExchange(settings) = self.http.grant() else {
            return Ok(None);
        };
        let subject = read("subject_token", &settings.subject_token).await?;
        let fingerprint = fingerprint(&subject);
        if self.lock().spent_subject == Some(fingerprint) {
            let text = format!(
                "`subject_token`: {} was presented without an answer and may be used up",
                settings.subject_token
            );
            return Err(Refusal::of("subject_token", text));
        }
        Ok(Some(fingerprint))
    }

    fn note_subject(&self, spent: Option<Fingerprint>) {
        self.lock().spent_subject = spent;
    }

    /// A refresh token: nothing is sent that could not be recorded.
    async fn refreshed(&self, settings: &config::RefreshToken, ask: Ask<'_>) -> Result<Minted, Refusal> {
        let seed = match &settings.refresh_token {
            Some(reference) => Some(read("refresh_token", reference).await?),
            None => None,
        };
        let (locked, mut record) = self.opened().await.map_err(|e| of_store(&e))?;
        if let Some(minted) = self.recorded_at_last(&locked, &record).await? {
            return Ok(minted);
        }
        if descends(&record, seed.as_ref())
            && let Some(minted) = self.adopted(&record, ask)
        {
            return Ok(minted);
        }
        let stored = record.grant.take();
        self.note_seed(stored.as_ref());
        let mut state = state(stored, seed.as_ref())
            .ok_or_else(|| Refusal::of("needs_login", format!("run `sf-token-proxy login {}`", self.key.name)))?;
        // Also where answers have shown that it is off: an administrator may have switched it on since.
        let careful = settings.rotation == RotationPolicy::Auto || state.rotation == Rotation::On;
        self.not_dead(&state)?;
        if self.stop.is_cancelled() {
            return Err(Refusal::of("store", "the proxy is stopping".to_owned()));
        }
        let presented = fingerprint(&state.refresh_token);
        if careful {
            self.may_be_presented(settings, &mut state).await?;
            state.in_flight = true;
            record.grant = Some(state.clone());
            self.write(&locked, &record).await.map_err(|e| of_store(&e))?;
        }
        match self.http.login(Some(state.refresh_token.clone())).await {
            Ok(granted) => {
                let new = granted.refresh_token;
                let rotated = new.filter(|new| new.expose_secret() != state.refresh_token.expose_secret());
                state.rotation = match rotated {
                    Some(_) => Rotation::On,
                    None => Rotation::Off,
                };
                if let Some(new) = rotated {
                    self.audit.rotated(ask.why);
                    state.refresh_token = new;
                    self.note_seed(Some(&state));
                }
                state.in_flight = false;
                let first_of_all = careful || state.rotation == Rotation::On;
                let mut minted = match first_of_all {
                    true => granted.minted,
                    false => self.http.with_end(granted.minted).await,
                };
                self.number(&mut record, &mut minted, ask);
                record.grant = Some(state);
                if first_of_all {
                    // Its refresh token would be lost with the process: not used before it is safe. Kept first, for
                    // this future may be dropped while it writes.
                    self.lock().unrecorded = Some(Box::new(Unrecorded {
                        record,
                        minted,
                        presented,
                    }));
                    let minted = self.recorded(&locked).await?;
                    return Ok(self.with_end(minted, &locked).await);
                }
                if let Err(error) = self.write(&locked, &record).await {
                    tracing::warn!(org = %self.key.name, %error, "the token was not recorded; a restart will log in again");
                }
                Ok(minted)
            }
            Err(mut failed) => {
                if let Some(new) = failed.successor.take() {
                    self.succeed(&locked, record, state, *new, ask.why).await;
                } else {
                    self.settle(&locked, record, state, careful, &failed).await;
                }
                Err(failed.refusal)
            }
        }
    }

    /// The answer was no good but for the refresh token in it, which has taken the presented one's place.
    async fn succeed(&self, locked: &Locked, mut record: Record, mut state: StoredGrant, new: SecretString, why: Why) {
        if new.expose_secret() != state.refresh_token.expose_secret() {
            self.audit.rotated(why);
            state.rotation = Rotation::On;
            state.refresh_token = new;
        }
        state.in_flight = false;
        record.grant = Some(state);
        if let Err(error) = self.write(locked, &record).await {
            tracing::warn!(org = %self.key.name, %error, "the store cannot be written");
        }
    }

    /// The end of a token that is recorded already; it is told to the store as well, if that can be.
    async fn with_end(&self, minted: Minted, locked: &Locked) -> Minted {
        let known = minted.known_expiry;
        let minted = self.http.with_end(minted).await;
        if minted.known_expiry != known
            && let Ok(Some(mut record)) = locked.read().await
            && let Some(token) = &mut record.token
        {
            token.known_expiry = minted.known_expiry;
            if let Err(error) = self.write(locked, &record).await {
                tracing::warn!(org = %self.key.name, %error, "the store cannot be written");
            }
        }
        minted
    }

    /// A seed that was rotated away must not be presented should its record be lost.
    fn note_seed(&self, state: Option<&StoredGrant>) {
        let spent = state.filter(|state| state.rotation == Rotation::On).and_then(|state| {
            let this = fingerprint(&state.refresh_token);
            state.seed.filter(|seed| *seed != this)
        });
        if spent.is_some() {
            self.lock().spent_seed = spent;
        }
    }

    /// What could not be recorded when it came.
    async fn recorded_at_last(&self, locked: &Locked, stored: &Record) -> Result<Option<Minted>, Refusal> {
        let follows = match &self.lock().unrecorded {
            Some(unrecorded) => unrecorded.follows(stored),
            None => return Ok(None),
        };
        if !follows {
            tracing::warn!(org = %self.key.name, "somebody logged in while a renewal could not be recorded; the login counts");
            self.lock().unrecorded = None;
            return Ok(None);
        }
        self.recorded(locked).await.map(Some)
    }

    /// Writes what is unrecorded; handed out only then.
    async fn recorded(&self, locked: &Locked) -> Result<Minted, Refusal> {
        let record = self
            .lock()
            .unrecorded
            .as_ref()
            .map(|unrecorded| unrecorded.record.clone());
        let written = match &record {
            Some(record) => self.write(locked, record).await,
            None => Ok(()),
        };
        written.map_err(|error| of_store(&error))?;
        let unrecorded = self.lock().unrecorded.take();
        unrecorded
            .map(|unrecorded| unrecorded.minted)
            .ok_or_else(|| Refusal::of("store", None))
    }

    /// A token that the login host called dead is not presented again.
    fn not_dead(&self, state: &StoredGrant) -> Result<(), Refusal> {
        let this = fingerprint(&state.refresh_token);
        if self.lock().spent_seed == Some(this) {
            return Err(self.re_authorise(TOKEN_DEAD));
        }
        if let Some((dead, reason)) = self.lock().dead
            && dead == this
        {
            return Err(self.re_authorise(reason));
        }
        if let Some(reason) = &state.dead {
            let reason = known_reason(reason);
            self.lock().dead = Some((this, reason));
            return Err(self.re_authorise(reason));
        }
        Ok(())
    }

    /// A token that was presented without an answer is presented again only if the login host says that it lives.
    async fn may_be_presented(&self, settings: &config::RefreshToken, state: &mut StoredGrant) -> Result<(), Refusal> {
        if !state.in_flight {
            return Ok(());
        }
        let asked = self.http.introspected(&state.refresh_token, "refresh_token");
        let asked = tokio::time::timeout(self.http.timeout(), asked).await;
        let told = match asked {
            Ok(Ok(told)) => told,
            _ if state.rotation == Rotation::Off => None,
            Ok(Err(failed)) => return Err(failed.refusal),
            Err(_) => {
                let text = "the login host did not say whether the refresh token lives".to_owned();
                return Err(Refusal::of("timeout", text));
            }
        };
        match told {
            Some(told) if told.active => {
                tracing::info!(org = %self.key.name, "a renewal ended without an answer; the login host says that the refresh token still lives");
                state.in_flight = false;
                Ok(())
            }
            // Nobody can tell, and so far no answer has brought a new one.
            None if state.rotation == Rotation::Off => Ok(()),
            // Nothing was said of the token: a wrong secret may be put right.
            None if matches!(settings.auth, ClientAuth::Secret(..)) => Err(Refusal {
                class: Class::Transient,
                ..self.re_authorise(OUTCOME_UNKNOWN)
            }),
            _ => {
                self.lock().dead = Some((fingerprint(&state.refresh_token), OUTCOME_UNKNOWN));
                Err(self.re_authorise(OUTCOME_UNKNOWN))
            }
        }
    }

    /// The store is looked at again soon, for `login` may run beside us; nothing is sent.
    fn re_authorise(&self, reason: &'static str) -> Refusal {
        let text = format!("run `sf-token-proxy login {}`", self.key.name);
        let told = Refusal::of(OUTCOME_UNKNOWN, text);
        Refusal {
            reason,
            class: Class::Unsent,
            advice: if reason == TOKEN_DEAD { DEAD_ADVICE } else { told.advice },
            ..told
        }
    }

    /// After a renewal that failed: what the note in the store says from now on.
    async fn settle(
        &self,
        locked: &Locked,
        mut record: Record,
        mut state: StoredGrant,
        careful: bool,
        failed: &Failed,
    ) {
        let dead = failed.refusal.reason == TOKEN_DEAD;
        if !careful && !dead {
            return;
        }
        // Somebody else presents the same token now: theirs may replace it. Where nobody can be asked, and no answer has
        // shown that it does, it is waited for and ours presented again.
        let can_ask = matches!(self.http.grant(), Grant::RefreshToken(g) if matches!(g.auth, ClientAuth::Secret(..)));
        let doubtful = failed.refusal.reason == "refresh_busy" && (can_ask || state.rotation == Rotation::On);
        if failed.outcome == Outcome::Unknown || doubtful {
            return;
        }
        state.in_flight = false;
        if dead {
            state.dead = Some(TOKEN_DEAD.to_owned());
            self.lock().dead = Some((fingerprint(&state.refresh_token), TOKEN_DEAD));
        }
        record.grant = Some(state);
        if let Err(error) = self.write(locked, &record).await {
            tracing::warn!(org = %self.key.name, %error, "the store cannot be written");
        }
    }

    /// A token that somebody else puts in place. One that the org refused, and that is there again, is asked about:
    /// the org alone can vouch for it.
    async fn found(&self, ask: Ask<'_>) -> Result<Minted, Refusal> {
        let (found, dead) = match self.http.grant() {
            Grant::Command(command) => {
                let found = grant::command::run(command, self.http.timeout()).await?;
                (found, "command_failed")
            }
            Grant::Static(settings) => {
                let settings = settings.clone();
                let found = tokio::task::spawn_blocking(move || grant::static_token::found(&settings)).await;
                let found = found.map_err(|_| Refusal::of("secret_unreadable", None))??;
                (found, "static_token_dead")
            }
            _ => return Err(Refusal::of("grant_type", None)),
        };
        let Found {
            access_token,
            instance_url,
        } = found;
        let minted = self.http.found(access_token, instance_url.as_deref())?;
        let again = |held: &&Token| held.secret().expose_secret() == minted.secret.expose_secret();
        let again = ask.held.filter(again).is_some();
        if again && ask.why == Why::Refused && self.http.touch(&minted.instance, &minted.secret).await == Touch::Dead {
            return Err(Refusal::of(
                dead,
                "the org refuses the token, and there is no other".to_owned(),
            ));
        }
        Ok(minted)
    }

    async fn opened(&self) -> Result<(Locked, Record), StoreError> {
        let opened = async {
            let locked = self.store.lock(&self.key, self.http.timeout() + LOCK_SLACK).await?;
            let record = locked.read().await?;
            Ok((locked, record.unwrap_or_default()))
        };
        let opened = opened.await;
        self.metrics.read(opened.as_ref().err().map(StoreError::word));
        opened
    }

    async fn write(&self, locked: &Locked, record: &Record) -> Result<(), StoreError> {
        let written = locked.write(record).await;
        self.metrics.wrote(written.as_ref().err().map(StoreError::word));
        self.audit.stored(record.serial, written.as_ref().err());
        written
    }

    /// The stored token, if it is newer than the one at hand and lives as far as one can tell.
    fn adopted(&self, record: &Record, ask: Ask<'_>) -> Option<Minted> {
        let stored = record.token.as_ref()?;
        if record.serial <= ask.held.map_or(0, |held| held.serial) {
            return None;
        }
        // One that was minted without the store has no number; what is stored may be the dead one before it.
        if ask
            .held
            .is_some_and(|held| held.serial == 0 && stored.minted_at <= held.minted_at)
        {
            return None;
        }
        let now = self.http.clock().now();
        let expiry = stored.known_expiry.unwrap_or(stored.minted_at + self.lifetime);
        if expiry < now + SHORTEST_REST || stored.minted_at > now + CLOCKS_APART {
            return None;
        }
        let instance = Arc::new(Instance::parse(&stored.instance_url).ok()?);
        let also = stored.also.iter();
        let also = also.map(|(prefix, url)| Some((prefix.clone(), Arc::new(Instance::parse(url).ok()?))));
        let also = also.collect::<Option<Vec<_>>>()?;
        self.audit.adopted(ask.why, record.serial);
        let identity = stored.org_id.clone().zip(stored.user_id.clone());
        Some(Minted {
            known_expiry: stored.known_expiry,
            identity: identity.map(|(org_id, user_id)| Identity { org_id, user_id }),
            reaches_api: stored.reaches_api,
            adopted: true,
            serial: record.serial,
            minted_at: Some(stored.minted_at),
            also: also.into(),
            ..Minted::new(stored.secret.clone(), instance)
        })
    }

    /// Puts a fresh token into the record, as the next of its kind.
    fn number(&self, record: &mut Record, minted: &mut Minted, ask: Ask<'_>) {
        let now: SystemTime = self.http.clock().now();
        record.serial = record.serial.max(ask.held.map_or(0, |held| held.serial)) + 1;
        minted.serial = record.serial;
        record.token = Some(StoredToken {
            secret: minted.secret.clone(),
            instance_url: minted.instance.url(),
            also: minted
                .also
                .iter()
                .map(|(prefix, instance)| (prefix.clone(), instance.url()))
                .collect(),
            known_expiry: minted.known_expiry,
            minted_at: now,
            org_id: minted.identity.as_ref().map(|identity| identity.org_id.clone()),
            user_id: minted.identity.as_ref().map(|identity| identity.user_id.clone()),
            reaches_api: minted.reaches_api,
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange for Kept {
    async fn exchange(&self, ask: Ask<'_>) -> Result<Minted, Refusal> {
        match self.http.grant() {
            Grant::Static(_) | Grant::Command(_) => self.found(ask).await,
            Grant::RefreshToken(settings) => self.refreshed(settings, ask).await,
            _ => self.logged_in(ask).await,
        }
    }

    async fn recall(&self, ask: Ask<'_>) -> Option<Minted> {
        if matches!(self.http.grant(), Grant::Static(_) | Grant::Command(_)) {
            return None;
        }
        let record = self.store.read(&self.key).await.ok()??;
        if let Grant::RefreshToken(settings) = self.http.grant()
            && let Some(reference) = &settings.refresh_token
            && !descends(&record, Some(&read("refresh_token", reference).await.ok()?))
        {
            return None;
        }
        self.adopted(&record, ask)
    }

    fn abandonable(&self) -> bool {
        !matches!(self.http.grant(), Grant::RefreshToken(_) | Grant::TokenExchange(_))
    }

    /// The wait for the lock, an introspection, the login.
    fn longest(&self, once: Duration) -> Duration {
        3 * once
    }

    fn takes_over(&mut self, before: Self) -> bool {
        let found = matches!(self.http.grant(), Grant::Static(_) | Grant::Command(_));
        let elsewhere = found && self.http.grant() != before.http.grant();
        let same = self.key == before.key;
        if same {
            // A refresh token that could not be recorded yet is among it.
            self.memory = before.memory;
        } else if before.lock().unrecorded.is_some() {
            tracing::error!(
                org = before.key.name,
                "the identity was changed while the newest refresh token of the one before could not be recorded: going back to it needs a login by a person"
            );
        }
        same && !elsewhere && self.http.leads_where(&before.http)
    }

    async fn keep_alive(&self, token: &Token) -> Touch {
        self.http.touch(&token.instance, token.secret()).await
    }

    fn grant_word(&self) -> &'static str {
        grant::word(self.http.grant())
    }
}

/// Whose tokens these are, and under which settings they were minted: with other settings they are others.
pub fn key(name: &OrgName, org: &Org, user: Option<&str>) -> Key {
    let (client_id, own_user) = match &org.grant {
        Grant::JwtBearer(g) => (g.client_id.as_str(), g.username.as_str()),
        Grant::SamlBearer(g) => (g.client_id.as_str(), g.username.as_str()),
        Grant::Password(g) => (g.client_id.as_str(), g.username.as_str()),
        Grant::ClientCredentials(g) => (g.client_id.as_str(), ""),
        Grant::RefreshToken(g) => (g.client_id.as_str(), ""),
        Grant::TokenExchange(g) => (g.client_id.as_str(), ""),
        Grant::PlatformCredentials(g) => (g.client_id.as_str(), ""),
        Grant::Static(_) | Grant::Command(_) => ("", ""),
    };
    let user = user.unwrap_or(own_user);
    let instance = org.instance_url.as_ref().map(url::Url::as_str).unwrap_or_default();
    let (instance, host) = match &org.grant {
        // Its successor must be found again, wherever calls go.
        Grant::RefreshToken(_) => ("", String::new()),
        _ => (instance, format!("{:?}", org.api.host)),
    };
    // A business unit, a tenant, scopes: the token is bound to them.
    let asked = match &org.grant {
        Grant::PlatformCredentials(g) => format!("{} {:?}", g.token_path, g.parameters),
        Grant::TokenExchange(g) => format!("{:?} {:?}", g.scope, g.token_handler),
        _ => String::new(),
    };
    let grant = grant::word(&org.grant);
    let login = org.login.url.as_str();
    let mut identity = [login, grant, client_id, user, instance, &host].join("\n");
    // Only where there is any, so that the records of other grants stay what they were.
    if !asked.is_empty() {
        identity = [identity, asked].join("\n");
    }
    Key {
        name: name.as_str().to_owned(),
        identity,
    }
}

/// Which refresh token counts: the one in the settings if it is new there, else the one in the store.
fn state(stored: Option<StoredGrant>, seed: Option<&SecretString>) -> Option<StoredGrant> {
    let Some(seed) = seed else { return stored };
    let descends_from = Some(fingerprint(seed));
    match stored {
        Some(stored) if stored.seed == descends_from => Some(stored),
        _ => Some(StoredGrant {
            refresh_token: seed.clone(),
            seed: descends_from,
            rotation: Rotation::Unknown,
            in_flight: false,
            dead: None,
        }),
    }
}

/// Whether what is stored comes from the configured refresh token; of another one it may be another user's.
fn descends(record: &Record, seed: Option<&SecretString>) -> bool {
    let Some(seed) = seed else { return true };
    record
        .grant
        .as_ref()
        .is_some_and(|grant| grant.seed == Some(fingerprint(seed)))
}

/// What tells one secret from another without holding it.
pub fn fingerprint(secret: &SecretString) -> Fingerprint {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, secret.expose_secret().as_bytes()).as_ref());
    out
}

async fn read(setting: &'static str, reference: &config::SecretRef) -> Result<SecretString, Refusal> {
    let reference = reference.clone();
    tokio::task::spawn_blocking(move || grant::read(setting, &reference))
        .await
        .map_err(|_| Refusal::of("secret_unreadable", None))?
}

fn of_store(error: &StoreError) -> Refusal {
    Refusal::of("store", error.to_string())
}

fn known_reason(word: &str) -> &'static str {
    match word {
        TOKEN_DEAD => TOKEN_DEAD,
        _ => OUTCOME_UNKNOWN,
    }
}

const TOKEN_DEAD: &str = "refresh_token_dead";
/// As the catalogue has it for the login host's own words.
const DEAD_ADVICE: &str = "authorise again with `sf-token-proxy login ORG`, or set a new `refresh_token`: the one in use was revoked, replaced or has expired";
const OUTCOME_UNKNOWN: &str = "refresh_outcome_unknown";
/// A holder may ask for a token's end after its login.
const LOCK_SLACK: Duration = Duration::from_secs(6);
/// A stored token with less life than this is not worth taking.
const SHORTEST_REST: Duration = Duration::from_secs(30);
/// Between two machines, or one machine before and after it was set right.
const CLOCKS_APART: Duration = Duration::from_secs(300);
