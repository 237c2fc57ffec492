//! Behaviour of the whole store, against a naive model of it.

mod crash;
mod dense;
mod faults;
mod life;
mod many;
mod model;
mod race;
pub(super) mod support;
mod vectors;
