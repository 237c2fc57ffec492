//! The two writers: live metrics of this host, and a generated fleet, both at quorum.
//!
//! Invariants: a point is in the ledger before it is sent and acknowledged in it only after its
//! write returned without an error; every failed write is counted, also if it succeeds when it is
//! sent again. Each runs until it is told to stop and then waits for what it has sent.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_client::{Client, Env, Receipt, WriteError, WriteOptions};
use quorate_protocol::batch::Batch;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    fleet::{Fleet, Generator, HOSTS, Slot, TICKS},
    host::Host,
    ledger::{FleetLedger, LiveLedger},
};
use crate::cli::fail::Fail;

/// The database of the demo.
pub(super) const DATABASE: &str = "demo";
/// Between two samples of this host.
const SAMPLE: Duration = Duration::from_millis(200);
/// Between two batches of the fleet, which hold 50 seconds of its time each.
const PACE: Duration = Duration::from_millis(125);
/// Batches of the fleet under way at the same time.
const IN_FLIGHT: usize = 4;
/// How often a batch is sent before it is given up.
const ATTEMPTS: u32 = 20;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(100);

/// What the writers tell while they run.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) fleet: AtomicU64,
    pub(super) live: AtomicU64,
    pub(super) errors: AtomicU64,
    /// Whether a node is dead at the moment.
    pub(super) node_down: AtomicBool,
}

impl Progress {
    /// Points acknowledged so far.
    pub(super) fn points(&self) -> u64 {
        self.fleet.load(Ordering::Relaxed) + self.live.load(Ordering::Relaxed)
    }
}

/// Acknowledgements of one writer.
#[derive(Clone, Debug, Default)]
pub(super) struct Acks {
    /// Microseconds of each acknowledged write that began while all nodes ran.
    pub(super) healthy_us: Vec<u64>,
    /// Microseconds of each that began while one was dead.
    pub(super) down_us: Vec<u64>,
    /// Points of the latter.
    pub(super) points_down: u64,
    /// Writes that failed, counted at every attempt.
    pub(super) errors: u64,
    /// The first failure.
    pub(super) first_error: Option<String>,
}

impl Acks {
    /// Both together.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.healthy_us.extend(other.healthy_us);
        self.down_us.extend(other.down_us);
        self.points_down += other.points_down;
        self.errors += other.errors;
        self.first_error = self.first_error.or(other.first_error);
        self
    }

    fn add(&mut self, attempt: &Attempt, points: u64) {
        self.errors += attempt.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&attempt.error);
        }
        if !attempt.acked {
            return;
        }
        if attempt.node_down {
            self.down_us.push(attempt.micros);
            self.points_down += points;
        } else {
            self.healthy_us.push(attempt.micros);
        }
    }
}

/// What became of one batch.
struct Attempt {
    acked: bool,
    node_down: bool,
    micros: u64,
    errors: u64,
    error: Option<String>,
}

/// What the writers share.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) client: Client,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: CancellationToken,
}

