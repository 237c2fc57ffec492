//! The one test binary: one module per behaviour.

mod aggregates;
mod bench;
mod cardinality;
mod crash;
mod determinism;
mod digests;
mod drops;
mod durability;
mod full;
mod garbage;
mod hints;
mod idle;
mod levels;
mod limits;
mod loopback;
mod meta;
mod mute;
mod reads;
mod strangers;
mod sync;
mod torn;
mod transport;
mod versions;
