//! placeholder

pub mod disk;
pub mod handoff;
pub mod journal;
pub mod poison;
pub mod segment;
