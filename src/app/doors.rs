//! The addresses that apps call, and what is behind each.
//!
//! Owns: the sockets. Invariants: an address that stays in the configuration stays open, and its connections live on;
//! which org and which rules are behind it is asked for each call. An address that goes takes no new calls, and those in
//! flight finish.
//! Fails with: an address that cannot be had; then nothing has changed.

use std::{
    future::ready,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use super::jobs::{Group, Jobs};
use crate::{
    config::Listener,
    proxy::{Door, users::Users},
    server::{self, Caller, Handler, Limits, Tls},
    shutdown::Stop,
    token::CommonBudget,
};

/// What one entry of `listeners` has become.
pub(super) struct Front {
    pub(super) settings: Listener,
    pub(super) limits: Limits,
    pub(super) tls: Option<Tls>,
    pub(super) users: Option<UsersRoom>,
    sockets: Vec<Socket>,
}

/// The users of a listener.
#[derive(Clone)]
pub(super) struct UsersRoom {
    pub(super) users: Arc<Users>,
    pub(super) need: Arc<DropGuard>,
    /// Of all their logins: it outlives them.
    pub(super) budget: CommonBudget,
}

/// One open address.
struct Socket {
    /// As the configuration says it; port 0 asks for any.
    configured: SocketAddr,
    bound: SocketAddr,
    /// The same socket again, for a successor of the task that accepts.
    again: std::net::TcpListener,
    door: Shifting,
    /// Of everybody who has come by this socket.
    whole: Stop,
    /// Of the task that accepts now, and whom it has accepted.
    stop: Stop,
}

/// The door now.
type Shifting = Arc<RwLock<Arc<Door>>>;

/// A socket that nobody serves yet.
pub(super) struct Fresh {
    configured: SocketAddr,
    bound: SocketAddr,
    again: std::net::TcpListener,
    listener: TcpListener,
}

impl Fresh {
    fn new((configured, listener): (SocketAddr, TcpListener)) -> io::Result<Self> {
        let again = listener.into_std()?;
        Ok(Self {
            configured,
            bound: again.local_addr()?,
            listener: TcpListener::from_std(again.try_clone()?)?,
            again,
        })
    }
}

/// Opens the addresses of each entry that are not open yet.
pub(super) fn open(fronts: &[Front], listeners: &[Listener]) -> io::Result<Vec<Vec<Fresh>>> {
    let sockets = fronts.iter().flat_map(|front| &front.sockets);
    let mut at_hand: Vec<(SocketAddr, SocketAddr)> = sockets.map(|socket| (socket.configured, socket.bound)).collect();
    let open = |listener: &Listener| {
        let (mut missing, mut open) = (Vec::new(), Vec::new());
        for address in &listener.addresses {
            match at_hand.iter().position(|(configured, _)| configured == address) {
                Some(index) => open.push(at_hand.swap_remove(index).1),
                None => missing.push(*address),
            }
        }
        server::bind_each(&missing, &open)?
            .into_iter()
            .map(Fresh::new)
            .collect()
    };
    listeners.iter().map(open).collect()
}

impl Front {
    pub(super) fn new(settings: Listener, limits: Limits, tls: Option<Tls>, users: Option<UsersRoom>) -> Self {
        Self {
            settings,
            limits,
            tls,
            users,
            sockets: Vec::new(),
        }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().map(|socket| socket.bound)
    }

    /// Takes in a new socket. `door`: what is behind it, told its address.
    pub(super) fn take_in(
        &mut self,
        fresh: Fresh,
        door: impl FnOnce(SocketAddr) -> Door,
        stop: &Stop,
        jobs: &mut Jobs,
    ) {
        let whole = stop.child();
        let socket = Socket {
            configured: fresh.configured,
            bound: fresh.bound,
            again: fresh.again,
            door: Arc::new(RwLock::new(Arc::new(door(fresh.bound)))),
            stop: whole.child(),
            whole,
        };
        socket.serve(fresh.listener, self.limits.clone(), self.tls.clone(), jobs);
        self.sockets.push(socket);
    }

    /// Takes over an address of the fronts before, if it is among them.
    pub(super) fn take_over(
        &mut self,
        before: &mut [Self],
        address: SocketAddr,
        door: impl FnOnce(SocketAddr) -> Door,
        stop: &Stop,
        jobs: &mut Jobs,
    ) {
        let place = before.iter_mut().find_map(|front| {
            let index = front.sockets.iter().position(|socket| socket.configured == address)?;
            Some((front, index))
        });
        let Some((front, index)) = place else { return };
        let mut socket = front.sockets.swap_remove(index);
        *socket.door.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(door(socket.bound));
        let same_tls = match (&self.tls, &front.tls) {
            (None, None) => true,
            (Some(now), Some(before)) => now.is(before),
            _ => false,
        };
        if !same_tls || !self.limits.is(&front.limits) {
            match socket.again.try_clone().and_then(TcpListener::from_std) {
                Ok(listener) => {
                    socket.stop.retire_now();
                    if self.tls.is_some() != front.tls.is_some() {
                        // Who speaks plain http must not go on with it, and the other way round.
                        socket.whole.drain_now();
                        socket.whole = stop.child();
                    }
                    socket.stop = socket.whole.child();
                    socket.serve(listener, self.limits.clone(), self.tls.clone(), jobs);
                }
                // It goes on as it was: better than not at all.
                Err(error) => {
                    tracing::error!(address = %socket.bound, %error, "a listener keeps its old limits and certificate");
                }
            }
        }
        self.sockets.push(socket);
    }
}

impl Drop for Front {
    /// What has not been taken over goes.
    fn drop(&mut self) {
        for socket in &self.sockets {
            socket.whole.drain_now();
        }
    }
}

impl Socket {
    fn serve(&self, listener: TcpListener, limits: Limits, tls: Option<Tls>, jobs: &mut Jobs) {
        let (door, stop) = (Arc::clone(&self.door), self.stop.clone());
        let told = stop.retire.clone();
        jobs.add(
            Group::Callers,
            "a listener",
            &told,
            serve(listener, door, limits, tls, stop),
        );
    }
}

async fn serve(listener: TcpListener, door: Shifting, limits: Limits, tls: Option<Tls>, stop: Stop) -> io::Result<()> {
    let handler = move |caller: &Caller| -> Handler<_> {
        let (door, refused) = (Arc::clone(&door), caller.without_tls);
        Box::new(move |request| match refused {
            false => now(&door).handle(request),
            true => Box::pin(ready(now(&door).refuse_plain(&request))),
        })
    };
    server::serve(listener, tls, handler, limits, stop).await
}

fn now(door: &Shifting) -> Arc<Door> {
    Arc::clone(&door.read().unwrap_or_else(PoisonError::into_inner))
}
