//! The registries of numbers that say why: error codes in replies, and close codes of connections.
//!
//! Invariant: a number is never reused and never changes its class; nothing anywhere decides by
//! the text of a message. Every error enum of the client and the node maps to a [`Code`].

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Ask the same node again, after the time it named if it named one.
    Retry,
    /// Another node may be able to do it.
    RetryElsewhere,
    /// The caller's or the node's view of the metadata is old: refresh, then route again.
    RefreshMeta,
    /// The same request will never succeed.
    Never,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $class:ident, $text:literal;)*) => {
        /// Why a request failed. The numbers are on the wire (`SPEC.md`, section "Error codes").
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A code this version does not know; treated as [`Class::RetryElsewhere`].
            Unknown(u16),
        }

        impl Code {
            /// Every code this version knows, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$name => $value,)*
                    Self::Unknown(number) => number,
                }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($value => Self::$name,)*
                    other => Self::Unknown(other),
                }
            }

            /// What a caller can do about it.
            #[must_use]
            pub const fn class(self) -> Class {
                match self {
                    $(Self::$name => Class::$class,)*
                    Self::Unknown(_) => Class::RetryElsewhere,
                }
            }

            /// The name in `SPEC.md`, for labels of metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::Unknown(_) => "Unknown",
                }
            }

            /// A short phrase for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unknown(_) => "unknown error",
                }
            }
        }
    };
}

codes! {
    /// The frame or its body could not be read.
    Malformed = 1, Never, "malformed request";
    /// The op is not known to the receiver.
    Unsupported = 2, Never, "operation not supported by this version";
    /// Larger than a limit of the receiver.
    TooLarge = 3, Never, "larger than the receiver's limit";
    /// The peer's certificate does not allow this op.
    Unauthorised = 4, Never, "not allowed for this certificate";
    /// No answer within the deadline.
    DeadlineExceeded = 10, Retry, "deadline exceeded";
    /// The receiver is full; the reply says when to come back.
    Busy = 11, Retry, "busy";
    /// The request was cancelled by its sender.
    Cancelled = 12, Retry, "cancelled";
    /// The node is stopping.
    ShuttingDown = 13, RetryElsewhere, "node is shutting down";
    /// A failed sync stopped this node's writes until it is restarted.
    Poisoned = 14, RetryElsewhere, "journal is poisoned by a failed sync; restart the node";
    /// No space left on the node's disk.
    DiskFull = 15, RetryElsewhere, "disk full";
    /// The node's disk failed.
    Io = 16, RetryElsewhere, "input/output error";
    /// A defect or an unexpected state of the node.
    Internal = 17, RetryElsewhere, "internal error";
    /// The batch was resolved against metadata the node has not seen and could not fetch in time.
    StaleMeta = 20, RefreshMeta, "metadata out of date";
    /// The node does not own the shard.
    NotOwner = 21, RefreshMeta, "node does not own the shard";
    /// The shard's owners have changed since the epoch of the request.
    StaleEpoch = 22, RefreshMeta, "shard epoch out of date";
    /// The shard, its policy or its database has been dropped.
    ShardGone = 23, Never, "shard was dropped";
    /// There is no Raft leader at the moment.
    NoLeader = 24, Retry, "no metadata leader";
    /// The node has not finished starting or joining.
    NotReady = 25, Retry, "node is not ready";
    /// Too few of a shard's owners are up for the level that was asked for.
    Unavailable = 26, RetryElsewhere, "not enough owners are up";
    /// The shard's group is being truncated, and these times may come to lie outside of it.
    GroupClosing = 27, Retry, "shard group is being truncated";
    /// A checksum or an invariant of the batch does not hold.
    Corrupt = 30, Never, "corrupt batch";
    /// A field was written with another type than the registered one.
    TypeConflict = 31, Never, "field type conflict";
    /// The batch's version is too far ahead of the node's clock.
    ClockSkew = 32, Never, "client clock too far ahead";
    /// A point's time is too far in the future.
    FutureTime = 33, Never, "time too far in the future";
    /// A limit of the database or of the request.
    LimitExceeded = 34, Never, "limit exceeded";
    /// A batch's time range is not inside its shard's group.
    OutOfGroup = 35, Never, "time outside the shard's group";
    /// The part would add a series to a database that has all the series it may have.
    SeriesLimit = 36, Never, "series limit of the database reached";
    /// No such database.
    DatabaseNotFound = 40, Never, "database not found";
    /// No such retention policy.
    PolicyNotFound = 41, Never, "retention policy not found";
    /// The name is taken by something different.
    AlreadyExists = 42, Never, "already exists";
    /// A name or a value that is not allowed.
    Invalid = 43, Never, "invalid argument";
    /// There is no data node to own a shard.
    NoNodes = 44, Retry, "no data nodes";
    /// No such node.
    NodeNotFound = 45, Never, "node not found";
    /// The hint queue is at its size limit.
    QueueFull = 50, RetryElsewhere, "hint queue full";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "unknown error {number}"),
            known => f.write_str(known.text()),
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.number())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u16::deserialize(deserializer).map(Self::from_number)
    }
}

/// Why a connection was closed: the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// Nothing is wrong.
    Done = 0,
    /// The peer is stopping.
    Shutdown = 1,
    /// A frame broke the protocol.
    Protocol = 2,
    /// No common minor version.
    Version = 3,
    /// The peers belong to different clusters.
    WrongCluster = 4,
    /// Not the node that was dialled.
    WrongNode = 5,
    /// The certificate does not allow the connection.
    Unauthorised = 6,
    /// Over a limit.
    Overloaded = 7,
    /// A newer connection of the same peer replaces this one.
    Superseded = 8,
}

impl Close {
    /// The close code with this number; unknown ones read as [`Close::Protocol`].
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Shutdown,
            3 => Self::Version,
            4 => Self::WrongCluster,
            5 => Self::WrongNode,
            6 => Self::Unauthorised,
            7 => Self::Overloaded,
            8 => Self::Superseded,
            _ => Self::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_read_back() {
        let mut numbers: Vec<u16> = Code::ALL.iter().map(|code| code.number()).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), Code::ALL.len());
        assert!(numbers.is_sorted());
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
        }
        assert_eq!(Code::from_number(9999), Code::Unknown(9999));
    }
}
