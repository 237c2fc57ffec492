//! Newtypes for everything that is named by a number.
//!
//! Invariant: an id is given once, by metadata, and never reused; what is written on a disk or sent
//! over the wire names databases, policies, shards and fields by these, never by position or name.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    )*};
}

ids! {
    /// A node, given by metadata at join and bound to the node's name. 0 means "none yet".
    NodeId(u64);
    /// A database.
    DatabaseId(u32);
    /// A retention policy; unique across databases.
    PolicyId(u32);
    /// A shard group; unique across policies.
    GroupId(u64);
    /// A shard; unique across groups.
    ShardId(u64);
    /// A field of a measurement of a database; unique across both.
    FieldId(u32);
    /// How often a shard's owners have changed.
    Epoch(u32);
    /// The index of the last metadata command a state includes.
    MetaIndex(u64);
    /// A hybrid logical clock value in nanoseconds since the Unix epoch; see [`crate::hlc`].
    Version(u64);
    /// The position of a record in a journal or a hint queue, from 1, without gaps reused.
    Sequence(u64);
    /// One `write` call's part for one shard; kept on every resend.
    BatchId(u128);
    /// A cluster, drawn at bootstrap. 0 means "not known yet".
    ClusterId(u128);
}
