//! What an answer says of the token while it passes.
//!
//! Some families tell of a dead token where it is too late to repeat the call, or not for the proxy to repeat it: in a message
//! of a long poll, in the trailers of an open stream. The answer is passed on untouched, and the token is reported, so
//! that the client's next try carries a new one (SF §10).
//!
//! Before a suspected token is withdrawn, the org is asked by the cheapest call whether it is dead: a client that is told 401
//! for a reason of its own again and again must not cost a login each time.
//!
//! Owns: a copy of what passed, up to [`INSPECT_BYTES`] (longer answers are no error messages and are let go); the list of
//! suspects, and the task that asks about them.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    upstream::Upstream,
    verdict::{INSPECT_BYTES, Verdict, bayeux, rpc_status},
};
use crate::{cache::Copying, token::Token};

/// More need not wait: they are of the same few identities.
const MOST_SUSPECTS: usize = 64;

/// A token of which an answer said that it is dead.
pub struct Suspect {
    pub account: Arc<Account>,
    pub token: Arc<Token>,
}

/// Those that are still to be asked about. Cheap to clone.
#[derive(Clone)]
pub struct Suspects {
    sender: mpsc::Sender<Suspect>,
    receiver: Arc<Mutex<mpsc::Receiver<Suspect>>>,
}

impl Default for Suspects {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(MOST_SUSPECTS);
        Self {
            sender,
            receiver: Arc::new(Mutex::new(receiver)),
        }
    }
}

impl Suspects {
    pub fn report(&self, suspect: Suspect) {
        // Full: the next call finds out by itself.
        drop(self.sender.try_send(suspect));
    }

    /// Asks about each, one after the other, until `stop`.
    pub async fn run(&self, upstream: &Upstream, stop: CancellationToken) {
        let mut receiver = self.receiver.lock().await;
        // Dropped half-way: a question that nobody needs an answer to any more.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = async {
                while let Some(Suspect { account, token }) = receiver.recv().await {
                    account.suspect(upstream, &token).await;
                }
            } => {}
        }
    }
}

/// Called once with the reason when the answer says that the token is no good.
pub type Report = Box<dyn FnOnce(&'static str) + Send + Sync>;

pub struct Watch {
    kind: Kind,
    report: Option<Report>,
}

enum Kind {
    /// For the cache.
    Copy(Box<Copying>),
    Bayeux {
        headers: HeaderMap,
        seen: Vec<u8>,
    },
    Trailers,
}

impl Watch {
    /// For CometD's messages; the headers tell how they are compressed.
    pub fn bayeux(headers: &HeaderMap, report: Report) -> Self {
        let seen = Vec::new();
        let headers = headers.clone();
        Self {
            kind: Kind::Bayeux { headers, seen },
            report: Some(report),
        }
    }

    /// For the trailers of an RPC.
    pub fn trailers(report: Report) -> Self {
        Self {
            kind: Kind::Trailers,
            report: Some(report),
        }
    }

    /// Keeps what passes, for the cache.
    pub fn copy(copy: Copying) -> Self {
        Self {
            kind: Kind::Copy(Box::new(copy)),
            report: None,
        }
    }

    pub fn see(&mut self, frame: &Frame<Bytes>) {
        match &mut self.kind {
            Kind::Copy(copy) => match frame.data_ref() {
                Some(data) => copy.see(data),
                // Trailers are not given again.
                None => copy.give_up(),
            },
            Kind::Bayeux { seen, .. } => {
                let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
                if seen.len() + data.len() > INSPECT_BYTES {
                    self.report = None;
                    *seen = Vec::new();
                } else if self.report.is_some() {
                    seen.extend_from_slice(data);
                }
            }
            Kind::Trailers => {
                if let Some(trailers) = frame.trailers_ref() {
                    let verdict = rpc_status(trailers);
                    self.tell(verdict);
                }
            }
        }
    }

    /// The answer has ended.
    pub fn ended(&mut self) {
        match &mut self.kind {
            Kind::Copy(copy) => copy.ended(),
            Kind::Bayeux { headers, seen } => {
                let verdict = bayeux(headers, seen);
                self.tell(verdict);
            }
            Kind::Trailers => {}
        }
    }

    fn tell(&mut self, verdict: Verdict) {
        if let (Verdict::Refused(reason), Some(report)) = (verdict, self.report.take()) {
            report(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a watch reports of these frames.
    fn reported(watch: impl FnOnce(Report) -> Watch, frames: Vec<Frame<Bytes>>) -> Vec<&'static str> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let mut watch = watch(Box::new(move |reason| telling.lock().unwrap().push(reason)));
        for frame in frames {
            watch.see(&frame);
        }
        watch.ended();
        watch.ended();
        drop(watch);
        Arc::into_inner(told).unwrap().into_inner().unwrap()
    }

    fn data(text: &str) -> Frame<Bytes> {
        Frame::data(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_message_in_pieces_is_read_as_one() {
        let message = |report| Watch::bayeux(&HeaderMap::new(), report);
        let pieces = vec![
            data(r#"[{"channel":"/meta/connect","succ"#),
            data(r#"essful":false,"error":"401::Authentication invalid"}]"#),
        ];
        assert_eq!(reported(message, pieces), ["bayeux_401"]);
        let fine = vec![data(r#"[{"channel":"/meta/connect","successful":true}]"#)];
        assert_eq!(reported(message, fine), Vec::<&str>::new());
    }

    #[test]
    fn a_long_answer_is_let_go() {
        let filler = " ".repeat(INSPECT_BYTES);
        let pieces = vec![
            data(&filler),
            data(r#"[{"channel":"/meta/connect","successful":false,"error":"401::"}]"#),
        ];
        let found = reported(|report| Watch::bayeux(&HeaderMap::new(), report), pieces);
        assert_eq!(found, Vec::<&str>::new());
    }

    #[test]
    fn trailers_tell() {
        let code = "sfdc.platform.eventbus.grpc.service.auth.error";
        let trailers = HeaderMap::from_iter([("error-code".parse().unwrap(), code.parse().unwrap())]);
        let frames = vec![data("event"), Frame::trailers(trailers)];
        assert_eq!(reported(Watch::trailers, frames), ["rpc_auth_error"]);
        assert_eq!(reported(Watch::trailers, vec![data("event")]), Vec::<&str>::new());
    }
}
