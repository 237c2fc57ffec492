//! The seams of simulated nodes: a clock that can be wrong, and numbers from a seed.
//!
//! Invariant: the same seed gives the same numbers, whatever the machine. Used by
//! [`super::cluster`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quorate_client::env::{Clock, Entropy};

/// A wall clock that is wrong by a fixed amount.
#[derive(Clone)]
pub struct Skewed {
    clock: Arc<dyn Clock>,
    skew_ns: i64,
}

impl Skewed {
    /// A clock that is `skew_ms` ahead of another.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, skew_ms: i64) -> Self {
        Self { clock, skew_ns: skew_ms * 1_000_000 }
    }
}

impl Clock for Skewed {
    fn wall_ns(&self) -> u64 {
        self.clock.wall_ns().saturating_add_signed(self.skew_ns)
    }
}

/// Numbers from a seed: SplitMix64.
#[derive(Debug)]
pub struct Seeded(AtomicU64);

impl Seeded {
    /// The numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
