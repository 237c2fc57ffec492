//! Shard storage.

pub(crate) mod env;
