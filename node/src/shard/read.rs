//! Scans: the rows of a shard in order of (series key, time), fresh and stored merged.
//!
//! Invariants: the fresh batches are copied first and the stored state is read after that, on every
//! page anew; folds go the other way round, so nothing accepted before the scan began is missed,
//! and what is found twice is merged into one. A read transaction lives for one page, some
//! milliseconds. Memory: the fresh batches that have wanted rows, decoded; one page; and the cache
//! of packed blocks. Called by sessions and exports through [`super::ShardStore::scan`], and by
//! aggregations and digests.
//!
//! [`walk`] says which series comes next, [`stored`] reads it window by window, [`cache`] keeps
//! blocks that many series share.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use quorate_protocol::{aggregate::Windows, rows::Rows};

use self::{
    cache::{Cache, Damaged},
    stored::{Kept, Part, Reader, Wanted},
    walk::{At, Next, Walk},
};
use super::{
    Inner,
    error::{ScanError, ShardError},
    fault::Step,
    filter::ScanFilter,
    open::OpenShard,
    pieces::{Collector, FreshSeries, Pieces},
    quarantine,
    run::{BlockKey, cuts},
    slot::Slot,
};

mod cache;
mod stored;
mod walk;

pub(super) use self::stored::Known;

/// Some rows of a series; a large series comes in several, in order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesRows {
    /// The canonical key.
    pub key: Bytes,
    /// The rows; a time is never split between two of these.
    pub rows: Rows,
}

/// What a scan yields. After [`ScanError::Damaged`] it goes on; after anything else it is over.
pub type ScanItem = Result<SeriesRows, ScanError>;

/// The next of a series, later in time than what came before.
pub(super) enum Content {
    Rows(Rows),
    /// What is known of some rows, by field, in the window with this start.
    Known(i64, Vec<Known>),
}

/// A window of the stored rows of a series, not merged yet.
struct Found {
    key: Bytes,
    parts: Vec<Part>,
    /// All stored rows before this time are in the parts; `None`: there are no more.
    end: Option<i64>,
}

/// A scan of one shard; see [`super::ShardStore::scan`]. It blocks: see
/// [`super::ShardStore::scan_page`] for tasks.
pub struct Scan {
    store: Arc<Inner>,
    slot: Option<Arc<Slot>>,
    filter: ScanFilter,
    windows: Option<Windows>,
    /// Series with fresh rows, and from which time on they are still to be yielded.
    fresh: BTreeMap<Bytes, (FreshSeries, i64)>,
    pieces: Pieces,
    walk: Walk,
    cache: Cache,
    kept: Kept,
    /// Which environment the cache and what is kept are of.
    environment: Option<u64>,
    /// Loaded and not merged yet.
    found: VecDeque<Found>,
    ready: VecDeque<Result<(Bytes, Content), ScanError>>,
    /// The fresh rows of the series under way.
    merged: Option<(Bytes, Rows)>,
    /// Pieces of rows that were too many for one item.
    cut: VecDeque<SeriesRows>,
}

impl Scan {
    /// Copies the wanted fresh rows, so that the scan sees what has been accepted until now. With
    /// `windows`, rows of which enough is known come as that.
    pub(super) fn begin(
        store: Arc<Inner>,
        slot: Option<Arc<Slot>>,
        filter: ScanFilter,
        windows: Option<Windows>,
    ) -> Result<Self, ShardError> {
        let config = store.config;
        let mut scan = Self {
            walk: Walk::new(&filter, config.scan_series),
            cache: Cache::new(config.scan_cache_bytes),
            kept: Kept::new(),
            store,
            slot,
            filter,
            windows,
            fresh: BTreeMap::new(),
            pieces: Pieces::default(),
            environment: None,
            found: VecDeque::new(),
            ready: VecDeque::new(),
            merged: None,
            cut: VecDeque::new(),
        };
        scan.copy_fresh()?;
        scan.store.probe.at(Step::ScanBegins)?;
        Ok(scan)
    }

