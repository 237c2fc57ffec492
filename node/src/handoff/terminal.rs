//! How a hint ends, and why.
//!
//! Invariant: each (target, sequence) ends exactly once, in exactly one of these ways. The codes
//! are stored in account files and are never reused.

use std::fmt;

use serde::{Serialize, Serializer};

/// The end of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Terminal {
    /// The target, or its successor, has it.
    Delivered,
    /// Kept aside in the queue's `quarantine/` with the reason.
    Quarantined(QuarantineReason),
    /// Given up at the age limit; a repair mark stands for it.
    Expired,
    /// Not needed any more.
    Discarded(DiscardReason),
}

/// Why a hint was kept aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuarantineReason {
    /// Its bytes on this node's disk were damaged.
    Damaged,
    /// An `any` acknowledgement rests on it and it reached the age limit.
    TooOld,
    /// The target refused it for good with this error code of the wire protocol.
    Refused(u16),
}

/// Why a hint was not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiscardReason {
    /// Its database, policy or shard was dropped.
    ShardGone,
    /// It was accepted again by a queue for the current owner.
    Retargeted,
    /// Its target left the cluster and nobody took its place.
    TargetGone,
    /// An operator dropped it.
    Dropped,
    /// The account file of the queue was lost; how it ended is not known.
    Unaccounted,
}

impl Terminal {
    /// The stored form: class in the upper half, detail in the lower.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Delivered => 0x0001_0000,
            Self::Quarantined(QuarantineReason::Damaged) => 0x0002_0000,
            Self::Quarantined(QuarantineReason::TooOld) => 0x0002_0001,
            Self::Quarantined(QuarantineReason::Refused(code)) => 0x0003_0000 | u32::from(code),
            Self::Expired => 0x0004_0000,
            Self::Discarded(DiscardReason::ShardGone) => 0x0005_0000,
            Self::Discarded(DiscardReason::Retargeted) => 0x0005_0001,
            Self::Discarded(DiscardReason::TargetGone) => 0x0005_0002,
            Self::Discarded(DiscardReason::Dropped) => 0x0005_0003,
            Self::Discarded(DiscardReason::Unaccounted) => 0x0005_0004,
        }
    }

    /// Reads the stored form; `None` for a code of a later version.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match (code >> 16, code & 0xffff) {
            (1, 0) => Self::Delivered,
            (2, 0) => Self::Quarantined(QuarantineReason::Damaged),
            (2, 1) => Self::Quarantined(QuarantineReason::TooOld),
            (3, detail) => Self::Quarantined(QuarantineReason::Refused(detail as u16)),
            (4, 0) => Self::Expired,
            (5, 0) => Self::Discarded(DiscardReason::ShardGone),
            (5, 1) => Self::Discarded(DiscardReason::Retargeted),
            (5, 2) => Self::Discarded(DiscardReason::TargetGone),
            (5, 3) => Self::Discarded(DiscardReason::Dropped),
            (5, 4) => Self::Discarded(DiscardReason::Unaccounted),
            _ => return None,
        })
    }
}

impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered => f.write_str("delivered"),
            Self::Expired => f.write_str("expired"),
            Self::Quarantined(reason) => reason.fmt(f),
            Self::Discarded(reason) => reason.fmt(f),
        }
    }
}

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("damaged"),
            Self::TooOld => f.write_str("too old"),
            Self::Refused(code) => write!(f, "refused with code {code}"),
        }
    }
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShardGone => "shard gone",
            Self::Retargeted => "retargeted",
            Self::TargetGone => "target gone",
            Self::Dropped => "dropped by an operator",
            Self::Unaccounted => "unaccounted",
        })
    }
}

impl Serialize for Terminal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back() {
        let quarantined = [
            QuarantineReason::Damaged,
            QuarantineReason::TooOld,
            QuarantineReason::Refused(0),
            QuarantineReason::Refused(u16::MAX),
        ];
        let discarded = [
            DiscardReason::ShardGone,
            DiscardReason::Retargeted,
            DiscardReason::TargetGone,
            DiscardReason::Dropped,
            DiscardReason::Unaccounted,
        ];
        let all = [Terminal::Delivered, Terminal::Expired]
            .into_iter()
            .chain(quarantined.map(Terminal::Quarantined))
            .chain(discarded.map(Terminal::Discarded));
        for terminal in all {
            assert_eq!(Terminal::from_code(terminal.code()), Some(terminal), "{terminal}");
        }
        assert_eq!(Terminal::from_code(0), None);
        assert_eq!(Terminal::from_code(0x0006_0000), None);
    }
}
