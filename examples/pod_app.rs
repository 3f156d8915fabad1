//! The app of `tests/pods`: calls the proxy as an app of a pod would, and says how that went.
//!
//! `serve` calls until SIGTERM and some time after it, `job` makes so many calls and ends, `load` makes them over so many
//! connections. The first call is made at once, alone and without a second try.
//! Prints JSON lines: `first`, `progress` now and then, `summary` at the end.
//! Owns: its tasks, joined at the end. Units: `_ms` since the start of the process.
//! Fails with: 1 when the address is wrong or a job's call failed; failed calls of `serve` are only counted.

#![allow(clippy::print_stdout, reason = "its output is what the tests read")]

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Parser as _;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(15);
/// Failures told in full; the others are counted.
const TOLD: usize = 10;

#[derive(clap::Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where the calls go; SALESFORCE_URL, else http://localhost:8080.
    #[arg(long, global = true)]
    base: Option<String>,
    #[arg(
        long,
        global = true,
        default_value = "/services/data/v60.0/query?q=SELECT+Id,Name+FROM+Account+LIMIT+2"
    )]
    path: String,
    /// Sent a POST when all is done: the quit endpoint of a classic sidecar.
    #[arg(long, global = true)]
    quit: Option<Uri>,
}

#[derive(clap::Subcommand, Clone, Copy)]
enum Command {
    #[command(aliases = ["work", "watch"])]
    Serve {
        #[arg(long, default_value = "2")]
        threads: u64,
        #[arg(long, default_value = "10")]
        every_ms: u64,
        /// How long it goes on after SIGTERM.
        #[arg(long, default_value = "1500")]
        after_term_ms: u64,
    },
    #[command(aliases = ["import", "export", "migrate"])]
    Job {
        #[arg(long, default_value = "20")]
        calls: u64,
    },
    Load {
        #[arg(long, default_value = "200")]
        connections: u64,
        #[arg(long, default_value = "5000")]
        calls: u64,
    },
}

struct App {
    client: Client<HttpConnector, Empty<Bytes>>,
    url: Uri,
    since: Instant,
    calls: AtomicU64,
    failed: AtomicU64,
    slowest_us: AtomicU64,
    told: Mutex<Vec<Value>>,
    /// When the last failed call ended.
    last_failure_ms: AtomicU64,
    terminated: AtomicBool,
    after_term: AtomicU64,
    after_term_failed: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before anything else: as process 1 it would not even notice a signal that comes too early.
    let term = match arguments.command {
        Command::Serve { .. } => Some(signal(SignalKind::terminate()).expect("a signal handler must be possible")),
        Command::Job { .. } | Command::Load { .. } => None,
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "no part of the program: the app is told where the proxy is as apps are"
    )]
    let base = arguments.base.or_else(|| std::env::var("SALESFORCE_URL").ok());
    let base = base.unwrap_or_else(|| "http://localhost:8080".into());
    let Ok(url) = format!("{base}{}", arguments.path).parse() else {
        eprintln!("--base and --path must make a URL");
        return ExitCode::FAILURE;
    };
    let app = Arc::new(App {
        client: Client::builder(TokioExecutor::new()).build_http(),
        url,
        since: Instant::now(),
        calls: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        slowest_us: AtomicU64::new(0),
        told: Mutex::default(),
        last_failure_ms: AtomicU64::new(0),
        terminated: AtomicBool::new(false),
        after_term: AtomicU64::new(0),
        after_term_failed: AtomicU64::new(0),
    });
    let took = app.call().await;
    let ok = app.failed.load(Relaxed) == 0;
    println!("{}", json!({"first": {"ok": ok, "ms": took.as_secs_f64() * 1e3}}));
    match arguments.command {
        Command::Serve {
            threads,
            every_ms,
            after_term_ms,
        } => {
            serve(
                &app,
                term.expect("it must have been set up"),
                threads,
                Duration::from_millis(every_ms),
                Duration::from_millis(after_term_ms),
            )
            .await
        }
        Command::Job { calls } => many(&app, 1, calls).await,
        Command::Load { connections, calls } => many(&app, connections, calls).await,
    }
    let quit = match arguments.quit {
        Some(url) => Some(app.send(Method::POST, url).await),
        None => None,
    };
    println!("{}", app.summary(quit));
    let serves = matches!(arguments.command, Command::Serve { .. });
    if serves || app.failed.load(Relaxed) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Steady calls until SIGTERM, and on for `after`, as an app does that finishes its work.
