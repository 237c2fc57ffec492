//! How long to wait before the next attempt: doubling, with jitter, reset by success.
//!
//! Invariant: waits lie in `[d/2, d]` for a `d` that doubles from `min` to `max`, so that many
//! peers that lost the same node do not come back in step. Pure. Used by the pool for dials.

use std::time::Duration;

use crate::env::Entropy;

/// A growing wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `min` and never waits longer than `max`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        let min = min.max(Duration::from_millis(1));
        Self { min, max: max.max(min), next: min }
    }

    /// The wait after one more failure.
    pub fn failed(&mut self, entropy: &dyn Entropy) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.max);
        let half = whole / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(entropy.next_u64() % nanos.saturating_add(1).max(1))
    }

    /// Starts over.
    pub const fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);

    impl Entropy for Fixed {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn waits_double_up_to_the_maximum_and_start_over() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
        for entropy in [0, 1, 25_000_000, u64::MAX - 1, u64::MAX].map(Fixed) {
            let mut backoff = Backoff::new(min, max);
            let mut whole = min;
            for _ in 0..12 {
                let wait = backoff.failed(&entropy);
                assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
                whole = (whole * 2).min(max);
            }
            backoff.reset();
            assert!(backoff.failed(&entropy) <= min);
        }
    }
}
