//! Delivering hints: one task per target, as fast as the target and the rate limit allow.
//!
//! A drain starts when its target is seen alive. It keeps a window of messages under way, each with
//! many records, on a lane of the lowest priority; every record is answered for itself. Invariants:
//! a record leaves its queue only with an answer or by what metadata says of its shard; a record
//! that is refused for good, or whose shard is busy, never holds up what is behind it; the limit is
//! kept over every second, and a wait for it ends at once when the node stops.
//!
//! Reading order: `send.rs` is one message, `lot.rs` what needs none, `aside.rs` what waits for
//! busy shards, `pace.rs` how fast; `hand_on.rs` is for a holder that leaves.

mod aside;
mod config;
mod hand_on;
mod lot;
mod pace;
mod send;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use quorate_client::connection::Connection;
use quorate_protocol::id::{MetaIndex, NodeId, ShardId};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

pub use self::config::DrainConfig;
use self::{aside::Aside, pace::Pace, send::Sent};
use super::HintRecord;
use crate::core::Core;

/// Hints of a busy shard that are tried at once.
const TRIED: usize = 16;

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
    config: watch::Receiver<DrainConfig>,
    pace: Pace,
    aside: Aside,
    failures: u32,
    maps: watch::Receiver<MetaIndex>,
    hints: watch::Receiver<u64>,
    /// What the target owned by the map by which the queue was last swept; none before that.
    swept: Option<Arc<BTreeSet<ShardId>>>,
}

/// How a connection's worth of draining ended.
enum End {
    /// Nothing is pending.
    Empty,
    /// The target cannot take hints now.
    Failed,
}

impl Drain {
    fn new(core: Arc<Core>, target: NodeId) -> Self {
        let config = core.drain.subscribe();
        let mut maps = core.directory.changes();
        // The map of this moment counts as new.
        maps.mark_changed();
        Self {
            pace: Pace::new(config.clone()),
            aside: Aside::default(),
            failures: 0,
            maps,
            hints: core.handoff.changed(),
            swept: None,
            core,
            target,
            config,
        }
    }

    fn config(&self) -> DrainConfig {
        self.config.borrow().clone()
    }

