//! Scans: the rows of a shard in order of (series key, time), fresh and stored merged.
//!
//! Invariants: the fresh batches are copied first and the stored state is read after that, on every
//! page anew; folds go the other way round, so nothing accepted before the scan began is missed,
//! and what is found twice is merged into one. A read transaction lives for one page: blocks are
//! copied out, then decoded without it. Memory: the fresh
//! batches that have wanted rows, decoded, and one page.
//! Called by sessions and exports through [`super::ShardStore::scan`].

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    ops::Bound,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use quorate_protocol::rows::Rows;

use super::{
    Inner,
    error::{ScanError, ShardError},
    fault::Step,
    filter::ScanFilter,
    open::OpenShard,
    pieces::{Collector, FreshSeries, Pieces},
    quarantine,
    run::{StoredBlock, Window, cuts},
    series::{InOrder, SeriesId},
    slot::Slot,
};

/// Series looked at in one read transaction, wanted or not: some milliseconds.
const VISITS: usize = 8192;

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

/// Stored rows of a series, not decoded.
struct Found {
    key: Bytes,
    window: Window,
}

/// Where the stored part of a scan stands.
enum At {
    /// Before the first series.
    Start,
    /// Behind this one.
    After(Vec<u8>),
    /// Within a series, from this time on.
    Within(Vec<u8>, SeriesId, i64),
    /// Behind the last.
    End,
}

/// A scan of one shard; see [`super::ShardStore::scan`]. It blocks: see
/// [`super::ShardStore::scan_page`] for tasks.
pub struct Scan {
    store: Arc<Inner>,
    slot: Option<Arc<Slot>>,
    filter: ScanFilter,
    measurement: Option<Vec<u8>>,
    /// Series with fresh rows, and from which time on they are still to be yielded.
    fresh: BTreeMap<Bytes, (FreshSeries, i64)>,
    pieces: Pieces,
    at: At,
    /// Loaded and not decoded yet.
    found: VecDeque<Found>,
    ready: VecDeque<ScanItem>,
}

impl Scan {
    /// Copies the wanted fresh rows, so that the scan sees what has been accepted until now.
    pub(super) fn begin(
        store: Arc<Inner>,
        slot: Option<Arc<Slot>>,
        filter: ScanFilter,
    ) -> Result<Self, ShardError> {
        let measurement = filter.escaped_measurement();
        let at = filter.after.as_ref().map_or(At::Start, |key| At::After(key.to_vec()));
        let mut scan = Self {
            store,
            slot,
            filter,
            measurement,
            fresh: BTreeMap::new(),
            pieces: Pieces::default(),
            at,
            found: VecDeque::new(),
            ready: VecDeque::new(),
        };
        scan.copy_fresh()?;
        scan.store.probe.at(Step::ScanBegins)?;
        Ok(scan)
    }

    fn copy_fresh(&mut self) -> Result<(), ShardError> {
        let Some(slot) = &self.slot else {
            self.at = At::End;
            return Ok(());
        };
        let entries = {
            let fresh = slot.fresh();
            if fresh.is_gone() {
                return Err(ShardError::Gone(slot.id));
            }
            fresh.within(self.filter.from, self.filter.to)
        };
        let (escaped, mut taken) = (self.measurement.as_deref(), Collector::default());
        for entry in entries.iter().filter(|entry| entry.batch.header().part.shard == slot.id) {
            // Folding puts a batch that breaks the rules into quarantine; it is served nowhere.
            if let Ok(batch) = entry.batch.decode() {
                taken.add_wanted(batch, Some(&self.filter), escaped);
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
                (Some(_), None) if matches!(self.at, At::End) => self.emit_fresh(),
                (None, None) if matches!(self.at, At::End) => return Ok(()),
                _ => self.load()?,
            }
        }
        Ok(())
    }

    /// Loads the next page of stored blocks.
    fn load(&mut self) -> Result<(), ScanError> {
        self.store.probe.at(Step::ScanPage).map_err(ShardError::from)?;
        let Some(slot) = &self.slot else {
            self.at = At::End;
            return Ok(());
        };
        if slot.fresh().is_gone() {
            return Err(ShardError::Gone(slot.id).into());
        }
        let page = match self.store.open.pin(slot.id)? {
            Some(shard) => self.page(&shard)?,
            // Nothing was ever folded, so all there was when the scan began is in `fresh`.
            None => (Vec::new(), At::End),
        };
        self.found.extend(page.0);
        self.at = page.1;
        Ok(())
    }

