//! What can be set about what peers may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of what peers may take of a node: one address before anybody knows who it is, one certificate
/// afterwards, and all of them together. Those of a single connection are in `[transport]`. Nodes
/// of the cluster count for connections and handshakes only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections from one address at once, handshakes included. Default 512. An IPv6 address
    /// counts with its /64 network. More are refused; where many clients share an address (NAT), raise it.
    pub address_connections: u32,
    /// Handshakes from one address at once. Default 64. More are refused; counted apart for those that have
    /// proven the address and those that have not, so that forged packets shut nobody out.
    pub address_handshakes: u32,
    /// Handshakes that one address may begin per second, `address_burst` times as many at once. Default 50; 0
    /// for no limit. A handshake costs a node about a millisecond of its processor.
    pub address_handshakes_per_s: u32,
    /// See `address_handshakes_per_s`. Default 4, at least 1. More lets the many clients of one address come back
    /// at once after a restart; as much can be forced upon the node by whoever dials from one address.
    pub address_burst: u32,
    /// Addresses that are remembered at once, about 100 bytes each. Default 16,384, at least 1. One is forgotten
    /// when it has no connection and might begin its whole burst again. While none can be, further ones are refused.
    pub addresses: u32,
    /// Handshakes in progress from which on new peers must prove their address (a QUIC Retry, one round
    /// trip more) before they cost anything. Default 64; 0 asks it of everybody.
    pub retry_handshakes: u32,
    /// Connections with one certificate's name at once. Default 256. More are refused.
    pub peer_connections: u32,
    /// Streams that clients with one certificate may open per second, and as many at once. Default 2,000; 0 for
    /// no limit. More wait. A page of a query is a stream, a write is not.
    pub peer_streams_per_s: u32,
    /// Requests that clients with one certificate may make per second, and as many at once. Default 100,000; 0
    /// for no limit. More wait. Bounds the processor that one of them can take with requests that cost little.
    pub peer_requests_per_s: u32,
    /// Requests of all clients that are not answered. Default 16,384. One costs up to some 20 KiB while it is
    /// worked on. More hear "busy".
    pub requests: u32,
    /// The part of `requests` that clients with one certificate may have. Default 4,096.
    pub peer_requests: u32,
    /// Bytes of requests of all clients that have begun to arrive and are not answered. Default 256 MiB. When
    /// they are used up, clients are read no further, or hear "busy".
    pub request_bytes: u32,
    /// The part of `request_bytes` that clients with one certificate may have. Default 64 MiB; at
    /// least one largest frame.
    pub peer_request_bytes: u32,
    /// Bytes of answers to all clients that wait to be sent. Default 128 MiB. Further answers wait.
    pub answer_bytes: u32,
    /// The part of `answer_bytes` that clients with one certificate may have. Default 32 MiB; at least one
    /// largest frame.
    pub peer_answer_bytes: u32,
    /// Queries of all clients that are worked on at once. Default 128. Others wait for their turn; more use
    /// more memory, and disturb writes more.
    pub queries: u32,
    /// The part of `queries` that clients with one certificate may have. Default 32.
    pub peer_queries: u32,
    /// QUIC windows of all clients together, in bytes: what was received and not yet read, and as much
    /// again of what was sent and not yet acknowledged. Default 512 MiB. Each connection gets a
    /// sixteenth of what is left, up to the windows of `[transport]`, and 256 KiB at least.
    pub window_bytes: u32,
    /// A peer that takes or sends less than `stall_bytes` of what it has begun within this time, in
    /// milliseconds, is closed. Default 10,000. Longer tolerates longer pauses of the network, and of peers.
    pub stall_ms: u64,
    /// See `stall_ms`. Default 16 KiB. Less lets slower networks in; more drops sooner who only pretends.
    pub stall_bytes: u32,
    /// A client that has asked nothing for so long is closed, in seconds. Default 900; 0 for never. It
    /// comes back by itself. Those that follow the cluster map or a policy always ask.
    pub idle_s: u64,
    /// Lines about peers that were refused or closed, in the log in 10 s. Default 50; 0 for none. How many were
    /// left out is said with the next one. The metrics count all of them.
    pub log_lines: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            address_connections: 512,
            address_handshakes: 64,
            address_handshakes_per_s: 50,
            address_burst: 4,
            addresses: 16_384,
            retry_handshakes: 64,
            peer_connections: 256,
            peer_streams_per_s: 2_000,
            peer_requests_per_s: 100_000,
            requests: 16_384,
            peer_requests: 4_096,
            request_bytes: 256 << 20,
            peer_request_bytes: 64 << 20,
            answer_bytes: 128 << 20,
            peer_answer_bytes: 32 << 20,
            queries: 128,
            peer_queries: 32,
            window_bytes: 512 << 20,
            stall_ms: 10_000,
            stall_bytes: 16 << 10,
            idle_s: 900,
            log_lines: 50,
        }
    }
}

impl LimitsConfig {
    pub(crate) fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms.max(1))
    }

    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.idle_s > 0).then(|| Duration::from_secs(self.idle_s))
    }
}
