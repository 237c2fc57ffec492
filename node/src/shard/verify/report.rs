//! What a verification found.
//!
//! Invariant: `found` counts every problem, `problems` describes the first of them only, so that a
//! shard that is all rubble still has a small report. Made by [`super`], shown by the command line.

use std::fmt;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The state record cannot be read.
    State,
    /// A block's checksum or form is wrong: its rows are lost here.
    Block,
    /// A block's rows are not where its key says, or overlap those of a neighbour.
    Order,
    /// The version table of a run is missing or wrong.
    Versions,
    /// A block's statistics are not those of its values.
    Statistics,
    /// What the state record says of a run (blocks, bytes, times, versions) is not what is there.
    Run,
    /// The tables of series (by hash, by id, by key) do not agree, or rows have no series.
    Series,
    /// The index of tags does not agree with the series.
    Index,
}

impl ProblemKind {
    /// The name shown to people and used in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Block => "block",
            Self::Order => "order",
            Self::Versions => "versions",
            Self::Statistics => "statistics",
            Self::Run => "run",
            Self::Series => "series",
            Self::Index => "index",
        }
    }
}

/// A problem and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub kind: ProblemKind,
    /// Where, and more about it, for people.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

/// What was verified, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Live runs.
    pub runs: u64,
    /// Their blocks.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub bytes: u64,
    /// Rows in them, each version on its own.
    pub rows: u64,
    /// Values in these rows.
    pub values: u64,
    /// Series that have an id.
    pub series: u64,
    /// Blocks of runs that are not live: left over, to be deleted.
    pub garbage_blocks: u64,
    /// Bytes of these.
    pub garbage_bytes: u64,
    /// How many problems there are.
    pub found: u64,
    /// The first [`MAX_PROBLEMS`] of them.
    pub problems: Vec<Problem>,
}

/// How many problems a report describes.
pub const MAX_PROBLEMS: usize = 100;

impl VerifyReport {
    /// Whether everything is as it should be.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.found == 0
    }

    /// Takes over the problems of a part.
    pub(super) fn absorb(&mut self, part: Self) {
        self.found += part.found;
        let room = MAX_PROBLEMS.saturating_sub(self.problems.len());
        self.problems.extend(part.problems.into_iter().take(room));
    }

    /// Counts a problem, and describes it if it is one of the first.
    pub(super) fn problem(&mut self, kind: ProblemKind, detail: impl FnOnce() -> String) {
        self.found += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { kind, detail: detail() });
        }
    }
}
