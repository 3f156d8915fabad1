//! All that belongs to one org: its tokens and the task that keeps them, the way to the org, the cache.
//!
//! Two parts, because they change apart: the tokens (a keeper is changed while it runs, so that calls in flight keep what
//! they wait for and no login is lost) and the calls (built anew; the old part ends with the last call that needs it).

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    doors::UsersRoom,
    jobs::{Group, Jobs},
    plan::Changed,
};
use crate::{
    cache::Cache,
    clock::Clock,
    config::{self, ApiHost, Config, Grant, Org, OrgName},
    metrics::Metrics,
    proxy::{Proxy, account::Account, body, record::Calls, surface::Serves, upstream::Upstream, users::Users},
    store::Store,
    token::{
        self, Changes, CommonBudget, Instance, Tokens,
        audit::Audit,
        budget::Bucket,
        data_cloud::DataCloudExchange,
        exchange::{Exchange as _, HttpExchange, SetUpError},
        kept::Kept,
        lifetime::Renewal,
    },
};

/// What every org's room is built with.
pub(super) struct Shared {
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) tls: rustls::ClientConfig,
    pub(super) store: Store,
    pub(super) replay: body::Store,
    /// Cancelled when the keepers are told to end.
    pub(super) last: CancellationToken,
    /// Cancelled when everything that outlives the callers is told to end.
    pub(super) late: CancellationToken,
}

impl Shared {
    /// A task's end, and what brings it about when nobody needs it any more.
    fn end(&self) -> (CancellationToken, Arc<DropGuard>) {
        let end = self.late.child_token();
        (end.clone(), Arc::new(end.drop_guard()))
    }
}

/// What of a room can fail to be built; the rest cannot.
pub(super) struct Ready {
    http: HttpExchange,
    pub_sub: Instance,
}

impl Ready {
    pub(super) fn new(org: &Org, config: &Config, shared: &Shared) -> Result<Self, SetUpError> {
        Ok(Self {
            http: HttpExchange::new(org, shared.tls.clone(), &config.upstream.proxy, shared.clock.clone())?,
            pub_sub: Instance::from_url(&org.pub_sub).map_err(SetUpError::PubSub)?,
        })
    }
}

/// One org's room.
pub(super) struct Room {
    name: OrgName,
    org: Org,
    http: HttpExchange,
    pub(super) tokens: Tokens,
    changes: Changes<Kept>,
    needs_tokens: Arc<DropGuard>,
    data_cloud: Option<DataCloud>,
    calls: CallRoom,
}

struct DataCloud {
    tokens: Tokens,
    changes: Changes<DataCloudExchange>,
    need: Arc<DropGuard>,
}

/// What sends calls.
struct CallRoom {
    proxy: Arc<Proxy>,
    serves: Serves,
    cache: Option<Arc<Cache>>,
    needs: Arc<DropGuard>,
}

impl Room {
    pub(super) fn new(
        name: &OrgName,
        org: &Org,
        ready: Ready,
        config: &Config,
        shared: &Shared,
        jobs: &mut Jobs,
    ) -> Self {
        let Ready { http, pub_sub } = ready;
        let metrics = &shared.metrics;
        metrics.user_tokens.with_label_values(&[name.as_str()]);
        metrics.store(name.as_str()).starts();
        let kept = kept(name, org, http.clone(), &shared.store, metrics, None).until(shared.last.clone());
        let token_metrics = metrics.token(name, kept.grant_word());
        let (tokens, keeper) = token::keeper(name.clone(), rules(org), kept, shared.clock.clone(), token_metrics);
        let changes = keeper.changes();
        let (end, needs_tokens) = shared.end();
        jobs.add(Group::Keepers, "a keeper", &end.clone(), async move {
            keeper.run(end).await;
            Ok(())
        });
        let data_cloud = org
            .data_cloud
            .as_ref()
            .map(|settings| DataCloud::new(name, org, settings, &http, &tokens, shared, jobs));
        let calls = CallRoom::new(name, org, &tokens, data_cloud.as_ref(), pub_sub, config, shared, jobs);
        Self {
            name: name.clone(),
            org: org.clone(),
            http,
            tokens,
            changes,
            needs_tokens,
            data_cloud,
            calls,
        }
    }

