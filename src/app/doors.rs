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

use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use super::jobs::{Group, Jobs};
use crate::{
    config::Listener,
    proxy::{Door, users::Users},
    server::{self, Limits, Tls},
    shutdown::Stop,
};

/// What one entry of `listeners` has become.
pub(super) struct Front {
    pub(super) settings: Listener,
    pub(super) limits: Limits,
    pub(super) tls: Option<Tls>,
    pub(super) users: Option<(Arc<Users>, Arc<DropGuard>)>,
    sockets: Vec<Socket>,
}

/// One open address.
struct Socket {
    /// As the configuration says it; port 0 asks for any.
    configured: SocketAddr,
    bound: SocketAddr,
    /// The same socket again, for a successor of the task that accepts.
    again: std::net::TcpListener,
    door: Shifting,
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
    let mut at_hand: Vec<SocketAddr> = sockets.map(|socket| socket.configured).collect();
    let mut missing = |address: &SocketAddr| match at_hand.iter().position(|other| other == address) {
        Some(index) => {
            at_hand.swap_remove(index);
            false
        }
        None => true,
    };
    let open = |listener: &Listener| {
        let addresses = listener.addresses.iter().copied();
        let bound = server::bind_each(&addresses.filter(&mut missing).collect::<Vec<_>>())?;
        bound.into_iter().map(Fresh::new).collect()
    };
    listeners.iter().map(open).collect()
}

impl Front {
    pub(super) fn new(
        settings: Listener,
        limits: Limits,
        tls: Option<Tls>,
        users: Option<(Arc<Users>, Arc<DropGuard>)>,
    ) -> Self {
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
        let socket = Socket {
            configured: fresh.configured,
            bound: fresh.bound,
            again: fresh.again,
            door: Arc::new(RwLock::new(Arc::new(door(fresh.bound)))),
            stop: stop.child(),
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
                    let before = std::mem::replace(&mut socket.stop, stop.child());
                    match self.tls.is_some() == front.tls.is_some() {
                        true => before.retire_now(),
                        // Who speaks plain http must not go on with it, and the other way round.
                        false => before.drain_now(),
                    }
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
            socket.stop.drain_now();
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
    let plain = Arc::clone(&door);
    let handler = move |request| now(&door).handle(request);
    match tls {
        None => server::serve(listener, handler, limits, stop).await,
        Some(tls) => {
            let refuse = move |request: Request<Incoming>| ready(now(&plain).refuse_plain(&request));
            server::serve_tls(listener, tls, handler, refuse, limits, stop).await
        }
    }
}

fn now(door: &Shifting) -> Arc<Door> {
    Arc::clone(&door.read().unwrap_or_else(PoisonError::into_inner))
}
