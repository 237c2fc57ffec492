//! What can go wrong with a hint.

use std::io;
use std::sync::Arc;

use quorate_protocol::id::{NodeId, Sequence};

/// Why a hint was not kept, or a queue operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoffError {
    /// The target's queue is at its limit; nothing was stored.
    #[error("the hint queue for node {target} is full ({bytes} of {limit} bytes)")]
    QueueFull {
        /// The node the hint is for.
        target: NodeId,
        /// Bytes the queue occupies.
        bytes: u64,
        /// The configured limit.
        limit: u64,
    },
    /// All queues together are at their limit; nothing was stored.
    #[error("the hint queues of this node are full ({bytes} of {limit} bytes)")]
    TotalFull {
        /// Bytes the queues occupy.
        bytes: u64,
        /// The configured limit.
        limit: u64,
    },
    /// There is no room on the disk; nothing was stored, and hints work again when there is.
    #[error("the disk of the hint queues is full; free some space")]
    DiskFull,
    /// A write, sync or read failed; a hint may or may not appear.
    #[error("a hint queue could not be written or read: {0}; check the disk")]
    Io(Arc<io::Error>),
    /// The record is larger than a queue takes; nothing was stored.
    #[error("a hint of {bytes} bytes exceeds the limit of {limit}; split the batch")]
    TooLarge {
        /// The size of the record in bytes.
        bytes: usize,
        /// The configured limit in bytes.
        limit: usize,
    },
    /// There is no queue for this node.
    #[error("there is no hint queue for node {0}")]
    NoQueue(NodeId),
    /// The record has reached its terminal state already, or was never given out.
    #[error("hint {sequence} for node {target} is not pending")]
    NotPending {
        /// The node the hint is for.
        target: NodeId,
        /// Its place in the queue.
        sequence: Sequence,
    },
    /// The queues are shutting down; nothing was stored.
    #[error("the hint queues are closed; retry when the node is up again")]
    Closed,
}

impl HandoffError {
    /// Whether nothing of the hint was or ever will be stored.
    #[must_use]
    pub fn definite(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

impl From<io::Error> for HandoffError {
    fn from(error: io::Error) -> Self {
        if crate::disk::is_full(&error) { Self::DiskFull } else { Self::Io(Arc::new(error)) }
    }
}
