//! Regular expressions of tag conditions, compiled within bounds.
//!
//! Invariant: what compiles here compiles on every node of this version, since nodes call this too; matching
//! takes time in proportion to the value, and a pattern that is long or unfolds to something large is refused
//! by whoever meets it first.

use quorate_protocol::message::MAX_PATTERN_BYTES;
use regex::bytes::{Regex, RegexBuilder};

/// Bytes of a compiled pattern at most. The time for a byte of a tag's value grows with it in the worst case: some
/// 10 µs at this size.
const MAX_COMPILED_BYTES: usize = 256 << 10;
/// How deep groups may nest.
const MAX_NESTING: u32 = 64;

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It is longer than [`MAX_PATTERN_BYTES`].
    #[error("a pattern of {bytes} bytes is too long: at most {MAX_PATTERN_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It unfolds to more than nodes compile, as `(a{100}){100}` does.
    #[error("{pattern:?} is too large once its repetitions are unfolded")]
    TooLarge {
        /// The pattern.
        pattern: String,
    },
    /// It is no regular expression.
    #[error("{pattern:?} is no regular expression: {reason}")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// Where and why, on one line.
        reason: String,
    },
}

/// Compiles a pattern, which matches anywhere in a value.
///
/// # Errors
/// As [`PatternError`] says.
pub fn compile(pattern: &str) -> Result<Regex, PatternError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::TooLong { bytes: pattern.len() });
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(MAX_COMPILED_BYTES).nest_limit(MAX_NESTING);
    builder.build().map_err(|error| {
        let pattern = pattern.to_owned();
        match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge { pattern },
            other => {
                // The library draws the pattern with a mark below it; the last line says why.
                let text = other.to_string();
                let reason = text.lines().last().unwrap_or_default();
                let reason = reason.trim_start_matches("error: ").to_owned();
                PatternError::Syntax { pattern, reason }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn useful_patterns_compile_and_absurd_ones_do_not() {
        let hosts: Vec<String> = (0..300).map(|n| format!("host-{n:04}")).collect();
        for good in ["^web[0-9]+$", r"^\w+-\d{1,4}\.example\.com$", "(?i)eu|us", &hosts.join("|")] {
            assert!(compile(good).is_ok(), "{good}");
        }
        let long = "a".repeat(MAX_PATTERN_BYTES + 1);
        assert_eq!(compile(&long).unwrap_err(), PatternError::TooLong { bytes: long.len() });
        for large in ["(a{100}){100}", r"\w{200}", "((((a{9}){9}){9}){9}){9}"] {
            assert!(matches!(compile(large), Err(PatternError::TooLarge { .. })), "{large}");
        }
        let deep = format!("{}a{}", "(".repeat(200), ")".repeat(200));
        assert!(matches!(compile(&deep), Err(PatternError::Syntax { .. })));
        let Err(PatternError::Syntax { reason, .. }) = compile("(") else { panic!() };
        assert_eq!(reason, "unclosed group");
    }
}
