//! Open shards: at most so many environments at once, each opened once.
//!
//! Invariants: a shard is pinned while it is used and closed only when nobody has it pinned; an
//! environment that is open has a readable state record and no blocks of dead runs that a crash has
//! left. A thread that has a shard pinned must not ask for another one: with few environments
//! allowed, it might wait for itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use heed::RoTxn;
use quorate_protocol::id::ShardId;

use super::{
    block::VersionTable,
    config::Config,
    dense, directory,
    env::{EnvError, EnvLimits, Environment, Table},
    error::ShardError,
    run::{self, BlockKey},
    series,
    series_cache::{CacheBudget, Caches, SeriesCache},
    slot::Stored,
    state::{self, State},
    summary::{self, Stamp, Summary},
};

/// The tables of a shard, in the order of [`Tables`].
pub(super) const NAMES: [&str; 6] = ["runs", "series", "ids", "keys", "index", "state"];

/// How long, and how often, somebody waits who wants a shard that others use to be closed. Reads use
/// it for milliseconds; only a stream of them makes this end.
const WAIT: Duration = Duration::from_millis(100);
const WAITS: u32 = 100;

/// `runs`, `series`, `ids`, `keys`, `index`, `state`.
pub(super) type Tables = [Table; NAMES.len()];

/// LMDB's two pages of meta data, at their smallest.
const META_BYTES: u64 = 2 * 4096;

/// An open shard.
pub(super) struct OpenShard {
    pub(super) env: Environment<{ NAMES.len() }>,
    pub(super) path: PathBuf,
    pub(super) config: Config,
    /// The id of the next run; grows also over runs that were never finished.
    next_run: AtomicU32,
    /// Runs that are being written: not live yet, and no garbage.
    building: Mutex<BTreeSet<u32>>,
    /// The version tables of runs, once they were read.
    versions: Mutex<BTreeMap<u32, Option<VersionTable>>>,
    /// Ids of its series; held by a fold all along.
    series: Mutex<SeriesCache>,
    /// When it was last folded, in folds of any shard.
    folded: AtomicU64,
    /// Of the file before it was opened.
    stamp: Option<Stamp>,
    /// Tells this opening from all others of this process.
    opening: u64,
}

/// A run being written; while this is alive nobody deletes it.
pub(super) struct Building<'a> {
    shard: &'a OpenShard,
    run: u32,
}

