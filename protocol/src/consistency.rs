//! Consistency levels, and the tracker that decides when one is reached or lost.
//!
//! The tracker is a state machine without sockets or clock: the client feeds it what became of
//! each owner's copy and asks for the verdict. Invariants: an owner counts once; a hint counts
//! only for [`Level::Any`]; a verdict other than [`Verdict::Waiting`] never changes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How many durable copies a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Level {
    /// One owner's copy, or durable hints.
    Any,
    /// One owner's copy.
    One,
    /// More than half of the owners' copies.
    #[default]
    Quorum,
    /// Every owner's copy.
    All,
}

impl Level {
    /// Owner copies needed of `owners` owners; for [`Level::Any`] one, unless hints stand in.
    #[must_use]
    pub const fn required(self, owners: usize) -> usize {
        match self {
            Self::Any | Self::One => 1,
            Self::Quorum => owners / 2 + 1,
            Self::All => owners,
        }
    }

    /// The name in configuration, on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is not a consistency level.
#[derive(Debug, thiserror::Error)]
#[error("unknown consistency level {0:?}; use any, one, quorum or all")]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text.to_ascii_lowercase().as_str() {
            "any" => Ok(Self::Any),
            "one" => Ok(Self::One),
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            _ => Err(UnknownLevel(text.to_owned())),
        }
    }
}

/// What became of one owner's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// Nothing is known yet.
    Outstanding,
    /// The owner has it, durably.
    Stored,
    /// The owner will not have it from this attempt, and never got the bytes or refused them.
    Refused,
    /// The owner may or may not have it: the answer was lost.
    Lost,
}

/// Whether the level is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It still can be.
    Waiting,
    /// It is.
    Reached,
    /// It no longer can be.
    Impossible,
}

/// Counts the answers for one shard.
#[derive(Clone, Debug)]
pub struct Tracker {
    level: Level,
    copies: Vec<Copy>,
    /// Hint copies a hint-only `any` needs, and has.
    hints_needed: usize,
    hints_durable: usize,
    hints_possible: bool,
    verdict: Verdict,
}

impl Tracker {
    /// A tracker for a shard with `owners` owners. `hint_copies` is how many holders must have a
    /// hint durably before hints alone satisfy [`Level::Any`].
    #[must_use]
    pub fn new(level: Level, owners: usize, hint_copies: usize) -> Self {
        let mut tracker = Self {
            level,
            copies: vec![Copy::Outstanding; owners],
            hints_needed: hint_copies.max(1),
            hints_durable: 0,
            hints_possible: level == Level::Any,
            verdict: Verdict::Waiting,
        };
        tracker.decide();
        tracker
    }

    /// Takes note of an owner's copy. A stored copy stays stored; one whose answer was lost may be
    /// there whatever a later attempt is told, unless that one stores it.
    pub fn copy(&mut self, owner: usize, copy: Copy) -> Verdict {
        if let Some(slot) = self.copies.get_mut(owner) {
            match (*slot, copy) {
                (Copy::Stored, _) | (Copy::Lost, Copy::Refused | Copy::Outstanding) => {}
                _ => *slot = copy,
            }
        }
        self.decide()
    }

    /// Takes note of one more holder that has a hint of this batch durably.
    pub fn hinted(&mut self) -> Verdict {
        self.hints_durable += 1;
        self.decide()
    }

    /// Takes note that fewer holders are enough, as fewer nodes are live than when it began; more never are.
    pub fn hints_suffice(&mut self, copies: usize) -> Verdict {
        self.hints_needed = self.hints_needed.min(copies.max(1));
        self.decide()
    }

    /// Takes note that no further hint can be placed.
    pub fn no_more_hints(&mut self) -> Verdict {
        self.hints_possible = false;
        self.decide()
    }

    /// The verdict so far.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How many owners have their copy.
    #[must_use]
    pub fn stored(&self) -> usize {
        self.count(|copy| copy == Copy::Stored)
    }

    /// Whether nothing of this shard can appear anywhere: no copy stored, lost or on its way.
    #[must_use]
    pub fn definite(&self) -> bool {
        self.hints_durable == 0 && self.count(|copy| copy == Copy::Refused) == self.copies.len()
    }

    /// Whether the answers that are outstanding may still make it [definite](Self::definite).
    #[must_use]
    pub fn may_be_definite(&self) -> bool {
        let refused = |copy| matches!(copy, Copy::Refused | Copy::Outstanding);
        self.hints_durable == 0 && self.count(refused) == self.copies.len()
    }

    fn count(&self, is: impl Fn(Copy) -> bool) -> usize {
        self.copies.iter().filter(|copy| is(**copy)).count()
    }

    fn decide(&mut self) -> Verdict {
        if self.verdict != Verdict::Waiting {
            return self.verdict;
        }
        let required = self.level.required(self.copies.len());
        let stored = self.stored();
        let open = self.count(|copy| copy == Copy::Outstanding);
        let by_hints = self.level == Level::Any && self.hints_durable >= self.hints_needed;
        self.verdict = if self.copies.is_empty() {
            Verdict::Impossible
        } else if stored >= required || by_hints {
            Verdict::Reached
        } else if stored + open < required && !self.hints_possible {
            Verdict::Impossible
        } else {
            Verdict::Waiting
        };
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_of_three_fails_with_the_second_loss() {
        let mut tracker = Tracker::new(Level::Quorum, 3, 1);
        assert_eq!(tracker.copy(0, Copy::Lost), Verdict::Waiting);
        assert_eq!(tracker.copy(1, Copy::Refused), Verdict::Impossible);
        assert!(!tracker.definite());
    }

    #[test]
    fn a_refusal_after_a_lost_answer_is_not_definite() {
        let mut tracker = Tracker::new(Level::One, 2, 1);
        tracker.copy(0, Copy::Lost);
        tracker.copy(0, Copy::Refused);
        assert_eq!(tracker.copy(1, Copy::Refused), Verdict::Impossible);
        assert!(!tracker.definite());

        let mut tracker = Tracker::new(Level::One, 2, 1);
        tracker.copy(0, Copy::Lost);
        assert_eq!(tracker.copy(0, Copy::Stored), Verdict::Reached);
    }

    #[test]
    fn a_hint_counts_only_for_any() {
        for level in [Level::One, Level::Quorum, Level::All] {
            let mut tracker = Tracker::new(level, 1, 1);
            assert_eq!(tracker.hinted(), Verdict::Waiting);
        }
        let mut tracker = Tracker::new(Level::Any, 3, 2);
        assert_eq!(tracker.hinted(), Verdict::Waiting);
        assert_eq!(tracker.hinted(), Verdict::Reached);
        let mut tracker = Tracker::new(Level::Any, 3, 2);
        assert_eq!(tracker.hinted(), Verdict::Waiting);
        assert_eq!(tracker.hints_suffice(3), Verdict::Waiting);
        assert_eq!(tracker.hints_suffice(1), Verdict::Reached);
    }

    #[test]
    fn any_is_lost_only_when_hints_are() {
        let mut tracker = Tracker::new(Level::Any, 1, 1);
        assert_eq!(tracker.copy(0, Copy::Refused), Verdict::Waiting);
        assert_eq!(tracker.no_more_hints(), Verdict::Impossible);
        assert!(tracker.definite());
    }

    #[test]
    fn no_owners_is_impossible_at_once() {
        assert_eq!(Tracker::new(Level::One, 0, 1).verdict(), Verdict::Impossible);
    }
}
