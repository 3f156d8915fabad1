//! Listening: connections in, TLS, HTTP/1.1 or HTTP/2, until cut or stopped.
//!
//! Owns: the listeners. Invariants: every connection is in the list from the moment it is accepted (the control API's are not);
//! what a connection does, its task does, and the task is joined.
//! Units: 10 s for a TLS handshake. Fails with: [`StartError`] when a port is taken.
//! Source: SF §7.3.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{rt::TokioIo, server::conn::auto::Builder};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{
    StartError,
    connections::Connection,
    control_api, front, pubsub,
    world::{Door, World},
};

/// A port on 127.0.0.1 and, where there is one, the same on ::1.
pub(crate) struct Bound {
    pub(crate) door: Door,
    pub(crate) port: u16,
    listeners: Vec<StdListener>,
}

const HANDSHAKE: Duration = Duration::from_secs(10);
const REST_AFTER_ERROR: Duration = Duration::from_millis(50);

impl Bound {
    pub(crate) fn bind(door: Door, port: u16) -> Result<Self, StartError> {
        let failed = |cause| StartError::Bind { port, cause };
        let four = StdListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        let port = four.local_addr().map_err(failed)?.port();
        let six = StdListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).ok();
        let listeners: Vec<_> = std::iter::once(four).chain(six).collect();
        for listener in &listeners {
            listener.set_nonblocking(true).map_err(failed)?;
        }
        Ok(Self { door, port, listeners })
    }

    /// Accepts from now on. Needs the org's runtime.
    pub(crate) fn serve(self, world: &Arc<World>, tls: Option<&Arc<ServerConfig>>) -> std::io::Result<()> {
        for listener in self.listeners {
            let listener = TcpListener::from_std(listener)?;
            let tls = tls
                .filter(|_| self.door != Door::Control)
                .map(|tls| TlsAcceptor::from(Arc::clone(tls)));
            let shared = Arc::clone(world);
            world.tasks.spawn(accept(shared, listener, self.door, tls));
        }
        Ok(())
    }
}

async fn accept(world: Arc<World>, listener: TcpListener, door: Door, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(REST_AFTER_ERROR).await;
            continue;
        };
        if is_down(&world, door) {
            continue;
        }
        // Best effort: without it answers are only slower.
        stream.set_nodelay(true).ok();
        let tasks = world.tasks.clone();
        tasks.spawn(connection(Arc::clone(&world), stream, door, tls.clone()));
    }
}

/// Nothing behind this door answers.
fn is_down(world: &World, door: Door) -> bool {
    let faults = world.faults();
    let login_is_here = match door {
        Door::Login => true,
        Door::Instance | Door::Second => world.settings.login_port.is_none(),
        Door::Tenant | Door::PubSub => false,
        Door::Control => return false,
    };
    let api_is_here = door != Door::Login;
    (faults.token_down || !login_is_here) && (faults.api_down || !api_is_here)
}

async fn connection(world: Arc<World>, stream: TcpStream, door: Door, tls: Option<TlsAcceptor>) {
    if door == Door::Control {
        let service = service_fn(move |request| control_api::serve(Arc::clone(&world), request));
        let io = TokioIo::new(stream);
        // A client that goes away is no fault of ours.
        let _: Result<_, _> = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await;
        return;
    }
    world.counters.connections.fetch_add(1, Relaxed);
    let listed = world.connections.list(door);
    let cut = Arc::clone(&listed.connection);
    let work = async {
        match tls {
            None => http(world, Arc::clone(&listed.connection), stream).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    http(world, Arc::clone(&listed.connection), stream).await;
                }
            }
        }
    };
    // Dropping the work half-way is what a cut is.
    tokio::select! {
        biased;
        () = cut.was_cut() => {}
        () = work => {}
    }
}

async fn http<S>(world: Arc<World>, connection: Arc<Connection>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if connection.door == Door::PubSub {
        return grpc(world, connection, stream).await;
    }
    let mut builder = Builder::new(world.tasks.clone());
    builder.http1().header_read_timeout(None).max_headers(200);
    builder
        .http2()
        .max_header_list_size(64 * 1024)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024);
    let http2 = world.settings.http2;
    let service = service_fn(move |request| front::serve(Arc::clone(&world), Arc::clone(&connection), request));
    let builder = if http2 { builder } else { builder.http1_only() };
    // A client that goes away is no fault of ours.
    let _: Result<_, _> = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// HTTP/2 only, with or without TLS; at most 1,000 streams a connection, as Salesforce documents for the Pub/Sub API.
async fn grpc<S>(world: Arc<World>, connection: Arc<Connection>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(world.tasks.clone());
    builder.max_concurrent_streams(1_000).max_header_list_size(64 * 1024);
    let here = Arc::clone(&connection);
    let service = service_fn(move |request| pubsub::serve(Arc::clone(&world), Arc::clone(&here), request));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // The connection is not dropped by either branch: after GOAWAY its open streams go on.
    tokio::select! {
        biased;
        _ = serving.as_mut() => return,
        () = connection.was_told_to_go() => serving.as_mut().graceful_shutdown(),
    }
    // A client that goes away is no fault of ours.
    let _: Result<_, _> = serving.await;
}
