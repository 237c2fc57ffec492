//! The one test binary: one module per behaviour.

mod bench;
mod crash;
mod determinism;
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
