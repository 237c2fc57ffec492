//! Feeds: the newest batches of those shards that somebody follows.
//!
//! Invariants: a shard that nobody follows costs a write one look into a map; one that somebody
//! follows costs a write the same, whatever their number and speed, but for waking them; what is kept is
//! bounded in bytes, per shard and in total; nothing is told before it is synced. The journal's sink
//! pushes, [`answer`] tells.

mod answer;
mod config;
mod ring;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use quorate_protocol::{
    batch::EncodedBatch,
    id::{Sequence, ShardId},
};
use tokio::{sync::Notify, time::Instant};

pub use self::config::FeedConfig;
use self::ring::{Entry, Ring, Start};
use crate::shard::ShardStore;

const FOLLOWERS: &str = "quorate_feed_followers";
const BYTES: &str = "quorate_feed_kept_bytes";

/// The feeds of a node.
pub(crate) struct Feeds {
    config: FeedConfig,
    shards: ShardStore,
    by_shard: ArcSwap<HashMap<ShardId, Arc<Feed>>>,
    /// Held while feeds come or go.
    turn: Mutex<()>,
    /// Feeds with something that was not synced when it came.
    stirred: Mutex<Vec<Arc<Feed>>>,
    /// Everything up to here is synced.
    durable: AtomicU64,
    /// Of records up to here some may have been lost to damage.
    distrusted: AtomicU64,
    followers: AtomicUsize,
}

/// One shard's.
struct Feed {
    inner: Mutex<Inner>,
}

struct Inner {
    ring: Ring,
    followers: Vec<(Arc<Wake>, usize)>,
    stirred: bool,
    /// When the last follower went.
    idle: Instant,
}

/// What a follower waits for.
#[derive(Debug, Default)]
struct Wake {
    notify: Notify,
    /// Which of its shards have something new.
    dirty: Vec<AtomicBool>,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the followers of a node.
#[derive(Debug)]
struct Place(Arc<Feeds>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(FOLLOWERS).decrement(1.0);
    }
}

/// One shard that a follower has joined; it leaves when this is dropped.
struct Joined {
    feed: Arc<Feed>,
    wake: Arc<Wake>,
    start: Start,
}

impl Drop for Joined {
    fn drop(&mut self) {
        let mut inner = self.feed.lock();
        inner.followers.retain(|(wake, _)| !Arc::ptr_eq(wake, &self.wake));
        if inner.followers.is_empty() {
            inner.idle = Instant::now();
        }
    }
}

impl Feeds {
    pub(crate) fn new(config: FeedConfig, shards: ShardStore) -> Arc<Self> {
        Arc::new(Self {
            config,
            shards,
            by_shard: ArcSwap::default(),
            turn: Mutex::default(),
            stirred: Mutex::default(),
            durable: AtomicU64::new(0),
            distrusted: AtomicU64::new(0),
            followers: AtomicUsize::new(0),
        })
    }

    /// A batch that the shard store has just taken in, called in order of sequence. The store comes
    /// first: a feed that is made between the two finds the batch there.
    pub(crate) fn push(
        &self,
        shard: ShardId,
        sequence: Sequence,
        batch: impl FnOnce() -> Option<EncodedBatch>,
    ) {
        let by_shard = self.by_shard.load();
        let Some(feed) = by_shard.get(&shard) else { return };
        let Some(batch) = batch() else { return };
        let mut inner = feed.lock();
        inner.ring.push(Entry { sequence, batch });
        if !std::mem::replace(&mut inner.stirred, true) {
            self.stirred().push(Arc::clone(feed));
        }
    }

    /// Everything up to `through` is synced: it may be told.
    pub(crate) fn synced(&self, through: Sequence) {
        self.durable.fetch_max(through.0, Ordering::AcqRel);
        let stirred = std::mem::take(&mut *self.stirred());
        for feed in stirred {
            let mut inner = feed.lock();
            inner.stirred = false;
            for (wake, index) in &inner.followers {
                if let Some(dirty) = wake.dirty.get(*index) {
                    dirty.store(true, Ordering::Release);
                }
                wake.notify.notify_one();
            }
        }
    }

