//! The practice org: an embedded Salesforce to try and to test against.
//!
//! A real TLS server that logs apps in, keeps sessions, holds rows, and follows Salesforce's rules as `docs` and captures tell them; where
//! those are silent, the harder case is taken and a comment says "not confirmed". It knows nothing of the proxy.
//!
//! | File | Answers |
//! |---|---|
//! | `settings` `key` `certificate` `summary` | what kind of org, with which keys, and how to reach it |
//! | `server` `connections` `tasks` | how connections live and end |
//! | `front` | what happens to one request; read it first |
//! | `grant` `approvals` `session` `identity` `page` | who is let in, for how long |
//! | `a360` `tenant` | Data Cloud: its tokens, its host |
//! | `rest` `bulk` `bulk1` `soap` `apex` `soql` `store` | what the API does |
//! | `events` `bus` | what happened, for those who listen |
//! | `cometd` `pubsub` | how they listen: the Streaming API, the Pub/Sub API (gRPC) |
//! | `answer` `body` `xml` | how it is said |
//! | `control` `control_api` `faults` `record` | how to make it misbehave, and what it saw |
//!
//! Owns: the org's thread and runtime, so that a busy proxy cannot starve it.
//! Invariants: when [`Org::stop`] or drop is done, nothing of the org is left; a panic of any of its tasks is raised again there.
//! Fails with: [`StartError`].

mod a360;
mod answer;
mod apex;
mod approvals;
mod body;
mod bulk;
mod bulk1;
mod bus;
mod certificate;
mod cometd;
mod connections;
mod control;
mod control_api;
mod events;
mod faults;
mod front;
mod grant;
mod identity;
mod key;
mod page;
mod pubsub;
mod record;
mod rest;
mod server;
mod session;
mod settings;
mod soap;
mod soql;
mod store;
mod summary;
mod tasks;
mod tenant;
#[cfg(test)]
mod tests;
mod world;
mod xml;

use std::{
    fmt, io,
    ops::Deref,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

pub use control::Control;
pub use faults::{ApiFault, Reply, TokenFault};
pub use key::{KeyError, PublicKey, RsaKey};
#[doc(hidden)]
pub use pubsub::messages as pubsub_messages;
pub use record::{GrantCounts, Recorded, Stats};
pub use settings::{
    ExchangeApp, JwtClient, Latency, PasswordUser, SecretClient, Settings, Streaming, Subject, TokenFormat, WebApp,
};
pub use summary::{ExchangeSummary, JwtSummary, PasswordSummary, SecretSummary, Summary, WebSummary};

use server::Bound;
use summary::Files;
use tasks::Tasks;
use world::{Door, Urls, World};

/// A running practice org. Its controls are the methods of [`Control`], which it derefs to.
pub struct Org {
    control: Control,
    ca_pem: String,
    tasks: Tasks,
    thread: Option<JoinHandle<()>>,
    files: Option<Files>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on port {port}")]
    Bind {
        port: u16,
        #[source]
        cause: io::Error,
    },
    #[error("cannot make the practice org's certificate: {0}")]
    Tls(String),
    #[error("cannot start the practice org's thread")]
    Thread(#[source] io::Error),
}

impl Org {
    /// Binds everything and serves; ready when it returns.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let identity = certificate::make(settings.http2)?;
        let mut bound = vec![
            Bound::bind(Door::Instance, settings.port)?,
            Bound::bind(Door::Control, settings.control_port)?,
        ];
        for (door, port) in [
            (Door::Login, settings.login_port),
            (Door::Second, settings.second_port),
            (Door::Tenant, settings.tenant_port),
            (Door::PubSub, settings.pubsub_port),
        ] {
            bound.extend(port.map(|port| Bound::bind(door, port)).transpose()?);
        }
        let tls = (!settings.plain_http).then_some((identity.server, identity.grpc));
        let tasks = Tasks::default();
        let urls = urls(&bound, settings.plain_http);
        let world = Arc::new(World::new(settings, urls, tasks.clone()));

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let served = {
            let _inside = runtime.enter();
            let mut bound = bound.into_iter();
            bound.try_for_each(|listener| {
                let tls = tls.as_ref().map(|(web, grpc)| match listener.door {
                    Door::PubSub => grpc,
                    _ => web,
                });
                listener.serve(&world, tls)
            })
        };
        if let Err(cause) = served {
            // A runtime must not be dropped inside another.
            runtime.shutdown_background();
            return Err(StartError::Thread(cause));
        }
        let ending = tasks.clone();
        let thread = thread::Builder::new()
            .name("practice-org".into())
            .spawn(move || {
                runtime.block_on(async {
                    ending.stop.cancelled().await;
                    ending.end().await;
                });
            })
            .map_err(StartError::Thread)?;
        Ok(Self {
            control: Control(world),
            ca_pem: identity.ca_pem,
            tasks,
            thread: Some(thread),
            files: None,
        })
    }

    /// The handle, to be moved elsewhere.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The CA that clients must trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn settings(&self) -> &Settings {
        &self.control.0.settings
    }

    /// Writes CA, keys and secrets into `directory`, or into a private one that is removed with the org.
    pub fn write_files(&mut self, directory: Option<&Path>) -> io::Result<Summary> {
        let files = Files::directory(directory)?;
        let world = &self.control.0;
        let summary = files.summary(&world.settings, &world.urls, &self.ca_pem)?;
        self.files = Some(files);
        Ok(summary)
    }

    /// Ends every connection and joins the thread.
    ///
    /// # Panics
    /// With the panic of any of the org's tasks.
    pub async fn stop(mut self) {
        self.tasks.stop.cancel();
        // Not on this thread: others may need it for the org's end.
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if let Ok(Err(panic)) = joined {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Deref for Org {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for Org {
    fn drop(&mut self) {
        self.tasks.stop.cancel();
        let joined = self.thread.take().map(JoinHandle::join);
        let panic = match joined {
            Some(Err(panic)) => Some(panic),
            _ => self.tasks.take_panic(),
        };
        if let Some(panic) = panic
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl fmt::Debug for Org {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Org({})", self.control.0.urls.base)
    }
}

fn urls(bound: &[Bound], plain_http: bool) -> Urls {
    let scheme = if plain_http { "http" } else { "https" };
    let at = |door: Door| {
        let port = bound.iter().find(|b| b.door == door)?.port;
        Some(format!("{scheme}://localhost:{port}"))
    };
    let base = at(Door::Instance).unwrap_or_default();
    let control = bound.iter().find(|b| b.door == Door::Control).map_or(0, |b| b.port);
    Urls {
        login: at(Door::Login).unwrap_or_else(|| base.clone()),
        second: at(Door::Second),
        tenant: at(Door::Tenant),
        pubsub: at(Door::PubSub),
        control: format!("http://127.0.0.1:{control}"),
        base,
    }
}
