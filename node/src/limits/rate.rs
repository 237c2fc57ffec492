//! So many per second, and as many at once: what comes sooner waits.
//!
//! Invariant: whoever waits gets its turn in the order of asking. A generic cell rate algorithm: one
//! number, the time up to which the rate is used up. Asked by sessions for streams and requests.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

#[derive(Debug)]
pub(crate) struct Rate {
    /// Between two; none for no limit.
    gap: Option<Duration>,
    used_until: Mutex<Option<Instant>>,
}

impl Rate {
    /// 0 for no limit.
    pub(crate) fn per_second(rate: u32) -> Self {
        let gap = (rate > 0).then(|| Duration::from_secs(1) / rate);
        Self { gap, used_until: Mutex::default() }
    }

    /// Waits for its turn; true if it had to. If dropped meanwhile, the turn is lost.
    pub(crate) async fn turn(&self) -> bool {
        let Some(wait) = self.reserve(Instant::now()) else { return false };
        sleep_until(wait).await;
        true
    }

    /// When its turn is, if not now.
    fn reserve(&self, now: Instant) -> Option<Instant> {
        let gap = self.gap?;
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        let used = used_until.map_or(now, |until| until.max(now));
        *used_until = Some(used + gap);
        // A second's worth may come at once.
        (used + gap > now + Duration::from_secs(1)).then(|| used + gap - Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seconds_worth_comes_at_once_and_the_rest_in_time() {
        let (rate, begun) = (Rate::per_second(10), Instant::now());
        for n in 0..10 {
            assert!(!rate.turn().await, "{n}");
        }
        for _ in 0..10 {
            assert!(rate.turn().await);
        }
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(990)..Duration::from_millis(1_010)).contains(&took),
            "{took:?}"
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
        for _ in 0..10 {
            assert!(!rate.turn().await);
        }
        assert!(rate.turn().await, "an hour of rest is worth no more than a second");
        assert!(!Rate::per_second(0).turn().await);
    }
}
