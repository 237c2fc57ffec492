//! What the benchmarks share: the load ([`fleet`]), the measuring of this process ([`probe`]), and how
//! results are said ([`report`]).
//!
//! The benchmarks themselves are in files of their own; `README.md` has the method and the figures.

mod parts;
pub mod probe;
pub mod report;

/// The load: a fleet of hosts that report their CPUs.
pub mod fleet {
    pub use quorate_node::fleet::*;

    pub use crate::parts::*;
}
