//! Times and durations as people type and read them.
//!
//! Invariant: everything is in nanoseconds, times since the Unix epoch; whatever is printed reads
//! back the same. No clock here: `now` is given by the caller. Used by all subcommands that take
//! `--from`, `--to`, `--every`, `--timeout` or durations of policies.

use chrono::{DateTime, SecondsFormat};

/// Units of durations, longest first; `us` has two more spellings.
const UNITS: [(&str, u64); 8] = [
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A point in time, perhaps relative to the moment the command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// Nanoseconds since the Unix epoch.
    At(i64),
    /// Nanoseconds before (negative) or after now.
    FromNow(i64),
}

impl Time {
    /// The time in ns, cut to what can be said.
    pub(crate) fn resolve(self, now_ns: u64) -> i64 {
        match self {
            Self::At(time) => time,
            Self::FromNow(offset) => {
                i64::try_from(now_ns).unwrap_or(i64::MAX).saturating_add(offset)
            }
        }
    }
}

/// Reads integer nanoseconds, RFC 3339, `now`, `now-1h` or `now+5m`.
pub(crate) fn parse_time(text: &str) -> Result<Time, String> {
    let wrong = || {
        format!("{text:?} is no time: use nanoseconds, RFC 3339 (2024-05-01T12:00:00Z) or now-1h")
    };
    if let Ok(time) = text.parse() {
        return Ok(Time::At(time));
    }
    if let Some(offset) = text.strip_prefix("now") {
        let (sign, duration) = match offset.split_at_checked(1) {
            None if offset.is_empty() => return Ok(Time::FromNow(0)),
            Some(("-", duration)) => (-1, duration),
            Some(("+", duration)) => (1, duration),
            _ => return Err(wrong()),
        };
        let duration = i64::try_from(parse_duration(duration)?).map_err(|_| wrong())?;
        return Ok(Time::FromNow(sign * duration));
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
    time.timestamp_nanos_opt().map(Time::At).ok_or_else(|| {
        format!("{text:?} is out of range: times reach from 1677-09-21 to 2262-04-11")
    })
}

/// Reads `30d`, `1d12h`, `5m`, `250ms`; 0 needs no unit.
pub(crate) fn parse_duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration: use numbers with w, d, h, m, s, ms, us or ns");
    if text == "0" {
        return Ok(0);
    }
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let unit = if matches!(unit, "µs" | "μs") { "us" } else { unit };
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too long"))?;
        total = total.checked_add(part).ok_or_else(|| format!("{text:?} is too long"))?;
        rest = behind;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// As [`parse_duration`], but not 0.
pub(crate) fn parse_positive(text: &str) -> Result<u64, String> {
    match parse_duration(text)? {
        0 => Err("must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// As [`parse_duration`]; `inf` or 0 is for ever.
pub(crate) fn parse_retention(text: &str) -> Result<u64, String> {
    if matches!(text, "inf" | "INF" | "forever") { Ok(0) } else { parse_duration(text) }
}

/// RFC 3339 in UTC, with as many digits as needed.
pub(crate) fn format_time(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The shortest form of a duration, which [`parse_duration`] reads back.
pub(crate) fn format_duration(ns: u64) -> String {
    if ns == 0 {
        return "0".to_owned();
    }
    let mut out = String::new();
    let mut rest = ns;
    // Weeks are left out: people say 30d, not 4w2d; a whole number of weeks stays short as days.
    for (unit, factor) in &UNITS[1..] {
        if rest >= *factor {
            out.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    out
}

/// As [`format_duration`]; 0 is for ever.
pub(crate) fn format_retention(ns: u64) -> String {
    if ns == 0 { "forever".to_owned() } else { format_duration(ns) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn reads_times() {
        let now = 1_700_000_000_000_000_000;
        let at = |text: &str| parse_time(text).map(|time| time.resolve(now));
        assert_eq!(at("0"), Ok(0));
        assert_eq!(at("-5"), Ok(-5));
        assert_eq!(at("1970-01-01T00:00:01.5Z"), Ok(1_500_000_000));
        assert_eq!(at("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(at("now"), Ok(now as i64));
        assert_eq!(at("now-1h"), Ok(now as i64 - HOUR));
        assert_eq!(at("now+1h30m"), Ok(now as i64 + HOUR + HOUR / 2));
        for bad in ["", "yesterday", "now-", "now1h", "now-1", "2024-05-01", "9999-01-01T00:00:00Z"]
        {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_durations() {
        assert_eq!(parse_duration("30d"), Ok(30 * 24 * HOUR as u64));
        assert_eq!(parse_duration("1d12h"), Ok(36 * HOUR as u64));
        assert_eq!(parse_duration("10us"), Ok(10_000));
        assert_eq!(parse_duration("10µs"), Ok(10_000));
        assert_eq!(parse_duration("0"), Ok(0));
        assert_eq!(parse_retention("inf"), Ok(0));
        assert!(parse_positive("0s").is_err());
        for bad in ["", "1", "h", "1y", "1.5h", "-1h", "1 h", "99999999999w", "h1"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(ns: u64, time: i64) {
            prop_assert_eq!(parse_duration(&format_duration(ns)), Ok(ns));
            prop_assert_eq!(parse_time(&format_time(time)), Ok(Time::At(time)));
        }

        #[test]
        fn no_text_panics(text in "(now)?[-+]?[0-9]{0,22}[a-zµ]{0,3}[0-9]{0,3}[a-z]{0,2}") {
            let _ = (parse_time(&text), parse_duration(&text));
        }
    }
}
