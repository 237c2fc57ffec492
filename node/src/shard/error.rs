//! What can go wrong in the shard store.
//!
//! Invariant: whoever gets one of these can tell by its type whether to wait, to give up, or to
//! ask somebody else; the text is for people only. Returned by everything public in [`super`].

use std::{io, path::PathBuf, sync::Arc};

use quorate_protocol::id::ShardId;

pub use super::env::EnvError;

/// Why a shard could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// A file or directory.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// An LMDB environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A newer release wrote this directory; nothing in it was touched.
    #[error(
        "{} has shard format {found}, this release knows up to {supported}; start a newer release",
        path.display()
    )]
    NewerFormat {
        /// The shard's directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this release knows.
        supported: u32,
    },
    /// Not a shard's directory, or a damaged one.
    #[error("{} is not a usable shard directory ({why}); move it away and restart", path.display())]
    BadDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The shard was dropped.
    #[error("shard {0} was dropped")]
    Gone(ShardId),
    /// A sync of the shard's environment failed; its journal records are kept.
    #[error(
        "shard {shard} stopped after a disk failure ({cause}); check the disk, then restart the node"
    )]
    Poisoned {
        /// The shard.
        shard: ShardId,
        /// The first failure.
        cause: Arc<str>,
    },
    /// A digest was asked for in too small buckets.
    #[error("the digest has more than {limit} buckets; ask for larger ones or a shorter time")]
    TooManyBuckets {
        /// How many there may be.
        limit: usize,
    },
    /// The store was closed, or a task of it died.
    #[error("the shard store is closed")]
    Closed,
    /// A test asked for the operation to stop here.
    #[error("interrupted by a test")]
    Interrupted,
}

impl ShardError {
    /// Whether the same call may succeed later without anybody's help.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Env(EnvError::Full { .. } | EnvError::ReadersFull { .. }) | Self::Io { .. }
        )
    }

    /// Whether it stands until somebody has seen to the files: they are damaged, or not ours, or may
    /// not be what was synced. Anything else may pass by itself.
    pub(super) fn lasts(&self) -> bool {
        match self {
            Self::BadDirectory { .. } | Self::NewerFormat { .. } => true,
            Self::Env(error) => error.lasts(),
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
            }
            _ => false,
        }
    }
}

/// Why a batch is not taken in right now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// Too much fresh data is waiting to be folded.
    #[error("too much unfolded data; retry in {retry_after_ms} ms")]
    Busy {
        /// When to come back, in milliseconds.
        retry_after_ms: u32,
    },
    /// What is stored of the shard could not be looked at since the start.
    #[error("shard {shard} cannot be opened yet; retry in {retry_after_ms} ms")]
    Unread {
        /// The shard.
        shard: ShardId,
        /// When to come back, in milliseconds.
        retry_after_ms: u32,
    },
    /// A sync of the shard's environment failed.
    #[error("shard {0} stopped after a disk failure; check the disk, then restart the node")]
    Poisoned(ShardId),
    /// The shard was dropped.
    #[error("shard {0} was dropped")]
    Gone(ShardId),
}

/// A late record for a dropped shard; it may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {0} was dropped")]
pub struct ShardGone(pub ShardId);

/// Why a scan has an incomplete answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A stored block is damaged: its rows are missing here and must be read elsewhere. The scan
    /// can go on and yields what is intact.
    #[error("shard {shard} lost rows of {} from {from} to {to} to a damaged block; repair it from a peer", key.escape_ascii())]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// The series.
        key: bytes::Bytes,
        /// First time that may be missing, in ns.
        from: i64,
        /// The time behind the last that may be missing, in ns.
        to: i64,
    },
    /// The scan cannot go on.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

impl From<EnvError> for ScanError {
    fn from(error: EnvError) -> Self {
        Self::Shard(error.into())
    }
}

impl From<crate::executor::Stopped> for ShardError {
    fn from(_: crate::executor::Stopped) -> Self {
        Self::Closed
    }
}
