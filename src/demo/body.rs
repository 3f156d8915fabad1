//! Bodies: requests read by stream, answers written by stream.
//!
//! Owns: nothing. Invariants: no more of an answer is in memory than one chunk, unless it was made there.
//! Units: bytes.
//! Fails with: [`UploadError`].

use std::{
    convert::Infallible,
    io::Read as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use flate2::read::{GzDecoder, ZlibDecoder};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap,
    body::{Body, Frame, Incoming, SizeHint},
};
use tokio::sync::mpsc;

use super::{
    connections::Busy,
    record::{BodySeen, Seen},
};

/// Bulk 2.0 takes 150 MB; a little more, so that the limit is told and not felt.
pub(crate) const MAX_UPLOAD: usize = 160 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;
static FILLER: [u8; CHUNK] = [b'x'; CHUNK];

/// A request body on its way in.
pub(crate) struct Upload {
    incoming: Incoming,
    seen: Option<Seen>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("larger than {MAX_UPLOAD} bytes")]
    TooLarge,
    #[error("not what its content-encoding says")]
    Encoding,
    #[error("the client went away")]
    Broken,
}

/// An answer's body.
pub(crate) struct OrgBody {
    content: Content,
    /// Without a length, so that it goes out in chunks, as Salesforce's answers do.
    sized: bool,
    /// The connection is busy until the last byte is out.
    pub(crate) busy: Option<Busy>,
}

enum Content {
    Bytes(Bytes),
    /// So many filler bytes.
    Filler(u64),
    /// Bytes, then trailers.
    Trailers(Bytes, Option<Box<HeaderMap>>),
    /// What somebody else sends, as it comes; nobody is left to send when the sender is dropped.
    Frames(Option<Box<Frame<Bytes>>>, mpsc::Receiver<Frame<Bytes>>),
}

impl Upload {
    pub(crate) fn new(incoming: Incoming, seen: Option<Seen>) -> Self {
        Self { incoming, seen }
    }

    /// Notes that the body, once read, held a living session.
    pub(crate) fn knows_token(&self) {
        if let Some(seen) = &self.seen {
            BodySeen::knows_token(seen);
        }
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|_| UploadError::Broken)?;
            if let Ok(chunk) = frame.into_data() {
                if let Some(seen) = &self.seen {
                    BodySeen::add(seen, &chunk);
                }
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    /// Reads and forgets.
    pub(crate) async fn drain(&mut self) -> Result<(), UploadError> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// All of it, decompressed if the headers say so.
    pub(crate) async fn all(&mut self, headers: &HeaderMap) -> Result<Bytes, UploadError> {
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        let mut whole = first;
        if let Some(second) = self.next().await? {
            let mut joined = BytesMut::from(whole);
            joined.extend_from_slice(&second);
            while let Some(chunk) = self.next().await? {
                if joined.len() + chunk.len() > MAX_UPLOAD {
                    self.drain().await?;
                    return Err(UploadError::TooLarge);
                }
                joined.extend_from_slice(&chunk);
            }
            whole = joined.freeze();
        }
        match headers.get("content-encoding").map(|v| v.as_bytes()) {
            Some(b"gzip") => inflate(GzDecoder::new(&whole[..])),
            Some(b"deflate") => inflate(ZlibDecoder::new(&whole[..])),
            _ => Ok(whole),
        }
    }
}

fn inflate(decoder: impl std::io::Read) -> Result<Bytes, UploadError> {
    let mut out = Vec::new();
    decoder
        .take(MAX_UPLOAD as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|_| UploadError::Encoding)?;
    if out.len() > MAX_UPLOAD {
        return Err(UploadError::TooLarge);
    }
    Ok(out.into())
}

impl OrgBody {
    /// With a content-length.
    pub(crate) fn sized(bytes: impl Into<Bytes>) -> Self {
        Self::new(Content::Bytes(bytes.into()), true)
    }

    /// In chunks.
    pub(crate) fn chunked(bytes: impl Into<Bytes>) -> Self {
        Self::new(Content::Bytes(bytes.into()), false)
    }

    pub(crate) fn filler(bytes: u64) -> Self {
        Self::new(Content::Filler(bytes), true)
    }

    pub(crate) fn with_trailers(bytes: impl Into<Bytes>, trailers: HeaderMap) -> Self {
        Self::new(Content::Trailers(bytes.into(), Some(Box::new(trailers))), false)
    }

    /// `first`, then what comes.
    pub(crate) fn frames(first: Frame<Bytes>, rest: mpsc::Receiver<Frame<Bytes>>) -> Self {
        Self::new(Content::Frames(Some(Box::new(first)), rest), false)
    }

    fn new(content: Content, sized: bool) -> Self {
        Self {
            content,
            sized,
            busy: None,
        }
    }
}

impl Body for OrgBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match &mut self.content {
            Content::Bytes(rest) => next_chunk(rest).map(Frame::data),
            Content::Filler(0) => None,
            Content::Filler(left) => {
                let count = usize::try_from(*left).unwrap_or(CHUNK).min(CHUNK);
                *left -= count as u64;
                Some(Frame::data(Bytes::from_static(&FILLER[..count])))
            }
            Content::Trailers(rest, trailers) => match next_chunk(rest) {
                Some(chunk) => Some(Frame::data(chunk)),
                None => trailers.take().map(|trailers| Frame::trailers(*trailers)),
            },
            Content::Frames(first, rest) => match first.take() {
                Some(first) => Some(*first),
                None => ready!(rest.poll_recv(cx)),
            },
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Bytes(rest) => rest.is_empty(),
            Content::Filler(left) => *left == 0,
            Content::Trailers(_, trailers) => trailers.is_none(),
            Content::Frames(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(rest) if self.sized || rest.is_empty() => SizeHint::with_exact(rest.len() as u64),
            Content::Filler(left) => SizeHint::with_exact(*left),
            _ => SizeHint::default(),
        }
    }
}

fn next_chunk(rest: &mut Bytes) -> Option<Bytes> {
    (!rest.is_empty()).then(|| rest.split_to(rest.len().min(CHUNK)))
}
