//! A program that prints a token: run, read, judged.
//!
//! Invariants: no shell; nothing on its stdin; it does not outlive the wait; at most 64 KiB of what it prints are read,
//! and wiped; nothing that it printed is ever told, but for the `name` and `message` of its JSON, scrubbed and cut.
//! Units: `Duration`; sizes in bytes.
//! Fails with: `command_failed`, with the exit code and what was missing.
//! Source: `sf org display --json`, `sf org auth show-access-token --json` (the Salesforce CLI; since 2.136.8 the former
//! prints a placeholder for the token, so that the latter is run for it).

use std::{process::Stdio, time::Duration};

use secrecy::SecretString;
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, time::timeout};
use zeroize::Zeroizing;

use super::Found;
use crate::{
    config::Command,
    token::refusal::{Refusal, Sent},
};

/// Runs the program, and for `sf org display` that hides the token `sf org auth show-access-token` as well; `limit` is
/// for all together. Dropped half-way, the program is killed.
pub async fn run(command: &Command, limit: Duration) -> Result<Found, Refusal> {
    let both = async {
        let printed = once(&command.argv).await?;
        if !printed.hidden {
            return found(printed);
        }
        let Some(argv) = that_shows(&command.argv) else {
            return Err(failed("prints a placeholder instead of the token"));
        };
        let shown = once(&argv).await?;
        if shown.hidden {
            return Err(failed("prints a placeholder instead of the token"));
        }
        found(Printed {
            instance_url: shown.instance_url.or(printed.instance_url),
            ..shown
        })
    };
    let late = || failed(&format!("did not end within {} s", limit.as_secs()));
    tokio::time::timeout(limit, both).await.unwrap_or_else(|_| Err(late()))
}

/// What a successful run printed.
#[derive(Default)]
struct Printed {
    access_token: Option<SecretString>,
    instance_url: Option<String>,
    /// A placeholder stands where the token belongs.
    hidden: bool,
}

fn found(printed: Printed) -> Result<Found, Refusal> {
    let access_token = printed
        .access_token
        .ok_or_else(|| failed("prints JSON without an access token"))?;
    Ok(Found {
        access_token,
        instance_url: printed.instance_url,
    })
}

async fn once(argv: &[String]) -> Result<Printed, Refusal> {
    let (program, arguments) = argv.split_first().ok_or_else(|| failed("is empty"))?;
    let mut command = tokio::process::Command::new(program);
    // Of its own, so that what it starts ends with it.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command
        .args(arguments)
        .env("NO_COLOR", "1")
        .env("FORCE_COLOR", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&format!("cannot be started: {}", error.kind())))?;
    let mut group = Group(child.id());
    let mut stdout = child.stdout.take().ok_or_else(|| failed("cannot be read"))?;
    // Full size from the start: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(vec![0; LONGEST + 1]);
    let mut length = 0;
    let mut status = None;
    loop {
        let read = match status {
            None => tokio::select! {
                // Either may be dropped: a read that has not ended has read nothing, and the exit is asked for again.
                read = stdout.read(&mut bytes[length..]) => read,
                exit = child.wait() => {
                    status = Some(exit);
                    continue;
                }
            },
            // What it started may hold the pipe open; what it printed itself is there by now.
            Some(_) => match timeout(REST, stdout.read(&mut bytes[length..])).await {
                Ok(read) => read,
                Err(_) => break,
            },
        };
        let read = read.map_err(|error| failed(&format!("cannot be read: {}", error.kind())))?;
        length += read;
        if length > LONGEST {
            return Err(failed("prints more than 64 KiB"));
        }
        if read == 0 {
            break;
        }
    }
    let status = match status {
        Some(status) => status,
        None => child.wait().await,
    };
    let status = status.map_err(|error| failed(&format!("cannot be waited for: {}", error.kind())))?;
    group.ended();
    let ended = match (status.success(), status.code()) {
        (true, _) => None,
        (false, Some(code)) => Some(format!("ended with exit code {code}")),
        (false, None) => Some("was ended by a signal".to_owned()),
    };
    judged(&bytes[..length], ended)
}

/// The program and what it started; killed together, unless the program has ended.
struct Group(Option<u32>);

