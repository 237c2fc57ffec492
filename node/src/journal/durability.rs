//! When an append is answered: after its sync, or before.
//!
//! Invariant: what an operator writes, `commit` or `interval(50ms)`, reads back as it was written;
//! anything else is a typed error. Part of the node's configuration, obeyed by [`super::log`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The shortest interval; below it, `commit` costs no more.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest interval.
const LONGEST: Duration = Duration::from_secs(60);

/// When an append is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Durability {
    /// After the sync of its group: what was answered survives a power cut. The default.
    #[default]
    Commit,
    /// Once the operating system has it: what was answered survives the end of the process. A
    /// sync begins at most this much later, so a power cut or a crash of the system may cost what
    /// was answered in that time, on every replica that was hit.
    Interval(Duration),
}

/// Why a text is no durability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurabilityError {
    /// Neither of the two forms.
    #[error("durability {0:?} is neither \"commit\" nor \"interval(D)\", such as interval(50ms)")]
    Unknown(String),
    /// The part in brackets is no duration.
    #[error("{0:?} is no interval; give a whole number and ms or s, such as interval(50ms)")]
    NotADuration(String),
    /// Too short or too long.
    #[error("a sync interval must be from 1ms to 60s, not {0}")]
    OutOfRange(String),
}

impl Durability {
    /// The interval in milliseconds; 0 for [`Commit`](Self::Commit).
    #[must_use]
    pub fn interval_ms(self) -> u32 {
        match self {
            Self::Commit => 0,
            Self::Interval(every) => u32::try_from(every.as_millis()).unwrap_or(u32::MAX).max(1),
        }
    }
}

impl FromStr for Durability {
    type Err = DurabilityError;

    fn from_str(text: &str) -> Result<Self, DurabilityError> {
        let trimmed = text.trim();
        if trimmed == "commit" {
            return Ok(Self::Commit);
        }
        let inner = trimmed.strip_prefix("interval(").and_then(|rest| rest.strip_suffix(')'));
        let inner = inner.ok_or_else(|| DurabilityError::Unknown(text.to_owned()))?.trim();
        let (number, unit_ms) = match (inner.strip_suffix("ms"), inner.strip_suffix('s')) {
            (Some(number), _) => (number, 1),
            (None, Some(number)) => (number, 1000),
            (None, None) => return Err(DurabilityError::NotADuration(inner.to_owned())),
        };
        // `parse` alone would take a sign.
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DurabilityError::NotADuration(inner.to_owned()));
        }
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
        millis
            .map(Duration::from_millis)
            .filter(|every| (SHORTEST..=LONGEST).contains(every))
            .map(Self::Interval)
            .ok_or_else(|| DurabilityError::OutOfRange(inner.to_owned()))
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => f.write_str("commit"),
            Self::Interval(every) => write!(f, "interval({}ms)", every.as_millis()),
        }
    }
}

impl TryFrom<String> for Durability {
    type Error = DurabilityError;

    fn try_from(text: String) -> Result<Self, DurabilityError> {
        text.parse()
    }
}

impl From<Durability> for String {
    fn from(durability: Durability) -> Self {
        durability.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_everything_else_says_why_not() {
        let every = |millis| Ok(Durability::Interval(Duration::from_millis(millis)));
        assert_eq!("commit".parse(), Ok(Durability::Commit));
        for (text, millis) in [("interval(50ms)", 50), (" interval( 2s ) ", 2000)] {
            assert_eq!(text.parse(), every(millis), "{text}");
        }
        for millis in [1, 999, 60_000] {
            let durability = Durability::Interval(Duration::from_millis(millis));
            assert_eq!(durability.to_string().parse(), Ok(durability));
        }
        use DurabilityError::{NotADuration, OutOfRange, Unknown};
        let error = |text: &str| text.parse::<Durability>().unwrap_err();
        for text in ["", "Commit", "interval", "interval 50ms", "interval(50ms", "none"] {
            assert_eq!(error(text), Unknown(text.to_owned()));
        }
        for inner in ["", "50", "ms", "+5ms", "-5ms", "5 ms", "5m", "0.5s", "5us"] {
            assert_eq!(error(&format!("interval({inner})")), NotADuration(inner.to_owned()));
        }
        for inner in ["0ms", "0s", "61s", "60001ms", "99999999999999999999s"] {
            assert_eq!(error(&format!("interval({inner})")), OutOfRange(inner.to_owned()));
        }
    }
}