    /// Some records up to `through` may be lost.
    pub(crate) fn distrust(&self, through: Sequence) {
        self.distrusted.fetch_max(through.0, Ordering::Relaxed);
    }

    fn stirred(&self) -> MutexGuard<'_, Vec<Arc<Feed>>> {
        self.stirred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable(&self) -> Sequence {
        Sequence(self.durable.load(Ordering::Acquire))
    }

    /// A place for one more follower.
    fn enter(self: &Arc<Self>) -> Option<Place> {
        let more = |count: usize| (count < self.config.max_followers).then_some(count + 1);
        self.followers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        metrics::gauge!(FOLLOWERS).increment(1.0);
        Some(Place(Arc::clone(self)))
    }

    /// Joins a shard's followers. `wake` hears of it at `index`.
    fn join(
        &self,
        shard: ShardId,
        after: Option<Sequence>,
        wake: &Arc<Wake>,
        index: usize,
    ) -> Joined {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.by_shard.load().get(&shard).cloned();
        let feed = known.unwrap_or_else(|| self.make(shard));
        let mut inner = feed.lock();
        inner.followers.push((Arc::clone(wake), index));
        let start = inner.ring.start(after);
        drop(inner);
        Joined { feed, wake: Arc::clone(wake), start }
    }

    /// A new feed, with what the store still has as it came.
    fn make(&self, shard: ShardId) -> Arc<Feed> {
        let mut by_shard = HashMap::clone(&self.by_shard.load());
        let share = self.share(by_shard.len() + 1);
        by_shard.values().for_each(|feed| feed.lock().ring.set_limit(share));
        let feed = Arc::new(Feed {
            inner: Mutex::new(Inner {
                ring: Ring::new(Sequence(0), share),
                followers: Vec::new(),
                stirred: false,
                idle: Instant::now(),
            }),
        });
        by_shard.insert(shard, Arc::clone(&feed));
        self.by_shard.store(Arc::new(by_shard));
        // From here on the sink adds to it; what it brought before is in the store. Looking there takes
        // time, for which no write must wait.
        let (begins, kept) = self.shards.unfolded(shard);
        let mut ring = Ring::new(begins, share);
        for (sequence, batch) in kept {
            ring.push(Entry { sequence, batch });
        }
        ring.distrust(Sequence(self.distrusted.load(Ordering::Relaxed)));
        feed.lock().ring.begin_with(ring);
        feed
    }

    fn share(&self, feeds: usize) -> u64 {
        self.config.shard_bytes.min(self.config.total_bytes / feeds.max(1) as u64)
    }

    /// Forgets a shard that is gone: its followers hear no more of it.
    fn remove(&self, shard: ShardId) {
        self.retain(|id, _| *id != shard);
    }

    /// Lets go of what nobody has followed for a while.
    pub(crate) fn tidy(&self) {
        let keep = Duration::from_millis(self.config.keep_ms);
        self.retain(|_, feed| {
            let inner = feed.lock();
            !inner.followers.is_empty() || inner.idle.elapsed() < keep
        });
    }

    fn retain(&self, stays: impl Fn(&ShardId, &Feed) -> bool) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.by_shard.load();
        if before.iter().all(|(shard, feed)| stays(shard, feed)) {
            return;
        }
        let mut by_shard = HashMap::clone(&before);
        by_shard.retain(|shard, feed| stays(shard, feed));
        let share = self.share(by_shard.len());
        by_shard.values().for_each(|feed| feed.lock().ring.set_limit(share));
        self.by_shard.store(Arc::new(by_shard));
    }

    /// Bytes that are kept.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.by_shard.load().values().map(|feed| feed.lock().ring.bytes()).sum()
    }

    /// Sets the gauges that nobody sets otherwise.
    pub(crate) fn publish(&self) {
        metrics::gauge!(BYTES).set(self.kept_bytes() as f64);
    }
}

impl std::fmt::Debug for Feeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feeds").field("durable", &self.durable()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
