//! Any secret (the first line) and any answer (the rest) that may echo it: README.md.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sf_token_proxy::token::refusal::{Sent, data_cloud_refusal, refusal};
use sf_token_proxy_fuzz::{STATUSES, check_refusal};

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (secret, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(secret) = std::str::from_utf8(secret) else { return };
    let mut sent = Sent::default();
    sent.secret(secret);
    // What is no secret: nothing, and what the marker `[removed]` itself says.
    let empty = secret.is_empty() || secret.chars().all(|c| c.is_ascii_whitespace() || "[removed]".contains(c));
    let secret = if empty { "\u{0}" } else { secret };
    for status in STATUSES {
        check_refusal(&refusal(status, body, &sent), secret);
        check_refusal(&data_cloud_refusal(status, body, &sent), secret);
    }
});
