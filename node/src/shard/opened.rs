//! Open shards: at most so many environments at once, each opened once.
//!
//! Invariant: a shard is pinned while it is used and closed only when nobody has it pinned.
//! A thread that has one pinned must not wait for another, as only [`OpenShards::pin_at_once`] does
//! not: with few environments allowed, it might wait for itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use quorate_protocol::id::ShardId;

use super::{
    config::Config, directory, error::ShardError, open::OpenShard, series_cache::Caches, summary,
};

/// How long, and how often, somebody waits who wants a shard that others use to be closed. Reads use
/// it for milliseconds; only a stream of them makes this end.
const WAIT: Duration = Duration::from_millis(100);
const WAITS: u32 = 100;

#[derive(Default)]
struct Opened {
    shards: BTreeMap<ShardId, (Arc<OpenShard>, u64)>,
    /// Grows with every use; the least recently used shard is closed first.
    clock: u64,
    closed: bool,
    /// Poisoned shards. Without a summary, the next start must open and recover them.
    distrusted: BTreeSet<ShardId>,
}

impl Opened {
    /// Closes a shard that nobody has pinned.
    fn close(&mut self, id: ShardId) {
        if let Some((shard, _)) = self.shards.remove(&id)
            && let Some(shard) = Arc::into_inner(shard)
        {
            shard.close(!self.distrusted.contains(&id));
        }
    }
}

/// All open shards below one directory.
pub(super) struct OpenShards {
    root: PathBuf,
    config: Config,
    caches: Caches,
    opened: Mutex<Opened>,
    unpinned: Condvar,
}

impl OpenShards {
    pub(super) fn new(root: &Path, config: Config, cache_key: u64) -> Self {
        let caches = Caches::new(cache_key, config.series_cache_bytes);
        let (opened, unpinned) = (Mutex::default(), Condvar::new());
        Self { root: root.to_owned(), config, caches, opened, unpinned }
    }

    /// A fold of the shard begins.
    pub(super) fn note_fold(&self, shard: &OpenShard) {
        shard.folded.store(self.caches.next_fold(), Ordering::Relaxed);
    }

    /// Forgets the series of the shard that was not folded for longest; whether there was one.
    pub(super) fn forget_series(&self) -> bool {
        let opened = self.lock();
        let mut idle = Vec::new();
        for (shard, _) in opened.shards.values() {
            // Whoever folds has it locked.
            if let Ok(series) = shard.series.try_lock() {
                idle.push((shard.folded.load(Ordering::Relaxed), series));
            }
        }
        self.caches.forget_oldest(idle)
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard, created if it does not exist.
    pub(super) fn pin_or_create(&self, id: ShardId) -> Result<Pin<'_>, ShardError> {
        match self.pin(id)? {
            Some(pin) => Ok(pin),
            None => {
                directory::create(&self.root, &directory::path(&self.root, id))?;
                // Only [`Self::remove`] makes a marker go away, and then the shard is gone.
                self.pin(id)?.ok_or(ShardError::Gone(id))
            }
        }
    }

    /// The shard, or `None` if nothing of it is stored. Waits while too many are in use.
    pub(super) fn pin(&self, id: ShardId) -> Result<Option<Pin<'_>>, ShardError> {
        let mut opened = self.lock();
        loop {
            match self.try_pin(&mut opened, id)? {
                Try::Done(pin) => return Ok(pin),
                Try::InUse => {
                    opened = self.unpinned.wait(opened).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The shard, or `None` if nothing of it is stored or too many are in use.
    pub(super) fn pin_at_once(&self, id: ShardId) -> Result<Option<Pin<'_>>, ShardError> {
        match self.try_pin(&mut self.lock(), id)? {
            Try::Done(pin) => Ok(pin),
            Try::InUse => Ok(None),
        }
    }

    fn try_pin(&self, opened: &mut Opened, id: ShardId) -> Result<Try<'_>, ShardError> {
        loop {
            if opened.closed {
                return Err(ShardError::Closed);
            }
            opened.clock += 1;
            let clock = opened.clock;
            if let Some((shard, used)) = opened.shards.get_mut(&id) {
                *used = clock;
                return Ok(Try::Done(Some(Pin { shard: Some(Arc::clone(shard)), of: self })));
            }
            if opened.shards.len() < self.config.max_open_shards.max(1) {
                let path = directory::path(&self.root, id);
                if !directory::check(&path)? {
                    return Ok(Try::Done(None));
                }
                let shard = Arc::new(OpenShard::open(path, self.config, clock, &self.caches)?);
                opened.shards.insert(id, (Arc::clone(&shard), clock));
                return Ok(Try::Done(Some(Pin { shard: Some(shard), of: self })));
            }
            let idle = opened.shards.iter().filter(|(_, (shard, _))| Arc::strong_count(shard) == 1);
            match idle.min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id) {
                // Nobody else has it, and nobody can get it while the lock is held: this closes it.
                Some(idle) => opened.close(idle),
                None => return Ok(Try::InUse),
            }
        }
    }

