//! The tasks that write, and what they measured.
//!
//! Invariants: every batch is given to exactly one task; a batch counts as acknowledged only if all of
//! it is; in an open loop latencies are counted from the moment a batch was due, however late it
//! was sent.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use quorate_client::{Client, WriteOptions};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::feed::{Feed, Input};
use crate::cli::{fail::Fail, tell};

/// Of the time line.
pub(super) const STEP: Duration = Duration::from_millis(500);
/// As long as the time line may be; what comes later counts in its last step.
const STEPS: usize = 4 * 60 * 60 * 2;
/// Failures that are told.
const TOLD: u64 = 3;
/// Latencies are kept in µs, to three digits, up to an hour.
const HIGHEST: u64 = 3_600_000_000;

/// What to write.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) rows: u64,
    /// After so many, whole batches, they begin again from the first.
    pub(super) distinct: u64,
    pub(super) batch: u64,
    pub(super) tasks: usize,
    /// Rows per second, in an open loop.
    pub(super) rate: Option<u64>,
    pub(super) input: Input,
    pub(super) options: WriteOptions,
}

impl Plan {
    pub(super) const fn batches(&self) -> u64 {
        self.rows.div_ceil(self.batch)
    }

    /// The batches until the rows begin again.
    pub(super) fn turn(&self) -> u64 {
        self.distinct.div_ceil(self.batch).max(1)
    }

    /// The rows of a batch, as the table counts them.
    pub(super) fn range(&self, number: u64) -> Range<u64> {
        let start = number * self.batch;
        let end = (start + self.batch).min(self.rows);
        let at = start % self.distinct.max(1);
        at..at + (end - start)
    }

    /// When a batch is due, after the start.
    fn due(&self, number: u64) -> Option<Duration> {
        let nanos = u128::from(number * self.batch) * 1_000_000_000 / u128::from(self.rate?.max(1));
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }
}

/// What all tasks add to.
struct Shared {
    client: Client,
    database: String,
    plan: Plan,
    began: Instant,
    next: AtomicU64,
    acked: Vec<AtomicBool>,
    rows: AtomicU64,
    failed: AtomicU64,
    parts: AtomicU64,
    line: Vec<Moment>,
}

/// One step of the time line.
#[derive(Default)]
struct Moment {
    rows: AtomicU64,
    /// The longest latency of a batch that was acknowledged in it, in µs.
    worst_us: AtomicU64,
}

/// A load that is under way.
pub(super) struct Driving {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<Histogram<u64>, Fail>>,
}

/// What came of it.
pub(super) struct Driven {
    pub(super) took: Duration,
    /// Rows of batches that were acknowledged.
    pub(super) rows: u64,
    /// Rows of batches that were not.
    pub(super) failed: u64,
    /// Parts that acknowledged batches were cut into.
    pub(super) parts: u64,
    /// Latencies of acknowledged batches, in µs.
    pub(super) latencies: Histogram<u64>,
    /// Rows and the longest latency, in ms, of each step.
    pub(super) line: Vec<(u64, f64)>,
    acked: Vec<bool>,
}

impl Driven {
    /// Whether a row of the table was acknowledged, at least once.
    pub(super) fn acked(&self, plan: &Plan, row: u64) -> bool {
        self.turns(plan, row / plan.batch).any(|rows| rows.contains(&row))
    }

    /// How many rows of the table were acknowledged.
    pub(super) fn distinct(&self, plan: &Plan) -> u64 {
        let most = |first| self.turns(plan, first).map(|rows| rows.end - rows.start).max();
        (0..plan.turn()).filter_map(most).sum()
    }

    /// The rows of the batches that were acknowledged, among those that begin where this one of the
    /// first turn does.
    fn turns<'a>(&'a self, plan: &'a Plan, first: u64) -> impl Iterator<Item = Range<u64>> + 'a {
        let numbers = (0..).map(move |turn| first + turn * plan.turn());
        let acked = |number: &u64| {
            usize::try_from(*number).ok().and_then(|at| self.acked.get(at)).is_some_and(|at| *at)
        };
        let numbers = numbers.take_while(|at| *at < plan.batches()).filter(acked);
        numbers.map(|number| plan.range(number))
    }
}

/// Starts a task for each feed.
pub(super) fn start(
    plan: &Plan,
    client: &Client,
    database: &str,
    feeds: Vec<Feed>,
    bar: &ProgressBar,
) -> Driving {
    bar.reset();
    let shared = Arc::new(Shared {
        client: client.clone(),
        database: database.to_owned(),
        plan: plan.clone(),
        began: Instant::now(),
        next: AtomicU64::new(0),
        acked: (0..plan.batches()).map(|_| AtomicBool::new(false)).collect(),
        rows: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        parts: AtomicU64::new(0),
        line: (0..STEPS).map(|_| Moment::default()).collect(),
    });
    let mut tasks = JoinSet::new();
    for feed in feeds {
        tasks.spawn(write(Arc::clone(&shared), feed, bar.clone()));
    }
    Driving { shared, tasks }
}

