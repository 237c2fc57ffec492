//! What behaviour tests are made of.
//!
//! Invariant: everything here takes its seed, clock and network as parameters, so a test that fails
//! can be run again and fails alike. Used by the test binary, and by benches that need a network.

pub mod cluster;
pub mod disk;
pub mod fuzz;
pub mod gauges;
pub mod history;
pub mod hosts;
pub mod limit;
pub mod load;
pub mod net;
pub mod observe;
pub mod process;
pub mod raw;
mod seams;
pub mod shard;
pub mod small_disk;
