//! Any secret (the first line) and any answer (the rest) that may echo it: README.md.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sf_token_proxy::token::refusal::{Sent, data_cloud_refusal, refusal};
use sf_token_proxy_fuzz::{check_refusal, statuses};

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (secret, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(secret) = std::str::from_utf8(secret) else {
        return;
    };
    let mut sent = Sent::default();
    sent.secret(secret);
    // What the marker in a secret's place itself says is none.
    let secret = Some(secret).filter(|secret| !secret.chars().all(|c| "[removed]".contains(c)));
    for status in statuses(body) {
        check_refusal(&refusal(status, body, &sent), secret);
        check_refusal(&data_cloud_refusal(status, body, &sent), secret);
    }
});
