//! Opening the person's browser, as well as one can: the address is printed in any case.

use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::config::Vars;

/// Starts a browser; `None`: there is none, or it cannot be started. It lives on when this program ends.
pub(super) fn open(url: &str, vars: &Vars) -> Option<Child> {
    let mut words = command(url, vars)?.into_iter();
    let mut command = Command::new(words.next()?);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().ok()
}

/// `$BROWSER` (the first of its commands, `%s` is the address), else the desktop's own way.
fn command(url: &str, vars: &Vars) -> Option<Vec<String>> {
    let chosen = vars.value("BROWSER").and_then(|list| list.split(':').next());
    if let Some(chosen) = chosen.filter(|chosen| !chosen.trim().is_empty()) {
        let mut words: Vec<String> = chosen.split_whitespace().map(|word| word.replace("%s", url)).collect();
        if !chosen.contains("%s") {
            words.push(url.to_owned());
        }
        return Some(words);
    }
    let own: &[&str] = match std::env::consts::OS {
        "macos" => &["open"],
        "windows" => &["rundll32", "url.dll,FileProtocolHandler"],
        // On a machine without a screen, xdg-open would start a browser for terminals that nobody sees.
        _ if vars.value("DISPLAY").or(vars.value("WAYLAND_DISPLAY")).is_some() => &["xdg-open"],
        _ => return None,
    };
    let words = own.iter().copied().chain([url]);
    Some(words.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_persons_own_browser_comes_first() {
        let told = |name: &str, value: &str| {
            let vars = Vars::from([(name, value)]);
            command("https://x/?a=1&b=2", &vars).map(|words| words.join(" "))
        };
        assert_eq!(told("BROWSER", "firefox").unwrap(), "firefox https://x/?a=1&b=2");
        let chosen = told("BROWSER", "ff --url=%s -n:w3m").unwrap();
        assert_eq!(chosen, "ff --url=https://x/?a=1&b=2 -n");
        #[cfg(target_os = "linux")]
        {
            assert_eq!(told("TERM", "xterm"), None);
            assert_eq!(told("DISPLAY", ":0").unwrap(), "xdg-open https://x/?a=1&b=2");
        }
    }
}
