//! A Quorate node: journal, shards, hinted handoff and metadata.

pub mod shard;