    /// Closes a shard as soon as nobody has it pinned, and removes its directory.
    pub(super) fn remove(&self, id: ShardId) -> Result<(), ShardError> {
        let mut opened = self.lock();
        while opened.shards.get(&id).is_some_and(|(shard, _)| Arc::strong_count(shard) > 1) {
            opened = self.unpinned.wait(opened).unwrap_or_else(PoisonError::into_inner);
        }
        drop(opened.shards.remove(&id));
        let condemned = directory::condemn(&self.root, &directory::path(&self.root, id))?;
        // Nobody finds it any more; deleting it may take its time.
        drop(opened);
        condemned.map_or(Ok(()), |path| {
            directory::delete_gently(&path, &self.config, std::thread::sleep)
        })
    }

    /// Closes a shard, and calls `replace` while nobody can open it. `false`: it is used too much, and
    /// nothing was done.
    pub(super) fn replace(
        &self,
        id: ShardId,
        replace: impl FnOnce() -> Result<(), ShardError>,
    ) -> Result<bool, ShardError> {
        let mut opened = self.lock();
        let mut waits = 0;
        while opened.shards.get(&id).is_some_and(|(shard, _)| Arc::strong_count(shard) > 1) {
            waits += 1;
            if waits > WAITS {
                return Ok(false);
            }
            let waited = self.unpinned.wait_timeout(opened, WAIT);
            opened = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(opened.shards.remove(&id));
        replace().map(|()| true)
    }

    /// Closes everything; nothing can be pinned any more.
    pub(super) fn close(&self) {
        let mut opened = self.lock();
        opened.closed = true;
        while opened.shards.values().any(|(shard, _)| Arc::strong_count(shard) > 1) {
            opened = self.unpinned.wait(opened).unwrap_or_else(PoisonError::into_inner);
        }
        while let Some(id) = opened.shards.first_key_value().map(|(id, _)| *id) {
            opened.close(id);
        }
    }

    /// The shard is poisoned: whatever closes it from now on leaves no summary.
    pub(super) fn distrust(&self, id: ShardId) {
        let mut opened = self.lock();
        opened.distrusted.insert(id);
        // One that could not be removed when the shard was opened would still be believed.
        summary::remove(&directory::path(&self.root, id));
    }

    /// How many environments are open.
    pub(super) fn len(&self) -> usize {
        self.lock().shards.len()
    }
}

/// What came of trying to pin a shard.
enum Try<'a> {
    /// `None`: nothing of it is stored.
    Done(Option<Pin<'a>>),
    /// All environments that may be open are.
    InUse,
}

/// A shard that stays open while this is alive.
pub(super) struct Pin<'a> {
    /// `Some` until dropped.
    shard: Option<Arc<OpenShard>>,
    of: &'a OpenShards,
}

impl Deref for Pin<'_> {
    type Target = OpenShard;

    #[expect(clippy::expect_used, reason = "only `drop` takes it")]
    fn deref(&self) -> &OpenShard {
        self.shard.as_ref().expect("a pin has its shard until it is dropped")
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        drop(self.shard.take());
        // With the lock, so that nobody misses this between counting and waiting.
        drop(self.of.lock());
        self.of.unpinned.notify_all();
    }
}
