//! The callback: a small server on loopback that waits for the one browser that comes back from the consent page.
//!
//! Owns: the listening sockets, their tasks, and the `state` of the login.
//! Invariants: it listens before anybody knows the address; only the callback's own host name is answered (a name that
//! somebody else points at this machine is not it); a callback with another state changes nothing, the first with ours
//! is taken and no other; what came is never shown, and the browser is sent to an address without it.
//! Units: the caller bounds the wait; a page that nobody fetches is waited for [`LINGER`].
//! Fails with: `io::Error` when the address cannot be had.
//! Source: SF §1.4.4; RFC 6749 §10.12; RFC 8252 §7.3, §8.10.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Method, Request, StatusCode, header};
use secrecy::SecretString;
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use url::{Host, Url};

use super::page::{Answer, Page, see};
use crate::{
    server::{self, Caller, Handler, Limits},
    shutdown::Stop,
    token::grant::callback::{Callback, Said},
};

/// Sockets, not served yet.
pub(super) struct Bound {
    listeners: Vec<TcpListener>,
    callback: Url,
}

/// Listens where the callback URL says, on loopback only.
pub(super) async fn bind(callback: &Url) -> io::Result<Bound> {
    let port = callback.port_or_known_default().unwrap_or(80);
    let at = |ip: IpAddr| SocketAddr::new(ip, port);
    let addresses = match callback.host() {
        Some(Host::Ipv4(ip)) if ip.is_loopback() => vec![at(ip.into())],
        Some(Host::Ipv6(ip)) if ip.is_loopback() => vec![at(ip.into())],
        // The browser chooses.
        Some(Host::Domain(_)) => vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())],
        _ => return Err(io::Error::other("it is not on loopback")),
    };
    Ok(Bound {
        listeners: server::bind(&addresses)?,
        callback: callback.clone(),
    })
}

/// The server at work. Dropping it ends every task.
pub(super) struct Listening {
    tasks: JoinSet<io::Result<()>>,
    desk: Arc<Desk>,
    said: oneshot::Receiver<Said>,
    end: watch::Sender<Option<Page>>,
    stop: Stop,
}

/// What every connection knows.
struct Desk {
    /// As `Host` names it.
    host: String,
    path: String,
    done: &'static str,
    state: SecretString,
    /// Gone when the callback has come.
    take: Mutex<Option<oneshot::Sender<Said>>>,
    end: watch::Receiver<Option<Page>>,
    shown: Notify,
}

impl Bound {
    /// Serves from here on; `state` is what the callback has to carry.
    pub(super) fn serve(self, state: SecretString) -> Listening {
        let (take, said) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let path = self.callback.path().to_owned();
        let desk = Arc::new(Desk {
            host: self.callback[url::Position::BeforeHost..url::Position::AfterPort].to_owned(),
            done: if path == DONE { "/finished" } else { DONE },
            path,
            state,
            take: Mutex::new(Some(take)),
            end: ended,
            shown: Notify::new(),
        });
        let stop = Stop::new();
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            let desk = Arc::clone(&desk);
            let handler = move |_: &Caller| -> Handler<_> {
                let desk = Arc::clone(&desk);
                Box::new(move |request| {
                    let desk = Arc::clone(&desk);
                    Box::pin(async move { desk.answer(&request).await })
                })
            };
            let limits = Limits::new(CONNECTIONS, IDLE);
            tasks.spawn(server::serve_http1(listener, handler, limits, stop.clone()));
        }
        Listening {
            tasks,
            desk,
            said,
            end,
            stop,
        }
    }
}

impl Listening {
    /// What the callback said. Cancel safe.
    pub(super) async fn said(&mut self) -> Said {
        match (&mut self.said).await {
            Ok(said) => said,
            // It cannot be: the desk lives with us.
            Err(_) => std::future::pending().await,
        }
    }

    /// Shows the last page to the browser that waits for it, then ends.
    pub(super) async fn finish(mut self, page: Page) {
        self.end.send_replace(Some(page));
        // A browser that was closed meanwhile fetches nothing.
        let _ = timeout(LINGER, self.desk.shown.notified()).await;
        self.stop.drain_now();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(LINGER, ended).await;
        self.stop.force_now();
    }
}