    /// Other settings from now on. Calls in flight finish with what they have.
    pub(super) fn change(
        &mut self,
        org: &Org,
        ready: Ready,
        changed: Changed,
        config: &Config,
        shared: &Shared,
        jobs: &mut Jobs,
    ) {
        let (name, metrics) = (self.name.clone(), &shared.metrics);
        self.org = org.clone();
        if changed.tokens {
            self.http = ready.http;
            let kept = kept(&name, org, self.http.clone(), &shared.store, metrics, None).until(shared.last.clone());
            let token_metrics = metrics.token(&name, kept.grant_word());
            self.data_cloud = match (&org.data_cloud, self.data_cloud.take()) {
                (Some(settings), Some(data_cloud)) => {
                    data_cloud.change(org, settings, &self.http, &self.tokens, changed.identity, metrics);
                    Some(data_cloud)
                }
                (Some(settings), None) => Some(DataCloud::new(
                    &name,
                    org,
                    settings,
                    &self.http,
                    &self.tokens,
                    shared,
                    jobs,
                )),
                (None, gone) => {
                    if gone.is_some() {
                        metrics.forget(&[data_cloud_label(&name).as_str()]);
                    }
                    None
                }
            };
            self.changes.change(kept, rules(org), token_metrics);
        }
        if changed.calls {
            let (tokens, data_cloud) = (&self.tokens, self.data_cloud.as_ref());
            self.calls = CallRoom::new(&name, org, tokens, data_cloud, ready.pub_sub, config, shared, jobs);
        }
    }

    /// A secret of the org has changed.
    pub(super) fn retry(&self) {
        self.tokens.retry();
        if let Some(data_cloud) = &self.data_cloud {
            data_cloud.tokens.retry();
        }
    }

    pub(super) fn proxy(&self) -> &Arc<Proxy> {
        &self.calls.proxy
    }

    pub(super) fn serves(&self) -> Serves {
        self.calls.serves
    }

    pub(super) fn cache(&self) -> Option<Arc<Cache>> {
        self.calls.cache.clone()
    }

    pub(super) fn data_cloud_tokens(&self) -> Option<Tokens> {
        Some(self.data_cloud.as_ref()?.tokens.clone())
    }

    /// What a call needs of the room until it has its answer.
    pub(super) fn needs(&self) -> Vec<Arc<DropGuard>> {
        let data_cloud = self.data_cloud.as_ref().map(|data_cloud| &data_cloud.need);
        let all = [&self.needs_tokens, &self.calls.needs].into_iter().chain(data_cloud);
        all.cloned().collect()
    }

    /// The room goes; what is measured of it goes with it.
    pub(super) fn forget(self, metrics: &Metrics) {
        metrics.forget(&[self.name.as_str(), data_cloud_label(&self.name).as_str()]);
    }

    /// The users of one of the org's listeners.
    pub(super) fn users(
        &self,
        settings: &config::Users,
        budget: Option<CommonBudget>,
        shared: &Shared,
        jobs: &mut Jobs,
    ) -> UsersRoom {
        let now = Instant::now();
        let common = budget.unwrap_or_else(|| Arc::new(Mutex::new(Bucket::new(settings.budget, now))));
        common
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .resize(settings.budget, now);
        let budget = Arc::clone(&common);
        let (name, org) = (self.name.clone(), self.org.clone());
        let (http, store, all_metrics) = (self.http.clone(), shared.store.clone(), shared.metrics.clone());
        let make = move |user: &str| {
            let http = match &org.grant {
                Grant::JwtBearer(grant) => http.with_grant(Grant::JwtBearer(config::JwtBearer {
                    username: user.to_owned(),
                    ..grant.clone()
                })),
                _ => http.clone(),
            };
            let clock = http.clock().clone();
            // What memory holds of a user goes with the user.
            let store = if store.is_durable() {
                store.clone()
            } else {
                Store::in_memory()
            };
            let kept = kept(&name, &org, http, &store, &all_metrics, Some(user));
            let rules = token::Rules {
                common: Some(Arc::clone(&common)),
                ..rules(&org)
            };
            let token_metrics = all_metrics.user_token(&name, kept.grant_word());
            token::keeper(name.clone(), rules, kept, clock, token_metrics)
        };
        let kept = shared.metrics.user_tokens.with_label_values(&[self.name.as_str()]);
        let own = match &self.org.grant {
            Grant::JwtBearer(grant) => grant.username.as_str(),
            _ => "",
        };
        let elsewhere = self.calls.serves == Serves::Everything;
        let users = Arc::new(Users::new(settings, own, elsewhere, Box::new(make), kept));
        let (end, need) = shared.end();
        let running = Arc::clone(&users);
        jobs.add(Group::Keepers, "the users' keepers", &end.clone(), async move {
            running.run(end).await;
            Ok(())
        });
        UsersRoom { users, need, budget }
    }
}

