//! The story of a call. Read this first.
//!
//! Guard, token, org, verdict, answer. A login that an SDK insists on is answered here (`local_login.rs`). When the org refuses the token: one forced renewal, whoever noticed first, and
//! one repeat. A repeat that is refused too is passed on as it came, unless the renewed token is known to have worked
//! and has died since (somebody revokes faster than we repeat): then, and only then, the story goes on.
//!
//! Owns: nothing but references. Invariants: a call is sent at most `MOST_SENDS` times for its token's sake; what the
//! caller sent is never changed between attempts but for host and credential.
//! Cancel safety: a caller that goes away drops its future; the login it may have waited for goes on.

use std::{
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{self, Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
    uri::PathAndQuery,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    account::{Account, Next},
    body::{Store, Upload},
    cached::{self, Found, Lookup},
    error::{CallError, not_repeated_status},
    guard::{Refusal, Rules},
    headers,
    in_body::{InBody, InBodyError},
    read_ahead::{self, Ahead, read_ahead},
    record::{Calls, Outcome, Record, Repeat},
    surface::{Surface, Told, is_list_of_versions},
    upstream::{Answer, Head, Upstream},
    users::Users,
    verdict::{
        BULK_INVALID_SESSION, INSPECT_BYTES, SOAP_INVALID_SESSION, Verdict, at_sight, bayeux, may_not_ask_identity,
        rpc_status, verdict,
    },
    watch::{Suspect, Suspects, Watch},
};
use crate::{
    cache::Cache,
    local_login::{self, Login},
    server,
    token::Token,
};

/// The first attempt, the repeat, and two more for a token that is revoked again while we repeat.
const MOST_SENDS: u32 = 4;
/// For the rest of an error answer's body.
const INSPECT_PATIENCE: Duration = Duration::from_secs(10);
/// Of a login's parameters; they are only counted.
const LOGIN_BYTES: usize = 64 * 1024;

/// Why a dead session is said to be one and is none.
const NO_JWT_HERE: &str = "the token works elsewhere, but this API takes none in JWT format; turn JWT-based access tokens off in the app's settings";

/// The usual name of `listeners[].users.header`.
static USER: HeaderName = HeaderName::from_static("x-sfproxy-user");

/// One org's calls.
pub struct Proxy {
    own: Arc<Account>,
    data_cloud: Option<Arc<Account>>,
    upstream: Arc<Upstream>,
    calls: Arc<Calls>,
    store: Store,
    body_idle: Duration,
    /// Set on every call.
    headers: Vec<(HeaderName, HeaderValue)>,
    suspects: Suspects,
    cache: Option<Arc<Cache>>,
}

/// A listener's way in: its rules, and the proxy behind them.
pub struct Door {
    pub rules: Rules,
    /// The listener speaks http.
    pub plain: bool,
    pub proxy: Arc<Proxy>,
    /// Callers may name the user whose token they want.
    pub users: Option<Arc<Users>>,
    /// What a call in flight needs, and what ends when nobody needs it any more.
    pub needs: Vec<Arc<DropGuard>>,
}

/// What stays the same over the attempts of a call.
struct Call {
    account: Arc<Account>,
    head: Head,
    upload: Upload,
    /// The address that the caller used; only where an answer of ours leads back to it.
    base: Option<String>,
    /// A CometD handshake, which may be repeated although it is refused with status 200.
    handshake: bool,
}

/// The org's answer or one of our own.
enum Reply {
    Org(Response<Box<InBody>>),
    Own(Response<Bytes>),
}

impl Door {
    /// Answers one call; every failure is an answer. What needs no waiting is done before the future is made, so that it
    /// holds as little as possible: its size is paid for with each call.
    pub fn handle(self: &Arc<Self>, request: Request<Incoming>) -> server::Answer<OutgoingBody> {
        let mut record = Record::start(&self.proxy.calls, request.method());
        let mut call = match self.prepare(request, &mut record) {
            Ok(call) => call,
            Err(error) => return Box::pin(ready(OutgoingBody::error(&error, record))),
        };
        let door = Arc::clone(self);
        Box::pin(async move {
            match door.answer(&mut call, &mut record).await {
                Ok(Reply::Org(response)) => {
                    record.answered(response.status());
                    let of_rpc = match record.is_rpc() {
                        true => Outcome::of_rpc(response.headers()),
                        false => None,
                    };
                    let outcome = of_rpc.unwrap_or_else(|| Outcome::of_status(response.status()));
                    response.map(|body| OutgoingBody::org(body, record, outcome))
                }
                Ok(Reply::Own(response)) => {
                    record.answered(response.status());
                    response.map(|body| OutgoingBody::own(body, record, Outcome::Ok))
                }
                Err(error) => OutgoingBody::error(&error, record),
            }
        })
    }

    /// Answers a call that came without TLS where the listener speaks https; the connection ends with it.
    pub fn refuse_plain(&self, request: &Request<Incoming>) -> Response<OutgoingBody> {
        let mut record = Record::start(&self.proxy.calls, request.method());
        self.proxy.calls.guard_refused(Refusal::PlainHttp);
        let error = CallError::Guard(Refusal::PlainHttp);
        let mut response = error.response(self.rules.family(request.uri().path(), request.version()));
        // HTTP/2 has no such header.
        if request.version() < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        tracing::debug!(error = %error, status = response.status().as_u16(), "answered ourselves");
        record.answered(response.status());
        response.map(|body| OutgoingBody::own(body, record, error.outcome()))
    }

    /// The guard's word, and the call as the org will see it but for host and credential.
    fn prepare(&self, request: Request<Incoming>, record: &mut Record) -> Result<Call, CallError> {
        let proxy = &*self.proxy;
        let (mut parts, body) = request.into_parts();
        let surface = self.rules.check(&parts).map_err(|refusal| {
            record.called(self.rules.family(parts.uri.path(), parts.version));
            self.refuse(refusal)
        })?;
        record.surface(surface);
        if surface.row().told == Told::RpcStatus && parts.version != Version::HTTP_2 {
            return Err(CallError::NeedsHttp2);
        }
        let account = self
            .account(surface, &mut parts.headers)
            .map_err(|refusal| self.refuse(refusal))?;
        if !headers::is_plainly_transferred(&parts.headers) {
            return Err(CallError::TransferCoding);
        }
        let base = leads_back(surface).then(|| self.base(&parts));
        headers::strip_request(&mut parts.headers);
        for (name, value) in &proxy.headers {
            parts.headers.insert(name.clone(), value.clone());
        }
        let idle = surface.body_idle(proxy.body_idle);
        let upload = match surface.is_enveloped() {
            true => read_ahead::upload(&mut parts.headers, body, &proxy.store, idle)?,
            false => Upload::new(body, &proxy.store, idle),
        };
        let target = parts.uri.into_parts().path_and_query;
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Call {
            account,
            upload,
            base,
            handshake: false,
            head: Head {
                surface,
                method: parts.method,
                target: match surface {
                    Surface::Identity => headers::without_credential(target),
                    _ => target,
                },
                headers: parts.headers,
                edits: Vec::new(),
            },
        })
    }

    fn refuse(&self, refusal: Refusal) -> CallError {
        self.proxy.calls.guard_refused(refusal);
        CallError::Guard(refusal)
    }

    /// The address that the caller used, as a URL. The guard has seen that it is one of the listener's names. What the target says
    /// goes before `Host` (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
    fn base(&self, parts: &Parts) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        format!("{scheme}://{}", authority.or(host).unwrap_or("localhost"))
    }

    /// Whose token the call gets.
    fn account(&self, surface: Surface, headers: &mut HeaderMap) -> Result<Arc<Account>, Refusal> {
        match &self.users {
            Some(users) => {
                if let Some(account) = users.account(headers, surface)? {
                    return Ok(account);
                }
            }
            // Whoever names a user must not get the org's own identity in silence.
            None if headers.contains_key(&USER) => return Err(Refusal::UserNotServed),
            None => {}
        }
        let elsewhere = match surface {
            Surface::DataCloud => self.proxy.data_cloud.as_ref(),
            _ => None,
        };
        Ok(Arc::clone(elsewhere.unwrap_or(&self.proxy.own)))
    }

    async fn answer(&self, call: &mut Call, record: &mut Record) -> Result<Reply, CallError> {
        if call.head.surface == Surface::LocalLogin {
            // Boxed, like all that most calls do not need.
            return Box::pin(self.login_by_parameters(call, record)).await;
        }
        if read_ahead::wanted(call.head.surface)
            && (call.head.method == Method::POST || !call.upload.is_empty())
            && let Some(login) = Box::pin(self.look_ahead(call, record)).await?
        {
            return Box::pin(self.login(&login, call, record)).await;
        }
        let proxy = &*self.proxy;
        let lookup = match &proxy.cache {
            Some(cache) => match Box::pin(self.look_up(cache, call, record)).await? {
                Found::Kept(kept) => return Ok(Reply::Own(kept)),
                Found::Ask(lookup) => lookup,
            },
            None => None,
        };
        // In a block: what lives in it has no room in this future while the rest is awaited.
        let rest = {
            let (answer, token) = proxy.call(call, record).await?;
            let status = answer.response.status();
            let of_another = lookup
                .as_ref()
                .is_some_and(|lookup| lookup.is_of_another(&call.account, &call.head, &token, status));
            let refused_identity = call.head.surface == Surface::Identity && status == StatusCode::FORBIDDEN;
            if !of_another && !refused_identity {
                return Ok(self.pass_on(call, answer, &token, lookup));
            }
            Box::pin(self.pass_on_another(call, (answer, token), of_another, lookup, record))
        };
        rest.await
    }

    /// Another answer than the first: the cache had asked for somebody else; or an identity service refuses a token that lives and may
    /// not ask it, and what it would have said is known.
    async fn pass_on_another(
        &self,
        call: &mut Call,
        (mut answer, mut token): (Answer, Arc<Token>),
        of_another: bool,
        lookup: Option<Box<Lookup>>,
        record: &mut Record,
    ) -> Result<Reply, CallError> {
        if of_another {
            if let Some(lookup) = &lookup {
                lookup.withdraw_conditions(&mut call.head);
            }
            answer.abandon();
            (answer, token) = self.proxy.call(call, record).await?;
        }
        let response = &answer.response;
        if call.head.surface == Surface::Identity
            && response.status() == StatusCode::FORBIDDEN
            && may_not_ask_identity(response.headers(), &response.body().looked_at())
            && let Some(own) = self.userinfo(call, &token)
            && waiting(record, call.account.is_alive(&self.proxy.upstream, &token)).await
        {
            return Ok(Reply::Own(own));
        }
        Ok(self.pass_on(call, answer, &token, lookup))
    }

    /// The org's answer as the caller gets it.
    fn pass_on(&self, call: &Call, answer: Answer, token: &Arc<Token>, lookup: Option<Box<Lookup>>) -> Reply {
        // The answer passes: there is no repeat any more.
        call.upload.settle();
        let proxy = &*self.proxy;
        let mut response = answer.response;
        proxy.watch(call, token, &mut response);
        proxy.calls.see_limits(response.headers());
        if let Some(lookup) = lookup
            && let Some(kept) = lookup.settle(&call.account, &call.head, token, &mut response, self.plain)
        {
            return Reply::Own(kept);
        }
        let instance = token.instance_for(call.head.target.path());
        let headers = response.headers_mut();
        // Of a token with several hosts: made relative, it may lead to another of them.
        let location = (!token.also.is_empty())
            .then(|| headers.get(header::LOCATION).cloned())
            .flatten();
        headers::from_org(headers, instance, self.plain);
        if let Some(location) = location
            && headers
                .get(header::LOCATION)
                .and_then(|now| now.to_str().ok())
                .is_some_and(|path| path.starts_with('/') && token.instance_for(path) != instance)
        {
            headers.insert(header::LOCATION, location);
        }
        Reply::Org(response)
    }

    /// Whether the cache has the answer; or what to do with the org's. Only whoever could call gets what is kept.
    async fn look_up(&self, cache: &Arc<Cache>, call: &mut Call, record: &mut Record) -> Result<Found, CallError> {
        let Some(asks) = cached::concerns(cache, &call.head, !call.upload.is_empty()) else {
            return Ok(Found::Ask(None));
        };
        let token = match call.account.tokens.current() {
            Some(token) => token,
            None => for_token(record, call.account.tokens.get()).await?,
        };
        Ok(cached::look_up(
            cache,
            asks,
            &call.account,
            &mut call.head,
            &token,
            self.plain,
        ))
    }

    /// Reads as much of the body as tells where the credential goes, or that the call is a login.
    async fn look_ahead(&self, call: &mut Call, record: &mut Record) -> Result<Option<Login>, CallError> {
        let path = call.head.target.path();
        let ahead = waiting(record, read_ahead(call.head.surface, path, &call.upload)).await?;
        match ahead {
            Ahead::Plain => {}
            Ahead::Handshake => call.handshake = true,
            Ahead::Edits(edits) => call.head.edits = edits,
            Ahead::Session(operation) => {
                record.surface(Surface::LocalLogin);
                self.rules.check_login().map_err(|refusal| self.refuse(refusal))?;
                let namespace = operation.namespace;
                return Ok(Some(match operation.name.as_str() {
                    "login" => Login::SoapLogin {
                        path: path.to_owned(),
                        namespace,
                    },
                    _ => Login::SoapLogout { namespace },
                }));
            }
        }
        Ok(None)
    }

    async fn login_by_parameters(&self, call: &Call, record: &mut Record) -> Result<Reply, CallError> {
        let whole = |seen: &[u8], whole: bool| whole.then(|| seen.to_vec());
        let body = waiting(record, call.upload.look_ahead(LOGIN_BYTES, whole)).await;
        let body = body.map_err(CallError::Upload)?.unwrap_or_default();
        let target = &call.head.target;
        let login = Login::at(target.path(), target.query().unwrap_or_default(), &body);
        self.login(&login, call, record).await
    }

    /// A login is good when the proxy's own is: an app that could not call should hear of it here.
    async fn login(&self, login: &Login, call: &Call, record: &mut Record) -> Result<Reply, CallError> {
        if let Some(farewell) = login.farewell() {
            return Ok(Reply::Own(farewell));
        }
        let token = for_token(record, call.account.tokens.get()).await?;
        let base = call.base.as_deref().unwrap_or_default();
        Ok(Reply::Own(login.answer(base, &token)))
    }

    /// For a token that may not ask the identity service, where logins are answered here.
    fn userinfo(&self, call: &Call, token: &Token) -> Option<Response<Bytes>> {
        let asks = call.head.target.path().ends_with("/userinfo") && self.rules.check_login().is_ok();
        let base = call.base.as_deref().filter(|_| asks)?;
        local_login::userinfo(base, token)
    }
}

