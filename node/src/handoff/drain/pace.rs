//! How fast a drain goes: at most the limit, and slower while its target is busy.
//!
//! Invariant: over any second no more passes than the limit allows and a tenth of a second's worth,
//! also across a change of the limit; a busy target is never sent less than the floor. Driven by
//! [`super`], one per target.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::config::DrainConfig;

/// What passes at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// How often the speed is looked at. Busy answers within one such time count once.
const LOOK: Duration = Duration::from_millis(500);
/// What a look without busy answers before it makes of a rate that was slowed down.
const RECOVERY: f64 = 1.5;
/// What is sent to a busy target, as a share of what it has just taken: a little less, so that it gets
/// rid of what made it busy.
const SHARE: f64 = 0.9;
/// What a busy target that takes next to nothing makes of the rate.
const RETREAT: f64 = 0.5;
/// Bytes per second at which an unlimited drain counts as recovered.
const UNLIMITED: f64 = 1e11;

/// The rate of one drain.
#[derive(Debug)]
pub(super) struct Pace {
    config: watch::Receiver<DrainConfig>,
    limit: u64,
    floor: u64,
    /// Bytes per second to which busy answers have slowed it down.
    slowed: Option<f64>,
    /// When the bytes that have passed would all have passed at the rate.
    paid_until: Instant,
    /// Bytes that were settled since then, and in the look before.
    settled: (Instant, u64),
    before: (Duration, u64),
    /// When a busy answer has last slowed it down.
    busy: Option<Instant>,
}

impl Pace {
    pub(super) fn new(config: watch::Receiver<DrainConfig>) -> Self {
        let now = Instant::now();
        let mut pace = Self {
            config,
            limit: 0,
            floor: 0,
            slowed: None,
            paid_until: now,
            settled: (now, 0),
            before: (Duration::ZERO, 0),
            busy: None,
        };
        pace.read();
        pace
    }

    fn read(&mut self) {
        let config = self.config.borrow_and_update();
        (self.limit, self.floor) = (config.rate_limit, config.rate_floor.max(1));
    }

    /// Takes a changed limit.
    fn reread(&mut self) {
        let before = self.rate();
        self.read();
        if let Some(before) = before {
            self.owe(before);
        }
    }

    /// Bytes per second; `None` without a limit.
    fn rate(&self) -> Option<f64> {
        let limit = (self.limit > 0).then_some(self.limit as f64);
        match (limit, self.slowed) {
            (Some(limit), Some(slowed)) => Some(limit.min(slowed)),
            (limit, slowed) => limit.or(slowed),
        }
    }

    /// Bytes that a message should have at most, so that one of them is no burst.
    pub(super) fn message_bytes(&mut self, most: usize) -> usize {
        if self.config.has_changed().unwrap_or(false) {
            self.reread();
        }
        self.rate().map_or(most, |rate| most.min((rate / 10.0) as usize)).max(1)
    }

    /// Waits until `bytes` may pass; a change of the limit counts at once.
    pub(super) async fn take(&mut self, bytes: usize) {
        loop {
            let Some(rate) = self.rate() else { return };
            let now = Instant::now();
            // What was not used in the past cannot be used later.
            let from = self.paid_until.max(now.checked_sub(BURST).unwrap_or(now));
            let changed = tokio::select! {
                biased;
                Ok(()) = self.config.changed() => true,
                () = sleep_until(from) => false,
            };
            if changed {
                self.reread();
                continue;
            }
            self.paid_until = from + Duration::from_secs_f64(bytes as f64 / rate);
            return;
        }
    }

    /// What is still owed at one rate is paid at the present one, if that is faster.
    fn owe(&mut self, before: f64) {
        let now = Instant::now();
        let owed = self.paid_until.saturating_duration_since(now);
        let factor = self.rate().map_or(0.0, |rate| before / rate).min(1.0);
        self.paid_until = now + owed.mul_f64(factor);
    }

    /// The target has taken so many bytes.
    pub(super) fn settled(&mut self, bytes: usize) {
        self.settled.1 += bytes as u64;
        let now = Instant::now();
        let since = now.saturating_duration_since(self.settled.0);
        if since < LOOK {
            return;
        }
        self.before = (since, self.settled.1);
        self.settled = (now, 0);
        let quiet = self.busy.is_none_or(|busy| busy + LOOK <= now);
        if let Some(slowed) = self.slowed.filter(|_| quiet) {
            let (rate, faster) = (self.rate(), slowed * RECOVERY);
            let most = if self.limit > 0 { self.limit as f64 } else { UNLIMITED };
            self.slowed = (faster < most).then_some(faster);
            if let Some(rate) = rate {
                self.owe(rate);
            }
        }
    }

