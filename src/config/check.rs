//! From what people wrote to what the program may rely on; every problem at once.
//!
//! Pure: reads no file, no environment and no secret. `check/listener.rs` holds the rules for addresses and names,
//! `check/org.rs` those for login hosts, `check/grant.rs` those for grants, `check/api.rs` those for what is called.
//!
//! Invariants: a [`Config`] comes out only when there is no problem; a problem names the key path, what was expected,
//! what came and what to change, and never shows a secret or what stands in its place.
//! Units: `Duration`; sizes in bytes.
//! Fails with: [`Problems`].
//! Source: `design.md` §9; SF §1.4.2, §7.1.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{
    Admin, Config, EgressProxy, Log, LogFormat, Reload, Replay, Shutdown, Store, Threads, Upstream,
    file::{
        AdminFile, File, LogFile, ReloadFile, ReplayFile, ShutdownFile, Size, Span, StoreFile, ThreadsFile,
        UpstreamFile,
    },
    problem::{Problems, shown},
    units::{parse_size, parse_span, size_text, span_text},
};

mod api;
mod grant;
mod listener;
mod org;

pub(super) use grant::SUBJECT_TOKEN_URN;
pub use org::audience_for;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const INSTANT: Duration = Duration::from_millis(100);

/// Checks everything; `proxy` is what the environment says of egress proxies.
pub fn check(file: &File, proxy: &EgressProxy) -> Result<Config, Problems> {
    let mut check = Check::default();
    let config = check.all(file, proxy);
    check.problems.or(config)
}

/// Collects problems. Each method reads all of its part before it gives up, so that nothing hides the next problem.
#[derive(Default)]
struct Check {
    problems: Problems,
}

impl Check {
    fn all(&mut self, file: &File, proxy: &EgressProxy) -> Option<Config> {
        let orgs = self.orgs(&file.orgs);
        let listeners = self.listeners(&file.listeners, &file.orgs);
        self.every_org_is_used(file);
        let store = self.store(file.store.as_ref());
        let admin = self.admin(&file.admin);
        self.duplicate_addresses(&file.listeners, &file.admin);
        self.tls_folders(&file.listeners);
        let upstream = self.upstream(&file.upstream, proxy);
        self.waits_fit(file);
        let replay = self.replay(&file.replay);
        let shutdown = self.shutdown(&file.shutdown);
        let log = self.log(&file.log);
        let reload = self.reload(&file.reload);
        let threads = self.threads(&file.threads);
        Some(Config {
            listeners: listeners?,
            admin: admin?,
            orgs: orgs?,
            store: store?,
            upstream: upstream?,
            replay: replay?,
            shutdown: shutdown?,
            log: log?,
            reload: reload?,
            threads: threads?,
        })
    }

    fn store(&mut self, file: Option<&StoreFile>) -> Option<Store> {
        let Some(file) = file else {
            return Some(Store::Memory);
        };
        let Some(file) = &file.file else {
            let text =
                "expected `file: {directory: …, key: …}`, found nothing; leave `store` out to keep tokens in memory";
            return self.refuse("store", text);
        };
        let directory = match file.directory.as_deref() {
            Some(path) => self.folder("store.file.directory", path),
            None => self.refuse("store.file.directory", "expected the path of a folder, found nothing"),
        };
        let key = self.secret("store.file.key", file.key.as_ref(), "store-key");
        let previous = match &file.previous_key {
            Some(previous) => self
                .secret("store.file.previous_key", Some(previous), "store-key-before")
                .map(Some),
            None => Some(None),
        };
        Some(Store::File {
            directory: directory?,
            key: key?,
            previous_key: previous?,
        })
    }

    /// Absolute: the working folder of a service is seldom what one thinks.
    fn folder(&mut self, at: &str, path: &str) -> Option<PathBuf> {
        let path = self.path(at, path.trim())?;
        match path.is_absolute() {
            true => Some(path),
            false => {
                let text = format!(
                    "expected an absolute path, found {}",
                    shown(&path.display().to_string())
                );
                self.refuse(at, text)
            }
        }
    }

