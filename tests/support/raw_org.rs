//! An org that says exactly what a test scripts, byte by byte, over plain loopback HTTP/1.1.
//!
//! It hands out tokens for any login (`00Dxx!token_1`, `…_2`, …), records every other request's raw bytes, and answers
//! with what the script returns. Its panics fail the test when it is dropped.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request as its bytes came.
#[derive(Debug, Clone)]
pub struct RawRequest {
    /// How many requests this connection had before.
    pub nth_on_connection: usize,
    /// From the request line to the empty line.
    pub head: String,
    /// Without chunk framing.
    pub body: Vec<u8>,
    /// After a chunked body.
    pub trailers: String,
}

impl RawRequest {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    pub fn token(&self) -> &str {
        self.header("authorization").first().copied().unwrap_or_default()
    }
}

/// What happens to a request.
pub enum Script {
    /// These bytes, and the connection stays.
    Say(Vec<u8>),
    /// These bytes, then the connection is closed.
    SayAndClose(Vec<u8>),
    /// Each piece after its pause.
    Slowly(Vec<(Duration, Vec<u8>)>),
    /// Closed without an answer.
    Cut,
    /// Never answered.
    Hang,
}

impl Script {
    pub fn json(status: &str, body: &str) -> Self {
        Self::Say(
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    }

    pub fn ok() -> Self {
        Self::json("200 OK", r#"{"ok":true}"#)
    }

    pub fn expired() -> Self {
        Self::json("401 Unauthorized", EXPIRED)
    }
}

pub const EXPIRED: &str = r#"[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]"#;

type Play = dyn Fn(&RawRequest) -> Script + Send + Sync;

struct Inner {
    address: SocketAddr,
    play: Box<Play>,
    logins: AtomicU32,
    connections: AtomicUsize,
    /// Answers for logins instead of a token, oldest first.
    login_answers: Mutex<Vec<Vec<u8>>>,
    /// The answer for every login instead of a token.
    login_refusal: Mutex<Option<Vec<u8>>>,
    login_pause: Mutex<Duration>,
    seen: Mutex<Vec<RawRequest>>,
    last_login: Mutex<Option<RawRequest>>,
    /// For tests of many calls: what was seen is not kept.
    forgetful: AtomicBool,
    /// How many more refusals are answered before the body is read.
    early_answers: AtomicU32,
    /// Whether the connection stays after such an answer, and the rest of the body is read.
    early_stays: bool,
    /// The script answers logins as well.
    logins_too: AtomicBool,
}

pub struct RawOrg {
    inner: Arc<Inner>,
    accepting: Option<JoinHandle<()>>,
}

impl RawOrg {
    pub async fn start(play: impl Fn(&RawRequest) -> Script + Send + Sync + 'static) -> Self {
        Self::start_as(play, 0, false).await
    }

    /// At an address that a test knows before.
    pub async fn start_at(address: SocketAddr, play: impl Fn(&RawRequest) -> Script + Send + Sync + 'static) -> Self {
        Self::listen(TcpListener::bind(address).await.unwrap(), play, 0, false)
    }

    /// The first `early_refusals` requests with a body are answered with 401 before it is read; then the connection is
    /// closed, or stays and the rest is read.
    pub async fn start_as(
        play: impl Fn(&RawRequest) -> Script + Send + Sync + 'static,
        early_refusals: u32,
        early_stays: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::listen(listener, play, early_refusals, early_stays)
    }

    fn listen(
        listener: TcpListener,
        play: impl Fn(&RawRequest) -> Script + Send + Sync + 'static,
        early_refusals: u32,
        early_stays: bool,
    ) -> Self {
        let inner = Arc::new(Inner {
            address: listener.local_addr().unwrap(),
            play: Box::new(play),
            logins: AtomicU32::new(0),
            connections: AtomicUsize::new(0),
            login_answers: Mutex::default(),
            login_refusal: Mutex::default(),
            login_pause: Mutex::default(),
            seen: Mutex::default(),
            last_login: Mutex::default(),
            forgetful: AtomicBool::new(false),
            early_answers: AtomicU32::new(early_refusals),
            early_stays,
            logins_too: AtomicBool::new(false),
        });
        let accepting = tokio::spawn({
            let inner = Arc::clone(&inner);
            async move {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    inner.connections.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(serve(stream, Arc::clone(&inner)));
                    while let Some(ended) = connections.try_join_next() {
                        ended.unwrap();
                    }
                }
            }
        });
        Self {
            inner,
            accepting: Some(accepting),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.inner.address)
    }

    pub fn logins(&self) -> u32 {
        self.inner.logins.load(Ordering::SeqCst)
    }

    /// From now on what is seen is not kept.
    pub fn forget(&self) {
        self.inner.forgetful.store(true, Ordering::Relaxed);
    }

    /// What the last login sent.
    pub fn last_login(&self) -> RawRequest {
        self.inner.last_login.lock().unwrap().clone().expect("a login")
    }

    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<RawRequest> {
        self.inner.seen.lock().unwrap().clone()
    }

    /// The script answers logins as well, from now on.
    pub fn script_logins(&self) {
        self.inner.logins_too.store(true, Ordering::SeqCst);
    }

    /// Every login is answered after this.
    pub fn pause_logins(&self, pause: Duration) {
        *self.inner.login_pause.lock().unwrap() = pause;
    }

    /// Every login gets this status and body from now on; `None`: tokens again.
    pub fn refuse_logins(&self, refusal: Option<(&str, &str)>) {
        *self.inner.login_refusal.lock().unwrap() = refusal.map(|(status, body)| {
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        });
    }

    /// The next login gets these bytes.
    pub fn next_login(&self, answer: &str) {
        self.inner
            .login_answers
            .lock()
            .unwrap()
            .push(answer.as_bytes().to_vec());
    }
}

impl Drop for RawOrg {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            assert!(!accepting.is_finished(), "the raw org panicked");
            accepting.abort();
        }
    }
}

