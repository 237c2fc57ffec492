//! Delivering hints: one task per target, as fast as the target and the rate limit allow.
//!
//! A drain starts when its target is seen alive. It keeps a window of messages under way, each with
//! many records, on a lane of the lowest priority; every record is answered for itself. Invariants:
//! a record leaves its queue only with an answer or by what metadata says of its shard; a record
//! that is refused for good never holds up what is behind it; the limit is kept over every second,
//! and a wait for it ends at once when the node stops.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use quorate_client::connection::Connection;
use quorate_protocol::{
    batch::EncodedBatch,
    code::{Class, Code},
    id::{MetaIndex, NodeId, Sequence, ShardId},
    message::{Answer, Deliver, HintItem},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{DiscardReason, HandoffError, HintRecord, QuarantineReason, Terminal};
use crate::core::Core;

/// How hints are delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// Bytes of hints per second and target, at most; 0 for no limit. Default 64 MiB/s. Lower
    /// protects a node that comes back under load, and makes it lag for longer.
    pub rate_limit: u64,
    /// Messages under way to one target. Default 4.
    pub window: usize,
    /// Bytes of one message at most. Default 512 KiB; a larger hint travels alone.
    pub message_bytes: usize,
    /// Hints of one message at most. Default 256, at most 1,024.
    pub message_records: usize,
    /// First pause after a failure, in milliseconds, doubled by each further one. Default 1,000.
    pub backoff_min_ms: u64,
    /// Longest pause, in milliseconds. Default 60,000.
    pub backoff_max_ms: u64,
    /// Time for the answer to one message, in milliseconds. Default 10,000.
    pub timeout_ms: u32,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            rate_limit: 64 << 20,
            window: 4,
            message_bytes: 512 << 10,
            message_records: 256,
            backoff_min_ms: 1_000,
            backoff_max_ms: 60_000,
            timeout_ms: 10_000,
        }
    }
}