impl Group {
    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok())
            && let Some(group) = rustix::process::Pid::from_raw(id)
        {
            // It may have ended by itself just now.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// `ended`: how it failed, if it did.
fn judged(stdout: &[u8], ended: Option<String>) -> Result<Printed, Refusal> {
    let answer = json(stdout);
    // The CLI's own status; an error of it may come with exit code 0.
    let status = answer.as_ref().and_then(|answer| answer.0.get("status")?.as_i64());
    let ended = ended.or_else(|| status.filter(|s| *s != 0).map(|s| format!("tells of status {s}")));
    if let Some(ended) = ended {
        let told = answer.and_then(|answer| explanation(&answer.0));
        return Err(failed(
            &told.map_or_else(|| ended.clone(), |told| format!("{ended}: {told}")),
        ));
    }
    let answer = answer.ok_or_else(|| failed("prints no JSON"))?;
    let result = answer.0.get("result").unwrap_or(&answer.0);
    let text = |names: [&str; 2]| names.iter().find_map(|name| result.get(name)?.as_str());
    let token = text(["accessToken", "access_token"]).or(result.as_str());
    let token = token.map(str::trim).filter(|token| !token.is_empty());
    let hidden = token.is_some_and(|token| token.starts_with("[REDACTED]"));
    Ok(Printed {
        access_token: token.filter(|_| !hidden).map(SecretString::from),
        instance_url: text(["instanceUrl", "instance_url"]).map(str::to_owned),
        hidden,
    })
}

/// Wiped when it goes.
struct Answer(Value);

impl Drop for Answer {
    fn drop(&mut self) {
        fn wipe(value: &mut Value) {
            match value {
                Value::String(text) => zeroize::Zeroize::zeroize(text),
                Value::Array(items) => items.iter_mut().for_each(wipe),
                Value::Object(map) => map.values_mut().for_each(wipe),
                _ => {}
            }
        }
        wipe(&mut self.0);
    }
}

/// The object that it printed; other lines may stand before and after it.
fn json(stdout: &[u8]) -> Option<Answer> {
    let begins = stdout.iter().enumerate().filter(|(at, byte)| {
        let before = stdout[..*at].iter().rev().take_while(|byte| **byte != b'\n');
        let first_of_line = before.into_iter().all(u8::is_ascii_whitespace);
        **byte == b'{' && first_of_line
    });
    begins
        .filter_map(|(at, _)| {
            let mut values = serde_json::Deserializer::from_slice(&stdout[at..]).into_iter::<Value>();
            values.next()?.ok()
        })
        .find(Value::is_object)
        .map(Answer)
}

/// `name: message` of an error, without what may be a secret.
fn explanation(answer: &Value) -> Option<String> {
    let mut sent = Sent::default();
    secrets(answer, &mut sent);
    let part = |name: &str| {
        let text = answer.get(name)?.as_str()?;
        let plain: Vec<&str> = text
            .split_whitespace()
            .map(|word| if looks_secret(word) { "[removed]" } else { word })
            .collect();
        sent.scrub(&plain.join(" "), EXPLANATION_MAX)
    };
    match (part("name"), part("message")) {
        (Some(name), Some(message)) => Some(format!("{name}: {message}")),
        (name, message) => name.or(message),
    }
}

/// Every text that stands under a name of tokens and the like.
fn secrets(value: &Value, sent: &mut Sent) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| secrets(item, sent)),
        Value::Object(map) => {
            for (name, value) in map {
                let name = name.to_ascii_lowercase();
                let secret = ["token", "secret", "password", "authurl"];
                match value {
                    Value::String(text) if secret.iter().any(|word| name.contains(word)) => sent.secret(text),
                    other => secrets(other, sent),
                }
            }
        }
        _ => {}
    }
}

/// A session id, an auth URL, or a word too long to be one.
fn looks_secret(word: &str) -> bool {
    let session = word.contains("00D") && word.contains('!');
    session || word.contains("force://") || word.contains("eyJ") || (word.len() > 60 && !word.contains('/'))
}

/// `sf org display …` as `sf org auth show-access-token …`.
fn that_shows(argv: &[String]) -> Option<Vec<String>> {
    let at = argv.windows(2).position(|two| two == ["org", "display"])?;
    let mut argv = argv.to_vec();
    argv.splice(at + 1..at + 2, ["auth".to_owned(), "show-access-token".to_owned()]);
    Some(argv)
}

fn failed(how: &str) -> Refusal {
    Refusal::of("command_failed", format!("`command` {how}"))
}