    fn copy_fresh(&mut self) -> Result<(), ShardError> {
        let Some(slot) = &self.slot else {
            self.walk.at = At::End;
            return Ok(());
        };
        let entries = {
            let fresh = slot.fresh();
            if fresh.is_gone() {
                return Err(ShardError::Gone(slot.id));
            }
            fresh.within(self.filter.from, self.filter.to)
        };
        let (escaped, mut taken) = (self.filter.escaped_measurement(), Collector::default());
        for entry in entries.iter().filter(|entry| entry.batch.header().part.shard == slot.id) {
            // Folding puts a batch that breaks the rules into quarantine; it is served nowhere.
            if let Ok(batch) = entry.batch.decode() {
                taken.add_wanted(batch, &self.filter, escaped.as_deref());
            }
        }
        let (series, pieces) = taken.finish();
        let from = self.filter.from;
        let after = self.filter.after.as_ref();
        self.fresh = series
            .into_iter()
            .filter(|one| after.is_none_or(|after| one.key > *after))
            .map(|one| (one.key.clone(), (one, from)))
            .collect();
        self.pieces = pieces;
        Ok(())
    }

    /// Reads until something is ready or the scan is over.
    fn fill(&mut self) -> Result<(), ScanError> {
        while self.ready.is_empty() {
            let first = self.fresh.first_key_value().map(|(key, _)| key);
            let found = self.found.front().map(|found| &found.key);
            match (first, found) {
                (Some(fresh), Some(found)) if fresh < found => self.emit_fresh(),
                (_, Some(_)) => self.emit_found()?,
                (Some(_), None) if self.walk.at == At::End => self.emit_fresh(),
                (None, None) if self.walk.at == At::End => return Ok(()),
                _ => self.load()?,
            }
        }
        Ok(())
    }

    /// Loads the next page of stored rows.
    fn load(&mut self) -> Result<(), ScanError> {
        self.store.probe.at(Step::ScanPage).map_err(ShardError::from)?;
        let Some(slot) = self.slot.clone() else {
            self.walk.at = At::End;
            return Ok(());
        };
        if slot.fresh().is_gone() {
            return Err(ShardError::Gone(slot.id).into());
        }
        let store = Arc::clone(&self.store);
        match store.open.pin(slot.id)? {
            Some(shard) => self.page(&shard)?,
            // Nothing was ever folded, so all there was when the scan began is in `fresh`.
            None => self.walk.at = At::End,
        }
        Ok(())
    }

    /// Reads some windows, in one read transaction.
    fn page(&mut self, shard: &OpenShard) -> Result<(), ScanError> {
        let max = shard.config.scan_bytes;
        let environment = shard.opening();
        if self.environment.replace(environment) != Some(environment) {
            self.cache.clear();
            self.kept.clear();
        }
        let Self { filter, windows, walk, cache, kept, fresh, pieces, found, .. } = self;
        let decoded = shard.env.read(|txn, tables| {
            let mut runs = shard.state_in(txn, tables)?.runs;
            runs.retain(|run| run.min_time < filter.to && run.max_time >= filter.from);
            let wanted = Wanted { filter, windows: *windows };
            let mut reader = Reader::new(shard, txn, tables, runs, wanted, cache, kept);
            let page = walk.page(txn, tables, environment, filter, |key, id, mut from| {
                reader.enter(id);
                let touched = match windows {
                    Some(_) => fresh.get(key).and_then(|(series, _)| pieces.time_range(series)),
                    // Rows are merged with whatever is fresh.
                    None => None,
                };
                let key = Bytes::copy_from_slice(key);
                loop {
                    let (parts, end) = reader.window(id, from, touched)?;
                    if !parts.is_empty() || fresh.contains_key(&key) {
                        found.push_back(Found { key: key.clone(), parts, end });
                    }
                    match end {
                        Some(next) if reader.bytes < max => from = next,
                        Some(next) => {
                            reader.keep();
                            return Ok(Next::Full(Some(next)));
                        }
                        None if reader.bytes >= max => return Ok(Next::Full(None)),
                        None => return Ok::<_, heed::Error>(Next::Done),
                    }
                }
            });
            let page = page.map(|()| reader.decoded);
            page.map_err(|error| ScanError::from(shard.env.wrap(error)))
        })?;
        metrics::counter!("quorate_shard_decoded_blocks_total").increment(decoded);
        Ok(())
    }

    fn emit_fresh(&mut self) {
        if let Some((key, (series, from))) = self.fresh.pop_first() {
            let rows = self.pieces.rows(&series);
            self.emit(key, vec![rows.slice(from, i64::MAX)]);
        }
    }