/// Runs a drain for every target that has a queue.
pub(crate) async fn run(core: Arc<Core>) {
    let mut running: BTreeMap<NodeId, ()> = BTreeMap::new();
    let mut drains = JoinSet::new();
    let mut changes = core.handoff.changed();
    loop {
        for target in core.handoff.targets() {
            if running.insert(target, ()).is_none() {
                drains.spawn(Drain::new(Arc::clone(&core), target).run());
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// One target's drain.
struct Drain {
    core: Arc<Core>,
    target: NodeId,
    bucket: Bucket,
    failures: u32,
    maps: watch::Receiver<MetaIndex>,
    /// The live shards of the map by which the queue was last swept; none before that.
    swept: Option<BTreeSet<ShardId>>,
}

/// How a connection's worth of draining ended.
enum End {
    /// Nothing is pending.
    Empty,
    /// The target cannot take hints now.
    Failed(Duration),
}

impl Drain {
    fn new(core: Arc<Core>, target: NodeId) -> Self {
        let bucket = Bucket::new(core.config.drain.rate_limit);
        let mut maps = core.directory.changes();
        // The map of this moment counts as new.
        maps.mark_changed();
        Self { core, target, bucket, failures: 0, maps, swept: None }
    }

    async fn run(mut self) {
        let mut changes = self.core.handoff.changed();
        loop {
            changes.mark_unchanged();
            if !self.core.handoff.ready(self.target) {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Some(connection) = self.connected().await else { continue };
            match self.deliver(&connection).await {
                End::Empty => self.failures = 0,
                End::Failed(pause) => {
                    self.core.handoff.rewind(self.target);
                    sleep(pause.max(self.backoff())).await;
                }
            }
        }
    }

    /// Waits until the target is up, and meanwhile gives up hints of shards that are dropped: a
    /// target that never comes back must not keep them for ever.
    async fn connected(&mut self) -> Option<Arc<Connection>> {
        loop {
            let changed = tokio::select! {
                biased;
                changed = self.maps.changed() => changed,
                connection = up(&self.core, self.target) => return connection,
            };
            // Without maps there is nothing to drain by.
            changed.ok()?;
            self.sweep().await;
        }
    }

    /// Looks through the whole queue, if a shard has gone since the last time.
    async fn sweep(&mut self) {
        let snapshot = self.core.directory.current();
        let live: BTreeSet<ShardId> = snapshot.map.shards().map(|place| place.shard.id).collect();
        let swept = self.swept.replace(live);
        if swept.is_some_and(|swept| self.swept.as_ref().is_some_and(|live| swept.is_subset(live)))
        {
            return;
        }
        let config = self.core.config.drain.clone();
        loop {
            let records = config.message_records.clamp(1, 1024);
            match self.core.handoff.peek(self.target, records, config.message_bytes).await {
                Ok(records) if records.is_empty() => break,
                Ok(records) => drop(self.without_dead(records).await),
                Err(error) => {
                    tracing::warn!(target = %self.target, %error, "hints cannot be read");
                    break;
                }
            }
        }
        self.core.handoff.rewind(self.target);
    }

    /// Grows with every failure in a row, with up to half of itself as jitter.
    fn backoff(&mut self) -> Duration {
        let config = &self.core.config.drain;
        let doubled = config.backoff_min_ms.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let pause = doubled.min(config.backoff_max_ms.max(config.backoff_min_ms));
        let jitter = self.core.env.entropy.next_u64() % (pause / 2 + 1);
        Duration::from_millis(pause / 2 + jitter)
    }

    /// Delivers until nothing is left or something fails.
    async fn deliver(&mut self, connection: &Arc<Connection>) -> End {
        let config = self.core.config.drain.clone();
        let mut under_way = JoinSet::new();
        let mut failed = None;
        loop {
            while failed.is_none() && under_way.len() < config.window.max(1) {
                let records = self.core.handoff.peek(
                    self.target,
                    config.message_records.clamp(1, 1024),
                    config.message_bytes,
                );
                let records = match records.await {
                    Ok(records) if records.is_empty() => break,
                    Ok(records) => records,
                    Err(error) => {
                        tracing::warn!(target = %self.target, %error, "hints cannot be read");
                        failed = Some(Duration::ZERO);
                        break;
                    }
                };
                let Some(records) = self.without_dead(records).await else {
                    failed = Some(Duration::ZERO);
                    break;
                };
                if records.is_empty() {
                    continue;
                }
                let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
                self.bucket.take(bytes).await;
                let (core, connection) = (Arc::clone(&self.core), Arc::clone(connection));
                under_way.spawn(send(core, connection, self.target, records));
            }
            match under_way.join_next().await {
                Some(Ok(Ok(()))) => self.failures = 0,
                Some(Ok(Err(stop))) => {
                    // Who takes some of it is not failing, however long that goes on.
                    if stop.progress {
                        self.failures = 0;
                    }
                    failed = failed.max(Some(stop.pause));
                }
                Some(Err(_)) => failed = failed.max(Some(Duration::ZERO)),
                None => break,
            }
        }
        failed.map_or(End::Empty, End::Failed)
    }

    /// Discards hints of shards that are gone, by what the map says, without asking anybody; none
    /// if that could not be booked.
    async fn without_dead(&self, records: Vec<HintRecord>) -> Option<Vec<HintRecord>> {
        let snapshot = self.core.directory.current();
        let (mut left, mut ends) = (Vec::with_capacity(records.len()), Vec::new());
        for record in records {
            let dead = snapshot.shard(record.shard).is_none()
                && EncodedBatch::parse(record.bytes.clone())
                    .is_ok_and(|batch| batch.header().part.meta_index <= snapshot.map.index);
            if dead {
                ends.push((record.sequence, Terminal::Discarded(DiscardReason::ShardGone)));
            } else {
                left.push(record);
            }
        }
        finish(&self.core, self.target, ends).await.then_some(left)
    }
}

/// Waits until a node is up; none if it has to be looked for again.
async fn up(core: &Core, target: NodeId) -> Option<Arc<Connection>> {
    match core.pool.peer(target) {
        Some(peer) => peer.wait_up().await,
        // Not in the map, or not yet: look again when the pool has changed.
        None => {
            let mut changes = core.pool.changes();
            let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
            None
        }
    }
}

/// Why a message's records were not all settled.
struct Stop {
    /// How long the target asked to be left alone.
    pause: Duration,
    /// Whether some of them were settled.
    progress: bool,
}

impl Stop {
    const FAILED: Self = Self { pause: Duration::ZERO, progress: false };
}

/// Sends one message and settles each of its records.
async fn send(
    core: Arc<Core>,
    connection: Arc<Connection>,
    target: NodeId,
    records: Vec<HintRecord>,
) -> Result<(), Stop> {
    let timeout_ms = core.config.drain.timeout_ms;
    let request = Deliver {
        meta_index: core.directory.index(),
        deadline_ms: timeout_ms,
        items: records
            .iter()
            // A record is below the size of a frame.
            .map(|record| HintItem { shard: record.shard, length: record.bytes.len() as u32 })
            .collect(),
    };
    let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
    let reply = connection.request(&request, join(&records), deadline).await;
    let answers = match reply {
        Ok((delivered, _)) if delivered.answers.len() == records.len() => delivered.answers,
        Ok(_) => return Err(Stop::FAILED),
        Err(error) => {
            tracing::debug!(%target, %error, "hints not delivered");
            return Err(Stop::FAILED);
        }
    };
    let (mut ends, mut pause) = (Vec::with_capacity(records.len()), None);
    for (record, answer) in records.iter().zip(answers) {
        match terminal(answer) {
            Ok(terminal) => ends.push((record.sequence, terminal)),
            Err(wait) => pause = pause.max(Some(wait)),
        }
    }
    let progress = !ends.is_empty();
    if !finish(&core, target, ends).await {
        return Err(Stop::FAILED);
    }
    pause.map_or(Ok(()), |pause| Err(Stop { pause, progress }))
}

/// How a record ends by its answer; how long to wait if it stays.
fn terminal(answer: Answer) -> Result<Terminal, Duration> {
    match answer.error {
        None => Ok(Terminal::Delivered),
        Some(Code::ShardGone) => Ok(Terminal::Discarded(DiscardReason::ShardGone)),
        Some(code) if code.class() == Class::Never => {
            Ok(Terminal::Quarantined(QuarantineReason::Refused(code.number())))
        }
        Some(_) => Err(Duration::from_millis(answer.retry_after_ms.into())),
    }
}

/// Books ends; false if they could not be booked.
async fn finish(core: &Core, target: NodeId, ends: Vec<(Sequence, Terminal)>) -> bool {
    let refused = ends.iter().filter(|(_, end)| matches!(end, Terminal::Quarantined(_))).count();
    if refused > 0 {
        tracing::warn!(%target, refused, "hints refused for good; see 'quorate hints ls'");
    }
    match core.handoff.complete_all(target, ends).await {
        // Booked before: by the age limit, or by an earlier delivery.
        Ok(()) | Err(HandoffError::NotPending { .. }) => true,
        Err(error) => {
            // They stay pending and are delivered again, which changes nothing.
            tracing::warn!(%target, %error, "delivered hints could not be booked");
            false
        }
    }
}

fn join(records: &[HintRecord]) -> Bytes {
    if let [only] = records {
        return only.bytes.clone();
    }
    let mut joined = BytesMut::with_capacity(records.iter().map(|r| r.bytes.len()).sum());
    records.iter().for_each(|record| joined.extend_from_slice(&record.bytes));
    joined.freeze()
}

/// Lets `rate` bytes pass per second, with a tenth of a second's worth at once.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// When the bytes that have passed would all have passed at `rate`.
    paid_until: Instant,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self { rate, paid_until: Instant::now() }
    }

    /// Waits until `bytes` may pass.
    async fn take(&mut self, bytes: usize) {
        if self.rate == 0 {
            return;
        }
        let burst = Duration::from_millis(100);
        let now = Instant::now();
        // What was not used in the past cannot be used later.
        let from = self.paid_until.max(now.checked_sub(burst).unwrap_or(now));
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.paid_until = from + cost;
        sleep_until(from).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_over_every_second() {
        let mut bucket = Bucket::new(1_000_000);
        let start = Instant::now();
        let mut sent: Vec<(Duration, usize)> = Vec::new();
        for step in 0..300 {
            let bytes = 10_000 + (step % 7) * 5_000;
            bucket.take(bytes).await;
            sent.push((start.elapsed(), bytes));
        }
        for second in 0..5u64 {
            let window = Duration::from_secs(second)..Duration::from_secs(second + 1);
            let bytes: usize =
                sent.iter().filter(|(at, _)| window.contains(at)).map(|(_, bytes)| bytes).sum();
            let limit = if second == 0 { 1_140_000 } else { 1_040_000 };
            assert!((960_000..=limit).contains(&bytes), "second {second}: {bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_means_no_wait() {
        let mut bucket = Bucket::new(0);
        let start = Instant::now();
        bucket.take(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