    fn admin(&mut self, file: &AdminFile) -> Option<Admin> {
        let addresses = self.addresses("admin.address", &file.address);
        let patience = self.span(
            "admin.startup_patience",
            &file.startup_patience,
            Duration::ZERO..=10 * MINUTE,
        );
        Some(Admin {
            addresses: addresses?,
            startup_patience: patience?,
            startup_holds_on_refusal: file.startup_holds_on_refusal,
            quit_endpoint: file.quit_endpoint,
        })
    }

    fn upstream(&mut self, file: &UpstreamFile, proxy: &EgressProxy) -> Option<Upstream> {
        let connect = self.span("upstream.connect_timeout", &file.connect_timeout, INSTANT..=2 * MINUTE);
        let response = self.span("upstream.response_timeout", &file.response_timeout, SECOND..=HOUR);
        let body_idle = self.span("upstream.body_idle_timeout", &file.body_idle_timeout, SECOND..=HOUR);
        let pool_idle = self.span(
            "upstream.pool_idle_timeout",
            &file.pool_idle_timeout,
            SECOND..=10 * MINUTE,
        );
        let pool_max_idle = self.number("upstream.pool_max_idle", file.pool_max_idle, 0..=100_000);
        let ca_file = match &file.ca_file {
            Some(path) => Some(self.path("upstream.ca_file", path)?),
            None => None,
        };
        Some(Upstream {
            connect_timeout: connect?,
            response_timeout: response?,
            body_idle_timeout: body_idle?,
            pool_idle_timeout: pool_idle?,
            pool_max_idle: pool_max_idle?,
            http2: file.http2,
            ca_file,
            proxy: proxy.clone(),
        })
    }

    /// A call that waits for a token longer than for its answer would never be told why.
    fn waits_fit(&mut self, file: &File) {
        let Ok(response) = parse_span(&file.upstream.response_timeout.0) else {
            return;
        };
        for (name, org) in &file.orgs {
            let Ok(wait) = parse_span(&org.token.refresh_wait.0) else {
                continue;
            };
            if wait >= response {
                let text = format!(
                    "expected less than upstream.response_timeout ({}), found {}; lower it or raise the other",
                    span_text(response),
                    span_text(wait)
                );
                self.problems.add(format!("orgs.{name}.token.refresh_wait"), text);
            }
        }
    }

    fn replay(&mut self, file: &ReplayFile) -> Option<Replay> {
        let max_body = self.size("replay.max_body", &file.max_body, 0..=1 << 30);
        let total = self.size("replay.total", &file.total, 0..=64 << 30);
        let replay = Replay {
            max_body: max_body?,
            total: total?,
        };
        if replay.max_body > replay.total {
            let text = format!(
                "expected at most replay.total ({}), found {}; lower it or raise the other",
                size_text(replay.total),
                size_text(replay.max_body)
            );
            self.problems.add("replay.max_body", text);
        }
        Some(replay)
    }

    fn shutdown(&mut self, file: &ShutdownFile) -> Option<Shutdown> {
        let delay = self.span("shutdown.delay", &file.delay, Duration::ZERO..=10 * MINUTE);
        let drain = self.span("shutdown.drain", &file.drain, Duration::ZERO..=HOUR);
        Some(Shutdown {
            delay: delay?,
            drain: drain?,
        })
    }

    fn reload(&mut self, file: &ReloadFile) -> Option<Reload> {
        let interval = self.span("reload.interval", &file.interval, Duration::ZERO..=HOUR)?;
        if !interval.is_zero() && interval < SECOND {
            let text = format!(
                "expected 1s to 1h, or 0s for only on SIGHUP, found {}",
                span_text(interval)
            );
            return self.refuse("reload.interval", text);
        }
        Some(Reload {
            interval: (!interval.is_zero()).then_some(interval),
        })
    }