async fn serve(mut stream: TcpStream, inner: Arc<Inner>) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    for nth in 0.. {
        let Some(head) = read_until(&mut stream, &mut buffer, b"\r\n\r\n").await else {
            return;
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut request = RawRequest {
            nth_on_connection: nth,
            head,
            body: Vec::new(),
            trailers: String::new(),
        };
        let has_body = !request.header("content-length").is_empty() || !request.header("transfer-encoding").is_empty();
        let is_login = request.target() == "/services/oauth2/token" && !inner.logins_too.load(Ordering::SeqCst);
        let left = inner.early_answers.load(Ordering::SeqCst);
        if has_body && !is_login && left > 0 {
            inner.early_answers.store(left - 1, Ordering::SeqCst);
            let close = if inner.early_stays { "" } else { "Connection: close\r\n" };
            let refusal = format!(
                "HTTP/1.1 401 Unauthorized\r\n{close}Content-Length: {}\r\n\r\n{EXPIRED}",
                EXPIRED.len()
            );
            inner.seen.lock().unwrap().push(request.clone());
            let _ = stream.write_all(refusal.as_bytes()).await;
            if inner.early_stays {
                if read_body(&mut stream, &mut buffer, &mut request).await.is_none() {
                    return;
                }
                continue;
            }
            // Like a real server: closes its side, and reads on for a while so that the answer is not lost in a reset.
            let _ = stream.shutdown().await;
            let mut sink = vec![0; 64 * 1024];
            while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {}
            return;
        }
        if read_body(&mut stream, &mut buffer, &mut request).await.is_none() {
            return;
        }
        let script = if is_login {
            *inner.last_login.lock().unwrap() = Some(request.clone());
            inner.login()
        } else {
            if !inner.forgetful.load(Ordering::Relaxed) {
                inner.seen.lock().unwrap().push(request.clone());
            }
            (inner.play)(&request)
        };
        let (pieces, close) = match script {
            Script::Say(bytes) => (vec![(Duration::ZERO, bytes)], false),
            Script::SayAndClose(bytes) => (vec![(Duration::ZERO, bytes)], true),
            Script::Slowly(pieces) => (pieces, false),
            Script::Cut => return,
            Script::Hang => {
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
                return;
            }
        };
        for (pause, bytes) in pieces {
            // a sleep of nothing still waits for the timer's next tick
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
        if close {
            return;
        }
    }
}

impl Inner {
    fn login(&self) -> Script {
        let n = self.logins.fetch_add(1, Ordering::SeqCst) + 1;
        let scripted = {
            let mut answers = self.login_answers.lock().unwrap();
            (!answers.is_empty()).then(|| answers.remove(0))
        };
        let answer = match scripted.or_else(|| self.login_refusal.lock().unwrap().clone()) {
            Some(bytes) => Script::Say(bytes),
            None => Script::json("200 OK", &token_answer(&format!("http://{}", self.address), n)),
        };
        match (answer, *self.login_pause.lock().unwrap()) {
            (Script::Say(bytes), pause) => Script::Slowly(vec![(pause, bytes)]),
            (other, _) => other,
        }
    }
}

pub fn token_answer(instance: &str, n: u32) -> String {
    format!(
        r#"{{"access_token":"00Dxx0000001gER!token_{n}","instance_url":"{instance}","id":"{instance}/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS","token_type":"Bearer","scope":"api"}}"#
    )
}

/// Takes everything up to and with `end` out of the stream.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            let rest = buffer.split_off(at + end.len());
            return Some(std::mem::replace(buffer, rest));
        }
        more(stream, buffer).await?;
    }
}

async fn read_exactly(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    let rest = buffer.split_off(length);
    Some(std::mem::replace(buffer, rest))
}

async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<()> {
    buffer.reserve(64 * 1024);
    match stream.read_buf(buffer).await {
        Ok(n) if n > 0 => Some(()),
        _ => None,
    }
}

async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    request: &mut RawRequest,
) -> Option<()> {
    if request
        .header("transfer-encoding")
        .iter()
        .any(|value| value.contains("chunked"))
    {
        loop {
            let size = read_until(stream, buffer, b"\r\n").await?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            let chunk = read_exactly(stream, buffer, size + 2).await?;
            request.body.extend_from_slice(&chunk[..size]);
        }
        loop {
            let line = read_until(stream, buffer, b"\r\n").await?;
            if line == b"\r\n" {
                return Some(());
            }
            request.trailers.push_str(&String::from_utf8_lossy(&line));
        }
    }
    let length = request
        .header("content-length")
        .first()
        .and_then(|value| value.parse().ok());
    request.body = read_exactly(stream, buffer, length.unwrap_or(0)).await?;
    Some(())
}
