//! What a client holds at one moment, for whoever watches over it.
//!
//! Invariant: read from what the limits themselves are kept with, never counted beside them, so that
//! nothing can be used and not be seen here. Called through [`crate::Client`].

use quorate_protocol::id::NodeId;

use crate::{
    Client,
    pool::{PeerHandle, PeerState},
};

/// What one connection holds for requests without an answer. All zero when nothing is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionUsage {
    /// Requests on lanes that have no answer, those given up included.
    pub requests: usize,
    /// Places taken of `max_requests`, by these and by what is about to be sent.
    pub places: usize,
    /// Bytes taken of the credit that the node has granted.
    pub credit_bytes: usize,
    /// Streams of their own: scans, surveys, the one that follows the map.
    pub streams: usize,
    /// Those of them whose peer owes a frame.
    pub owed: usize,
}

/// What a client holds for one node.
#[derive(Clone, Debug)]
pub struct PeerUsage {
    /// The node.
    pub node: NodeId,
    /// Whether it can be talked to.
    pub state: PeerState,
    /// Of its connection, if it has one.
    pub connection: Option<ConnectionUsage>,
}

/// What a client holds at one moment.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Taken of `budget_bytes` by writes that are under way.
    pub budget_bytes: usize,
    /// Background tasks: copies, writers' batches, and one that follows the map.
    pub tasks: usize,
    /// Connections of its endpoint, those that are being made or taken down included.
    pub connections: usize,
    /// Of each node, by id.
    pub peers: Vec<PeerUsage>,
}

impl Client {
    /// What this client and its clones hold now. Cheap enough to be asked for every second.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let core = &self.core;
        let used = |peer: &PeerHandle| PeerUsage {
            node: peer.node(),
            state: peer.state(),
            connection: peer.connection().map(|connection| connection.usage()),
        };
        Usage {
            budget_bytes: core.config.budget_bytes.saturating_sub(core.budget.available_permits()),
            tasks: core.tasks.len(),
            connections: core.pool.dialer().endpoint().open_connections(),
            peers: core.pool.peers().iter().map(used).collect(),
        }
    }
}
