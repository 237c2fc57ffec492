//! What the benchmarks share: the load ([`fleet`]), the measuring of this process ([`probe`]), and how
//! results are said ([`report`]).
//!
//! The benchmarks themselves are in files of their own; `README.md` has the method and the figures.

pub mod fleet;
pub mod probe;
pub mod report;
