//! The few HTML pages of the org.
//!
//! Owns: nothing. Invariants: whatever came from outside goes through [`escape`]. Fails with: nothing.

use super::answer::Answer;

const HTML: &str = "text/html;charset=UTF-8";

/// `body` is HTML already.
pub(crate) fn page(status: u16, title: &str, body: &str) -> Answer {
    let title = escape(title);
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body><h1>{title}</h1>\n{body}\n</body></html>\n"
    );
    Answer::text(status, HTML, html)
}

/// A page that sends the browser to the login page, as real ones do where a program expected JSON.
pub(crate) fn to_login(url: &str) -> Answer {
    // In a script, `<` would end it.
    let target = serde_json::Value::from(url).to_string().replace('<', "\\u003c");
    let html = format!(
        "<html><head><script>function redirectOnLoad() {{ window.location.replace({target}); }}\nredirectOnLoad();</script></head></html>\n"
    );
    Answer::text(200, HTML, html)
}

/// The two buttons of every form here.
pub(crate) const BUTTONS: &str = "<button type=\"submit\" id=\"oaapprove\" name=\"decision\" value=\"allow\">Allow</button>\n\
     <button type=\"submit\" id=\"oadeny\" name=\"decision\" value=\"deny\">Deny</button>";

/// For text and for attributes in double quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
