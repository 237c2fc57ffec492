//! Scans: the rows of a shard in order of (series key, time), fresh and stored merged.
//!
//! Invariants: the fresh batches are copied first and the stored state is read after that, on every
//! page anew; folds go the other way round, so nothing accepted before the scan began is missed,
//! and what is found twice is merged into one. A read transaction lives for one page: blocks are
//! copied out, then decoded without it. Memory: the wanted rows of the fresh batches, and one page.
//! Called by sessions and exports through [`super::ShardStore::scan`].

use std::{
    collections::{BTreeMap, VecDeque},
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
    fresh: BTreeMap<Bytes, Vec<Rows>>,
    at: At,
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
        let mut scan = Self {
            store,
            slot,
            filter,
            measurement,
            fresh: BTreeMap::new(),
            at: At::Start,
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
        for entry in entries {
            if entry.batch.header().part.shard != slot.id {
                continue;
            }
            // Folding puts a batch that breaks the rules into quarantine; it is served nowhere.
            let Ok(batch) = entry.batch.decode() else {
                continue;
            };
            let version = batch.header.part.version;
            for measurement in &batch.measurements {
                if self
                    .measurement
                    .as_ref()
                    .is_some_and(|m| *m != measurement.escaped_name)
                {
                    continue;
                }
                for series in &measurement.series {
                    if self.filter.tags_match(&series.key) {
                        let rows = self.filter.apply(measurement.rows(series, version));
                        if !rows.is_empty() {
                            // A copy, because the key holds on to the keys of its whole batch.
                            let key = Bytes::copy_from_slice(&series.key);
                            self.fresh.entry(key).or_default().push(rows);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads until something is ready or the scan is over.
    fn fill(&mut self) -> Result<(), ScanError> {
        while self.ready.is_empty() {
            if matches!(self.at, At::End) {
                let Some((key, parts)) = self.fresh.pop_first() else {
                    return Ok(());
                };
                self.emit(key, parts);
                continue;
            }
            let Some(slot) = self.slot.clone() else {
                return Ok(());
            };
            self.store
                .probe
                .at(Step::ScanPage)
                .map_err(ShardError::from)?;
            if slot.fresh().is_gone() {
                return Err(ShardError::Gone(slot.id).into());
            }
            let store = Arc::clone(&self.store);
            let Some(shard) = store.open.pin(slot.id)? else {
                // Nothing was ever folded, so all there was when the scan began is in `fresh`.
                self.at = At::End;
                continue;
            };
            let (found, at) = self.page(&shard)?;
            self.at = at;
            for found in found {
                self.emit_found(&slot, &shard, found)?;
            }
        }
        Ok(())
    }

    /// Copies stored blocks out, in one read transaction.
    fn page(&self, shard: &OpenShard) -> Result<(Vec<Found>, At), ScanError> {
        let wrap = |error| ScanError::from(shard.env.wrap(error));
        let max = shard.config.scan_bytes;
        shard.env.read(|txn, tables| {
            let [table, _, keys, _] = tables;
            let mut runs = shard.state_in(txn, tables)?.runs;
            let (first, to) = (self.filter.from, self.filter.to);
            runs.retain(|run| run.min_time < to && run.max_time >= first);
            let (mut found, mut bytes, mut visits) = (Vec::new(), 0, 0);

            // All windows of a series, or as many as fit; where the next one begins.
            let mut windows = |key: &[u8], id, mut from, bytes: &mut usize| {
                loop {
                    let mut window = Window::load(txn, table, &runs, id, from).map_err(wrap)?;
                    let next = window.end.filter(|end| *end < to);
                    window.end = next;
                    *bytes += window.bytes();
                    found.push(Found {
                        key: Bytes::copy_from_slice(key),
                        window,
                    });
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

    fn emit_found(
        &mut self,
        slot: &Slot,
        shard: &OpenShard,
        found: Found,
    ) -> Result<(), ScanError> {
        while let Some(entry) = self.fresh.first_entry()
            && *entry.key() < found.key
        {
            let (key, parts) = entry.remove_entry();
            self.emit(key, parts);
        }
        let (stored, damaged) = found.window.decode();
        for block in damaged {
            report_damage(&self.store, &shard.path, block)?;
            self.ready.push_back(Err(ScanError::Damaged {
                shard: slot.id,
                key: found.key.clone(),
                from: block.key.start,
                to: block.end.unwrap_or(i64::MAX),
            }));
        }
        let mut parts: Vec<Rows> = stored
            .into_iter()
            .map(|rows| self.filter.apply(rows))
            .collect();
        match found.window.end {
            None => parts.extend(self.fresh.remove(&found.key).unwrap_or_default()),
            Some(end) => {
                for rows in self.fresh.get_mut(&found.key).into_iter().flatten() {
                    parts.push(rows.slice(i64::MIN, end));
                    *rows = rows.slice(end, i64::MAX);
                }
            }
        }
        self.emit(found.key, parts);
        Ok(())
    }

    fn emit(&mut self, key: Bytes, parts: Vec<Rows>) {
        let rows = Rows::merge(parts);
        let config = &self.store.config;
        for range in cuts(&rows, config.block_rows, config.block_bytes) {
            let part = if range.len() == rows.len() {
                rows.clone()
            } else {
                rows.range(range)
            };
            self.ready.push_back(Ok(SeriesRows {
                key: key.clone(),
                rows: part,
            }));
        }
    }

    /// The next items, about a page of them; none at the end.
    pub(super) fn next_page(&mut self) -> Vec<ScanItem> {
        let mut page: Vec<_> = self.next().into_iter().collect();
        page.extend(self.ready.drain(..));
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
    if quarantine::keep(
        shard,
        &name,
        &block.bytes,
        "its checksum or its form is wrong",
    )? {
        tracing::error!(shard = %shard.display(), name, "a stored block is damaged");
        store.counters.bad_block();
    }
    Ok(())
}
