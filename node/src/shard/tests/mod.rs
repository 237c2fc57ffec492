//! Behaviour of the whole store, against a naive model of it.

mod cardinality;
mod crash;
mod faults;
mod life;
mod model;
mod race;
mod support;
mod vectors;
