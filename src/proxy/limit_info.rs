//! What `Sforce-Limit-Info` says of the org's API budget.
//!
//! Pure. Read tolerantly (SF §6): separators `;` or `,`, unknown keys, `used` above `limit`.
//! Units: API calls in the last 24 hours.

/// Calls used and allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiUsage {
    pub used: u64,
    pub limit: u64,
}

/// The `api-usage` of a header value such as `api-usage=25/5000; per-app-api-usage=17/250(appName=x)`.
pub fn api_usage(value: &[u8]) -> Option<ApiUsage> {
    let mut parts = value.split(|byte| matches!(byte, b';' | b','));
    let numbers = parts.find_map(|part| part.trim_ascii().strip_prefix(b"api-usage="))?;
    let (used, limit) = numbers.split_at_checked(numbers.iter().position(|byte| *byte == b'/')?)?;
    Some(ApiUsage {
        used: number(used)?,
        limit: number(&limit[1..])?,
    })
}

fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_forms_are_read() {
        let usage = |used, limit| Some(ApiUsage { used, limit });
        let table = [
            ("api-usage=18/5000", usage(18, 5000)),
            (
                "api-usage=25/5000; per-app-api-usage=17/250(appName=sample-app)",
                usage(25, 5000),
            ),
            ("per-app-api-usage=17/250(appName=a), api-usage=1/2", usage(1, 2)),
            ("api-usage=10018/100000; api-bursts=1/750", usage(10018, 100_000)),
            ("api-usage=110018/100000", usage(110_018, 100_000)),
            ("per-app-api-usage=17/250", None),
            ("api-usage=/", None),
            ("api-usage=a/b", None),
            (" api-usage= 1 / 2 ;x", usage(1, 2)),
            ("api-usage=18", None),
            ("", None),
        ];
        for (value, expected) in table {
            assert_eq!(api_usage(value.as_bytes()), expected, "{value}");
        }
    }
}
