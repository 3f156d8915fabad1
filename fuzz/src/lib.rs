//! What the targets have in common: what a refusal may show, and what the orgs of the examples are.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use sf_token_proxy::{
    config::{Config, Org, Vars, from_yaml},
    token::{Instance, REASONS, Refusal},
};

/// Stands where a secret stands; must not come out.
pub const CANARY: &str = "00Dxx!CANARY.4d1f_do.not/show+me==";

/// Every kind of status that a host may answer with.
const STATUSES: [u16; 13] = [200, 204, 302, 304, 400, 401, 403, 404, 408, 420, 429, 500, 503];

/// Two statuses to try an answer with: the one at which every byte counts, and another that the answer chooses.
pub fn statuses(body: &[u8]) -> [u16; 2] {
    let sum = body
        .iter()
        .fold(body.len(), |sum, byte| sum.wrapping_add(usize::from(*byte)));
    [400, STATUSES[sum % STATUSES.len()]]
}

/// Now, for the targets: what they find does not depend on the day.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// Orgs that take their host from every place: `instance_url`, the configuration, the platform's field, other fields.
pub static ORGS: LazyLock<Vec<Org>> = LazyLock::new(|| {
    let fixed = include_str!("../../config/minimal.yaml").replace(
        "    grant:",
        "    instance_url: https://fixed.my.salesforce.com\n    grant:",
    );
    [
        include_str!("../../config/minimal.yaml"),
        &fixed,
        include_str!("../../config/agentforce.yaml"),
        include_str!("../../config/marketing-cloud.yaml"),
        include_str!("../../config/b2c-commerce.yaml"),
    ]
    .into_iter()
    .flat_map(|yaml| orgs(yaml).orgs.into_values())
    .collect()
});

fn orgs(yaml: &str) -> Config {
    from_yaml(yaml, "example", &Vars::default()).unwrap_or_else(|problems| panic!("an example is wrong:\n{problems}"))
}

/// Whether `text` shows `secret`, whatever the case.
pub fn shows(text: &str, secret: &str) -> bool {
    text.to_ascii_lowercase().contains(&secret.to_ascii_lowercase())
}

/// A secret as it may be echoed: raw, as a form has it, and as RFC 3986 has it.
pub fn forms(secret: &str) -> [String; 3] {
    let percent = secret.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    [
        secret.to_owned(),
        url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
        percent.collect(),
    ]
}

/// What holds of every refusal: a known word, short printable texts, nothing of `secret`.
pub fn check_refusal<'a>(refusal: &Refusal, secret: impl Into<Option<&'a str>>) {
    assert!(REASONS.contains(&refusal.reason), "unknown reason {}", refusal.reason);
    assert!(!refusal.advice.is_empty());
    if let Some(code) = &refusal.code {
        assert!(
            (1..=64).contains(&code.chars().count()),
            "code of {} characters",
            code.chars().count()
        );
        assert!(code.bytes().all(|b| b.is_ascii_graphic()), "code {code:?}");
    }
    if let Some(description) = &refusal.description {
        let length = description.chars().count();
        assert!((1..=200).contains(&length), "description of {length} characters");
        // Line breaks, escapes, and what turns the direction of reading.
        let bad =
            |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{feff}');
        assert!(!description.chars().any(bad), "unprintable: {description:?}");
    }
    // The advice is ours, and a short secret may be one of its words.
    let forms = secret.into().map(forms);
    for text in [&refusal.code, &refusal.description].into_iter().flatten() {
        for form in forms.iter().flatten() {
            assert!(!shows(text, form), "{form:?} is shown in {text:?}");
        }
    }
}

/// What holds of every host that a token may go to: https, or this machine.
pub fn check_instance(instance: &Instance) {
    let host = instance.host.as_str();
    let this_machine = host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    assert!(instance.tls || this_machine, "plain http to {host}");
    assert!(!instance.authority.as_str().contains(['@', '/', '?', '#', '\\', ' ']));
    assert_eq!(instance.host_header, instance.authority.as_str());
    assert_eq!(
        Instance::parse(&instance.url()).as_ref(),
        Ok(instance),
        "does not read back"
    );
}
