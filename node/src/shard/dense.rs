//! The dense pass: a shard that is over and idle is rewritten as one run, in a file of its own.
//!
//! Order, which a crash may cut anywhere: the draft, a whole environment in a directory below the
//! shard's, with series numbered in the order of their keys and blocks encoded as small as possible;
//! it is synced; then, if no fold has come in between, its file takes the place of the old one in
//! one rename. So a shard has its old file or its new one, and all space of the old one is free.
//! Leftovers are removed when the shard is opened. Ids of series change: nobody may keep one from
//! pin to pin. Run by [`super::background`] and by [`super::ShardStore::densify`].

use std::{
    fs::{self, File},
    ops::Bound,
    path::Path,
    sync::Arc,
    thread,
};

use quorate_protocol::{hash::series_hash, id::ShardId};

use super::{
    Inner, ShardStore,
    assemble::{Assembler, Limits},
    block::Density,
    config::Config,
    cursor::{Cursor, Trouble},
    directory,
    enrol::KEY_BYTES,
    error::ShardError,
    fault::Step,
    index::Postings,
    merge::{all_versions, leave_alone},
    open::OpenShard,
    series::{self, InOrder, NewSeries, SeriesId},
    slot::{Merging, Slot},
    source::Sources,
    state::{self, State},
    weave::weave,
    work::Work,
    writer::{self, Writer},
};

/// The directory of the draft, below the shard's.
const DRAFT: &str = "dense.new";
/// The name of the old file in there, once the draft has taken its place.
const OLD: &str = "old.mdb";
/// How many times [`Config::txn_bytes`] a draft's transactions have: each waits for a sync, and nobody for
/// them, but the small merges that go first in between.
pub(super) const DRAFT_TXN: usize = 4;
/// Series that take so many transactions are entered in the index of tags together; with their tags
/// they take about twice that in memory.
const INDEXED_TXNS: usize = 64;
/// Keys read in one read transaction.
const KEYS: usize = 4096;
/// Decoded blocks of several series that are kept for reading out of order, of all runs together;
/// half a mebibyte each.
const KEPT_BLOCKS: usize = 64;

impl ShardStore {
    /// Says that a shard's group is over: what comes now comes late. Once it is idle the shard is
    /// rewritten densely, see [`super::Config::dense_idle_ms`].
    pub fn set_over(&self, shard: ShardId) {
        if let Some(slot) = self.inner.slot(shard) {
            slot.set_over();
        }
    }

    /// Rewrites the shard densely, with what it has fresh, if it has anything that is not. Waits for
    /// a merge or a pass that is under way. If rows come in meanwhile, the shard is left as it was.
    ///
    /// # Errors
    /// The pass failed; the shard is as it was.
    pub async fn densify(&self, shard: ShardId) -> Result<(), ShardError> {
        self.flush(shard).await?;
        let inner = Arc::clone(&self.inner);
        let Some(slot) = inner.slot(shard) else { return Ok(()) };
        self.inner.executor.run(move || inner.densify_now(&slot)).await?
    }
}

impl Inner {
    /// Does nothing while somebody else rewrites the shard.
    pub(super) fn densify(&self, slot: &Slot, percent: u64) -> Result<bool, ShardError> {
        let right = slot.try_merging()?;
        right.map_or(Ok(false), |right| self.densify_by(slot, percent, right))
    }

    /// [`Self::densify`] whatever it gains, once nobody else rewrites the shard.
    fn densify_now(&self, slot: &Slot) -> Result<(), ShardError> {
        self.densify_by(slot, 0, slot.merging()?).map(drop)
    }

    fn densify_by(
        &self,
        slot: &Slot,
        percent: u64,
        right: Merging<'_>,
    ) -> Result<bool, ShardError> {
        let dense = densify(self, slot, percent, right)?;
        if dense {
            self.note_changed(slot)?;
        }
        Ok(dense)
    }
}

/// Whether a pass would gain enough to be worth the writing; `percent` is
/// [`super::Config::dense_ratio_percent`].
pub(super) fn is_worth(state: &State, percent: u64) -> bool {
    let bytes = |dense: bool| {
        let runs = state.runs.iter().filter(|run| run.dense == dense);
        runs.map(|run| run.bytes).sum::<u64>()
    };
    let (old, new) = (bytes(true), bytes(false));
    let dense = state.runs.iter().filter(|run| run.dense).count();
    // A damaged run must stay as it is, and so must its ids.
    state.runs.iter().all(|run| !run.damaged)
        && (dense > 1 || new > 0 && new.saturating_mul(100) >= old.saturating_mul(percent))
}

