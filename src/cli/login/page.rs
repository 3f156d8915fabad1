//! What the browser shows at the end: one small page, complete in itself.
//!
//! Invariants: every text is escaped; nothing is loaded, run, framed, kept or told onward; no code, state or token.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

pub(super) type Answer = Response<Full<Bytes>>;

/// Title and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) title: &'static str,
    pub(super) text: String,
}

impl Page {
    pub(super) fn new(title: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { title, text }
    }

    pub(super) fn answer(&self, status: StatusCode) -> Answer {
        let title = escape(self.title);
        let paragraphs: String = self
            .text
            .lines()
            .map(|line| format!("<p>{}</p>\n", escape(line)))
            .collect();
        let html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - sf-token-proxy</title></head>\n\
             <body><h1>{title}</h1>\n{paragraphs}</body></html>\n"
        );
        answer(status, Full::from(html))
    }
}

/// To a path without the code, so that it stays in neither the address bar nor the history.
pub(super) fn see(path: &'static str) -> Answer {
    let mut answer = answer(StatusCode::SEE_OTHER, Full::default());
    answer
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_static(path));
    answer
}

fn answer(status: StatusCode, body: Full<Bytes>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONNECTION, "close"),
];

fn escape(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_page_is_escaped_and_keeps_to_itself() {
        let answer = Page::new("Not logged in", "<script>alert('&\"')</script>\ntwo").answer(StatusCode::OK);
        for (name, part) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'"),
            ("content-security-policy", "frame-ancestors 'none'"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert!(answer.headers()[name].to_str().unwrap().contains(part), "{name}");
        }
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body = std::str::from_utf8(&body).unwrap();
        assert!(
            body.contains("<p>&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;</p>\n<p>two</p>"),
            "{body}"
        );
        for outside in ["http", "src=", "href=", "<script", "<link", "<style"] {
            assert!(!body.contains(outside), "{outside}: {body}");
        }
    }
}
