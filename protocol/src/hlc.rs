//! The hybrid logical clock that orders writes.
//!
//! Invariant: a clock never gives a version twice and never a smaller one, whatever the wall clock
//! does. Clients stamp batches with it; nodes refuse live writes too far ahead of their own time.

use crate::id::Version;

/// Default of `max_clock_skew`: how far a live write's version may be ahead of a node, in ns.
pub const MAX_CLOCK_SKEW_NS: u64 = 60_000_000_000;

/// A version source. The wall clock is a parameter of every call, in ns since the Unix epoch.
#[derive(Clone, Debug)]
pub struct HybridClock {
    last: u64,
    max_ahead: u64,
}

impl HybridClock {
    /// A clock that adopts others' versions up to `max_clock_skew_ns / 2` ahead of the wall clock.
    #[must_use]
    pub const fn new(max_clock_skew_ns: u64) -> Self {
        Self { last: 0, max_ahead: max_clock_skew_ns / 2 }
    }

    /// The next version: the wall clock, or one more than the last when that has not moved on.
    pub fn next(&mut self, wall_ns: u64) -> Version {
        self.last = wall_ns.max(self.last.saturating_add(1));
        Version(self.last)
    }

    /// Takes note of a version seen elsewhere. One too far ahead of the wall clock is ignored, so
    /// that a single broken clock cannot drag everybody else's into the future. Whether the next version
    /// is higher than the one seen.
    pub fn observe(&mut self, seen: Version, wall_ns: u64) -> bool {
        if seen.0 <= wall_ns.saturating_add(self.max_ahead) {
            self.last = self.last.max(seen.0);
        }
        seen.0 <= self.last
    }

    /// The highest version given or adopted.
    #[must_use]
    pub const fn last(&self) -> Version {
        Version(self.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn versions_only_grow(steps in prop::collection::vec((any::<u64>(), any::<bool>()), 1..100)) {
            let mut clock = HybridClock::new(MAX_CLOCK_SKEW_NS);
            let mut last = Version(0);
            for (value, observe) in steps {
                let value = value / 2;
                if observe {
                    clock.observe(Version(value), value / 2);
                } else {
                    let next = clock.next(value);
                    prop_assert!(next > last);
                    last = next;
                }
            }
        }
    }

    #[test]
    fn adopts_up_to_half_the_skew() {
        let mut clock = HybridClock::new(60);
        clock.observe(Version(131), 100);
        assert_eq!(clock.last(), Version(0));
        clock.observe(Version(130), 100);
        assert_eq!(clock.next(100), Version(131));
    }
}
