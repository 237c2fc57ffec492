//! Places where a test can stop, fail or watch the shard store.
//!
//! Invariant: with [`NoProbe`], which every real node uses, nothing here does anything. Between two
//! neighbouring steps the store makes at most one transaction durable, so that stopping at each of
//! them in turn covers every state a crash can leave behind.

use super::error::ShardError;

/// A place in a fold, a merge, a dense pass or a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Step {
    /// A fold has taken its batches and nothing is written.
    FoldBegins,
    /// A transaction with series or blocks of an unfinished run, or of a draft, is about to be
    /// committed.
    Commit,
    /// It is committed.
    Committed,
    /// The transaction that makes a run live is about to be committed.
    Flip,
    /// The run is live; the fresh batches in it are still in memory, or the runs it replaces still
    /// have their blocks.
    Flipped,
    /// Some blocks of dead runs are deleted.
    Deleted,
    /// A dense pass has begun and nothing is written.
    DenseBegins,
    /// Its draft is complete and synced.
    DenseWritten,
    /// The draft is about to take the place of the shard's file.
    Replace,
    /// It has; the name is not synced yet.
    Replaced,
    /// A scan has taken its fresh batches and has not read anything stored yet.
    ScanBegins,
    /// A scan is about to read the next page of stored blocks.
    ScanPage,
}

/// What a test wants to happen at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The operation ends here, as if the process had been killed.
    Stop,
    /// The commit's sync fails.
    SyncFailed,
}

impl From<Fault> for ShardError {
    fn from(_: Fault) -> Self {
        Self::Interrupted
    }
}

/// Watches the steps.
pub trait Probe: Send + Sync + 'static {
    /// Called at every step; may call the store.
    ///
    /// # Errors
    /// What shall go wrong there.
    fn at(&self, step: Step) -> Result<(), Fault>;
}

/// Nothing ever goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    fn at(&self, _: Step) -> Result<(), Fault> {
        Ok(())
    }
}