impl Desk {
    async fn answer<B>(&self, request: &Request<B>) -> Answer {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next().filter(|_| hosts.next().is_none());
        // A target with an authority of its own is meant for a proxy.
        let ours = host.is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(self.host.as_bytes()));
        if !ours || request.uri().authority().is_some() {
            let text = "This address is not served here.";
            return Page::new("Bad request", text).answer(StatusCode::BAD_REQUEST);
        }
        let path = request.uri().path();
        if path == self.done && self.is_taken() {
            return self.last_page().await;
        }
        if path != self.path {
            return Page::new("Not found", "There is nothing here.").answer(StatusCode::NOT_FOUND);
        }
        if request.method() != Method::GET {
            return Page::new("Bad request", "Only GET is served here.").answer(StatusCode::BAD_REQUEST);
        }
        match Callback::read(request.uri().query().unwrap_or_default()) {
            Err(misfit) => Page::new("Bad request", format!("This is no answer of the login: {misfit}.")),
            Ok(callback) if !callback.answers(&self.state) => Page::new(
                "Bad request",
                "This answer belongs to another login. The one that was begun last still waits.",
            ),
            Ok(callback) => match self.take().take() {
                Some(take) => {
                    // The receiver is gone only when the login is.
                    let _ = take.send(callback.said);
                    return see(self.done);
                }
                None => Page::new("Bad request", "This answer has been used already."),
            },
        }
        .answer(StatusCode::BAD_REQUEST)
    }

    /// Waits for the login's end.
    async fn last_page(&self) -> Answer {
        let mut end = self.end.clone();
        let page = match end.wait_for(Option::is_some).await {
            Ok(page) => page.clone(),
            Err(_) => None,
        };
        let page = page.unwrap_or_else(|| Page::new("Not logged in", "The login was ended."));
        self.shown.notify_one();
        page.answer(StatusCode::OK)
    }

    fn is_taken(&self) -> bool {
        self.take().is_none()
    }

    fn take(&self) -> std::sync::MutexGuard<'_, Option<oneshot::Sender<Said>>> {
        self.take.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DONE: &str = "/done";
const CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(2);
/// For the browser to fetch the last page.
pub(super) const LINGER: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn desk(callback: &str) -> (Desk, oneshot::Receiver<Said>, watch::Sender<Option<Page>>) {
        let callback: Url = callback.parse().unwrap();
        let (take, said) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let desk = Desk {
            host: callback[url::Position::BeforeHost..url::Position::AfterPort].to_owned(),
            path: callback.path().to_owned(),
            done: DONE,
            state: "STATE".into(),
            take: Mutex::new(Some(take)),
            end: ended,
            shown: Notify::new(),
        };
        (desk, said, end)
    }

    fn request(method: &str, target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap()
    }

    #[tokio::test]
    async fn only_a_get_of_the_callback_at_its_own_host_with_the_right_state_is_taken() {
        let (desk, mut said, end) = desk("http://localhost:1717/OauthRedirect");
        let good = "/OauthRedirect?code=CODE&state=STATE";
        let here: &[&str] = &["localhost:1717"];
        for (method, target, hosts, status) in [
            ("GET", good, &["evil.example:1717"][..], 400),
            ("GET", good, &["localhost"], 400),
            ("GET", good, &["127.0.0.1:1717"], 400),
            ("GET", good, &["localhost:1717", "evil.example"], 400),
            ("GET", good, &[], 400),
            (
                "GET",
                "http://localhost:1717/OauthRedirect?code=CODE&state=STATE",
                here,
                400,
            ),
            ("POST", good, here, 400),
            ("HEAD", good, here, 400),
            ("GET", "/OauthRedirect/?code=CODE&state=STATE", here, 404),
            ("GET", "/oauthredirect?code=CODE&state=STATE", here, 404),
            ("GET", "/done", here, 404),
            ("GET", "/favicon.ico", here, 404),
            ("GET", "/OauthRedirect", here, 400),
            ("GET", "/OauthRedirect?code=CODE&state=OTHER", here, 400),
            ("GET", "/OauthRedirect?error=access_denied&state=OTHER", here, 400),
            ("GET", "/OauthRedirect?code=CODE&code=CODE&state=STATE", here, 400),
        ] {
            let answer = desk.answer(&request(method, target, hosts)).await;
            assert_eq!(answer.status(), status, "{method} {target} {hosts:?}");
            assert!(said.try_recv().is_err(), "{method} {target} {hosts:?} was taken");
            assert!(!desk.is_taken());
        }
        let answer = desk.answer(&request("GET", good, &["LocalHost:1717"])).await;
        assert_eq!(answer.status(), 303);
        assert_eq!(answer.headers()["location"], "/done");
        assert!(matches!(said.try_recv(), Ok(Said::Code(code)) if code.expose_secret() == "CODE"));

        // once only
        assert_eq!(desk.answer(&request("GET", good, here)).await.status(), 400);
        end.send_replace(Some(Page::new("Logged in", "")));
        assert_eq!(desk.answer(&request("GET", "/done", here)).await.status(), 200);
    }

    #[tokio::test]
    async fn it_listens_where_the_callback_says_and_nowhere_else() {
        let bound = bind(&"http://127.0.0.1:0/x".parse().unwrap()).await.unwrap();
        let at: Vec<_> = bound.listeners.iter().map(|l| l.local_addr().unwrap().ip()).collect();
        assert_eq!(at, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        let bound = bind(&"http://localhost:0/x".parse().unwrap()).await.unwrap();
        assert!(
            bound
                .listeners
                .iter()
                .all(|l| l.local_addr().unwrap().ip().is_loopback())
        );
        for outside in ["http://192.0.2.1:0/x", "http://0.0.0.0:0/x"] {
            assert!(bind(&outside.parse().unwrap()).await.is_err(), "{outside}");
        }
    }
}
