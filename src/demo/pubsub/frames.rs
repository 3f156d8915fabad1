//! gRPC on the wire: messages with their five bytes before them, and how an RPC ends.
//!
//! Owns: what was read and not yet used. Invariants: [`Requests::next`] may be dropped at any await and loses nothing.
//! Units: at most 4 MiB a message, as gRPC servers have it by default and Salesforce documents.
//! Fails with: [`Status`]. Source: the gRPC over HTTP/2 specification; SF §5.3.

use std::io::Read as _;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::read::GzDecoder;
use hyper::{
    HeaderMap,
    body::Frame,
    header::{HeaderName, HeaderValue},
};
use prost::Message;
use tokio::sync::mpsc;

use crate::demo::body::Upload;

const MOST: usize = 4 * 1024 * 1024;
const PREFIX: usize = 5;

const OK: u8 = 0;
const CANCELLED: u8 = 1;
pub(super) const INVALID_ARGUMENT: u8 = 3;
pub(super) const DEADLINE_EXCEEDED: u8 = 4;
pub(super) const NOT_FOUND: u8 = 5;
pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
pub(super) const UNIMPLEMENTED: u8 = 12;
pub(super) const INTERNAL: u8 = 13;
pub(super) const UNAUTHENTICATED: u8 = 16;

/// How an RPC ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u8,
    pub(super) message: String,
    /// Salesforce's own, after `sfdc.platform.eventbus.grpc.`.
    pub(super) error_code: Option<&'static str>,
}

/// The messages of a request.
pub(super) struct Requests {
    upload: Upload,
    buffer: BytesMut,
    gzip: bool,
}

/// The messages of an answer, and its trailers.
pub(super) struct Replies {
    frames: mpsc::Sender<Frame<Bytes>>,
    pub(super) rpc_id: String,
}

impl Requests {
    pub(super) fn new(upload: Upload, headers: &HeaderMap) -> Self {
        Self {
            upload,
            buffer: BytesMut::new(),
            gzip: headers.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip"),
        }
    }

    /// The next message; `None` when the client is done.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.whole()? {
                let decoded = M::decode(message);
                return decoded
                    .map(Some)
                    .map_err(|_| Status::new(INTERNAL, "Invalid protobuf byte sequence"));
            }
            match self.upload.next().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(Status::new(INTERNAL, "Encountered end-of-stream mid-frame")),
                Err(_) => return Err(Status::gone()),
            }
        }
    }

    /// The first message of the buffer, if all of it is there.
    fn whole(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(mut prefix) = self.buffer.get(..PREFIX) else {
            return Ok(None);
        };
        let compressed = prefix.get_u8() == 1;
        let length = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
        if length > MOST {
            let message = format!("gRPC message exceeds maximum size {MOST}: {length}");
            return Err(Status::new(RESOURCE_EXHAUSTED, message));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        match compressed {
            false => Ok(Some(message)),
            true if self.gzip => inflate(&message).map(Some),
            true => Err(Status::new(
                INTERNAL,
                "Can't decode compressed gRPC message as compression not configured",
            )),
        }
    }
}

fn inflate(message: &[u8]) -> Result<Bytes, Status> {
    let mut out = Vec::new();
    let read = GzDecoder::new(message).take(MOST as u64 + 1).read_to_end(&mut out);
    match read {
        Ok(length) if length <= MOST => Ok(out.into()),
        Ok(_) => Err(Status::new(
            RESOURCE_EXHAUSTED,
            "Decompressed gRPC message exceeds maximum size",
        )),
        Err(_) => Err(Status::new(INTERNAL, "Invalid gzip")),
    }
}

impl Replies {
    pub(super) fn new(frames: mpsc::Sender<Frame<Bytes>>, rpc_id: String) -> Self {
        Self { frames, rpc_id }
    }

    pub(super) async fn send(&self, message: &impl Message) -> Result<(), Status> {
        let length = message.encoded_len();
        let mut out = BytesMut::with_capacity(PREFIX + length);
        out.put_u8(0);
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        // It has room for all of it.
        message
            .encode(&mut out)
            .map_err(|_| Status::new(INTERNAL, "Cannot encode the answer"))?;
        self.frames
            .send(Frame::data(out.freeze()))
            .await
            .map_err(|_| Status::gone())
    }

    pub(super) async fn end(&self, status: &Status) {
        let trailers = status.trailers(&self.rpc_id);
        // Nobody listens any more: nothing is owed.
        self.frames.send(Frame::trailers(trailers)).await.ok();
    }

    /// Until the client has gone away.
    pub(super) async fn closed(&self) {
        self.frames.closed().await;
    }
}

impl Status {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            error_code: None,
        }
    }

    /// The client went away; nobody is left to hear this.
    pub(super) fn gone() -> Self {
        Self::new(CANCELLED, "Cancelled by the client")
    }

    pub(super) fn ok() -> Self {
        Self::new(OK, "")
    }

    pub(super) fn with(self, error_code: &'static str) -> Self {
        Self {
            error_code: Some(error_code),
            ..self
        }
    }

    fn trailers(&self, rpc_id: &str) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                trailers.insert(HeaderName::from_static(name), value);
            }
        };
        put("grpc-status", &self.code.to_string());
        if self.code == OK {
            return trailers;
        }
        put("grpc-message", &percent(&format!("{} rpcId: {rpc_id}", self.message)));
        put("rpc-id", rpc_id);
        if let Some(code) = self.error_code {
            put("error-code", &format!("sfdc.platform.eventbus.grpc.{code}"));
        }
        trailers
    }
}

/// As gRPC writes a message into a header.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out += "%25",
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}