    fn emit_found(&mut self) -> Result<(), ScanError> {
        let Some(found) = self.found.pop_front() else {
            return Ok(());
        };
        let mut fresh = None;
        if let Entry::Occupied(mut entry) = self.fresh.entry(found.key.clone()) {
            let (series, from) = entry.get();
            let rows = match &self.merged {
                Some((key, rows)) if *key == found.key => rows,
                _ => {
                    let rows = self.pieces.rows(series);
                    &self.merged.insert((found.key.clone(), rows)).1
                }
            };
            let rows = rows.slice(*from, found.end.unwrap_or(i64::MAX));
            fresh = (!rows.is_empty()).then_some(rows);
            match found.end {
                Some(end) => entry.get_mut().1 = end,
                None => drop(entry.remove()),
            }
        }
        for part in found.parts {
            match part {
                Part::Damaged(block) => self.report(&found.key, &block)?,
                Part::Known(start, known) => {
                    self.ready.push_back(Ok((found.key.clone(), Content::Known(start, known))));
                }
                Part::Rows(mut rows) => {
                    // With fresh rows there is one such part in a window.
                    rows.extend(fresh.take());
                    self.emit(found.key.clone(), rows);
                }
            }
        }
        if let Some(fresh) = fresh {
            self.emit(found.key, vec![fresh]);
        }
        Ok(())
    }

    fn report(&mut self, key: &Bytes, block: &Damaged) -> Result<(), ScanError> {
        let Some(slot) = &self.slot else {
            return Ok(());
        };
        // Pinned, so that a shard that is being dropped does not get a directory again.
        if let Some(shard) = self.store.open.pin(slot.id)? {
            report_damage(&self.store, &shard.path, block.key, &block.bytes)?;
        }
        self.ready.push_back(Err(ScanError::Damaged {
            shard: slot.id,
            key: key.clone(),
            from: block.key.start,
            to: block.end.unwrap_or(i64::MAX),
        }));
        Ok(())
    }

    fn emit(&mut self, key: Bytes, parts: Vec<Rows>) {
        let rows = self.filter.apply(Rows::merge(parts));
        if !rows.is_empty() {
            self.ready.push_back(Ok((key, Content::Rows(rows))));
        }
    }

    /// The next of the wanted content.
    pub(super) fn next_content(&mut self) -> Option<Result<(Bytes, Content), ScanError>> {
        if self.ready.is_empty()
            && let Err(error) = self.fill()
        {
            self.walk.at = At::End;
            self.fresh.clear();
            self.found.clear();
            self.ready.clear();
            return Some(Err(error));
        }
        self.ready.pop_front()
    }
}

impl Scan {
    /// The next items, about `scan_bytes` of them in memory; none at the end.
    pub(super) fn next_page(&mut self) -> Vec<ScanItem> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < self.store.config.scan_bytes
            && let Some(item) = self.next()
        {
            bytes += match &item {
                Ok(item) => item.key.len() + item.rows.approximate_bytes(),
                Err(_) => 0,
            };
            page.push(item);
        }
        page
    }
}

impl Iterator for Scan {
    type Item = ScanItem;

    fn next(&mut self) -> Option<ScanItem> {
        loop {
            if let Some(piece) = self.cut.pop_front() {
                return Some(Ok(piece));
            }
            match self.next_content()? {
                Err(error) => return Some(Err(error)),
                // Only aggregations ask for it.
                Ok((_, Content::Known(..))) => {}
                Ok((key, Content::Rows(rows))) => {
                    let config = &self.store.config;
                    let cuts = cuts(&rows, config.block_rows, config.block_bytes);
                    if cuts.len() == 1 {
                        return Some(Ok(SeriesRows { key, rows }));
                    }
                    let piece = |range| SeriesRows { key: key.clone(), rows: rows.range(range) };
                    self.cut.extend(cuts.into_iter().map(piece));
                }
            }
        }
    }
}

/// Keeps a copy of a damaged block aside and counts it once.
pub(super) fn report_damage(
    store: &Inner,
    shard: &Path,
    key: BlockKey,
    bytes: &[u8],
) -> Result<(), ShardError> {
    let name = format!("{:010}-{:020}-{}.block", key.run, key.series, key.start);
    if quarantine::keep(shard, &name, bytes, "its checksum or its form is wrong")? {
        tracing::error!(shard = %shard.display(), name, "a stored block is damaged");
        store.counters.bad_block();
    }
    Ok(())
}
