//! What can be set, one struct per subsystem.
//!
//! Invariant: every limit has a unit, a default and its trade-off written beside it; unknown keys
//! are refused. Read by whoever builds a client or a node.

mod duration;
mod transport;

pub use transport::TransportConfig;
