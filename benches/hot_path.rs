//! What the pieces of a call cost: the header rewrite, reading the token, the verdict, and a whole call over loopback.
//! `benches/README.md` explains the figures.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a bench, not the product")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, SystemTime},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Method, StatusCode};
use secrecy::SecretString;
use sf_token_proxy::{
    clock::Clock,
    config::{Budget, OrgName, TokenSettings},
    metrics::Metrics,
    proxy::{
        headers::{from_org, set_credential, strip_request},
        surface::{Placement, Surface},
        verdict::verdict,
    },
    token::{Exchange, Expiry, Generation, Instance, Minted, Refusal, Rules, Token, Tokens, exchange::Ask, keeper},
};
use tokio_util::sync::CancellationToken;

#[path = "../tests/support/mod.rs"]
mod support;

use support::{RawOrg, Running, Script};

/// What jsforce sends with a query.
fn request_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "localhost:8080"),
        ("content-type", "application/json"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("user-agent", "jsforce"),
        ("connection", "keep-alive"),
        ("sforce-call-options", "client=jsforce"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    headers
}

/// What an org's answer carries.
fn response_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json;charset=UTF-8"),
        (
            "set-cookie",
            "BrowserId=AbCdEfGh; domain=.salesforce.com; path=/; Secure; HttpOnly",
        ),
        ("strict-transport-security", "max-age=63072000; includeSubDomains"),
        ("cache-control", "no-cache,must-revalidate,max-age=0,no-store,private"),
        ("vary", "Accept-Encoding"),
        ("sforce-limit-info", "api-usage=18/15000"),
        ("server", "sfdcedge"),
        ("transfer-encoding", "chunked"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    headers
}

fn instance() -> Arc<Instance> {
    Arc::new(Instance::parse("https://acme.my.salesforce.com").unwrap())
}

fn sample_token() -> Token {
    let secret =
        SecretString::from("00Dxx0000001gER!AQcAQExampleExampleExampleExampleExampleExampleExampleExampleExample");
    let expiry = Expiry::Assumed(SystemTime::UNIX_EPOCH);
    let minted = tokio::time::Instant::now();
    Token::new(
        Generation(1),
        secret,
        instance(),
        expiry,
        SystemTime::UNIX_EPOCH,
        minted,
    )
    .unwrap()
}

/// A login host that answers at once.
struct Instant;

impl Exchange for Instant {
    async fn exchange(&self, _: Ask<'_>) -> Result<Minted, Refusal> {
        Ok(Minted::new(
            SecretString::from("00Dxx0000001gER!AQcAQExample"),
            instance(),
        ))
    }

    fn takes_over(&mut self, _: Self) -> bool {
        true
    }

    fn grant_word(&self) -> &'static str {
        "bench"
    }
}

/// Tokens of a keeper that somebody makes renew all the time.
async fn renewing_tokens(stop: CancellationToken) -> Tokens {
    let settings = TokenSettings {
        lifetime: Duration::from_secs(5400),
        refresh_wait: Duration::from_secs(10),
        cool_down: Duration::ZERO,
        max_waiters: 10,
        exchange_timeout: Duration::from_secs(30),
        introspect: false,
        keep_alive: false,
    };
    let budget = Budget {
        burst: u32::MAX,
        per_minute: u32::MAX,
    };
    let org = OrgName::new("main");
    let metrics = Metrics::new().token(&org, "bench");
    let (tokens, keeper) = keeper(org, Rules::new(settings, budget), Instant, Clock::system(), metrics);
    tokio::spawn(keeper.run(stop.clone()));
    let first = tokens.get().await.unwrap();
    let refusing = tokens.clone();
    tokio::spawn(async move {
        let mut generation = first.generation;
        while !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            generation = refusing.renewed(generation).await.unwrap().generation;
        }
    });
    tokens
}

fn pure(c: &mut Criterion) {
    let token = sample_token();
    c.bench_function("headers/request", |b| {
        b.iter_batched_ref(
            request_headers,
            |headers| {
                strip_request(headers);
                set_credential(headers, &token, Placement::Bearer);
            },
            criterion::BatchSize::SmallInput,
        );
    });
    c.bench_function("headers/response", |b| {
        b.iter_batched_ref(
            response_headers,
            |headers| from_org(headers, &token.instance, true),
            criterion::BatchSize::SmallInput,
        );
    });
    let body = support::raw_org::EXPIRED.as_bytes();
    let headers = response_headers();
    c.bench_function("verdict/expired", |b| {
        b.iter(|| {
            let status = black_box(StatusCode::UNAUTHORIZED);
            verdict(Surface::Rest, &Method::GET, status, &headers, black_box(body))
        });
    });
    c.bench_function("verdict/ok", |b| {
        b.iter(|| verdict(Surface::Rest, &Method::GET, black_box(StatusCode::OK), &headers, b""));
    });
}

/// Reading the token while the keeper renews it.
fn tokens(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let tokens = runtime.block_on(renewing_tokens(stop.clone()));
    c.bench_function("tokens/current while renewing", |b| {
        b.iter(|| black_box(tokens.current()))
    });
    stop.cancel();
}

/// A whole call: client, proxy and org in one thread, so this is an upper bound of the three together.
fn loopback(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (org, app) = runtime.block_on(async {
        let org = RawOrg::start(|_| Script::json("200 OK", &"x".repeat(1024))).await;
        let app = Running::start(&org.url(), |_| {}).await;
        (org, app)
    });
    let direct: std::net::SocketAddr = org.url().strip_prefix("http://").unwrap().parse().unwrap();
    let mut group = c.benchmark_group("loopback");
    group
        .throughput(Throughput::Elements(1))
        .measurement_time(Duration::from_secs(5));
    for (name, address) in [("direct", direct), ("proxied", app.proxy)] {
        let stream = Arc::new(tokio::sync::Mutex::new(runtime.block_on(support::connect(address))));
        group.bench_function(name, |b| {
            b.to_async(&runtime).iter(|| async {
                let mut stream = stream.lock().await;
                support::client::ask(&mut stream, "GET /services/data/v60.0/x HTTP/1.1").await
            });
        });
    }
    group.finish();
    runtime.block_on(app.stop());
}

criterion_group!(benches, pure, tokens, loopback);
criterion_main!(benches);