async fn write(
    shared: Arc<Shared>,
    mut feed: Feed,
    bar: ProgressBar,
) -> Result<Histogram<u64>, Fail> {
    let plan = &shared.plan;
    let mut latencies = Histogram::new_with_max(HIGHEST, 3).map_err(Fail::failed)?;
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.batches() {
            return Ok(latencies);
        }
        let rows = plan.range(number);
        let count = rows.end - rows.start;
        feed.fill(number, rows)?;
        let mut began = Instant::now();
        if let Some(due) = plan.due(number) {
            began = shared.began + due;
            sleep_until(began).await;
        }
        let written = feed.write(&shared.client, &shared.database, plan).await;
        let now = Instant::now();
        match written {
            Ok(parts) => {
                let micros = u64::try_from((now - began).as_micros()).unwrap_or(HIGHEST);
                latencies.saturating_record(micros);
                shared.acked(number, count, parts as u64, now, micros);
                bar.inc(count);
            }
            Err(error) => {
                if shared.failed.fetch_add(count, Ordering::Relaxed) < TOLD * plan.batch {
                    bar.suspend(|| tell(&format!("batch {number}: {error}")));
                }
            }
        }
    }
}

impl Shared {
    fn acked(&self, number: u64, rows: u64, parts: u64, now: Instant, micros: u64) {
        if let Some(acked) = usize::try_from(number).ok().and_then(|at| self.acked.get(at)) {
            acked.store(true, Ordering::Relaxed);
        }
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.parts.fetch_add(parts, Ordering::Relaxed);
        let step = (now - self.began).as_nanos() / STEP.as_nanos();
        let step = usize::try_from(step).unwrap_or(STEPS).min(STEPS - 1);
        if let Some(moment) = self.line.get(step) {
            moment.rows.fetch_add(rows, Ordering::Relaxed);
            moment.worst_us.fetch_max(micros, Ordering::Relaxed);
        }
    }
}

impl Driving {
    /// Waits until this share of the rows has been acknowledged, or has failed.
    pub(super) async fn reached(&self, share: f64) {
        let goal = (self.shared.plan.rows as f64 * share) as u64;
        let done = || {
            self.shared.rows.load(Ordering::Relaxed) + self.shared.failed.load(Ordering::Relaxed)
        };
        while done() < goal {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the end.
    pub(super) async fn ended(mut self) -> Result<Driven, Fail> {
        let mut latencies = Histogram::new_with_max(HIGHEST, 3).map_err(Fail::failed)?;
        while let Some(ended) = self.tasks.join_next().await {
            latencies.add(ended.map_err(Fail::failed)??).map_err(Fail::failed)?;
        }
        let shared = self.shared;
        let took = shared.began.elapsed();
        let steps = usize::try_from(took.as_nanos() / STEP.as_nanos()).unwrap_or(STEPS) + 1;
        let line = shared.line.iter().take(steps).map(|moment| {
            let worst = moment.worst_us.load(Ordering::Relaxed) as f64 / 1e3;
            (moment.rows.load(Ordering::Relaxed), worst)
        });
        Ok(Driven {
            took,
            rows: shared.rows.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            parts: shared.parts.load(Ordering::Relaxed),
            latencies,
            line: line.collect(),
            acked: shared.acked.iter().map(|acked| acked.load(Ordering::Relaxed)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_all_rows_once_and_are_due_evenly() {
        let plan = Plan {
            rows: 23,
            distinct: 23,
            batch: 5,
            tasks: 1,
            rate: Some(10),
            input: Input::Columns,
            options: WriteOptions::default(),
        };
        let all: Vec<u64> = (0..plan.batches()).flat_map(|number| plan.range(number)).collect();
        assert_eq!(all, (0..23).collect::<Vec<_>>());
        assert_eq!(plan.due(0), Some(Duration::ZERO));
        assert_eq!(plan.due(3), Some(Duration::from_millis(1500)));
        assert_eq!(Plan { rate: None, ..plan }.due(3), None);
    }

    #[test]
    fn rows_that_begin_again_count_once_if_any_turn_was_acknowledged() {
        let plan = Plan {
            rows: 33,
            distinct: 15,
            batch: 5,
            tasks: 1,
            rate: None,
            input: Input::Columns,
            options: WriteOptions::default(),
        };
        let ranges: Vec<Range<u64>> =
            (0..plan.batches()).map(|number| plan.range(number)).collect();
        assert_eq!(ranges, [0..5, 5..10, 10..15, 0..5, 5..10, 10..15, 0..3]);
        let driven = |acked: &[usize]| Driven {
            took: Duration::ZERO,
            rows: 0,
            failed: 0,
            parts: 0,
            latencies: Histogram::new(3).unwrap(),
            line: Vec::new(),
            acked: (0..7).map(|number| acked.contains(&number)).collect(),
        };
        assert_eq!(driven(&[]).distinct(&plan), 0);
        assert_eq!(driven(&[1, 4]).distinct(&plan), 5);
        assert_eq!(driven(&[0, 4, 5]).distinct(&plan), 15);
        assert_eq!(driven(&[6]).distinct(&plan), 3);
        assert!(driven(&[5]).acked(&plan, 12) && !driven(&[5]).acked(&plan, 4));
        assert!(driven(&[6]).acked(&plan, 2) && !driven(&[6]).acked(&plan, 3));
    }
}
