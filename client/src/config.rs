//! What can be set, one struct per subsystem.
//!
//! Invariant: every limit has a unit, a default and its trade-off written beside it; unknown keys
//! are refused. Read by whoever builds a client or a node.

mod certificates;
mod duration;
mod transport;

use std::time::Duration;

use quorate_protocol::{consistency::Level, hlc::MAX_CLOCK_SKEW_NS, id::Version};

pub use certificates::CertificatesConfig;
pub use transport::TransportConfig;

/// How a client behaves. `Default` suits a service in the cluster's own network.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Encoded bytes of writes that may be under way, background work included, and 2 KiB for each part
    /// and each owner's copy of one. Default 64 MiB.
    /// A `write` waits for room until its deadline; more room rides out longer pauses of a node,
    /// at the price of memory. A client that writes takes at most this, what its callers hold (their
    /// batches, and 8 bytes for each row under way), and some 16 MiB for itself: what is queued, sent
    /// and not answered, or hinted is one and the same copy. So a stopped node costs at most this, for
    /// `mute_after`; then its share is free again.
    pub budget_bytes: usize,
    /// What one node may hold of `budget_bytes` with copies that only it still lacks, their level having been
    /// reached. Default half of `budget_bytes`. Beyond it, or when a write waits for room, the oldest of
    /// them are let go and become repair marks on a co-owner, but only if the node is slow: it has not
    /// answered for such a copy within twice `mute_after`. A node that answers in time is waited for. More
    /// rides out longer pauses of a node without marks, which repair has to make good; from `budget_bytes` on,
    /// writes must first find the budget full, and wait as long as it takes to write a mark.
    pub node_budget_bytes: Option<usize>,
    /// Rows of one encoded part at most; larger ones are split. Default 20,000.
    pub max_part_rows: usize,
    /// How far ahead of the wall clock a version seen elsewhere may be, twice over, to be adopted.
    /// Default 60 s, as on the nodes.
    pub max_clock_skew: Duration,
    /// How long a new client waits for its first map, and for each node's first connection.
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// How long a call waits for the first dials of a minority of the nodes. Default 500 ms. Longer
    /// suits slow networks; a node that is dead costs a new client this much, once.
    pub settle: Duration,
    /// How long after a write's deadline its background work goes on when no node takes a copy or
    /// a hint. Default 60 s; then the copy is abandoned, and counted.
    pub abandon_after: Duration,
    /// How long [`Client::close`](crate::Client::close) waits for copies that are under way. Default 20 s:
    /// so long takes a copy of a write of 10 s that a slow owner does not store, until it is marked for
    /// repair. Less ends sooner when no node can be reached, and gives up what is under way then.
    pub close_timeout: Duration,
    /// Encoded bytes that all pages of a query may take together. Default 64 MiB.
    pub query_bytes: usize,
    /// Bytes of decoded rows that may wait for whoever reads a query. Default 8 MiB. More evens out a
    /// reader that works in bursts. A series that is larger goes by itself.
    pub read_ahead_bytes: usize,
    /// Time for changes of metadata: new groups and fields included. Default 10 s.
    pub meta_timeout: Duration,
    /// The options that [`Client::options`](crate::Client::options) gives to those who want no others.
    pub write: WriteOptions,
    /// The client's own certificates, where the builder was given their directory.
    pub certificates: CertificatesConfig,
    /// Connections, lanes and windows.
    pub transport: TransportConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            budget_bytes: 64 << 20,
            node_budget_bytes: None,
            max_part_rows: 20_000,
            max_clock_skew: Duration::from_nanos(MAX_CLOCK_SKEW_NS),
            connect_timeout: Duration::from_secs(5),
            settle: Duration::from_millis(500),
            abandon_after: Duration::from_secs(60),
            close_timeout: Duration::from_secs(20),
            query_bytes: 64 << 20,
            read_ahead_bytes: 8 << 20,
            meta_timeout: Duration::from_secs(10),
            write: WriteOptions::default(),
            certificates: CertificatesConfig::default(),
            transport: TransportConfig::default(),
        }
    }
}

/// How one write is done.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// How many durable copies to wait for. Default quorum.
    pub consistency: Level,
    /// How long to wait for them. Default 10 s.
    pub timeout: Duration,
    /// The retention policy; none for the database's default.
    pub retention_policy: Option<String>,
    /// Nodes that keep a hint for an owner that is down; 0 for the default: 1, for `any` 2.
    pub hint_copies: usize,
    /// The version of an earlier attempt, from its receipt, when the batch is sent again: then
    /// nothing written in between is overwritten. None, the default, takes a new one.
    pub version: Option<Version>,
    /// Bytes of history at most that the receipt or the error carries: what was sent to whom, when, and how
    /// it was answered. 0, the default, keeps none and costs nothing; 64 KiB hold some 800 steps, which
    /// is enough for most writes. See [`WriteHistory`](crate::WriteHistory).
    pub history_bytes: usize,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            consistency: Level::Quorum,
            timeout: Duration::from_secs(10),
            retention_policy: None,
            hint_copies: 0,
            version: None,
            history_bytes: 0,
        }
    }
}

impl WriteOptions {
    /// The default options at this level.
    #[must_use]
    pub fn at(consistency: Level) -> Self {
        Self { consistency, ..Self::default() }
    }

    /// These options, with a history of 64 KiB.
    #[must_use]
    pub fn with_history(self) -> Self {
        Self { history_bytes: 64 << 10, ..self }
    }

    pub(crate) fn hint_copies(&self) -> usize {
        match (self.hint_copies, self.consistency) {
            (0, Level::Any) => 2,
            (0, _) => 1,
            (copies, _) => copies,
        }
    }
}
