//! A Quorate node: journal, shards, hinted handoff and metadata.

pub mod meta;
pub mod shard;
