//! The one test binary: one module per behaviour.

mod crash;
mod determinism;
mod full;
mod garbage;
mod hints;
mod levels;
mod limits;
mod loopback;
mod meta;
mod mute;
mod reads;
mod shard_crash;
mod shard_files;
mod shard_sync;
mod shard_total;
mod strangers;
mod sync;
mod torn;
mod transport;
mod versions;
