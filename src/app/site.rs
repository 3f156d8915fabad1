//! What stands: every room and every open address, as one configuration says; and how it becomes what the next one says.
//!
//! Owns: rooms, sockets, the jobs that serve them. Invariants: a change is whole or has not happened: all that can fail is
//! done first. Calls in flight finish under what they began with.
//! Fails with: [`BindError`].

use std::{collections::BTreeMap, future::ready, io, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use super::{
    BindError,
    doors::{self, Fresh, Front},
    jobs::{Group, Jobs},
    plan::{self, Fate},
    room::{Ready, Room, Shared},
};
use crate::{
    admin::{Admin, Shown, ShownListener},
    clock::unix_seconds,
    config::{Config, Listener, OrgName},
    descriptors,
    proxy::{Door, body, guard::Rules},
    ready::Health,
    server::{self, Caller, Handler, Limits, Tls},
    shutdown::Stop,
    tls::listener::Opened,
};

/// A configuration whose slow parts are done: files are read, certificates made.
pub struct Prepared {
    pub config: Config,
    /// The trusted authorities, if they may have changed.
    pub authorities: Option<rustls::ClientConfig>,
    /// For each listener what it speaks TLS with; `None`: as before.
    pub tls: Vec<Option<Option<Opened>>>,
}

pub(super) struct Site {
    pub(super) config: Config,
    /// As it was at the start.
    pub(super) first: Config,
    pub(super) shared: Shared,
    rooms: BTreeMap<OrgName, Room>,
    fronts: Vec<Front>,
    admins: Vec<AdminSocket>,
    admin: Admin,
    pub(super) health: Health,
    pub(super) jobs: Jobs,
    /// Of the listeners.
    pub(super) stop: Stop,
    /// Of what outlives them.
    pub(super) late: Stop,
    admin_limits: Limits,
}

struct AdminSocket {
    configured: SocketAddr,
    bound: SocketAddr,
    stop: Stop,
}

/// What can fail of a change, done.
struct Steps {
    rooms: BTreeMap<OrgName, (Fate, Option<Ready>)>,
    fresh: Vec<Vec<Fresh>>,
    admin: Vec<(SocketAddr, TcpListener)>,
}

impl Site {
    /// An empty one.
    pub(super) fn new(config: Config, shared: Shared, late: Stop, admin: Admin, health: Health) -> Self {
        Self {
            first: config.clone(),
            config: Config {
                listeners: Vec::new(),
                orgs: BTreeMap::new(),
                ..config
            },
            shared,
            rooms: BTreeMap::new(),
            fronts: Vec::new(),
            admins: Vec::new(),
            admin,
            health,
            jobs: Jobs::default(),
            stop: Stop::new(),
            late,
            admin_limits: Limits::new(descriptors::for_admin(), ADMIN_IDLE),
        }
    }

    pub(super) fn proxy_addresses(&self) -> Vec<SocketAddr> {
        self.fronts.iter().flat_map(Front::addresses).collect()
    }

    pub(super) fn admin_addresses(&self) -> Vec<SocketAddr> {
        self.admins.iter().map(|socket| socket.bound).collect()
    }

    /// Becomes what `next` says. What is new runs after the next start of the jobs.
    pub(super) fn become_as(&mut self, next: Prepared) -> Result<(), BindError> {
        let Prepared {
            config,
            authorities,
            tls,
        } = next;
        let renewed = authorities.is_some();
        let before = match authorities {
            Some(authorities) => Some(std::mem::replace(&mut self.shared.tls, authorities)),
            None => None,
        };
        let steps = match self.steps(&config, renewed) {
            Ok(steps) => steps,
            Err(error) => {
                if let Some(before) = before {
                    self.shared.tls = before;
                }
                return Err(error);
            }
        };
        if config.replay != self.config.replay {
            self.shared.replay = body::Store::new(&config.replay, self.shared.metrics.replay_bytes.clone());
        }
        let changed = self.switch_rooms(&config, steps.rooms);
        self.switch_fronts(&config.listeners, tls, steps.fresh, &changed);
        self.switch_admin(&config, steps.admin);
        self.config = config;
        self.show();
        Ok(())
    }

    /// A secret of this org has changed.
    pub(super) fn retry(&self, org: &OrgName) {
        if let Some(room) = self.rooms.get(org) {
            room.retry();
        }
        for front in self.fronts.iter().filter(|front| front.settings.org == *org) {
            if let Some(room) = &front.users {
                room.users.retry();
            }
        }
    }

    /// No caller is taken any more.
    pub(super) fn close(&mut self) {
        self.stop.drain_now();
        self.fronts.clear();
    }

    fn steps(&self, config: &Config, renewed: bool) -> Result<Steps, BindError> {
        let mut rooms = BTreeMap::new();
        for (name, fate) in plan::orgs(&self.config, config, renewed) {
            let ready = match (fate, config.orgs.get(&name)) {
                (Fate::Add | Fate::Change(_), Some(org)) => Some(Ready::new(org, config, &self.shared)?),
                _ => None,
            };
            rooms.insert(name, (fate, ready));
        }
        let refused = |setting: &'static str| move |source: io::Error| BindError::Listen { setting, source };
        let fresh = doors::open(&self.fronts, &config.listeners).map_err(refused("listeners[].address"))?;
        let open = |address: &SocketAddr| self.admins.iter().any(|socket| socket.configured == *address);
        let missing: Vec<_> = config.admin.addresses.iter().copied().filter(|a| !open(a)).collect();
        let staying = self
            .admins
            .iter()
            .filter(|socket| config.admin.addresses.contains(&socket.configured));
        let staying: Vec<_> = staying.map(|socket| socket.bound).collect();
        let admin = server::bind_each(&missing, &staying).map_err(refused("admin.address"))?;
        Ok(Steps { rooms, fresh, admin })
    }

    /// Gives the orgs whose users need new keepers.
    fn switch_rooms(&mut self, config: &Config, steps: BTreeMap<OrgName, (Fate, Option<Ready>)>) -> Vec<OrgName> {
        let mut changed = Vec::new();
        for (name, (fate, ready)) in steps {
            let (shared, jobs) = (&self.shared, &mut self.jobs);
            match (fate, ready, config.orgs.get(&name)) {
                (Fate::Add, Some(ready), Some(org)) => {
                    let room = Room::new(&name, org, ready, config, shared, jobs);
                    self.rooms.insert(name, room);
                }
                (Fate::Change(which), Some(ready), Some(org)) => {
                    if let Some(room) = self.rooms.get_mut(&name) {
                        room.change(org, ready, which, config, shared, jobs);
                    }
                    if which.tokens {
                        changed.push(name);
                    }
                }
                (Fate::Remove, ..) => {
                    if let Some(room) = self.rooms.remove(&name) {
                        room.forget(&shared.metrics);
                    }
                }
                _ => {}
            }
        }
        changed
    }

    fn switch_fronts(
        &mut self,
        listeners: &[Listener],
        tls: Vec<Option<Option<Opened>>>,
        fresh: Vec<Vec<Fresh>>,
        changed: &[OrgName],
    ) {
        let mut before = std::mem::take(&mut self.fronts);
        let (stop, shared, jobs) = (&self.stop, &self.shared, &mut self.jobs);
        let addresses_before: Vec<_> = before.iter().map(|front| &front.settings.addresses[..]).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| &listener.addresses[..]).collect();
        let going_on = plan::listeners(&addresses_before, &addresses);
        let wanted: Vec<_> = listeners.iter().map(|listener| listener.max_connections).collect();
        let affordable = descriptors::affordable(&wanted);
        let entries = listeners.iter().zip(tls).zip(fresh).zip(going_on).zip(affordable);
        for ((((settings, tls), fresh), goes_on), most) in entries {
            let Some(room) = self.rooms.get(&settings.org) else {
                continue;
            };
            let old = goes_on.and_then(|index| before.get(index));
            let limits = match old {
                Some(old) if old.limits.are(most, settings.idle_timeout) => old.limits.clone(),
                _ => Limits::new(most, settings.idle_timeout),
            };
            let same = |front: &&Front| front.settings.addresses == settings.addresses;
            let tls = match tls {
                None => before.iter().find(same).and_then(|front| front.tls.clone()),
                Some(opened) => opened.map(|opened| {
                    opened.tell();
                    Tls::new(
                        opened.config,
                        opened.ends,
                        shared.metrics.tls_handshake_failures.clone(),
                    )
                }),
            };
            let users = settings.users.as_ref().map(|users| {
                let kept = old.filter(|old| {
                    old.settings.org == settings.org
                        && old.settings.users == settings.users
                        && !changed.contains(&settings.org)
                });
                let kept = kept.and_then(|old| old.users.clone());
                let budget = old.and_then(|old| Some(Arc::clone(&old.users.as_ref()?.budget)));
                kept.unwrap_or_else(|| room.users(users, budget, shared, jobs))
            });
            let mut needs = room.needs();
            needs.extend(users.as_ref().map(|room| Arc::clone(&room.need)));
            let plain = tls.is_none();
            let door = |bound: SocketAddr| {
                let mut own = settings.clone();
                own.addresses.push(bound);
                Door {
                    rules: Rules::new(&own, room.serves()),
                    plain,
                    proxy: Arc::clone(room.proxy()),
                    users: users.as_ref().map(|room| Arc::clone(&room.users)),
                    needs: needs.clone(),
                }
            };
            let mut front = Front::new(settings.clone(), limits, tls, users.clone());
            for address in &settings.addresses {
                front.take_over(&mut before, *address, door, stop, jobs);
            }
            for fresh in fresh {
                front.take_in(fresh, door, stop, jobs);
            }
            self.fronts.push(front);
        }
    }

    fn switch_admin(&mut self, config: &Config, fresh: Vec<(SocketAddr, TcpListener)>) {
        self.admins.retain(|socket| {
            let stays = config.admin.addresses.contains(&socket.configured);
            if !stays {
                socket.stop.drain_now();
            }
            stays
        });
        for (configured, listener) in fresh {
            let Ok(bound) = listener.local_addr() else { continue };
            let (limits, stop, admin) = (self.admin_limits.clone(), self.late.child(), self.admin.clone());
            let handler = move |caller: &Caller| -> Handler<_> {
                let (admin, caller) = (admin.clone(), *caller);
                Box::new(move |request| Box::pin(ready(admin.answer(request, &caller))))
            };
            let serving = server::serve_http1(listener, handler, limits, stop.clone());
            self.jobs
                .add(Group::Rooms, "the admin port", &stop.retire.clone(), serving);
            self.admins.push(AdminSocket {
                configured,
                bound,
                stop,
            });
        }
    }

    /// Tells the admin port what there is.
    fn show(&self) {
        let tokens = self.rooms.values().map(|room| room.tokens.clone()).collect();
        let beside = self.rooms.values().filter_map(Room::data_cloud_tokens).collect();
        self.health.watch(tokens, beside, &self.config.admin);
        let expiry = &self.shared.metrics.certificate_expiry;
        expiry.reset();
        for front in &self.fronts {
            let ends = front.tls.as_ref().and_then(|tls| tls.ends);
            if let (Some(ends), Some(address)) = (ends, front.settings.addresses.first()) {
                expiry
                    .with_label_values(&[&address.to_string()])
                    .set(unix_seconds(ends));
            }
        }
        let caches = self.rooms.iter().map(|(name, room)| (name.clone(), room.cache()));
        let listeners = self.fronts.iter().map(|front| ShownListener {
            addresses: front.addresses().collect(),
            org: front.settings.org.clone(),
            tls: front.tls.is_some(),
        });
        self.admin.show(Shown {
            caches: caches.collect(),
            quit_endpoint: self.config.admin.quit_endpoint,
            listeners: listeners.collect(),
        });
    }
}

/// Short, and not what people scrape or poll at.
const ADMIN_IDLE: std::time::Duration = std::time::Duration::from_secs(13);
