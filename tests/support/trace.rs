//! What the program logs at its loudest, of a test that runs on this thread alone.

use std::{
    io,
    sync::{Arc, Mutex},
};

use sf_token_proxy::{
    config::{Log, LogFormat},
    log::subscriber,
};
use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, set_default},
};

/// From its start until it is dropped.
pub struct Trace {
    lines: Lines,
    _guard: DefaultGuard,
    /// With one subscriber alone, an event that another thread is the first to meet is asked of that thread's, which has none, and
    /// is off for all.
    _second: Dispatch,
}

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

impl Trace {
    pub fn start() -> Self {
        let settings = Log {
            format: LogFormat::Json,
            level: "trace".into(),
            requests: true,
        };
        let second = Dispatch::new(tracing_subscriber::registry());
        let lines = Lines::default();
        let to = lines.clone();
        let subscriber = subscriber(&settings, false, move || to.clone()).unwrap();
        Self {
            lines,
            _guard: set_default(subscriber),
            _second: second,
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.0.lock().unwrap()).into_owned()
    }
}
