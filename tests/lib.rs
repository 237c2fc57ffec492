//! Behaviour tests of a whole Quorate cluster: the harness they share.
//!
//! Invariant: nothing in here sleeps to wait for something; tests wait for conditions.

pub mod harness;
