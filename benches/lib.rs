//! What the benchmarks share: the load ([`fleet`]), the measuring of this process ([`probe`]), how
//! results are said ([`report`]), and how much is done ([`scale`]).
//!
//! The benchmarks themselves are in files of their own; `README.md` has the method and the figures.

mod parts;
pub mod probe;
pub mod report;
pub mod scale;

/// The load: a fleet of hosts that report their CPUs.
pub mod fleet {
    pub use quorate_node::fleet::*;

    pub use crate::parts::*;
}