/// Removes what an interrupted pass has left in a shard's directory.
pub(super) fn remove_draft(shard: &Path) -> Result<(), ShardError> {
    let draft = shard.join(DRAFT);
    if draft.exists() { directory::delete(&draft) } else { Ok(()) }
}

/// Rewrites the shard if that is worth it by `percent`; whether it did.
fn densify(
    store: &Inner,
    slot: &Slot,
    percent: u64,
    _right: Merging<'_>,
) -> Result<bool, ShardError> {
    let Some(shard) = store.open.pin(slot.id)? else {
        return Ok(false);
    };
    let state = shard.state()?;
    if !is_worth(&state, percent) {
        return Ok(false);
    }
    store.probe.at(Step::DenseBegins)?;
    let path = shard.path.clone();
    remove_draft(&path)?;
    let draft = path.join(DRAFT);
    fs::create_dir(&draft).map_err(directory::io_error("create", &draft))?;
    match write(store, slot, &shard, &state, &draft) {
        Ok(true) => {}
        Ok(false) => {
            remove_draft(&path)?;
            return Ok(false);
        }
        Err(Trouble::Broken(block)) => {
            remove_draft(&path)?;
            leave_alone(Work::new(store, slot, &shard), &block)?;
            return Ok(false);
        }
        Err(Trouble::Shard(error)) => {
            // What a crash leaves behind is removed when the shard is opened; so is this, if the
            // disk is in no state for it.
            if !matches!(error, ShardError::Interrupted) {
                let _ = remove_draft(&path);
            }
            return Err(error);
        }
    }
    let file = draft.join("data.mdb");
    File::open(&file)
        .and_then(|file| file.sync_all())
        .map_err(directory::io_error("sync", &file))?;
    directory::sync(&draft)?;
    store.probe.at(Step::DenseWritten)?;

    let writer = slot.folding()?;
    if shard.state()? != state {
        // A fold came in between. The shard is not idle; the pass is done over when it is.
        remove_draft(&path)?;
        return Ok(false);
    }
    drop(shard);
    let replaced = store.open.replace(slot.id, || {
        store.probe.at(Step::Replace)?;
        let target = path.join("data.mdb");
        // Without a second name all of it would be freed now, while nobody can open any shard.
        let _ = fs::hard_link(&target, draft.join(OLD));
        fs::rename(&file, &target).map_err(directory::io_error("rename", &file))?;
        store.probe.at(Step::Replaced)?;
        directory::sync(&path)
    })?;
    drop(writer);
    if replaced {
        metrics::counter!("quorate_shard_dense_passes_total").increment(1);
        directory::delete_gently(&draft, &store.config, |pause| {
            if !store.cancel.is_cancelled() {
                thread::sleep(pause);
            }
        })?;
    } else {
        slot.set_restless();
        remove_draft(&path)?;
    }
    Ok(replaced)
}

/// Writes all of a shard into a draft. `false`: a fold came in between, so that it would be for nothing.
fn write(
    store: &Inner,
    slot: &Slot,
    shard: &OpenShard,
    state: &State,
    path: &Path,
) -> Result<bool, Trouble> {
    let config = &store.config;
    let large = Config { txn_bytes: config.txn_bytes.saturating_mul(DRAFT_TXN), ..*config };
    let draft = OpenShard::open_draft(path.to_owned(), large, 0)?;
    let work = Work { draft: true, long: Some(&[]), ..Work::new(store, slot, &draft) };
    let folded = slot.fresh().applied();
    let keep = KEPT_BLOCKS.div_ceil(state.runs.len().max(1));
    let mut cursors = Vec::with_capacity(state.runs.len());
    for run in &state.runs {
        cursors.push(Cursor::new(shard, run.id, false, keep)?);
    }
    let limits = Limits::new(config.dense_block_rows, 4 * config.block_bytes);
    let writer = Writer::new(work, Density::Dense, all_versions(&cursors));
    let mut assembler = Assembler::new(writer, limits);
    let mut sources = Sources::default();
    let mut roll = Roll {
        work,
        new: Vec::new(),
        bytes: 0,
        unindexed: Vec::new(),
        unindexed_bytes: 0,
        hashes: Vec::new(),
    };

    let mut behind: Option<Vec<u8>> = None;
    loop {
        let page = page(shard, behind.as_deref())?;
        for (key, old) in &page {
            if slot.fresh().applied() != folded {
                return Ok(false);
            }
            work.go_on()?;
            let mut has_rows = false;
            for cursor in &mut cursors {
                cursor.seek(&mut sources, *old)?;
                has_rows |= cursor.times(&mut sources, *old)?.is_some();
            }
            if has_rows {
                assembler.begin(&mut sources, roll.next())?;
                weave(*old, &mut cursors, &mut sources, &mut assembler)?;
                roll.add(key)?;
            }
        }
        match page.into_iter().next_back() {
            Some((last, _)) => behind = Some(last),
            None => break,
        }
    }
    let finished = assembler.finish(&mut sources)?.finish();
    roll.finish()?;
    let mut dense = State { runs: Vec::new(), ..state.clone() };
    dense.add(finished.run);
    let record = dense.encode();
    work.commit(Step::Commit, |txn, [runs, .., states]| {
        writer::store(&work, txn, runs, &finished.blocks)?;
        states.put(txn, state::KEY, &record)
    })?;
    work.at(Step::Committed)?;
    Ok(true)
}

