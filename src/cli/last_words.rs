//! Why the program ends: the last thing that it says.
//!
//! Kubernetes shows the end of a failed container's output as its termination message (`FallbackToLogsOnError`), stdout
//! and stderr together: at most [`BYTES`] and [`LINES`]. So what has to be read stands last, fits, and nothing follows.
//! Before the log is set up that is plain text on stderr; afterwards one line of the log, of level error, and no copy on
//! stderr: two streams have no order between them, and a collector of JSON lines takes only JSON.
//!
//! A panic's own text goes to stderr, and is short; the log is written out before it (`log.rs`).
//! Owns: nothing. Invariants: what was logged before comes out before; nobody who does not read holds the end up.
//! Fails with: nothing; a closed terminal is no reason to fail differently.
//! Source: the Kubernetes documentation, "Determine the Reason for Pod Failure".

use std::{process::ExitCode, sync::mpsc, thread, time::Duration};

use super::{CONFIG, complain};
use crate::{config::Problems, log};

const BYTES: usize = 2048;
const LINES: usize = 80;
/// Of a message in a line of the log, which has more in it.
const MESSAGE: usize = 1500;

/// The configuration is wrong: every problem, a line each.
pub(super) fn refuse(problems: &Problems) -> ExitCode {
    complain(&told(problems));
    ExitCode::from(CONFIG)
}

/// All problems; where Kubernetes would cut the first ones off, with a last line that says so.
fn told(problems: &Problems) -> String {
    let mut text = problems.to_string();
    if text.len() < BYTES && text.lines().count() <= LINES {
        return text;
    }
    let count = problems.iter().count();
    if let Some(first) = problems.iter().next() {
        let first = one_line(&first.to_string(), MESSAGE);
        text.push_str(&format!(
            "\nthe configuration has {count} problem{}; all of them stand in the lines above, and `sf-token-proxy check` prints them; the first is {first}",
            if count == 1 { "" } else { "s" },
        ));
    }
    text
}

/// The running program failed, after all that ran has ended.
pub(super) fn failed(error: &anyhow::Error) -> ExitCode {
    let text = cut(&format!("{error:#}"), MESSAGE);
    // The level may have been changed since.
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(exit_code = 1, "{text}");
    } else {
        log::flush();
        complain_soon(text);
    }
    ExitCode::FAILURE
}

/// As [`complain`], but not for ever: stderr may be the pipe that nobody reads.
fn complain_soon(text: String) {
    let (done, ended) = mpsc::channel::<()>();
    let complaining = thread::Builder::new().spawn(move || {
        complain(&text);
        drop(done);
    });
    if complaining.is_ok() {
        // It tells nothing but its end.
        let _ = ended.recv_timeout(PATIENCE);
    }
}

/// For who reads stderr.
const PATIENCE: Duration = Duration::from_secs(1);

/// A text from elsewhere, in one line of at most `most` bytes.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    cut(&lines.join("; ").replace(char::is_control, " "), most)
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(count: usize, length: usize) -> Problems {
        let mut problems = Problems::default();
        for n in 0..count {
            problems.add(format!("at{n}"), "ü".repeat(length));
        }
        problems
    }

    #[test]
    fn few_problems_stand_alone() {
        let few = problems(3, 10);
        assert_eq!(told(&few), few.to_string());
        assert_eq!(told(&problems(80, 1)).lines().count(), 80);
    }

    #[test]
    fn what_would_be_cut_off_is_counted_in_a_last_line_that_fits() {
        for (count, length, said) in [
            (81, 1, "the configuration has 81 problems; "),
            (30, 100, "the configuration has 30 problems; "),
            (1, 3000, "the configuration has 1 problem; "),
        ] {
            let problems = problems(count, length);
            let text = told(&problems);
            assert!(text.starts_with(&problems.to_string()), "all of them are there");
            let last = text.lines().last().unwrap();
            assert!(last.starts_with(said) && last.contains("the first is at0: ü"), "{last}");
            assert!(last.len() < BYTES, "{} bytes", last.len());
        }
    }

    #[test]
    fn a_text_becomes_one_line() {
        assert_eq!(one_line(" a\n\nb \r\n", 10), "a; b");
        assert_eq!(one_line("a\tb\u{1b}[1m", 10), "a b [1m");
        assert_eq!(one_line("äöü", 3), "ä…");
        assert_eq!(one_line("", 3), "");
    }
}
