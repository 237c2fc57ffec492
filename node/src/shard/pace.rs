//! Live writes slow down to what folds make room for, before there is no room at all.
//!
//! Invariants: below `slow_fresh_percent` nobody waits; from there on writes come in in the order of
//! asking, at the rate of folds times a factor that falls from two to nothing as the room does, so
//! that fresh data settles in the middle of it; nobody waits longer than `fresh_wait_ms`. A write
//! that waits costs less than one that is refused, which is sent again, and it waits for its share
//! of a fold rather than for all of one. Hints do not wait here: their holders keep them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quorate_protocol::id::ShardId;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::{
    ShardStore,
    error::AdmitError,
    fresh::{Admission, Budget, share},
};

/// For how long the rate of folds is remembered: several folds, since each frees all of its bytes
/// at its end.
const MEMORY: Duration = Duration::from_secs(2);
/// Who would wait for less comes in at once: timers are no finer than a millisecond.
const BURST: Duration = Duration::from_millis(2);
/// The longest sleep before the rate is looked at again.
const LOOK: Duration = Duration::from_millis(20);
/// Folds count as no slower than would free the room above `slow_fresh_percent` in this time: after
/// a start nothing is known of them, and slower ones are met by the room getting less.
const SLOWEST: Duration = Duration::from_secs(4);

/// Whose turn it is to come in.
#[derive(Debug)]
pub(super) struct Pace {
    /// For the one whose turn it is; those behind wait for it, in order.
    first: Semaphore,
    turn: Mutex<Turn>,
    freed: Notify,
}

#[derive(Debug)]
struct Turn {
    folds: FoldRate,
    /// When the last one came in, and its bytes.
    last: Instant,
    bytes: u64,
}

/// How fast folds free bytes.
#[derive(Debug)]
struct FoldRate {
    looked: Instant,
    /// Bytes that were folded until then.
    folded: u64,
    bytes_per_s: f64,
}

impl FoldRate {
    /// What was folded since the last look counts as folded evenly.
    fn look(&mut self, now: Instant, folded: u64) {
        let passed = (now - self.looked).as_secs_f64();
        if passed > 0.0 {
            let keep = (-passed / MEMORY.as_secs_f64()).exp();
            let rate = folded.saturating_sub(self.folded) as f64 / passed;
            self.bytes_per_s = self.bytes_per_s * keep + rate * (1.0 - keep);
            (self.looked, self.folded) = (now, folded);
        }
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let folds = FoldRate { looked: now, folded: 0, bytes_per_s: 0.0 };
        let turn = Mutex::new(Turn { folds, last: now, bytes: 0 });
        Self { first: Semaphore::new(1), turn, freed: Notify::new() }
    }

    /// A fold has made room.
    pub(super) fn freed(&self) {
        self.freed.notify_one();
    }

