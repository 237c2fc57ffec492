//! A Quorate node: journal, shards, hinted handoff and metadata.

pub mod disk;
pub mod handoff;
pub mod journal;
pub mod meta;
pub mod poison;
pub mod segment;
pub mod shard;