/// For the rest of what a program printed that has ended.
const REST: Duration = Duration::from_millis(200);
const LONGEST: usize = 64 * 1024;
const EXPLANATION_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    /// `sh` here, because the program itself uses no shell.
    async fn told(script: &str) -> Result<(String, Option<String>), String> {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let found = run(&Command { argv }, Duration::from_secs(5)).await;
        found
            .map(|found| (found.access_token.expose_secret().to_owned(), found.instance_url))
            .map_err(|refusal| {
                assert_eq!(refusal.reason, "command_failed");
                refusal.description.unwrap()
            })
    }

    #[tokio::test]
    async fn every_known_shape_is_understood() {
        let url = Some("https://acme.my.salesforce.com".to_owned());
        for (printed, instance) in [
            (
                r#"{"status":0,"result":{"accessToken":"00D!t","instanceUrl":"https://acme.my.salesforce.com"},"warnings":[]}"#,
                url.clone(),
            ),
            (r#"{"status":0,"result":{"accessToken":"00D!t"}}"#, None),
            (r#"{"status":0,"result":"00D!t"}"#, None),
            (
                r#"{"access_token":"00D!t","instance_url":"https://acme.my.salesforce.com"}"#,
                url,
            ),
            ("Warning: old CLI\n{\"access_token\":\"00D!t\"}\n", None),
        ] {
            let found = told(&format!("printf '%s' '{printed}'")).await;
            assert_eq!(found, Ok(("00D!t".into(), instance)), "{printed}");
        }
    }

    #[tokio::test]
    async fn a_failure_is_explained_without_what_it_printed() {
        let error = r#"{"status":1,"name":"NamedOrgNotFound","message":"No org CANARYtok3n 00D5!CANARY found for dev","accessToken":"CANARYtok3n"}"#;
        for (script, expected) in [
            (
                format!("printf '%s' '{error}'; echo CANARY >&2; exit 3"),
                "`command` ended with exit code 3: NamedOrgNotFound: No org [removed] [removed] found for dev",
            ),
            (
                format!("printf '%s' '{error}'"),
                "`command` tells of status 1: NamedOrgNotFound: No org [removed] [removed] found for dev",
            ),
            ("echo CANARY; exit 1".into(), "`command` ended with exit code 1"),
            ("kill -9 $$".into(), "`command` was ended by a signal"),
            ("echo CANARY".into(), "`command` prints no JSON"),
            (
                "echo '{\"a\":\"CANARY\"}'".into(),
                "`command` prints JSON without an access token",
            ),
            (
                "echo '{\"access_token\":\" \"}'".into(),
                "`command` prints JSON without an access token",
            ),
            ("yes CANARY".into(), "`command` prints more than 64 KiB"),
            // Nothing comes on stdin, so `cat` ends at once.
            ("cat".into(), "`command` prints no JSON"),
        ] {
            assert_eq!(told(&script).await, Err(expected.to_owned()), "{script}");
        }
        let argv = vec!["/nowhere/sf".to_owned()];
        let refusal = run(&Command { argv }, Duration::from_secs(5)).await.err().unwrap();
        assert_eq!(
            refusal.description.unwrap(),
            "`command` cannot be started: entity not found"
        );
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let script = format!("sleep 1; touch {}", mark.display());
        let argv = vec!["sh".to_owned(), "-c".to_owned(), script];
        let refusal = run(&Command { argv }, Duration::from_millis(100)).await.err().unwrap();
        assert_eq!(refusal.description.unwrap(), "`command` did not end within 0 s");
        tokio::time::sleep(Duration::from_millis(1300)).await;
        assert!(!mark.exists(), "the command went on");
    }

    /// As `sf` 2.136.8 and later do it.
    #[tokio::test]
    async fn a_hidden_token_is_asked_for_in_the_other_way() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let sf = dir.path().join("sf");
        let script = "#!/bin/sh\ncase \"$*\" in\n\
            'org display --json --target-org dev') echo '{\"status\":0,\"result\":{\"accessToken\":\"[REDACTED] Use x\",\"instanceUrl\":\"https://a.my.salesforce.com\"}}';;\n\
            'org auth show-access-token --json --target-org dev') echo '{\"status\":0,\"result\":{\"accessToken\":\"00D!t\"}}';;\n\
            *) exit 9;;\nesac\n";
        std::fs::write(&sf, script).unwrap();
        std::fs::set_permissions(&sf, std::fs::Permissions::from_mode(0o700)).unwrap();
        let argv = |words: &str| {
            let words = words.split(' ').map(str::to_owned);
            [sf.display().to_string()].into_iter().chain(words).collect::<Vec<_>>()
        };
        let command = Command {
            argv: argv("org display --json --target-org dev"),
        };
        let found = run(&command, Duration::from_secs(5)).await.unwrap();
        assert_eq!(found.access_token.expose_secret(), "00D!t");
        assert_eq!(found.instance_url.as_deref(), Some("https://a.my.salesforce.com"));
        assert_eq!(that_shows(&argv("org list")), None);
        let hides = told("echo '{\"access_token\":\"[REDACTED] CANARY\"}'").await;
        assert_eq!(hides, Err("`command` prints a placeholder instead of the token".into()));
    }
}
