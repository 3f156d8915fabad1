//! A server that speaks HTTP/2 frame by frame as a test scripts it: GOAWAY, refused streams, silence.
//!
//! What a request's headers say is not decoded; bodies and resets are noted. Its panics end its connection.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub const REFUSED_STREAM: u32 = 7;
pub const INTERNAL_ERROR: u32 = 2;
pub const CANCEL: u32 = 8;

/// A request's head, and again, if it has a body, when that has ended.
#[derive(Debug, Clone)]
pub struct Call {
    /// Counted from 0.
    pub connection: usize,
    pub stream: u32,
    pub body: Vec<u8>,
    pub ended: bool,
}

/// What is said to it.
pub enum Say {
    Nothing,
    /// Status and body; the request has been read or not.
    Answer(&'static str, Vec<u8>),
    /// The status, and a body that does not end.
    Begin(&'static str, Vec<u8>),
    Reset(u32),
    /// The last stream that is processed; then the connection is closed, or stays.
    GoAway {
        last: u32,
        close: bool,
    },
    Close,
}

type Play = dyn Fn(&Call) -> Vec<Say> + Send + Sync;

struct Inner {
    play: Box<Play>,
    /// In its SETTINGS.
    most_streams: Option<u32>,
    connections: AtomicUsize,
    open: AtomicUsize,
    calls: Mutex<Vec<Call>>,
    /// Stream and code.
    resets: Mutex<Vec<(u32, u32)>>,
    speak: Mutex<HashMap<usize, mpsc::UnboundedSender<(u32, Say)>>>,
}

pub struct RawH2 {
    address: SocketAddr,
    scheme: &'static str,
    inner: Arc<Inner>,
    accepting: JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl RawH2 {
    /// Without TLS.
    pub async fn start(play: impl Fn(&Call) -> Vec<Say> + Send + Sync + 'static) -> Self {
        Self::start_as(false, None, play).await
    }

    pub async fn start_as(
        tls: bool,
        most_streams: Option<u32>,
        play: impl Fn(&Call) -> Vec<Say> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let acceptor = tls.then(|| {
            let mut ca = CertificateParams::default();
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
            let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
            let key = KeyPair::generate().unwrap();
            let certificate = leaf.signed_by(&key, &issuer).unwrap();
            std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let mut config = ServerConfig::builder_with_provider(sf_token_proxy::tls::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
                .unwrap();
            config.alpn_protocols.push(b"h2".to_vec());
            TlsAcceptor::from(Arc::new(config))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            play: Box::new(play),
            most_streams,
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            calls: Mutex::default(),
            resets: Mutex::default(),
            speak: Mutex::default(),
        });
        let accepting = tokio::spawn({
            let inner = Arc::clone(&inner);
            async move {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let nth = inner.connections.fetch_add(1, Ordering::SeqCst);
                    let (inner, acceptor) = (Arc::clone(&inner), acceptor.clone());
                    connections.spawn(async move {
                        inner.open.fetch_add(1, Ordering::SeqCst);
                        match acceptor {
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    serve(stream, &inner, nth).await;
                                }
                            }
                            None => drop(serve(stream, &inner, nth).await),
                        }
                        inner.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self {
            address,
            scheme: if tls { "https" } else { "http" },
            inner,
            accepting,
            folder,
        }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::SeqCst)
    }

    /// Heads, and bodies that have ended.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap().clone()
    }

    /// One for each request.
    pub fn heads(&self) -> usize {
        let mut heads: Vec<_> = self.calls().iter().map(|call| (call.connection, call.stream)).collect();
        heads.sort_unstable();
        heads.dedup();
        heads.len()
    }

    pub fn resets(&self) -> Vec<(u32, u32)> {
        self.inner.resets.lock().unwrap().clone()
    }

    /// Says something on a stream of a connection that is open.
    pub fn say(&self, connection: usize, stream: u32, say: Say) {
        let speak = self.inner.speak.lock().unwrap();
        speak[&connection].send((stream, say)).expect("an open connection");
    }
}

impl Drop for RawH2 {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal header block: the status alone.
fn status(status: &str) -> Vec<u8> {
    [&[0x08, 0x03], status.as_bytes()].concat()
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, inner: &Inner, connection: usize) -> Option<()> {
    const PREFACE: usize = 24;
    let (sender, mut told) = mpsc::unbounded_channel();
    inner.speak.lock().unwrap().insert(connection, sender);
    let settings = inner.most_streams.map_or_else(Vec::new, |most| {
        [&3u16.to_be_bytes()[..], &most.to_be_bytes()[..]].concat()
    });
    stream.write_all(&frame(SETTINGS, 0, 0, &settings)).await.ok()?;
    let mut buffer = Vec::new();
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut greeted = false;
    loop {
        while !greeted && buffer.len() >= PREFACE {
            buffer.drain(..PREFACE);
            greeted = true;
        }
        while greeted && buffer.len() >= 9 {
            let length = usize::from(buffer[0]) << 16 | usize::from(buffer[1]) << 8 | usize::from(buffer[2]);
            if buffer.len() < 9 + length {
                break;
            }
            let (kind, flags) = (buffer[3], buffer[4]);
            let id = u32::from_be_bytes([buffer[5], buffer[6], buffer[7], buffer[8]]) & 0x7fff_ffff;
            let payload: Vec<u8> = buffer.drain(..9 + length).skip(9).collect();
            let ended = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
            match kind {
                SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.ok()?,
                PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload)).await.ok()?,
                RST_STREAM => {
                    let code = u32::from_be_bytes(payload[..4].try_into().unwrap());
                    inner.resets.lock().unwrap().push((id, code));
                }
                DATA => {
                    bodies.entry(id).or_default().extend(&payload);
                    if !payload.is_empty() {
                        let more = u32::try_from(payload.len()).unwrap().to_be_bytes();
                        stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &more)).await.ok()?;
                        if !ended {
                            stream.write_all(&frame(WINDOW_UPDATE, 0, id, &more)).await.ok()?;
                        }
                    }
                }
                _ => {}
            }
            if kind == HEADERS || ended {
                let call = Call {
                    connection,
                    stream: id,
                    body: bodies.get(&id).cloned().unwrap_or_default(),
                    ended,
                };
                inner.calls.lock().unwrap().push(call.clone());
                for say in (inner.play)(&call) {
                    speak(&mut stream, id, say).await?;
                }
            }
        }
        // Either may be dropped: what was read is in the buffer, what was told stays in the queue.
        tokio::select! {
            read = stream.read_buf(&mut buffer) => if read.ok()? == 0 { return None },
            Some((id, say)) = told.recv() => speak(&mut stream, id, say).await?,
        }
    }
}

async fn speak<S: AsyncWrite + Unpin>(stream: &mut S, id: u32, say: Say) -> Option<()> {
    let mut out = Vec::new();
    let mut close = false;
    match say {
        Say::Nothing => {}
        Say::Answer(code, body) => {
            out.extend(frame(HEADERS, END_HEADERS, id, &status(code)));
            out.extend(frame(DATA, END_STREAM, id, &body));
        }
        Say::Begin(code, body) => {
            out.extend(frame(HEADERS, END_HEADERS, id, &status(code)));
            for piece in body.chunks(16_000) {
                out.extend(frame(DATA, 0, id, piece));
            }
        }
        Say::Reset(code) => out.extend(frame(RST_STREAM, 0, id, &code.to_be_bytes())),
        Say::GoAway { last, close: then } => {
            let payload = [last.to_be_bytes(), 0u32.to_be_bytes()].concat();
            out.extend(frame(GOAWAY, 0, 0, &payload));
            close = then;
        }
        Say::Close => close = true,
    }
    stream.write_all(&out).await.ok()?;
    stream.flush().await.ok()?;
    if close {
        stream.shutdown().await.ok()?;
        return None;
    }
    Some(())
}