    async fn run(mut self) {
        loop {
            self.hints.mark_unchanged();
            if !self.core.handoff.ready(self.target) {
                if self.hints.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Some(connection) = self.connected().await else { continue };
            let end = self.deliver(&connection).await;
            self.aside.clear();
            match end {
                End::Empty => self.failures = 0,
                End::Failed => {
                    self.core.handoff.rewind(self.target);
                    sleep(self.backoff()).await;
                }
            }
        }
    }

    /// Waits until the target is up, and meanwhile ends hints by what metadata says: a target that
    /// never comes back must not keep them for ever.
    async fn connected(&mut self) -> Option<Arc<Connection>> {
        loop {
            let changed = tokio::select! {
                biased;
                changed = self.maps.changed() => changed,
                connection = up(&self.core, self.target) => {
                    if connection.is_none() && self.core.pool.peer(self.target).is_none() {
                        // Nobody to wait for: what was appended meanwhile, by an older map, has to go
                        // elsewhere too.
                        self.swept = None;
                        self.sweep().await;
                    }
                    return connection;
                }
            };
            // Without maps there is nothing to drain by.
            changed.ok()?;
            if !self.sweep().await {
                // Tried again with the next map, or after a while.
                self.swept = None;
                sleep(self.backoff()).await;
                self.maps.mark_changed();
            }
        }
    }

    /// Looks through the whole queue, if the target has lost a shard since the last time; false if
    /// something could not be done now.
    async fn sweep(&mut self) -> bool {
        let owned = lot::owned(&self.core.directory.current(), self.target);
        let owned = Arc::new(owned);
        let swept = self.swept.replace(Arc::clone(&owned));
        if swept.is_some_and(|swept| swept.is_subset(&owned)) {
            return true;
        }
        let (mut whole, mut next) = (true, None);
        loop {
            let picked = self.core.handoff.pick(self.target, Arc::clone(&owned), next);
            let picked = match picked.await {
                Ok(picked) => picked,
                Err(error) => {
                    tracing::warn!(target = %self.target, %error, "hints cannot be read");
                    return false;
                }
            };
            if !picked.records.is_empty() {
                let all: Vec<_> = picked.records.iter().map(|record| record.sequence).collect();
                whole &= lot::sort(&self.core, self.target, picked.records).await.is_some();
                // Those that ended are not there any more.
                self.core.handoff.put_back(self.target, &all);
            }
            next = picked.next;
            if next.is_none() {
                return whole;
            }
        }
    }

    /// Grows with every failure in a row, with up to half of itself as jitter.
    fn backoff(&mut self) -> Duration {
        let config = self.config();
        let doubled = config.backoff_min_ms.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let pause = doubled.min(config.backoff_max_ms.max(config.backoff_min_ms));
        let jitter = self.core.env.entropy.next_u64() % (pause / 2 + 1);
        Duration::from_millis(pause / 2 + jitter)
    }

    /// Delivers until nothing is left or something fails.
    async fn deliver(&mut self, connection: &Arc<Connection>) -> End {
        let mut under_way = JoinSet::new();
        let mut failed = false;
        loop {
            let config = self.config();
            self.try_due(Instant::now());
            self.hints.mark_unchanged();
            while !failed
                && under_way.len() < config.window.max(1)
                && self.aside.count() < config.aside_records.max(1)
            {
                match self.next(&config).await {
                    Some(records) if records.is_empty() => break,
                    Some(records) => {
                        let bytes = records.iter().map(|record| record.bytes.len()).sum();
                        self.pace.take(bytes).await;
                        let (core, connection) = (Arc::clone(&self.core), Arc::clone(connection));
                        let (target, timeout_ms) = (self.target, config.timeout_ms);
                        under_way.spawn(send::send(core, connection, target, records, timeout_ms));
                    }
                    None => failed = true,
                }
            }
            let waits = !failed && self.aside.count() > 0;
            if under_way.is_empty() && !waits {
                break;
            }
            let due = self.aside.next_due();
            tokio::select! {
                Some(sent) = under_way.join_next() => {
                    failed |= self.settle(sent.unwrap_or_else(|_| Sent { stop: true, ..Sent::default() }));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if waits && due.is_some() => {}
                changed = self.hints.changed(), if waits => failed |= changed.is_err(),
            }
        }
        if failed { End::Failed } else { End::Empty }
    }

    /// The next records to send; empty if there are none, `None` if something is wrong here.
    async fn next(&mut self, config: &DrainConfig) -> Option<Vec<HintRecord>> {
        loop {
            let bytes = self.pace.message_bytes(config.message_bytes);
            let records = self.core.handoff.peek(self.target, config.records(), bytes).await;
            let records = match records {
                Ok(records) if records.is_empty() => return Some(records),
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(target = %self.target, %error, "hints cannot be read");
                    return None;
                }
            };
            let sorted = lot::sort(&self.core, self.target, records).await?;
            for shard in sorted.ended {
                self.free(shard);
            }
            let (mut left, mut held) = (sorted.left, Vec::new());
            left.retain(|record| {
                let holds = self.aside.holds(record.shard);
                if holds {
                    self.aside.add(record.shard, record.sequence);
                    held.push(record.sequence);
                }
                !holds
            });
            self.core.handoff.set_aside(self.target, &held);
            if !left.is_empty() || self.aside.count() >= config.aside_records.max(1) {
                return Some(left);
            }
        }
    }

    /// Hands out a few hints of shards that were waited for long enough.
    fn try_due(&mut self, now: Instant) {
        if self.aside.next_due().is_none_or(|due| due > now) {
            return;
        }
        // Some may have ended meanwhile: they were too old, or an operator has dropped them.
        self.core.handoff.look_aside(self.target, |count, is_left| {
            if count != self.aside.count() {
                self.aside.retain(is_left);
            }
        });
        let due = self.aside.due(now, TRIED);
        if !due.is_empty() {
            self.core.handoff.resume(self.target, &due);
        }
    }

    /// Takes what came of a message; whether to stop.
    fn settle(&mut self, sent: Sent) -> bool {
        self.pace.settled(sent.bytes);
        if sent.refused.values().any(|refused| refused.busy) {
            self.pace.busy();
        }
        // Who takes some of it is not failing, however long that goes on.
        if !sent.taken.is_empty() {
            self.failures = 0;
        }
        for (shard, refused) in sent.refused {
            self.core.handoff.set_aside(self.target, &refused.sequences);
            self.aside.refused(shard, refused, Instant::now());
        }
        // Some were refused and some not: there is room again.
        for shard in sent.taken {
            self.free(shard);
        }
        sent.stop
    }

    /// Hands out what was set aside of a shard.
    fn free(&mut self, shard: ShardId) {
        let sequences = self.aside.taken(shard);
        if !sequences.is_empty() {
            self.core.handoff.resume(self.target, &sequences);
        }
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