/// Whether an answer of ours leads back to the address that the caller used.
fn leads_back(surface: Surface) -> bool {
    matches!(surface, Surface::LocalLogin | Surface::Soap | Surface::Identity)
}

impl Proxy {
    pub fn new(
        own: Account,
        data_cloud: Option<Account>,
        upstream: Arc<Upstream>,
        calls: Arc<Calls>,
        store: Store,
        body_idle: Duration,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        Self {
            suspects: Suspects::default(),
            own: Arc::new(own),
            data_cloud: data_cloud.map(Arc::new),
            upstream,
            calls,
            store,
            body_idle,
            headers,
            cache: None,
        }
    }

    /// With answers that are kept.
    #[must_use]
    pub fn with_cache(self, cache: Option<Arc<Cache>>) -> Self {
        Self { cache, ..self }
    }

    /// Asks the org about suspected tokens until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        self.suspects.run(&self.upstream, stop).await;
    }

    /// What an answer says of the token that needs no repeat: that it works, or, while it passes, that it is dead.
    fn watch(&self, call: &Call, token: &Arc<Token>, response: &mut Response<Box<InBody>>) {
        let surface = call.head.surface;
        let told = surface.row().told;
        // These say it with any status.
        if matches!(told, Told::BayeuxMessage | Told::RpcStatus) {
            // A handshake has been judged whole.
            if response.status() != StatusCode::OK || call.handshake {
                return;
            }
            let suspect = Suspect {
                account: Arc::clone(&call.account),
                token: Arc::clone(token),
            };
            let (calls, suspects) = (Arc::clone(&self.calls), self.suspects.clone());
            let report = Box::new(move |reason| {
                calls.rejected(surface, reason);
                suspects.report(suspect);
            });
            let watch = match told {
                Told::BayeuxMessage => Watch::bayeux(response.headers(), report),
                _ => Watch::trailers(report),
            };
            response.body_mut().watch(watch);
        } else if proves_the_token(response.status()) && call.carries_the_token() {
            call.account.tokens.worked(token.generation);
        }
    }

    /// Sends the call, again if the token was refused, and returns the answer to pass on with the token it came for.
    async fn call(&self, call: &Call, record: &mut Record) -> Result<(Answer, Arc<Token>), CallError> {
        let account = &*call.account;
        let mut token = match account.tokens.current() {
            Some(token) => token,
            None => for_token(record, Box::pin(account.tokens.get())).await?,
        };
        if call.upload.not_kept().is_some() && !waiting(record, Box::pin(account.works(&self.upstream, &token))).await {
            token = for_token(record, Box::pin(account.tokens.renewed(token.generation))).await?;
        }
        let (answer, verdict) = self.send(call, &token, record).await?;
        match verdict {
            Verdict::Pass => Ok((answer, token)),
            // Boxed, so that the many calls that never come here carry nothing of it.
            Verdict::Refused(reason) => Box::pin(self.refused(call, token, answer, reason, record)).await,
        }
    }

    /// One attempt and what it says of the token.
    async fn send(&self, call: &Call, token: &Token, record: &mut Record) -> Result<(Answer, Verdict), CallError> {
        // Not through `waiting`: as an argument the future would be held twice.
        let started = Instant::now();
        // In a block: what lives in it has no room in this future while the rest is awaited.
        let judging = {
            let sent = self.upstream.send(token, &call.head, &call.upload).await;
            record.waited(started.elapsed());
            let answer = match sent {
                Ok(answer) => answer,
                // When the caller's side failed, that is the reason, not the connection that it broke.
                Err(error) => {
                    return Err(call.upload.failure().map_or(error.into(), CallError::Upload));
                }
            };
            if answer.reconnected {
                self.calls.repeated(call.head.surface, Repeat::Reconnected);
            }
            let (status, headers) = (answer.response.status(), answer.response.headers());
            if let Some(verdict) = at_sight(call.head.surface, status, headers)
                && !(verdict == Verdict::Pass && status == StatusCode::OK && call.says_more_at_once())
            {
                return Ok((answer, verdict));
            }
            // Boxed: few answers are judged by what follows their head.
            Box::pin(judged(call, token, answer, record))
        };
        judging.await
    }

    /// The org refused `refused`: renews and repeats, or passes its answer on.
    async fn refused(
        &self,
        call: &Call,
        mut refused: Arc<Token>,
        mut answer: Answer,
        mut reason: &'static str,
        record: &mut Record,
    ) -> Result<(Answer, Arc<Token>), CallError> {
        let account = &*call.account;
        for sends in 1..=MOST_SENDS {
            self.calls.rejected(call.head.surface, reason);
            tracing::debug!(org = %account.tokens.org(), generation = refused.generation.0, reason, sends, "token refused");
            // From here on the refused attempt reads no more of the caller: what is kept has to stay whole.
            let held = call.upload.hold_for_repeat();
            let only_here = Box::pin(account.only_this_resource(&self.upstream, &refused, reason));
            if waiting(record, only_here).await {
                if matches!(reason, SOAP_INVALID_SESSION | BULK_INVALID_SESSION) {
                    tell_not_repeated(&mut answer, NO_JWT_HERE);
                }
                return Ok((answer, refused));
            }
            if let Err(why) = held {
                account.tokens.reject(refused.generation);
                self.calls.not_repeatable(why);
                tell_not_repeated(&mut answer, &format!("{}; send the call again", why.as_str()));
                return Ok((answer, refused));
            }
            let next = if sends == 1 {
                Some(for_token(record, account.tokens.renewed(refused.generation)).await)
            } else if sends < MOST_SENDS {
                let next = Box::pin(account.after_a_second_refusal(&self.upstream, &refused));
                match waiting(record, next).await {
                    Next::PassOn => None,
                    Next::Token(token) => Some(Ok(token)),
                    Next::Renew => Some(for_token(record, account.tokens.renewed_dead(refused.generation)).await),
                }
            } else {
                None
            };
            let next = match next {
                Some(Ok(next)) => next,
                Some(Err(error)) => {
                    self.calls.repeated(call.head.surface, Repeat::NoToken);
                    answer.abandon();
                    return Err(error.into());
                }
                None => {
                    self.calls.repeated(call.head.surface, Repeat::RefusedAgain);
                    account.tokens.did_not_help(refused.generation);
                    break;
                }
            };
            // The refusal is not passed on. Its connection is free for the repeat, or ended if it still has an upload.
            answer.abandon();
            let (repeated, verdict) = self.send(call, &next, record).await?;
            answer = repeated;
            refused = next;
            match verdict {
                Verdict::Pass => {
                    self.calls.repeated(call.head.surface, Repeat::Accepted);
                    break;
                }
                Verdict::Refused(again) => reason = again,
            }
        }
        Ok((answer, refused))
    }
}

