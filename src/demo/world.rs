//! Everything the org knows, shared by its connections.
//!
//! Owns: sessions, rows, jobs, events, switches, counters, the org's clock and its addresses.
//! Invariants: no lock is held across an await; a poisoned lock is still used, since the panic itself is re-raised.
//! Units: wall time is the machine's plus what `advance` added.
//! Fails with: nothing.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use aws_lc_rs::signature::RsaKeyPair;

use super::{
    a360::DcTokens,
    bulk::Jobs,
    bulk1,
    bus::Bus,
    cometd::Clients,
    connections::Connections,
    faults::Faults,
    grant::Grants,
    key::RsaKey,
    record::{Counters, Recorder},
    rest::query::Cursors,
    session::Sessions,
    settings::Settings,
    soap::Metadata,
    store::Store,
    tasks::Tasks,
    tenant::Batches,
};

/// 18 characters; the first 15 begin every opaque token.
pub(crate) const ORG_ID: &str = "00DSB0000001pRC2AY";

/// The listener a connection came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Instance,
    /// The instance the org may move to.
    Second,
    /// A login host of its own.
    Login,
    /// Data Cloud's host.
    Tenant,
    /// The Pub/Sub API's host: HTTP/2 only.
    PubSub,
    Control,
}

#[derive(Debug, Clone)]
pub(crate) struct Urls {
    pub(crate) base: String,
    pub(crate) login: String,
    pub(crate) second: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) pubsub: Option<String>,
    pub(crate) control: String,
}

/// The org is older than its process.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) urls: Urls,
    pub(crate) tasks: Tasks,
    pub(crate) connections: Connections,
    pub(crate) counters: Counters,
    pub(crate) recorder: Recorder,
    org_key: OnceLock<RsaKeyPair>,
    grants: Mutex<Grants>,
    sessions: Mutex<Sessions>,
    dc_tokens: Mutex<DcTokens>,
    batches: Mutex<Batches>,
    store: Mutex<Store>,
    jobs: Mutex<Jobs>,
    bulk1: Mutex<bulk1::Jobs>,
    metadata: Mutex<Metadata>,
    cursors: Mutex<Cursors>,
    cometd: Mutex<Clients>,
    bus: Mutex<Bus>,
    faults: Mutex<Faults>,
    advanced_ms: AtomicU64,
    /// When the objects were last changed; they stay as they are from then on.
    pub(crate) described: SystemTime,
}

impl World {
    pub(crate) fn new(settings: Settings, urls: Urls, tasks: Tasks) -> Self {
        let store = Store::seeded(settings.seed_accounts, settings.usernames(), settings.clock.now());
        let metadata = Metadata::seeded(settings.clock.now());
        Self {
            connections: Connections::default(),
            counters: Counters::default(),
            recorder: Recorder::new(settings.keep_requests),
            grants: Mutex::default(),
            sessions: Mutex::default(),
            dc_tokens: Mutex::default(),
            batches: Mutex::default(),
            store: Mutex::new(store),
            jobs: Mutex::default(),
            bulk1: Mutex::default(),
            metadata: Mutex::new(metadata),
            cursors: Mutex::default(),
            cometd: Mutex::default(),
            bus: Mutex::default(),
            faults: Mutex::new(Faults::new(&settings)),
            advanced_ms: AtomicU64::new(0),
            described: settings
                .clock
                .now()
                .checked_sub(A_DAY)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            settings,
            urls,
            tasks,
            org_key: OnceLock::new(),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.settings.clock.now() + Duration::from_millis(self.advanced_ms.load(Relaxed))
    }

    /// Signs JWT-format tokens; made when first needed.
    pub(crate) fn org_key(&self) -> &RsaKeyPair {
        self.org_key.get_or_init(|| {
            let key = RsaKey::generate().expect("an RSA key must be makeable");
            RsaKeyPair::from_der(key.pkcs1()).expect("our own key must be readable")
        })
    }

    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.advanced_ms.fetch_add(by, Relaxed);
    }

    /// The door API calls are served at now.
    pub(crate) fn home(&self) -> Door {
        if self.faults().moved {
            Door::Second
        } else {
            Door::Instance
        }
    }

    /// What a token answer says.
    pub(crate) fn instance_url(&self) -> String {
        let moved = self.faults().moved;
        match (&self.settings.instance_url, &self.urls.second) {
            (Some(said), _) => said.clone(),
            (None, Some(second)) if moved => second.clone(),
            (None, _) => self.urls.base.clone(),
        }
    }

    /// Taken before the sessions, never after.
    pub(crate) fn grants(&self) -> MutexGuard<'_, Grants> {
        lock(&self.grants)
    }

    pub(crate) fn dc_tokens(&self) -> MutexGuard<'_, DcTokens> {
        lock(&self.dc_tokens)
    }

    pub(crate) fn batches(&self) -> MutexGuard<'_, Batches> {
        lock(&self.batches)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(crate) fn jobs(&self) -> MutexGuard<'_, Jobs> {
        lock(&self.jobs)
    }

    pub(crate) fn bulk1(&self) -> MutexGuard<'_, bulk1::Jobs> {
        lock(&self.bulk1)
    }

    pub(crate) fn metadata(&self) -> MutexGuard<'_, Metadata> {
        lock(&self.metadata)
    }

    pub(crate) fn cursors(&self) -> MutexGuard<'_, Cursors> {
        lock(&self.cursors)
    }

    /// Taken before the bus, never after.
    pub(crate) fn cometd(&self) -> MutexGuard<'_, Clients> {
        lock(&self.cometd)
    }

    pub(crate) fn bus(&self) -> MutexGuard<'_, Bus> {
        lock(&self.bus)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
