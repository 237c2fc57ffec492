//! What the benchmarks share: the load ([`fleet`]).
//!
//! The benchmarks themselves are in files of their own; `README.md` has the method and the figures.

pub mod fleet;
