//! Durations and sizes as people write them.
//!
//! Units: `h m s ms` and `B KiB MiB GiB kB MB GB`; a number without one is refused, and so is anything longer than an
//! hour: the `humantime` crate reads `5M` as five months.
//! Invariants: what is written by [`span_text`] and [`size_text`] is read back as the same value.
//! Fails with: what to write instead.

use std::time::Duration;

const SPAN_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

/// `500ms`, `90s`, `1h30m`; larger units first.
pub fn parse_span(text: &str) -> Result<Duration, &'static str> {
    const OVERFLOW: &str = "write a smaller number";
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    let mut next_unit = 0;
    if rest.is_empty() {
        return Err("write a number and a unit: h, m, s or ms");
    }
    while !rest.is_empty() {
        let (number, unit, after) =
            number_and_word(rest).ok_or("write whole numbers, each followed by its unit: h, m, s or ms")?;
        let index = unit_index(&SPAN_UNITS, unit).ok_or_else(|| span_hint(unit))?;
        if index < next_unit {
            return Err("write larger units first and each once, such as `1h30m`");
        }
        next_unit = index + 1;
        let number: u64 = number.parse().map_err(|_| OVERFLOW)?;
        let part = number.checked_mul(SPAN_UNITS[index].1).ok_or(OVERFLOW)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or(OVERFLOW)?;
        rest = after;
    }
    Ok(total)
}

fn span_hint(unit: &str) -> &'static str {
    match unit {
        "" => "add a unit: h, m, s or ms",
        "M" => "minutes are `m`; the units are h, m, s and ms",
        "d" | "day" | "days" => "days are not taken; write hours, such as `24h`",
        "w" | "week" | "weeks" | "month" | "months" | "y" | "year" | "years" => {
            "that is too long; the units are h, m, s and ms"
        }
        _ => "the units are h, m, s and ms",
    }
}

/// The shortest form: `1h30m`, `0s`.
pub fn span_text(span: Duration) -> String {
    let mut left = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, millis) in SPAN_UNITS {
        if left >= millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    text
}

/// `16MiB`, `500MB`, `4096B`.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    const FORM: &str = "write a whole number and a unit: B, KiB, MiB, GiB, kB, MB or GB";
    let (number, unit, rest) = number_and_word(text.trim()).ok_or(FORM)?;
    if !rest.is_empty() {
        return Err(FORM);
    }
    let index = unit_index(&SIZE_UNITS, unit).ok_or_else(|| size_hint(unit))?;
    let number: u64 = number.parse().map_err(|_| "write a smaller number")?;
    number.checked_mul(SIZE_UNITS[index].1).ok_or("write a smaller number")
}

fn size_hint(unit: &str) -> &'static str {
    match unit {
        "" => "add a unit: B, KiB, MiB, GiB, kB, MB or GB",
        "K" | "k" | "Ki" => "write KiB (1024 bytes) or kB (1000 bytes)",
        "M" | "Mi" | "m" => "write MiB (1024 × 1024 bytes) or MB (1000 × 1000 bytes)",
        "G" | "Gi" | "g" => "write GiB or GB",
        _ => "the units are B, KiB, MiB, GiB, kB, MB and GB",
    }
}

/// The largest unit that divides evenly: `16MiB`, `1000B`.
pub fn size_text(bytes: u64) -> String {
    let (unit, size) = SIZE_UNITS[..3]
        .iter()
        .find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size))
        .copied()
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / size)
}

fn unit_index(units: &[(&str, u64)], unit: &str) -> Option<usize> {
    units.iter().position(|(name, _)| *name == unit)
}

/// Splits `90mRest` after digits and letters; `None` without digits or with something else in front.
fn number_and_word(text: &str) -> Option<(&str, &str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let letters = text[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
    let rest = &text[digits + letters..];
    (digits > 0 && (letters > 0 || rest.is_empty())).then(|| (&text[..digits], &text[digits..digits + letters], rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_known_unit() {
        let good = [
            ("500ms", 500),
            ("90s", 90_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1h5ms", 3_600_005),
            (" 0s ", 0),
        ];
        for (text, millis) in good {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let bad = [
            ("", "write a number and a unit: h, m, s or ms"),
            ("90", "add a unit: h, m, s or ms"),
            ("1h30", "add a unit: h, m, s or ms"),
            ("5M", "minutes are `m`; the units are h, m, s and ms"),
            ("5months", "that is too long; the units are h, m, s and ms"),
            ("1d", "days are not taken; write hours, such as `24h`"),
            ("5min", "the units are h, m, s and ms"),
            ("1m1h", "write larger units first and each once, such as `1h30m`"),
            ("1m1m", "write larger units first and each once, such as `1h30m`"),
            ("1.5h", "write whole numbers, each followed by its unit: h, m, s or ms"),
            ("-5s", "write whole numbers, each followed by its unit: h, m, s or ms"),
            ("99999999999999999999s", "write a smaller number"),
            ("18446744073709551615h", "write a smaller number"),
        ];
        for (text, hint) in bad {
            assert_eq!(parse_span(text), Err(hint), "{text}");
        }
    }

    #[test]
    fn sizes_need_a_known_unit() {
        let good = [
            ("16MiB", 16 << 20),
            ("64KiB", 64 << 10),
            ("1GiB", 1 << 30),
            ("500MB", 500_000_000),
            ("4096B", 4096),
            ("0B", 0),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "16", "16M", "16mib", "1.5MiB", "-1B", "1MiB1B", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_written_are_read_back(millis in 0..=u64::from(u32::MAX)) {
            let span = Duration::from_millis(millis);
            prop_assert_eq!(parse_span(&span_text(span)), Ok(span));
        }

        #[test]
        fn sizes_written_are_read_back(bytes: u64) {
            prop_assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = (parse_span(&text), parse_size(&text));
        }
    }
}
