//! Behaviour of the whole store, against a naive model of it.

mod cardinality;
mod crash;
mod damage;
mod dense;
mod drops;
mod faults;
mod images;
mod life;
mod many;
mod model;
mod race;
mod readers;
mod reuse;
mod room;
pub(super) mod support;
mod unread;
mod vectors;
mod waits;
