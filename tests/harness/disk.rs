//! Disks that fail, for the nodes of a cluster in one process.
//!
//! Invariant: a fault is planned by a test, happens once, and is counted, so that the test can show
//! that it happened. Every member of a [`super::cluster::Cluster`] has one [`FaultDisk`]: over
//! memory in a simulation, over the real files on loopback.

pub use quorate_node::disk::{FaultDisk, Injected, Keep, MemoryDisk};

/// The part of a path that limits a fault to the journal.
pub const JOURNAL: &str = "/journal/";
/// The part of a path that limits a fault to the hint queues.
pub const HANDOFF: &str = "/handoff/";
