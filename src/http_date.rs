//! The dates of HTTP headers, in the one form that is sent today (`Sun, 06 Nov 1994 08:49:37 GMT`).
//!
//! Pure. Invariants: what [`text`] writes, [`seconds`] reads back; the obsolete forms are not read.
//! Units: seconds since 1970. Fails with: `None`.
//! Source: RFC 9110 §5.6.7.

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// The first second of the year 10000.
const END: u64 = 253_402_300_800;

/// What a date says; `None`: it has another form, or lies before 1970.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let (day, rest) = text.split_once(", ")?;
    let rest = rest.strip_suffix(" GMT")?;
    let mut parts = rest.split(' ');
    let of_month = number(parts.next()?, 2)?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year = number(parts.next()?, 4)?;
    let mut clock = parts.next()?.split(':');
    let (hour, minute, second) = (
        number(clock.next()?, 2)?,
        number(clock.next()?, 2)?,
        number(clock.next()?, 2)?,
    );
    let whole = parts.next().is_none() && clock.next().is_none() && DAYS.contains(&day);
    // 60: a leap second.
    let real = (1..=31).contains(&of_month) && hour < 24 && minute < 60 && second <= 60 && year >= 1970;
    (whole && real).then(|| days(year, month, of_month) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The date of an instant before the year 10000.
pub(crate) fn text(seconds: u64) -> Option<String> {
    if seconds >= END {
        return None;
    }
    let (day, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, of_month) = civil(day);
    Some(format!(
        "{}, {of_month:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[usize::try_from(day % 7).ok()?],
        MONTHS[usize::try_from(month - 1).ok()?],
        clock / 3600,
        clock / 60 % 60,
        clock % 60,
    ))
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Days since 1970. Years are counted from March, so that the leap day is a year's last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// Year, month and day of month of a day since 1970.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, of_month)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates_are_read_and_written() {
        for (date, at) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Fri, 31 Dec 9999 23:59:59 GMT", END - 1),
        ] {
            assert_eq!(seconds(date), Some(at), "{date}");
            assert_eq!(text(at).as_deref(), Some(date));
        }
        assert_eq!(text(END), None);
    }

    #[test]
    fn other_forms_are_not_read() {
        for bad in [
            "",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 MST",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37:1 GMT",
            "Son, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(at in 0..END) {
            prop_assert_eq!(seconds(&text(at).unwrap()), Some(at));
        }

        #[test]
        fn any_text_is_survived(text: String) {
            let _ = seconds(&text);
        }
    }
}
