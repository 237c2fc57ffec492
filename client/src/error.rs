//! Why a call failed, in types.
//!
//! Invariant: nothing decides by the text of an error. A write's error says for each group of rows
//! whether it can still appear ([`Certainty`]) and whether sending it again makes sense; sending
//! again is always safe.

use std::fmt;

use quorate_protocol::{
    code::{Class, Code},
    id::ShardId,
};

use crate::{builder::SetupError, history::WriteHistory, query::QueryError, receipt::Receipt};

/// Whether something that failed can still appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Nothing of it was stored or will be: it was never sent, or refused before it was appended.
    Definite,
    /// It may be stored, or appear later.
    Indefinite,
}

/// Names a row of the batch that was given to `write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// Position of the row's measurement in the batch.
    pub measurement: u32,
    /// Position of the row in its measurement, in order of arrival.
    pub row: u32,
}

/// Rows that share a fate.
#[derive(Clone, Debug)]
pub struct FailedRows {
    /// The rows, to be sent again if the caller wants them.
    pub rows: Vec<RowId>,
    /// Their shard, if it was known.
    pub shard: Option<ShardId>,
    /// Why.
    pub code: Code,
    /// Whether they can still appear.
    pub certainty: Certainty,
    /// One line for people.
    pub detail: String,
}

/// How much of a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteErrorKind {
    /// Nothing of the write was stored, and nothing will appear.
    Definite,
    /// Some rows reached their level, the rows named did not.
    Partial,
    /// No row is known to have reached its level; some may appear.
    Indefinite,
}

impl WriteErrorKind {
    /// The name in traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Definite => "definite",
            Self::Partial => "partial",
            Self::Indefinite => "indefinite",
        }
    }
}

/// A write that did not reach its level everywhere.
#[derive(Debug)]
pub struct WriteError {
    /// What stands nevertheless: parts that reached their level, and what is known of the others.
    pub receipt: Box<Receipt>,
    /// What failed.
    pub failed: Vec<FailedRows>,
}

impl WriteError {
    /// How much of it failed.
    #[must_use]
    pub fn kind(&self) -> WriteErrorKind {
        if self.receipt.parts.iter().any(|part| part.reached) {
            WriteErrorKind::Partial
        } else if self.failed.iter().all(|rows| rows.certainty == Certainty::Definite) {
            WriteErrorKind::Definite
        } else {
            WriteErrorKind::Indefinite
        }
    }

    /// The rows that failed, as positions in the batch: those that [`Client::resend`] sends again.
    ///
    /// [`Client::resend`]: crate::Client::resend
    pub fn rows(&self) -> impl Iterator<Item = RowId> {
        self.failed.iter().flat_map(|failed| failed.rows.iter().copied())
    }

    /// What was done step by step, if `WriteOptions::history_bytes` asked for it.
    #[must_use]
    pub const fn history(&self) -> Option<&WriteHistory> {
        self.receipt.history.as_ref()
    }

    /// The first failure's code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.failed.first().map_or(Code::Internal, |rows| rows.code)
    }

    /// Whether sending the failed rows again may succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.failed.iter().any(|rows| rows.code.class() != Class::Never)
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: usize = self.failed.iter().map(|failed| failed.rows.len()).sum();
        let what = match self.kind() {
            WriteErrorKind::Definite => "nothing was written",
            WriteErrorKind::Partial => "partly written",
            WriteErrorKind::Indefinite => "may or may not have been written",
        };
        write!(f, "{what}: {rows} rows failed")?;
        for failed in self.failed.iter().take(3) {
            write!(f, "; {}", failed.code)?;
            if !failed.detail.is_empty() {
                write!(f, ": {}", failed.detail)?;
            }
        }
        if self.failed.len() > 3 {
            write!(f, "; and {} more reasons", self.failed.len() - 3)?;
        }
        Ok(())
    }
}

impl std::error::Error for WriteError {}

/// Why a call other than a write failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A client cannot be made of what was given; nothing was dialled.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// This cannot be asked; nothing was sent.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// No seed answered.
    #[error("no node reachable at {seeds}: {reason}")]
    Unreachable {
        /// What was dialled.
        seeds: String,
        /// The last reason.
        reason: String,
    },
    /// A node, or the client itself, refused.
    #[error("{code}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Refused {
        /// Why.
        code: Code,
        /// One line for people.
        detail: String,
    },
    /// Too few owners of a shard answered for the read level.
    #[error("shard {shard} has {answered} of {required} owners readable: {reason}")]
    ReadLevel {
        /// The shard.
        shard: ShardId,
        /// How many answered.
        answered: usize,
        /// How many the level needs.
        required: usize,
        /// Why the last one that was asked did not; `Busy`, for one, passes in a moment.
        code: Code,
        /// The same for people.
        reason: String,
    },
    /// The client has been closed.
    #[error("the client is closed")]
    Closed,
}

impl Error {
    pub(crate) fn refused(code: Code, detail: impl Into<String>) -> Self {
        Self::Refused { code, detail: detail.into() }
    }

    /// The code of the failure.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Refused { code, .. } | Self::ReadLevel { code, .. } => *code,
            Self::Unreachable { .. } => Code::DeadlineExceeded,
            Self::Closed => Code::ShuttingDown,
            Self::Setup(_) => Code::Malformed,
            Self::Query(_) => Code::Invalid,
        }
    }

    /// Whether asking again may succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            // Asked again, the client reads the shards of a newer map.
            Self::ReadLevel { code: Code::ShardGone, .. } => true,
            other => other.code().class() != Class::Never,
        }
    }
}
