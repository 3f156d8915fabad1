//! The log: one event a line on stdout, text for people, JSON for collectors.
//!
//! JSON: one object a line with `timestamp` (RFC 3339, UTC), `level`, `target`, `message` and the event's fields beside
//! them. Levels are by target (`info,sf_token_proxy::token=debug`), without patterns.
//! Of the program that serves, lines go through a queue: a reader that stops must not stop the program.
//! Invariants: set once, in `cli`; no secret is logged (the configuration holds references only).
//! Source: `kubernetes.md` §6.

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
    time::Duration,
};

use tracing::Subscriber;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use self::queue::Queue;
use crate::config::{self, Config, LogFormat};

mod queue;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level is not a list of levels")]
    Level,
    #[error("a log is set up already")]
    Twice,
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// Sets the log of the whole process up.
pub fn init(settings: &config::Log) -> Result<(), LogError> {
    subscriber(settings, io::stdout().is_terminal(), io::stdout)?
        .try_init()
        .map_err(|_| LogError::Twice)
}

/// The same for a program that serves: no line waits until somebody reads it. [`flush`] has to be called at its end.
pub fn init_serving(settings: &config::Log) -> Result<(), LogError> {
    let queue = Queue::start(io::stdout(), |lines| {
        tracing::warn!(lines, "log lines lost, because nobody read them");
    })?;
    let to = queue.clone();
    subscriber(settings, io::stdout().is_terminal(), move || to.clone())?
        .try_init()
        .map_err(|_| LogError::Twice)?;
    drop(QUEUE.set(queue));
    // A panic may end the process at once, and what led to it stands in the last lines.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush();
        usual(panic);
    }));
    Ok(())
}

/// Waits until what was logged is written; not for ever.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_LINES);
    }
}

static QUEUE: OnceLock<Queue> = OnceLock::new();
const LAST_LINES: Duration = Duration::from_secs(1);

/// The same for any writer; tests read what it writes.
pub fn subscriber<W>(
    settings: &config::Log,
    terminal: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + 'static, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // `config::check` has seen it; a caller that has not is told.
    let levels: Targets = settings.level.parse().map_err(|_| LogError::Level)?;
    let (levels, handle) = reload::Layer::new(levels);
    // The first log is the process's; those that tests make beside it keep their levels.
    drop(LEVELS.set(Box::new(move |levels| handle.reload(levels).is_ok())));
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match json {
        true => Box::new(
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_writer(writer),
        ),
        false => Box::new(fmt::layer().with_ansi(false).with_writer(writer)),
    };
    Ok(tracing_subscriber::registry().with(lines.with_filter(levels)))
}

/// Sets `log.level` from now on; what [`init`] has set up follows.
pub fn set_level(level: &str) {
    let Ok(levels) = level.parse::<Targets>() else { return };
    if let Some(set) = LEVELS.get()
        && set(levels)
    {
        tracing::info!(level, "log level");
    }
}

/// Sets the levels of the process's log.
static LEVELS: OnceLock<Box<dyn Fn(Targets) -> bool + Send + Sync>> = OnceLock::new();

/// Logs the settings as they count, secrets as their references.
pub fn log_effective(config: &Config) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        egress_proxy = config.upstream.proxy.https.is_some(),
        config = %config.to_json(),
        "configuration"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the log says when `events` happen.
    fn logged(format: LogFormat, level: &str, terminal: bool, events: impl FnOnce()) -> String {
        let settings = config::Log {
            format,
            level: level.into(),
            requests: false,
        };
        let lines = Lines::default();
        let to = lines.clone();
        let subscriber = subscriber(&settings, terminal, move || to.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_are_flat_and_carry_time_level_target_and_fields() {
        let text = logged(LogFormat::Auto, "info", false, || {
            let _span = tracing::info_span!("call", hidden = 1).entered();
            tracing::info!(org = "main", attempt = 2, "renewed\nnow");
            tracing::debug!("not shown");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "renewed\nnow");
        assert_eq!(line["org"], "main");
        assert_eq!(line["attempt"], 2);
        assert_eq!(line["target"], module_path!());
        let time = line["timestamp"].as_str().unwrap();
        assert!(
            time.starts_with("20") && time.ends_with('Z') && time.contains('T'),
            "{time}"
        );
        assert!(line.get("span").is_none() && line.get("spans").is_none(), "{text}");
    }

    #[test]
    fn a_terminal_gets_text_unless_told_otherwise() {
        let event = || tracing::info!("hello");
        assert!(!logged(LogFormat::Auto, "info", true, event).starts_with('{'));
        assert!(logged(LogFormat::Json, "info", true, event).starts_with('{'));
        assert!(!logged(LogFormat::Text, "info", false, event).starts_with('{'));
    }

    #[test]
    fn levels_go_by_target() {
        let text = logged(LogFormat::Text, "warn,loud=debug", false, || {
            tracing::debug!(target: "loud", "one");
            tracing::info!(target: "quiet", "two");
            tracing::warn!(target: "quiet", "three");
        });
        assert!(
            text.contains("one") && !text.contains("two") && text.contains("three"),
            "{text}"
        );
    }

    #[test]
    fn the_effective_configuration_shows_references_and_no_password() {
        let vars = config::Vars::from([
            ("SFPROXY_LOGIN_URL", "https://acme.my.salesforce.com"),
            ("SFPROXY_CLIENT_ID", "3MVG9"),
            ("SFPROXY_CLIENT_SECRET", "hunter2"),
            ("HTTPS_PROXY", "http://user:hunter2@proxy:3128"),
        ]);
        let config = config::from_env(&vars).unwrap();
        let text = logged(LogFormat::Json, "info", false, || log_effective(&config));
        assert!(text.contains("env:SFPROXY_CLIENT_SECRET"), "{text}");
        assert!(text.contains("\"egress_proxy\":true"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
