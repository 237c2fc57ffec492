//! What goes over the connections of a client.
//!
//! Invariant: counts are of connections that are up now, as QUIC counts them: whole datagrams, with
//! acknowledgements, probes and what was sent again. Called through [`Client::traffic`].

use std::time::Duration;

use quorate_protocol::id::NodeId;

use crate::Client;

/// One connection, since it came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeTraffic {
    /// The node.
    pub node: NodeId,
    /// Tells the connection from those before and after it.
    pub connection: u64,
    /// Bytes of UDP payload that were sent.
    pub sent_bytes: u64,
    /// Bytes of UDP payload that came.
    pub received_bytes: u64,
    /// Packets that are thought to be lost.
    pub lost_packets: u64,
    /// Bytes of UDP payload that the path takes at once, as found by probing.
    pub mtu: u16,
    /// The smoothed round trip time.
    pub rtt: Duration,
}

impl Client {
    /// The connections that are up, by node.
    #[must_use]
    pub fn traffic(&self) -> Vec<NodeTraffic> {
        self.core.pool.up().iter().map(|connection| connection.traffic()).collect()
    }
}