impl Building<'_> {
    pub(super) const fn run(&self) -> u32 {
        self.run
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        lock(&self.shard.building).remove(&self.run);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenShard {
    /// Opens the environment of a directory that has its marker.
    fn open(
        path: PathBuf,
        config: Config,
        opening: u64,
        caches: &Caches,
    ) -> Result<Self, ShardError> {
        dense::remove_draft(&path)?;
        remove_stillborn(&path)?;
        let stamp = Stamp::of(&path).ok();
        summary::remove(&path);
        let shard = Self::open_draft(path, config, opening)?;
        let next = shard.env.read(|txn, tables| {
            series::next_id(txn, tables).map_err(|error| shard.env.wrap(error))
        })?;
        let series = Mutex::new(caches.cache(next == 1));
        Ok(Self { stamp, series, ..shard })
    }

    /// Closes the environment, which nobody else has. `trusted`: it has what was synced.
    fn close(self, trusted: bool) {
        let summary = self.summary();
        let Self { env, path, stamp, .. } = self;
        drop(env);
        if let (Ok(summary), true) = (summary, trusted) {
            let _ = summary::write(&path, summary, stamp);
        }
    }

    /// Opens the environment of a directory, for a dense pass.
    pub(super) fn open_draft(
        path: PathBuf,
        config: Config,
        opening: u64,
    ) -> Result<Self, ShardError> {
        let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let limits = EnvLimits {
            map_bytes: bytes(config.map_bytes),
            max_map_bytes: bytes(config.max_map_bytes),
            readers: config.readers,
        };
        let new = !path.join("data.mdb").exists();
        let env = Environment::open(&path, limits, NAMES)?;
        if new {
            directory::sync(&path)?;
        }
        let shard = Self {
            env,
            path,
            config,
            next_run: AtomicU32::new(1),
            building: Mutex::default(),
            versions: Mutex::default(),
            series: Mutex::new(SeriesCache::new(0, CacheBudget::new(0), false)),
            folded: AtomicU64::new(0),
            opening,
            stamp: None,
        };
        let state = shard.state()?;
        while shard.has_dead()? {
            shard.delete_dead()?;
        }
        let last = state.runs.last().map_or(0, |run| run.id);
        shard.next_run.store(last.saturating_add(1), Ordering::Relaxed);
        Ok(shard)
    }

    /// How much is stored.
    pub(super) fn stored(&self) -> Result<Stored, ShardError> {
        self.env.read(|txn, tables| {
            let [_, _, ids, ..] = tables;
            let state = self.state_in(txn, tables)?;
            Ok(Stored {
                series: ids.len(txn).map_err(|e| self.env.wrap(e))?,
                runs: state.runs.len() as u64,
                bytes: state.runs.iter().map(|run| run.bytes).sum(),
                damaged: state.runs.iter().any(|run| run.damaged),
            })
        })
    }

    /// What a start must know of the shard.
    pub(super) fn summary(&self) -> Result<Summary, ShardError> {
        let state = self.state()?;
        let stored = self.stored()?;
        Ok(Summary { applied: state.applied, highest_version: state.highest_version, stored })
    }

    /// Which opening this is: series ids and run ids that were read in one mean nothing in another,
    /// since a shard may be rewritten while nobody has it open.
    pub(super) const fn opening(&self) -> u64 {
        self.opening
    }

    /// The ids of its series in memory, for a fold.
    pub(super) fn series_cache(&self) -> MutexGuard<'_, SeriesCache> {
        lock(&self.series)
    }

    /// Begins a run.
    pub(super) fn begin_run(&self) -> Building<'_> {
        let run = self.next_run.fetch_add(1, Ordering::Relaxed);
        lock(&self.building).insert(run);
        Building { shard: self, run }
    }

    pub(super) fn is_building(&self, run: u32) -> bool {
        lock(&self.building).contains(&run)
    }

    /// Whether any block belongs to a run that is neither live nor being written.
    pub(super) fn has_dead(&self) -> Result<bool, ShardError> {
        self.env.read(|txn, tables| {
            let state = self.state_in(txn, tables)?;
            let is_kept = |run| state.is_live(run) || self.is_building(run);
            Ok(run::has_dead(txn, &tables[0], &is_kept).map_err(|error| self.env.wrap(error))?)
        })
    }

    /// Deletes blocks of such runs, one transaction full.
    pub(super) fn delete_dead(&self) -> Result<(), EnvError> {
        let max = self.config.txn_bytes;
        self.env.write(|txn, tables| {
            let [runs, .., states] = tables;
            // Read here: nobody can make a run live before this transaction is over.
            let record = states.get(txn, state::KEY)?;
            let state = match record.map(State::decode) {
                None => State::default(),
                Some(Some(state)) => state,
                // Nothing is known to be dead.
                Some(None) => return Ok(()),
            };
            let is_kept = |run| state.is_live(run) || self.is_building(run);
            run::delete_dead(txn, runs, &is_kept, max)
        })
    }

    /// The version table of a live run, if it has one that can be read. Kept in memory once it was
    /// read, at most 512 KiB each.
    pub(super) fn versions_in(
        &self,
        txn: &RoTxn<'_>,
        [runs, ..]: &Tables,
        run: u32,
    ) -> heed::Result<Option<VersionTable>> {
        if let Some(known) = lock(&self.versions).get(&run) {
            return Ok(known.clone());
        }
        let value = runs.get(txn, &BlockKey::versions(run).encode())?;
        // Blocks that need a table that is damaged count as damaged themselves.
        let table = value.and_then(|value| VersionTable::decode(value).ok());
        lock(&self.versions).insert(run, table.clone());
        Ok(table)
    }

    /// [`Self::versions_in`] in a transaction of its own.
    pub(super) fn versions(&self, run: u32) -> Result<Option<VersionTable>, EnvError> {
        self.env.read(|txn, tables| {
            self.versions_in(txn, tables, run).map_err(|error| self.env.wrap(error))
        })
    }

    /// Forgets the version tables of runs that are live no more.
    pub(super) fn forget_versions(&self, state: &State) {
        lock(&self.versions).retain(|run, _| state.is_live(*run));
    }

    /// The state record.
    pub(super) fn state(&self) -> Result<State, ShardError> {
        self.env.read(|txn, tables| self.state_in(txn, tables))
    }

    /// The state record as a transaction sees it.
    pub(super) fn state_in(
        &self,
        txn: &RoTxn<'_>,
        [.., table]: &Tables,
    ) -> Result<State, ShardError> {
        match table.get(txn, state::KEY).map_err(|e| self.env.wrap(e))? {
            None => Ok(State::default()),
            Some(record) => State::decode(record).ok_or_else(|| {
                let why = "its state record is damaged";
                ShardError::BadDirectory { path: self.path.clone(), why }
            }),
        }
    }
}

/// Removes a `data.mdb` that is shorter than LMDB's first write to it, which a full disk may have cut:
/// nothing was ever committed to it, and LMDB would refuse it for ever.
fn remove_stillborn(path: &Path) -> Result<(), ShardError> {
    let data = path.join("data.mdb");
    if is_stillborn(&data) {
        fs::remove_file(&data).map_err(directory::io_error("remove", &data))?;
    }
    Ok(())
}

pub(super) fn is_stillborn(data: &Path) -> bool {
    fs::metadata(data).is_ok_and(|meta| meta.len() < META_BYTES)
}

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
            if opened.closed {
                return Err(ShardError::Closed);
            }
            opened.clock += 1;
            let clock = opened.clock;
            if let Some((shard, used)) = opened.shards.get_mut(&id) {
                *used = clock;
                return Ok(Some(Pin { shard: Some(Arc::clone(shard)), of: self }));
            }
            if opened.shards.len() < self.config.max_open_shards.max(1) {
                let path = directory::path(&self.root, id);
                if !directory::check(&path)? {
                    return Ok(None);
                }
                let shard = Arc::new(OpenShard::open(path, self.config, clock, &self.caches)?);
                opened.shards.insert(id, (Arc::clone(&shard), clock));
                return Ok(Some(Pin { shard: Some(shard), of: self }));
            }
            let idle = opened.shards.iter().filter(|(_, (shard, _))| Arc::strong_count(shard) == 1);
            match idle.min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id) {
                // Nobody else has it, and nobody can get it while the lock is held: this closes it.
                Some(idle) => opened.close(idle),
                None => {
                    opened = self.unpinned.wait(opened).unwrap_or_else(PoisonError::into_inner);
                }
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
