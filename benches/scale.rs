//! How much a benchmark does: all that the goals ask for, as much as a short look needs, or next to nothing.

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Shows that the benchmark works; its figures mean nothing.
    Quick,
    /// A tenth: figures of the right order, which goals are not measured by.
    Short,
    /// What the goals are measured by.
    Full,
}

impl Scale {
    /// A size, given the whole one and that of a quick run.
    #[must_use]
    pub const fn of(self, full: u64, quick: u64) -> u64 {
        match self {
            Self::Quick => quick,
            Self::Short if full / 10 > quick => full / 10,
            Self::Short => quick,
            Self::Full => full,
        }
    }
}