impl Call {
    /// Whether the org has to look at the token to answer.
    fn carries_the_token(&self) -> bool {
        match self.head.surface.is_enveloped() {
            true => !self.head.edits.is_empty(),
            false => !is_list_of_versions(self.head.target.path()),
        }
    }

    /// A good status that may turn out bad in what follows at once: a handshake, or an RPC that is no stream.
    fn says_more_at_once(&self) -> bool {
        const UNARY: [&str; 3] = ["/GetTopic", "/GetSchema", "/Publish"];
        let path = self.head.target.path();
        match self.head.surface {
            Surface::Cometd => self.handshake,
            Surface::PubSub => UNARY.iter().any(|rpc| path.ends_with(rpc)),
            _ => false,
        }
    }
}

/// Judges an answer by what follows its head.
async fn judged(
    call: &Call,
    token: &Token,
    mut answer: Answer,
    record: &mut Record,
) -> Result<(Answer, Verdict), CallError> {
    let body = answer.response.body_mut();
    if call.head.surface == Surface::PubSub {
        let trailers = waiting(record, body.look_for_trailers(INSPECT_PATIENCE)).await;
        // Who is not let in gets no message.
        if answer.response.body().has_begun() {
            call.account.tokens.worked(token.generation);
        }
        return Ok((answer, trailers.map_or(Verdict::Pass, |trailers| rpc_status(&trailers))));
    }
    let seen = waiting(record, body.look_ahead(INSPECT_BYTES, INSPECT_PATIENCE)).await;
    let (status, headers) = (answer.response.status(), answer.response.headers());
    let verdict = match status {
        StatusCode::OK if call.handshake => bayeux(headers, &seen),
        _ => verdict(call.head.surface, &call.head.method, status, headers, &seen),
    };
    Ok((answer, verdict))
}