impl Desk {
    /// Writes a batch at quorum, again if it fails.
    async fn write(&self, batch: &Batch) -> Attempt {
        let options = WriteOptions::default();
        let node_down = self.progress.node_down.load(Ordering::Relaxed);
        let started = Instant::now();
        let mut attempt = Attempt { acked: false, node_down, micros: 0, errors: 0, error: None };
        for _ in 0..ATTEMPTS {
            let result: Result<Receipt, WriteError> =
                self.client.write(DATABASE, batch, &options).await;
            match result {
                Ok(receipt) if receipt.dropped.is_none() => {
                    attempt.acked = true;
                    let micros = started.elapsed().as_micros();
                    attempt.micros = u64::try_from(micros).unwrap_or(u64::MAX);
                    break;
                }
                // The policy keeps points for ever, so this would be a defect.
                Ok(_) => attempt.error = Some("points were dropped".to_owned()),
                Err(error) => attempt.error = Some(error.to_string()),
            }
            attempt.errors += 1;
            self.progress.errors.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
        attempt
    }
}

/// Writes this host's metrics until told to stop.
pub(super) async fn live(desk: Desk, env: Env) -> Result<(LiveLedger, Acks), Fail> {
    let failed =
        |error: std::io::Error| Fail::failed(format!("cannot read this host's metrics: {error}"));
    let mut host = Host::new().map_err(failed)?;
    let (mut ledger, mut acks) = (LiveLedger::default(), Acks::default());
    let mut ticker = interval(SAMPLE);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = 0;
    while next_tick(&mut ticker, &desk.stop).await {
        let now = i64::try_from(env.clock.wall_ns()).unwrap_or(i64::MAX);
        // Also if the clock is set back: the ledger's times only grow.
        last = now.max(last + 1);
        let points = host.sample(last).map_err(failed)?;
        let mut batch = Batch::new();
        points.iter().for_each(|point| batch.push(point));
        ledger.sent(&points);
        let attempt = desk.write(&batch).await;
        let count = points.len() as u64;
        if attempt.acked {
            ledger.acked(&points);
            desk.progress.live.fetch_add(count, Ordering::Relaxed);
        }
        acks.add(&attempt, count);
    }
    Ok((ledger, acks))
}

/// Writes the fleet's ticks, some batches at a time, until told to stop.
pub(super) async fn fleet(desk: Desk, fleet: Fleet) -> Result<(FleetLedger, Acks), Fail> {
    let (mut ledger, mut acks) = (FleetLedger::new(fleet), Acks::default());
    let mut generator = Generator::new(fleet);
    let slots: Result<Vec<Slot>, _> = (0..IN_FLIGHT).map(|_| Slot::new()).collect();
    let mut slots = slots.map_err(Fail::failed)?;
    let mut writes: JoinSet<(Slot, Range<usize>, Attempt)> = JoinSet::new();
    let mut ticker = interval(PACE);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = true;
    while running || !writes.is_empty() {
        running = running && next_tick(&mut ticker, &desk.stop).await;
        if running && let Some(mut slot) = slots.pop() {
            let ticks = generator.fill(&mut slot).map_err(Fail::failed)?;
            ledger.sent(ticks.clone());
            let desk = desk.clone();
            writes.spawn(async move {
                let attempt = desk.write(&slot.batch).await;
                (slot, ticks, attempt)
            });
        }
        // Without a free batch, or at the end, wait for one; else take what is ready.
        let wait = slots.is_empty() || !running;
        let mut done = if wait { writes.join_next().await } else { writes.try_join_next() };
        while let Some(ended) = done {
            let (slot, ticks, attempt) = ended.map_err(Fail::failed)?;
            let points = (HOSTS * TICKS) as u64;
            if attempt.acked {
                ledger.acked(ticks);
                desk.progress.fleet.fetch_add(points, Ordering::Relaxed);
            }
            acks.add(&attempt, points);
            slots.push(slot);
            done = writes.try_join_next();
        }
    }
    Ok((ledger, acks))
}

/// Waits for the next tick; false if it is time to stop.
async fn next_tick(ticker: &mut tokio::time::Interval, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        _ = ticker.tick() => true,
    }
}

/// The value below which this share of all values lies, in milliseconds; 0 for none.
pub(super) fn percentile_ms(micros: &[u64], share: f64) -> f64 {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    // A share is between 0 and 1, so this is a position.
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).map_or(0.0, |micros| *micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        assert_eq!(percentile_ms(&[], 0.5), 0.0);
        let micros: Vec<u64> = (1..=100).rev().map(|ms| ms * 1000).collect();
        assert_eq!(percentile_ms(&micros, 0.5), 50.0);
        assert_eq!(percentile_ms(&micros, 0.99), 99.0);
        assert_eq!(percentile_ms(&micros, 1.0), 100.0);
        assert_eq!(percentile_ms(&[1500], 0.99), 1.5);
    }
}