async fn serve(app: &Arc<App>, mut term: Signal, threads: u64, every: Duration, after: Duration) {
    let mut callers = JoinSet::new();
    for _ in 0..threads {
        let app = Arc::clone(app);
        callers.spawn(async move {
            let mut tick = interval(every);
            loop {
                tick.tick().await;
                app.call().await;
            }
        });
    }
    let mut tell = interval(Duration::from_millis(100));
    loop {
        // Dropped half-way a tick or a signal is not lost: both wait for the next look.
        tokio::select! {
            _ = tell.tick() => println!("{}", app.progress()),
            _ = term.recv() => break,
        }
    }
    app.terminated.store(true, Relaxed);
    println!("{}", json!({"terminated": app.now_ms()}));
    sleep(after).await;
    callers.shutdown().await;
}

/// So many calls over so many connections, as fast as it goes.
async fn many(app: &Arc<App>, connections: u64, calls: u64) {
    let mut callers = JoinSet::new();
    let left = Arc::new(AtomicU64::new(calls));
    for _ in 0..connections {
        let (app, left) = (Arc::clone(app), Arc::clone(&left));
        callers.spawn(async move {
            while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                app.call().await;
            }
        });
    }
    callers.join_all().await;
}

impl App {
    /// One call, counted; how long it took.
    async fn call(&self) -> Duration {
        let begun = Instant::now();
        let after_term = self.terminated.load(Relaxed);
        let wrong = match self.send(Method::GET, self.url.clone()).await {
            Ok((200, _)) => None,
            Ok((status, body)) => Some(json!({"status": status, "body": body})),
            Err(why) => Some(json!({"status": 0, "body": why})),
        };
        let took = begun.elapsed();
        self.calls.fetch_add(1, Relaxed);
        self.after_term.fetch_add(after_term.into(), Relaxed);
        self.slowest_us
            .fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        if let Some(mut wrong) = wrong {
            self.failed.fetch_add(1, Relaxed);
            self.after_term_failed.fetch_add(after_term.into(), Relaxed);
            self.last_failure_ms.store(self.now_ms(), Relaxed);
            wrong["at_ms"] = self.now_ms().into();
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < TOLD {
                told.push(wrong);
            }
        }
        took
    }

    async fn send(&self, method: Method, url: Uri) -> Result<(u16, String), String> {
        let request = Request::builder().method(method).uri(url).body(Empty::new());
        let request = request.map_err(|e| e.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|e| chain(&e))?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.map_err(|e| chain(&e))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn progress(&self) -> Value {
        json!({"progress": {
            "at_ms": self.now_ms(), "calls": self.calls.load(Relaxed), "failed": self.failed.load(Relaxed),
        }})
    }

    fn summary(&self, quit: Option<Result<(u16, String), String>>) -> Value {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"summary": {
            "at_ms": self.now_ms(),
            "calls": self.calls.load(Relaxed),
            "failed": self.failed.load(Relaxed),
            "failures": *told,
            "last_failure_ms": self.last_failure_ms.load(Relaxed),
            "slowest_ms": self.slowest_us.load(Relaxed) / 1_000,
            "after_term": self.after_term.load(Relaxed),
            "after_term_failed": self.after_term_failed.load(Relaxed),
            "quit": quit.map(|quit| quit.map_or_else(Value::from, |(status, _)| status.into())),
        }})
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