/// The next keys in order, and their ids; none at the end.
fn page(shard: &OpenShard, behind: Option<&[u8]>) -> Result<Vec<(Vec<u8>, SeriesId)>, ShardError> {
    let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
    shard.env.read(|txn, [_, _, _, keys, ..]| {
        let wrap = |error| ShardError::from(shard.env.wrap(error));
        let mut in_order = InOrder::new(txn, keys, from).map_err(wrap)?;
        let mut page = Vec::new();
        while page.len() < KEYS
            && let Some(next) = in_order.next().map_err(wrap)?
        {
            page.push(next);
        }
        Ok(page)
    })
}

/// The series of the draft.
struct Roll<'a> {
    work: Work<'a>,
    /// Not committed yet.
    new: Vec<NewSeries>,
    bytes: usize,
    /// Not in the index yet.
    unindexed: Vec<NewSeries>,
    unindexed_bytes: usize,
    /// Hash and id of all series.
    hashes: Vec<(u64, SeriesId)>,
}

impl Roll<'_> {
    /// The id the next series gets.
    fn next(&self) -> SeriesId {
        self.hashes.len() as u64 + 1
    }

    fn add(&mut self, key: &[u8]) -> Result<(), ShardError> {
        let (hash, id) = (series_hash(key), self.next());
        self.hashes.push((hash, id));
        self.bytes += 2 * key.len() + KEY_BYTES;
        self.new.push(NewSeries { hash, key: bytes::Bytes::copy_from_slice(key), id });
        if self.bytes >= self.work.shard.config.txn_bytes {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), ShardError> {
        let new = std::mem::take(&mut self.new);
        self.unindexed_bytes += std::mem::take(&mut self.bytes);
        self.work.commit(Step::Commit, |txn, tables| series::insert_keys(txn, tables, &new))?;
        self.work.at(Step::Committed)?;
        self.unindexed.extend(new);
        if self.unindexed_bytes >= INDEXED_TXNS * self.work.shard.config.txn_bytes {
            self.index()?;
        }
        Ok(())
    }

    /// Enters many series in the index at once, so that each page of it is written a few times only.
    fn index(&mut self) -> Result<(), ShardError> {
        let new = std::mem::take(&mut self.unindexed);
        self.unindexed_bytes = 0;
        let tags = Postings::of(new.iter().map(|new| (new.id, &new.key[..])));
        let mut from = 0;
        while from < tags.len() {
            let to = tags.fitting(from, self.work.shard.config.txn_bytes);
            self.work.commit(Step::Commit, |txn, tables| tags.put(txn, &tables[4], from..to))?;
            self.work.at(Step::Committed)?;
            from = to;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ShardError> {
        self.commit()?;
        self.index()?;
        self.hashes.sort_unstable();
        let some = (self.work.shard.config.txn_bytes / series::HASH_BYTES).max(1);
        for hashes in self.hashes.chunks(some) {
            self.work.commit(Step::Commit, |txn, tables| {
                series::insert_hashes(txn, tables, hashes.iter().copied())
            })?;
            self.work.at(Step::Committed)?;
        }
        Ok(())
    }
}
