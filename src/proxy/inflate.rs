//! A gzipped request body, read as what is in it.
//!
//! Only where a credential has to be put into the body: Salesforce's own Java client (WSC) compresses its SOAP calls.
//! Owns: one body's decoder. Invariants: little is inflated at one time, so that a bomb fills no memory: the reader sets the
//! pace. Units: bytes. Fails with: [`UploadError`].

use std::{
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body::{Body, Frame};

use super::body::UploadError;

/// So much is inflated at one time; gzip makes at most a thousand times as much of it.
const STEP: usize = 1024;

pub struct Inflate<B> {
    source: B,
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Came, and is not inflated yet.
    waiting: Bytes,
    ended: bool,
}

impl<B> Inflate<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub fn new(source: B) -> Self {
        Self {
            source,
            decoder: MultiGzDecoder::new(Vec::new()),
            waiting: Bytes::new(),
            ended: false,
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if self.waiting.is_empty() {
                let frame = match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
                    Some(Ok(frame)) => frame,
                    Some(Err(_)) => return Poll::Ready(Some(Err(UploadError::Broke))),
                    None => {
                        self.ended = true;
                        let finished = self.decoder.try_finish().map(|()| self.taken());
                        return Poll::Ready(match finished {
                            Ok(rest) if rest.is_empty() => None,
                            Ok(rest) => Some(Ok(Frame::data(rest))),
                            Err(_) => Some(Err(UploadError::NotGzip)),
                        });
                    }
                };
                match frame.into_data() {
                    Ok(chunk) => self.waiting = chunk,
                    // What trailers would say of the compressed bytes means nothing for these.
                    Err(_) => continue,
                }
            }
            let step = self.waiting.split_to(self.waiting.len().min(STEP));
            if self.decoder.write_all(&step).is_err() {
                return Poll::Ready(Some(Err(UploadError::NotGzip)));
            }
            let plain = self.taken();
            if !plain.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(plain))));
            }
        }
    }

    fn taken(&mut self) -> Bytes {
        Bytes::from(std::mem::take(self.decoder.get_mut()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use flate2::{Compression, write::GzEncoder};
    use http_body_util::Full;

    use super::*;

    fn gzipped(text: &[u8]) -> Bytes {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap().into()
    }

    async fn inflated(body: Bytes) -> Result<(Vec<u8>, usize), UploadError> {
        let mut inflate = Inflate::new(Full::new(body));
        let (mut all, mut largest) = (Vec::new(), 0);
        while let Some(frame) = poll_fn(|cx| inflate.poll_frame(cx)).await {
            let piece = frame?.into_data().unwrap();
            largest = largest.max(piece.len());
            all.extend_from_slice(&piece);
        }
        Ok((all, largest))
    }

    #[tokio::test]
    async fn what_was_compressed_comes_out() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(inflated(gzipped(&text)).await.unwrap().0, text);
        // Two members, as gzip allows.
        let twice = [gzipped(b"one "), gzipped(b"two")].concat();
        assert_eq!(inflated(twice.into()).await.unwrap().0, b"one two");
    }

    #[tokio::test]
    async fn a_bomb_comes_in_small_pieces() {
        let (all, largest) = inflated(gzipped(&vec![0; 50_000_000])).await.unwrap();
        assert_eq!(all.len(), 50_000_000);
        assert!(largest <= 2 * 1024 * 1024, "{largest}");
    }

    #[tokio::test]
    async fn what_is_no_gzip_or_ends_early_is_told() {
        assert_eq!(inflated(Bytes::from_static(b"<x/>")).await, Err(UploadError::NotGzip));
        let whole = gzipped(b"a text that is long enough to be cut");
        let cut = whole.slice(..whole.len() - 9);
        assert_eq!(inflated(cut).await, Err(UploadError::NotGzip));
    }

    #[tokio::test]
    async fn a_source_that_breaks_is_told() {
        let mut inflate = Inflate::new(Broken(Some(gzipped(b"x").slice(..5))));
        let first = poll_fn(|cx| inflate.poll_frame(cx)).await;
        assert_eq!(first.unwrap().unwrap_err(), UploadError::Broke);
    }

    /// One piece, and then an error.
    struct Broken(Option<Bytes>);

    impl Body for Broken {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(Some(self.0.take().map(Frame::data).ok_or("gone")))
        }
    }
}