impl DataCloud {
    fn new(
        name: &OrgName,
        org: &Org,
        settings: &config::DataCloud,
        http: &HttpExchange,
        core: &Tokens,
        shared: &Shared,
        jobs: &mut Jobs,
    ) -> Self {
        let exchange = DataCloudExchange::new(http.clone(), core.clone(), settings.dataspace.clone());
        let label = data_cloud_label(name);
        let token_metrics = shared.metrics.token(&label, exchange.grant_word());
        let rules = data_cloud_rules(org, settings);
        let (tokens, keeper) = token::keeper(label, rules, exchange, shared.clock.clone(), token_metrics);
        let changes = keeper.changes();
        let (end, need) = shared.end();
        jobs.add(Group::Keepers, "a keeper", &end.clone(), async move {
            keeper.run(end).await;
            Ok(())
        });
        Self { tokens, changes, need }
    }

    fn change(
        &self,
        org: &Org,
        settings: &config::DataCloud,
        http: &HttpExchange,
        core: &Tokens,
        of_another: bool,
        metrics: &Metrics,
    ) {
        let exchange = DataCloudExchange::new(http.clone(), core.clone(), settings.dataspace.clone());
        let exchange = if of_another {
            exchange.after_those_of_now()
        } else {
            exchange
        };
        let token_metrics = metrics.token(self.tokens.org(), exchange.grant_word());
        self.changes
            .change(exchange, data_cloud_rules(org, settings), token_metrics);
    }
}

impl CallRoom {
    #[expect(
        clippy::too_many_arguments,
        reason = "all that a room of calls is made of, in one place"
    )]
    fn new(
        name: &OrgName,
        org: &Org,
        tokens: &Tokens,
        data_cloud: Option<&DataCloud>,
        pub_sub: Instance,
        config: &Config,
        shared: &Shared,
        jobs: &mut Jobs,
    ) -> Self {
        let metrics = &shared.metrics;
        let (serves, own) = match (&org.api.host, data_cloud) {
            (ApiHost::Instance, None) => (Serves::Core, Account::of_org(tokens.clone())),
            (ApiHost::Instance, Some(_)) => (Serves::CoreAndDataCloud, Account::of_org(tokens.clone())),
            (ApiHost::Platform { .. } | ApiHost::Other { .. }, _) => {
                (Serves::Everything, Account::elsewhere(tokens.clone()))
            }
        };
        let upstream = Arc::new(Upstream::new(name, &config.upstream, pub_sub, &shared.tls, metrics));
        let calls = Calls::new(name.clone(), metrics, config.log.requests);
        let proxy = Proxy::new(
            own,
            data_cloud.map(|data_cloud| Account::elsewhere(data_cloud.tokens.clone())),
            Arc::clone(&upstream),
            calls,
            shared.replay.clone(),
            config.upstream.body_idle_timeout,
            org.api.headers.clone(),
        );
        let cache_metrics = metrics.cache(name.as_str());
        let cache = org
            .cache
            .as_ref()
            .map(|settings| Arc::new(Cache::new(settings, cache_metrics)));
        let proxy = Arc::new(proxy.with_cache(cache.clone()));
        let (end, needs) = shared.end();
        let (watched, told) = (Arc::clone(&proxy), end.clone());
        jobs.add(Group::Rooms, "a connection pool", &end, {
            let end = end.clone();
            async move {
                upstream.run(end).await;
                Ok(())
            }
        });
        jobs.add(Group::Rooms, "the watch over suspected tokens", &end, async move {
            watched.run(told).await;
            Ok(())
        });
        Self {
            proxy,
            serves,
            cache,
            needs,
        }
    }
}

fn data_cloud_label(name: &OrgName) -> OrgName {
    OrgName::new(format!("{name}/data_cloud"))
}

fn rules(org: &Org) -> token::Rules {
    token::Rules::new(org.token.clone(), org.budget)
}

fn data_cloud_rules(org: &Org, settings: &config::DataCloud) -> token::Rules {
    token::Rules {
        renewal: Renewal::Margin {
            before: settings.renew_before,
            age: settings.renew_age,
        },
        ..rules(org)
    }
}

fn kept(name: &OrgName, org: &Org, http: HttpExchange, store: &Store, metrics: &Metrics, user: Option<&str>) -> Kept {
    Kept::new(
        http,
        store.clone(),
        token::kept::key(name, org, user),
        org.token.lifetime,
        Audit::new(name.as_str(), "proxy"),
        metrics.store(name.as_str()),
    )
}