    fn threads(&mut self, file: &ThreadsFile) -> Option<Threads> {
        match file {
            ThreadsFile::Word(word) if word == "auto" => Some(Threads::Auto),
            ThreadsFile::Word(word) => {
                let text = format!("expected auto or 1 to 64, found {}", shown(word));
                self.refuse("threads", text)
            }
            ThreadsFile::Number(number) => self.number("threads", *number, 1..=64).map(Threads::Fixed),
        }
    }

    fn log(&mut self, file: &LogFile) -> Option<Log> {
        let format = match file.format.as_str() {
            "auto" => Some(LogFormat::Auto),
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            other => self.refuse(
                "log.format",
                format!("expected auto, text or json, found {}", shown(other)),
            ),
        };
        let level = self.level(&file.level);
        Some(Log {
            format: format?,
            level: level?,
            requests: file.requests,
        })
    }

    fn level(&mut self, text: &str) -> Option<String> {
        let good = !text.trim().is_empty() && text.split(',').all(|part| is_level_directive(part.trim()));
        if good && text.parse::<Targets>().is_ok() {
            return Some(text.to_owned());
        }
        let text = format!(
            "expected error, warn, info, debug, trace or off, and `target=level` for more, separated by commas; found {}",
            shown(text)
        );
        self.refuse("log.level", text)
    }

    fn span(&mut self, at: &str, span: &Span, range: RangeInclusive<Duration>) -> Option<Duration> {
        let value = match parse_span(&span.0) {
            Ok(value) => value,
            Err(hint) => {
                let text = format!("expected a duration, found {}: {hint}", shown(&span.0));
                return self.refuse(at, text);
            }
        };
        let (from, to) = (span_text(*range.start()), span_text(*range.end()));
        match range.contains(&value) {
            true => Some(value),
            false => self.refuse(at, format!("expected {from} to {to}, found {}", span_text(value))),
        }
    }

    fn size(&mut self, at: &str, size: &Size, range: RangeInclusive<u64>) -> Option<u64> {
        let value = match parse_size(&size.0) {
            Ok(value) => value,
            Err(hint) => {
                let text = format!("expected a size, found {}: {hint}", shown(&size.0));
                return self.refuse(at, text);
            }
        };
        let (from, to) = (size_text(*range.start()), size_text(*range.end()));
        match range.contains(&value) {
            true => Some(value),
            false => self.refuse(at, format!("expected {from} to {to}, found {}", size_text(value))),
        }
    }

    fn number<T: TryFrom<i64>>(&mut self, at: &str, value: i64, range: RangeInclusive<i64>) -> Option<T> {
        if range.contains(&value) {
            return T::try_from(value).ok();
        }
        let text = format!("expected {} to {}, found {value}", range.start(), range.end());
        self.refuse(at, text)
    }

    /// A path of one line; what is longer is the content itself.
    fn path(&mut self, at: &str, path: &str) -> Option<PathBuf> {
        const LONGEST: usize = 4095;
        if path.trim().is_empty() {
            return self.refuse(at, "expected the path of a file, found nothing");
        }
        if path.len() > LONGEST || path.contains("-----BEGIN") || path.contains(char::is_control) {
            return self.refuse(at, "expected the path of a file, found its content (not shown)");
        }
        Some(PathBuf::from(path))
    }

    fn refuse<T>(&mut self, at: impl Into<String>, text: impl Into<String>) -> Option<T> {
        self.problems.add(at, text);
        None
    }
}

/// `info` or `target=debug`. `Targets` itself takes a misspelt level for a target and would log all of it.
fn is_level_directive(part: &str) -> bool {
    let (target, level) = part.split_once('=').map_or((None, part), |(t, l)| (Some(t), l));
    let is_target = |target: &str| {
        !target.is_empty()
            && target
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))
    };
    target.is_none_or(is_target)
        && !level.bytes().any(|b| b.is_ascii_digit())
        && level.parse::<LevelFilter>().is_ok()
        && !level.is_empty()
}

#[cfg(test)]
mod tests;
