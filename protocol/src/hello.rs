//! The first exchange on a connection: who is there, and what they may send each other.
//!
//! Invariant: nothing else is sent before `Welcome` has arrived, since a connection whose client
//! certificate is refused looks open to the client until then.

use serde::{Deserialize, Serialize};

use crate::{
    frame::Message,
    id::{ClusterId, MetaIndex, NodeId, Version},
};

/// The ALPN token: the major version of the protocol.
pub const ALPN: &[u8] = b"quorate/1";
/// The highest minor version this side speaks.
pub const MINOR: u16 = 0;

/// What opens a connection, from the side that dialled. Op `0x0001`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Highest minor version of the dialler.
    pub minor: u16,
    /// Optional features of the dialler, a bit set; none is defined yet.
    pub features: u64,
    /// The cluster the dialler belongs to, 0 if it has not learnt it.
    pub cluster: ClusterId,
    /// The dialler's node id, 0 for clients and for nodes that have not joined.
    pub node: NodeId,
    /// The node the dialler means to reach, 0 for whoever answers.
    pub expect: NodeId,
}

/// The answer to [`Hello`]; the connection is up when it has arrived. Op `0x8001`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The minor version both will speak: the lower of the two.
    pub minor: u16,
    /// The features both know.
    pub features: u64,
    /// The cluster of the answering node, 0 if it has not joined one.
    pub cluster: ClusterId,
    /// The answering node, 0 if it has not joined.
    pub node: NodeId,
    /// Its metadata index.
    pub meta_index: MetaIndex,
    /// The highest version of a batch it has accepted.
    pub highest_version: Version,
    /// Largest frame it reads, in bytes.
    pub max_frame: u32,
    /// Payload bytes the dialler may have unanswered on this connection.
    pub credit: u64,
}

impl Message for Hello {
    const OP: u16 = 0x0001;
}

impl Message for Welcome {
    const OP: u16 = 0x8001;
}
