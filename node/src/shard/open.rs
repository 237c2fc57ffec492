//! One open shard: its environment, and what is kept in memory while it is open.
//!
//! Invariant: an environment that is open has a readable state record and no blocks of dead runs that
//! a crash has left. [`super::opened`] says which are open.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use heed::RoTxn;

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
    state::{self, Run, State},
    summary::{self, Stamp, Summary},
};

/// The tables of a shard, in the order of [`Tables`].
pub(super) const NAMES: [&str; 6] = ["runs", "series", "ids", "keys", "index", "state"];

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
    pub(super) series: Mutex<SeriesCache>,
    /// When it was last folded, in folds of any shard.
    pub(super) folded: AtomicU64,
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
    pub(super) fn open(
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
    pub(super) fn close(self, trusted: bool) {
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
        while shard.has_dead(None)? {
            shard.delete_dead(None)?;
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

    /// Whether any block belongs to a run, of these or of all, that is neither live nor being written.
    pub(super) fn has_dead(&self, among: Option<&[Run]>) -> Result<bool, ShardError> {
        self.env.read(|txn, tables| {
            let state = self.state_in(txn, tables)?;
            let is_kept = |run| self.is_kept(&state, among, run);
            Ok(run::has_dead(txn, &tables[0], &is_kept).map_err(|error| self.env.wrap(error))?)
        })
    }

    fn is_kept(&self, state: &State, among: Option<&[Run]>, run: u32) -> bool {
        let is_other = among.is_some_and(|among| among.iter().all(|it| it.id != run));
        is_other || state.is_live(run) || self.is_building(run)
    }

    /// Deletes blocks of such runs, one transaction full.
    pub(super) fn delete_dead(&self, among: Option<&[Run]>) -> Result<(), EnvError> {
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
            let is_kept = |run| self.is_kept(&state, among, run);
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
