//! Latencies and the rate they amount to.
//!
//! Invariant: a percentile is a latency that was measured, never one in between. Filled by the
//! measurements of files and connections.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::write::round;

/// What was done over and over, and how long each time took.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    nanos: Vec<u64>,
    /// Bytes each time.
    bytes: usize,
    /// How long all of it took; less than the sum where several were under way at once.
    took: Duration,
}

impl Samples {
    /// None yet; each will be of `bytes` bytes.
    pub(super) fn of(bytes: usize) -> Self {
        Self { bytes, ..Self::default() }
    }

    pub(super) fn add(&mut self, latency: Duration) {
        self.nanos.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// No more will come. One after the other they took this long.
    pub(super) fn finish(mut self, took: Duration) -> Self {
        self.took = took;
        self.nanos.sort_unstable();
        self
    }

    /// The latency that `percent` of all do not exceed, in µs; 0 if nothing was measured.
    pub(super) fn percentile_us(&self, percent: usize) -> f64 {
        let rank = (self.nanos.len() * percent).div_ceil(100).max(1);
        self.nanos.get(rank - 1).map_or(0.0, |nanos| *nanos as f64 / 1e3)
    }

    pub(super) fn per_second(&self) -> f64 {
        let seconds = self.took.as_secs_f64();
        if seconds > 0.0 { self.nanos.len() as f64 / seconds } else { 0.0 }
    }

    pub(super) fn bytes_per_second(&self) -> f64 {
        self.per_second() * self.bytes as f64
    }

    /// The object of `--json`.
    pub(super) fn describe(&self) -> Value {
        json!({
            "bytes": self.bytes,
            "count": self.nanos.len(),
            "p50_us": round(self.percentile_us(50), 1),
            "p99_us": round(self.percentile_us(99), 1),
            "per_s": round(self.per_second(), 1),
            "bytes_per_s": self.bytes_per_second().round(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks_and_rates_are_over_the_whole_time() {
        let mut samples = Samples::of(1_000);
        for micros in (1..=200).rev() {
            samples.add(Duration::from_micros(micros));
        }
        let samples = samples.finish(Duration::from_secs(2));
        assert_eq!((samples.percentile_us(50), samples.percentile_us(99)), (100.0, 198.0));
        assert_eq!((samples.per_second(), samples.bytes_per_second()), (100.0, 100_000.0));
        let none = Samples::of(1).finish(Duration::ZERO);
        assert_eq!((none.percentile_us(99), none.per_second()), (0.0, 0.0));
    }
}