    /// Copies stored blocks out, in one read transaction.
    fn page(&self, shard: &OpenShard) -> Result<(Vec<Found>, At), ScanError> {
        let wrap = |error| ScanError::from(shard.env.wrap(error));
        let max = shard.config.scan_bytes;
        shard.env.read(|txn, tables| {
            let [_, _, _, keys, ..] = tables;
            let mut runs = shard.state_in(txn, tables)?.runs;
            let (first, to) = (self.filter.from, self.filter.to);
            runs.retain(|run| run.min_time < to && run.max_time >= first);
            let (mut found, mut bytes, mut visits) = (Vec::new(), 0, 0);

            // All windows of a series, or as many as fit; where the next one begins.
            let mut windows = |key: &[u8], id, mut from, bytes: &mut usize| {
                loop {
                    let mut window = Window::load(shard, txn, tables, &runs, id, from).map_err(wrap)?;
                    let next = window.end.filter(|end| *end < to);
                    window.end = next;
                    *bytes += window.bytes();
                    found.push(Found { key: Bytes::copy_from_slice(key), window });
                    match next {
                        Some(next) if *bytes < max => from = next,
                        next => return Ok::<_, ScanError>(next),
                    }
                }
            };

            let behind = match &self.at {
                At::Start => match &self.measurement {
                    Some(measurement) => Bound::Included(measurement.as_slice()),
                    None => Bound::Unbounded,
                },
                At::After(key) => Bound::Excluded(key.as_slice()),
                At::Within(key, id, from) => {
                    if let Some(next) = windows(key, *id, *from, &mut bytes)? {
                        return Ok((found, At::Within(key.clone(), *id, next)));
                    }
                    Bound::Excluded(key.as_slice())
                }
                At::End => return Ok((found, At::End)),
            };
            let mut cursor = InOrder::new(txn, keys, behind).map_err(wrap)?;
            while let Some((key, id)) = cursor.next().map_err(wrap)? {
                if self.is_past(&key) {
                    return Ok((found, At::End));
                }
                visits += 1;
                if self.filter.key_matches(self.measurement.as_deref(), &key)
                    && let Some(next) = windows(&key, id, first, &mut bytes)?
                {
                    return Ok((found, At::Within(key, id, next)));
                }
                if bytes >= max || visits >= VISITS {
                    return Ok((found, At::After(key)));
                }
            }
            Ok((found, At::End))
        })
    }

    /// Whether no key from this one on is of the wanted measurement.
    fn is_past(&self, key: &[u8]) -> bool {
        self.measurement.as_ref().is_some_and(|measurement| {
            let rest = key.strip_prefix(measurement.as_slice());
            rest.is_none_or(|rest| rest.first().is_some_and(|byte| *byte > b','))
        })
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
        let (stored, damaged) = found.window.decode();
        for block in damaged {
            self.report(&found.key, block)?;
        }
        let mut parts: Vec<Rows> = stored.into_iter().map(|rows| self.filter.apply(rows)).collect();
        if let Entry::Occupied(mut entry) = self.fresh.entry(found.key.clone()) {
            let (series, from) = entry.get();
            let rows = self.pieces.rows(series);
            match found.window.end {
                Some(end) => {
                    parts.push(rows.slice(*from, end));
                    entry.get_mut().1 = end;
                }
                None => {
                    parts.push(rows.slice(*from, i64::MAX));
                    entry.remove();
                }
            }
        }
        self.emit(found.key, parts);
        Ok(())
    }

    fn report(&mut self, key: &Bytes, block: &StoredBlock) -> Result<(), ScanError> {
        let Some(slot) = &self.slot else {
            return Ok(());
        };
        // Pinned, so that a shard that is being dropped does not get a directory again.
        if let Some(shard) = self.store.open.pin(slot.id)? {
            report_damage(&self.store, &shard.path, block)?;
        }
        self.ready.push_back(Err(ScanError::Damaged {
            shard: slot.id,
            key: key.clone(),
            // A block of several series begins with the rows of another one, perhaps.
            from: if block.end.is_some() { block.key.start } else { i64::MIN },
            to: block.end.unwrap_or(i64::MAX),
        }));
        Ok(())
    }

    fn emit(&mut self, key: Bytes, parts: Vec<Rows>) {
        let rows = Rows::merge(parts);
        let config = &self.store.config;
        let cuts = cuts(&rows, config.block_rows, config.block_bytes);
        if cuts.len() == 1 {
            self.ready.push_back(Ok(SeriesRows { key, rows }));
            return;
        }
        for range in cuts {
            let rows = rows.range(range);
            self.ready.push_back(Ok(SeriesRows { key: key.clone(), rows }));
        }
    }

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
        if self.ready.is_empty()
            && let Err(error) = self.fill()
        {
            self.at = At::End;
            self.fresh.clear();
            self.found.clear();
            self.ready.clear();
            return Some(Err(error));
        }
        self.ready.pop_front()
    }
}

/// Keeps a copy of a damaged block aside and counts it once.
pub(super) fn report_damage(
    store: &Inner,
    shard: &Path,
    block: &StoredBlock,
) -> Result<(), ShardError> {
    let key = block.key;
    let name = format!("{:010}-{:020}-{}.block", key.run, key.series, key.start);
    if quarantine::keep(shard, &name, &block.bytes, "its checksum or its form is wrong")? {
        tracing::error!(shard = %shard.display(), name, "a stored block is damaged");
        store.counters.bad_block();
    }
    Ok(())
}
