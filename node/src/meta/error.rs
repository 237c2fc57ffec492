//! Why metadata could not do what it was asked.
//!
//! Invariant: every error has a code of the wire's registry and says what to do next. What a change
//! itself came to is not here but in [`quorate_protocol::change::Outcome`].

use quorate_protocol::{code::Code, id::NodeId};

use super::Peer;

/// Why metadata could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// A setting cannot work.
    #[error("metadata settings: {what}")]
    Config {
        /// Which and why.
        what: &'static str,
    },
    /// The node has neither bootstrapped nor joined yet.
    #[error("metadata has not started: bootstrap or join first")]
    NotStarted,
    /// Another node leads: ask that one.
    #[error("node {} at {} leads the metadata: ask it", leader.id, leader.addr)]
    Forward {
        /// The leader.
        leader: Peer,
    },
    /// Nobody is known to lead at the moment.
    #[error("no metadata leader known: try again")]
    NoLeader,
    /// No answer in time; a change may still be applied.
    #[error("no metadata answer within the deadline")]
    Deadline,
    /// The encoded command is over the limit.
    #[error("metadata command of {bytes} bytes is over the limit of {limit}: split it")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The largest size in bytes.
        limit: u32,
    },
    /// A message of a peer could not be read.
    #[error("malformed metadata message: {what}")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// The directory belongs to another node.
    #[error("metadata directory belongs to node {stored}, not to {asked}: use its own directory")]
    WrongNode {
        /// Whose it is.
        stored: NodeId,
        /// Who was asked to start.
        asked: NodeId,
    },
    /// The outcome of the first commands was a refusal.
    #[error("bootstrap refused: {detail}")]
    Refused {
        /// Why.
        code: Code,
        /// One line for people.
        detail: String,
    },
    /// The environment or its content failed.
    #[error("metadata store: {0}")]
    Store(#[from] StoreError),
    /// The Raft group has stopped, after a failure of the store or because of a shutdown.
    #[error("metadata has stopped: {0}")]
    Stopped(String),
}

impl MetaError {
    /// The code that goes over the wire.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Config { .. } | Self::WrongNode { .. } => Code::Invalid,
            Self::NotStarted => Code::NotReady,
            Self::Forward { .. } | Self::NoLeader => Code::NoLeader,
            Self::Deadline => Code::DeadlineExceeded,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Malformed { .. } => Code::Malformed,
            Self::Refused { code, .. } => *code,
            Self::Store(_) => Code::Io,
            Self::Stopped(_) => Code::ShuttingDown,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::NotStarted | Self::Forward { .. } | Self::NoLeader | Self::Deadline)
    }
}

/// Why the metadata environment could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// LMDB failed.
    #[error(transparent)]
    Lmdb(#[from] heed::Error),
    /// The directory could not be made.
    #[error("{0}")]
    Directory(#[from] std::io::Error),
    /// A checksum or an invariant does not hold.
    #[error("corrupt {what}: restore the directory, or join again as a new node")]
    Corrupt {
        /// Which record.
        what: &'static str,
    },
    /// A record could not be read or made.
    #[error("{what}: {source}")]
    Codec {
        /// Which record.
        what: &'static str,
        /// Why.
        source: postcard::Error,
    },
    /// Written by another version of the software.
    #[error("metadata format {found} is not supported: this version reads {expected}")]
    Format {
        /// What the directory says.
        found: u16,
        /// What is supported.
        expected: u16,
    },
    /// A blocking task ended without a result.
    #[error("metadata task was cancelled by a shutdown")]
    Cancelled,
}

impl From<crate::executor::Stopped> for StoreError {
    fn from(_: crate::executor::Stopped) -> Self {
        Self::Cancelled
    }
}