    /// Room for a batch: at once while less than `slow` bytes are taken and nobody waits, else when
    /// it is its turn and the folds are as far.
    async fn admit(&self, budget: &Arc<Budget>, bytes: u64, slow: u64) -> Admission {
        if self.first.available_permits() > 0
            && budget.used().saturating_add(bytes) <= slow
            && let Some(room) = budget.admit(bytes, 100)
        {
            return room;
        }
        // It is never closed.
        let _first = self.first.acquire().await;
        let mut waits = false;
        loop {
            let pause = match self.try_admit(budget, bytes, slow) {
                Ok(room) => return room,
                Err(pause) => pause,
            };
            if !std::mem::replace(&mut waits, true) {
                metrics::counter!("quorate_shard_slowed_writes_total").increment(1);
            }
            tokio::select! {
                () = self.freed.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Room for the first one; else, after what time to look again.
    fn try_admit(
        &self,
        budget: &Arc<Budget>,
        bytes: u64,
        slow: u64,
    ) -> Result<Admission, Duration> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        turn.folds.look(now, budget.folded());
        let due = turn.due(budget, slow);
        let early = due.saturating_duration_since(now + BURST);
        if !early.is_zero() {
            return Err(early.min(LOOK));
        }
        let room = budget.admit(bytes, 100).ok_or(LOOK)?;
        // A rate that nobody has used is not saved up.
        (turn.last, turn.bytes) = (due.max(now), bytes);
        Ok(room)
    }
}

impl Turn {
    /// When the next one may come in.
    fn due(&self, budget: &Budget, slow: u64) -> Instant {
        let (limit, used) = (budget.limit(), budget.used());
        if used < slow {
            return self.last;
        }
        let slack = limit.saturating_sub(slow).max(1) as f64;
        let left = limit.saturating_sub(used) as f64 / slack;
        let folds = self.folds.bytes_per_s.max(slack / SLOWEST.as_secs_f64());
        let rate = (folds * 2.0 * left).max(1.0);
        self.last + Duration::from_secs_f64((self.bytes as f64 / rate).min(60.0))
    }
}

impl ShardStore {
    /// As [`Self::admit`] for a live write, which waits for its turn while folds fall behind
    /// ([`Config::slow_fresh_percent`](super::Config::slow_fresh_percent)).
    ///
    /// # Errors
    /// There was no room for [`Config::fresh_wait_ms`](super::Config::fresh_wait_ms), or the shard
    /// takes no writes any more.
    pub async fn admit_live(&self, shard: ShardId, bytes: u64) -> Result<Admission, AdmitError> {
        let inner = &self.inner;
        self.takes_writes(shard)?;
        let slow = share(inner.budget.limit(), inner.config.slow_fresh_percent);
        let wait = Duration::from_millis(inner.config.fresh_wait_ms);
        match timeout(wait, inner.budget.pace().admit(&inner.budget, bytes, slow)).await {
            Ok(room) => {
                // Things may have changed meanwhile.
                self.takes_writes(shard)?;
                Ok(room)
            }
            // Room without a turn is better than none.
            Err(_) => self.admit(shard, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 192 << 20;
    const FOLD: u64 = 16 << 20;
    const BATCH: u64 = 64 << 10;
    /// Of a fold.
    const EVERY: Duration = Duration::from_millis(400);

    /// Four writers that would fill the room six times as fast as folds clear it: how long each
    /// batch waited once that was known, and how much was taken at most.
    async fn overload(slow: u64) -> (Vec<Duration>, u64) {
        let budget = Budget::new(LIMIT);
        let begun = Instant::now();
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let budget = Arc::clone(&budget);
            writers.spawn(async move {
                let mut waits = Vec::new();
                while begun.elapsed() < Duration::from_secs(60) {
                    let asked = Instant::now();
                    std::mem::forget(budget.pace().admit(&budget, BATCH, slow).await);
                    if begun.elapsed() > Duration::from_secs(10) {
                        waits.push(asked.elapsed());
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                waits
            });
        }
        let (mut most, mut waits) = (0, Vec::new());
        loop {
            tokio::select! {
                writer = writers.join_next() => match writer {
                    Some(all) => waits.extend(all.unwrap()),
                    None => return (waits, most),
                },
                () = sleep(EVERY) => {
                    most = most.max(budget.used());
                    budget.fold(FOLD.min(budget.used()));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn under_too_much_load_each_write_waits_a_little_and_none_for_a_whole_fold() {
        let (waits, most) = overload(LIMIT / 4 * 3).await;
        let bytes = waits.len() as u64 * BATCH;
        let folded = FOLD * (50_000 / EVERY.as_millis() as u64);
        assert!(bytes.abs_diff(folded) < folded / 20, "{bytes} of {folded}: as fast as folds");
        assert!(waits.iter().all(|wait| *wait < EVERY / 8), "{:?}", waits.iter().max());
        assert!((LIMIT / 4 * 3..LIMIT).contains(&most), "{most}");
        // What it is for.
        let (waits, most) = overload(LIMIT).await;
        assert!(waits.iter().any(|wait| *wait > EVERY / 2), "{:?}", waits.iter().max());
        assert_eq!(most, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn writes_come_in_in_order_and_at_once_when_there_is_room_again() {
        let budget = Budget::new(1_000);
        std::mem::forget(budget.pace().admit(&budget, 900, 750).await);
        let begun = Instant::now();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..3 {
            let (budget, order) = (Arc::clone(&budget), Arc::clone(&order));
            writers.spawn(async move {
                // The first is the largest: the small ones behind it do not overtake.
                let room = budget.pace().admit(&budget, 300 / (number + 1), 750).await;
                order.lock().unwrap().push(number);
                std::mem::forget(room);
            });
            tokio::task::yield_now().await;
        }
        sleep(Duration::from_secs(1)).await;
        assert!(order.lock().unwrap().is_empty());
        budget.fold(900);
        while writers.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        let _room = budget.pace().admit(&budget, 10, 750).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1), "nobody waits");
    }
}
