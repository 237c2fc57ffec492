//! What can go wrong with the journal.
//!
//! Invariant: an error is either definite (nothing of the record can ever appear) or says that it
//! is not; the session turns that into a definite or an indefinite answer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use quorate_protocol::id::NodeId;

use crate::poison::Poisoned;

/// Why a record was not stored.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is no room; nothing was stored, and appends work again when there is.
    #[error("the journal's disk is full; free some space")]
    DiskFull,
    /// As much waits for the disk as may; nothing of this record was written.
    #[error("the journal is busy; retry in {retry_after_ms} ms")]
    Busy {
        /// When to come back, in milliseconds.
        retry_after_ms: u32,
    },
    /// This record's write or sync failed: it may or may not appear after a restart.
    #[error("the journal could not be written: {0}; check the disk, then restart the node")]
    Io(Arc<io::Error>),
    /// An earlier write or sync failed; nothing of this record was written.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// The record is larger than the journal takes; split the batch.
    #[error("a record of {bytes} bytes exceeds the journal's limit of {limit}; split the batch")]
    TooLarge {
        /// The size of the record in bytes.
        bytes: usize,
        /// The configured limit in bytes.
        limit: usize,
    },
    /// The journal is shutting down; nothing of this record was written.
    #[error("the journal is closed; retry when the node is up again")]
    Closed,
}

impl JournalError {
    /// Whether nothing of the record was or ever will be stored.
    #[must_use]
    pub fn definite(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

/// Why a journal could not be opened. Damage inside it is no reason: see
/// [`Recovery`](super::Recovery).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalOpenError {
    /// The directory or a file in it could not be read or written.
    #[error("cannot open the journal at {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The files belong to another node.
    #[error("{path} belongs to node {found}, not to node {expected}; give this node its own data")]
    OtherNode {
        /// The segment file.
        path: PathBuf,
        /// The node named in it.
        found: NodeId,
        /// The node that tried to open it.
        expected: NodeId,
    },
    /// The files are of a newer version of Quorate.
    #[error("{path} has journal format {found}, newer than {known}; run a newer quorate")]
    NewerFormat {
        /// The segment file.
        path: PathBuf,
        /// The version in the file.
        found: u16,
        /// The newest version this program knows.
        known: u16,
    },
}
