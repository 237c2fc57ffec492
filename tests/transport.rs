//! Connections between clients and nodes: what they promise when all is well and when nothing is.
//!
//! Most tests run on the simulated network under a paused clock, so that a second of silence costs
//! no second; those that need the real system say so.

mod access;
mod certificates;
mod hostile;
mod limits;
mod network;
mod pool;
mod refused;
mod renewal;
mod requests;
mod spec;
mod streams;
mod versions;
mod world;

#[path = "../protocol/tests/spec/mod.rs"]
pub mod document;