/// Whether an answer with this status shows that the org took the token. A 404 does not: it may come before the token is
/// looked at (not confirmed).
fn proves_the_token(status: StatusCode) -> bool {
    status.is_success() || matches!(status, StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED)
}

/// Awaits what is not our own time.
async fn waiting<F: Future>(record: &mut Record, future: F) -> F::Output {
    let started = Instant::now();
    let output = future.await;
    record.waited(started.elapsed());
    output
}

/// Awaits a token.
async fn for_token<F: Future>(record: &mut Record, future: F) -> F::Output {
    record.wants_token();
    let output = waiting(record, future).await;
    record.has_token();
    output
}

fn tell_not_repeated(answer: &mut Answer, why: &str) {
    let status: HeaderValue = not_repeated_status(answer.response.status(), why);
    answer.response.headers_mut().append("proxy-status", status);
}

/// What goes to the caller: the org's body as it comes, or our own; counted when it ends or is dropped.
pub struct OutgoingBody {
    kind: Kind,
    record: Record,
    outcome: Outcome,
}

enum Kind {
    Org(Box<InBody>),
    Own(Option<Bytes>),
}

impl OutgoingBody {
    fn error(error: &CallError, mut record: Record) -> Response<Self> {
        let response = error.response(record.family());
        tracing::debug!(error = %error, status = response.status().as_u16(), "answered ourselves");
        record.answered(response.status());
        response.map(|body| Self::own(body, record, error.outcome()))
    }