    /// Bytes per second that the target has taken of late.
    fn speed(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.settled.0) + self.before.0;
        (self.settled.1 + self.before.1) as f64 / since.max(LOOK).as_secs_f64()
    }

    /// The target is busy: from now on about what it takes.
    pub(super) fn busy(&mut self) {
        let now = Instant::now();
        if self.busy.is_some_and(|busy| now < busy + LOOK) {
            return;
        }
        self.busy = Some(now);
        let (speed, before) = (self.speed(now), self.rate());
        // Not at once: it may take much again after a moment without room.
        let least = before.map_or(0.0, |rate| rate * RETREAT);
        let slowed = (speed * SHARE).max(least).max(self.floor as f64);
        self.slowed = Some(before.map_or(slowed, |rate| slowed.min(rate.max(self.floor as f64))));
        if let Some(before) = before {
            self.owe(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate_limit: u64) -> (watch::Sender<DrainConfig>, Pace) {
        let config = DrainConfig { rate_limit, rate_floor: 1_000, ..DrainConfig::default() };
        let (sender, receiver) = watch::channel(config);
        (sender, Pace::new(receiver))
    }

    /// Bytes that pass in each of some seconds, in messages of different sizes.
    async fn seconds(pace: &mut Pace, count: usize, most: usize) -> Vec<usize> {
        let start = Instant::now();
        let mut passed = vec![0; count];
        for step in 0.. {
            let bytes = pace.message_bytes(most) * (1 + step % 3) / 3 + 1;
            pace.take(bytes).await;
            match passed.get_mut(start.elapsed().as_secs() as usize) {
                Some(second) => *second += bytes,
                None => break,
            }
        }
        passed
    }

    fn near(passed: &[usize], rate: usize) {
        for bytes in passed {
            assert!(bytes.abs_diff(rate) <= rate / 10, "{passed:?} instead of {rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_is_kept_over_every_second() {
        for rate in [1_000, 50_000, 64_000_000] {
            let (_sender, mut pace) = pace(rate);
            // The first second has the burst in it.
            near(&seconds(&mut pace, 6, 512 << 10).await[1..], rate as usize);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_limit_counts_at_once() {
        let (sender, mut pace) = pace(1_000);
        seconds(&mut pace, 2, 1 << 20).await;
        // A message that would keep the drain for an hour.
        pace.take(3_600_000).await;
        let start = Instant::now();
        let change = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            sender.send_modify(|config| config.rate_limit = 100_000_000);
        };
        tokio::join!(change, pace.take(1));
        assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
        near(&seconds(&mut pace, 4, 1 << 20).await[1..], 100_000_000);
        sender.send_modify(|config| config.rate_limit = 20_000);
        // What had passed before is paid for at the old rate.
        near(&seconds(&mut pace, 4, 1 << 20).await[1..], 20_000);
        sender.send_modify(|config| config.rate_limit = 0);
        let start = Instant::now();
        pace.take(1).await;
        pace.take(usize::MAX).await;
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_target_slows_it_down_to_the_floor_and_it_recovers() {
        let (_sender, mut pace) = pace(1_000_000);
        for _ in 0..30 {
            pace.busy();
            tokio::time::sleep(LOOK).await;
        }
        assert_eq!(pace.rate(), Some(1_000.0));
        let mut before = 1_000.0;
        for _ in 0..30 {
            tokio::time::sleep(LOOK).await;
            pace.settled(1);
            let now = pace.rate().unwrap();
            assert!(now >= before && now <= before * RECOVERY + 1.0, "{before} {now}");
            before = now;
        }
        assert_eq!(pace.rate(), Some(1_000_000.0));
    }

    /// A target that takes 1 MB per second and can keep another megabyte for later.
    #[tokio::test(start_paused = true)]
    async fn a_busy_target_is_sent_what_it_takes() {
        for limit in [0, 20_000_000] {
            let (_sender, mut pace) = pace(limit);
            let (start, mut kept, mut at) = (Instant::now(), 0.0_f64, Instant::now());
            let (mut taken, mut refused) = (0_usize, 0_usize);
            while start.elapsed() < Duration::from_secs(20) {
                let bytes = pace.message_bytes(50_000);
                pace.take(bytes).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
                kept = (kept - at.elapsed().as_secs_f64() * 1e6).max(0.0);
                at = Instant::now();
                if kept + bytes as f64 > 1e6 {
                    pace.busy();
                    refused += bytes;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                } else {
                    kept += bytes as f64;
                    taken += bytes;
                    pace.settled(bytes);
                }
            }
            assert!(taken >= 18_000_000, "{taken} of 20 MB, limit {limit}");
            assert!(refused < taken / 4, "{refused} refused, {taken} taken, limit {limit}");
        }
    }
}
