//! Behaviour of the whole store, against a naive model of it.

mod cardinality;
mod crash;
mod damage;
mod dense;
mod drops;
mod faults;
mod first;
mod images;
mod life;
mod many;
mod model;
mod race;
mod readers;
mod reuse;
mod room;
mod series_cache;
#[path = "../../../../tests/harness/small_disk.rs"]
#[allow(unreachable_pub, reason = "it is public where it comes from")]
mod small_disk;
pub(super) mod support;
mod unread;
mod vectors;
mod waits;