    fn org(body: Box<InBody>, record: Record, outcome: Outcome) -> Self {
        Self {
            kind: Kind::Org(body),
            record,
            outcome,
        }
    }

    fn own(body: Bytes, record: Record, outcome: Outcome) -> Self {
        Self {
            kind: Kind::Own(Some(body)),
            record,
            outcome,
        }
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = InBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InBodyError>>> {
        let this = &mut *self;
        let frame = match &mut this.kind {
            Kind::Org(body) => task::ready!(Pin::new(body).poll_frame(cx)),
            Kind::Own(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
        };
        match &frame {
            Some(Ok(frame)) => {
                this.record.sent(frame.data_ref().map_or(0, Bytes::len));
                if this.record.is_rpc()
                    && let Some(outcome) = frame.trailers_ref().and_then(Outcome::of_rpc)
                {
                    this.outcome = outcome;
                }
            }
            Some(Err(InBodyError::Stalled)) => this.outcome = Outcome::Timeout,
            Some(Err(InBodyError::Broke(_))) => this.outcome = Outcome::UpstreamError,
            None => {}
        }
        if frame.as_ref().is_none_or(Result::is_err) {
            this.record.finished(this.outcome);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Org(body) => body.is_end_stream(),
            // An answer of gRPC's that is nothing but a status ends with its headers.
            Kind::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Org(body) => body.size_hint(),
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

impl Drop for OutgoingBody {
    fn drop(&mut self) {
        // A body that has ended is not asked again by the server, nor is one without bytes; and ours cannot break off.
        if matches!(self.kind, Kind::Own(_)) || self.is_end_stream() {
            self.record.finished(self.outcome);
        }
    }
}
