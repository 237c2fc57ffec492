//! The stored rows of a series, window by window.
//!
//! A window is as far as one block of each run reaches. Invariants: all of it happens in one read
//! transaction of some milliseconds, blocks are decoded from LMDB's own pages, and only the wanted
//! columns; rows of a window come with all rows of equal times, so that windows can be merged one by
//! one. Where aggregates are wanted, a block of one series that nothing overlaps and that lies in
//! one window of the aggregation is not decoded at all: its head says it. Called by scans.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use heed::RoTxn;
use quorate_protocol::{
    aggregate::{Partial, Sum, Windows},
    id::FieldId,
    point::Value,
    rows::Rows,
    schema::FieldType,
};

use super::cache::{Cache, Damaged, Packed, bytes_of};
use crate::shard::{
    block::{ColumnHead, RowGroup, Statistics, Sum as Total, View},
    filter::ScanFilter,
    open::{OpenShard, Tables},
    run::BlockKey,
    series::SeriesId,
    state::Run,
};

/// Rows that take no more memory decoded than this many times what is stored count as stored.
const EXPANSION: usize = 8;

/// A lookup of a block takes as long as reading so many bytes.
const SEEK_BYTES: usize = 128;

/// Decoded blocks of the series under way, of which a later page wants the rest.
pub(super) type Kept = BTreeMap<BlockKey, Rows>;

/// A part of a window, later in time than the part before, or the same rows' other versions.
pub(super) enum Part {
    /// Rows that may have to be merged with each other.
    Rows(Vec<Rows>),
    /// What is known of the rows of one block, by field, in the aggregation's window with this start.
    Known(i64, Vec<Known>),
    /// A block that could not be read.
    Damaged(Arc<Damaged>),
}

/// What is known of a field.
pub(in crate::shard) struct Known {
    pub(in crate::shard) field: FieldId,
    pub(in crate::shard) kind: FieldType,
    pub(in crate::shard) name: Bytes,
    pub(in crate::shard) partial: Partial,
}

/// What a scan wants of the stored rows.
pub(super) struct Wanted<'a> {
    pub(super) filter: &'a ScanFilter,
    /// Aggregates over these windows instead of rows, where that is less work.
    pub(super) windows: Option<Windows>,
}

impl Wanted<'_> {
    fn column(&self, head: &ColumnHead) -> bool {
        self.filter.fields.is_empty() || self.filter.fields.contains(&head.name)
    }
}

/// What a run has of the series.
#[expect(clippy::large_enum_variant, reason = "one per run of the shard")]
enum Here<'txn> {
    /// Not looked at.
    Unknown,
    Nothing,
    Solo(Solo<'txn>),
    Packed(Arc<RowGroup>, Range<usize>),
    /// And whether it was told.
    Damaged(Arc<Damaged>, bool),
}

/// A block of one series.
struct Solo<'txn> {
    key: BlockKey,
    end: Option<i64>,
    bytes: &'txn [u8],
    view: View<'txn>,
    /// Decoded, as long as a later window may want the rest.
    rows: Option<Rows>,
}

struct OfRun<'txn> {
    run: Run,
    here: Here<'txn>,
    /// A block that is known to have one series only.
    solo: Option<BlockKey>,
}

/// Reads series in one transaction.
pub(super) struct Reader<'txn, 'a> {
    shard: &'a OpenShard,
    txn: &'txn RoTxn<'txn>,
    tables: &'a Tables,
    wanted: Wanted<'a>,
    cache: &'a mut Cache,
    kept: &'a mut Kept,
    runs: Vec<OfRun<'txn>>,
    /// Bytes that were read.
    pub(super) bytes: usize,
    /// Blocks of one series that were decoded.
    pub(super) decoded: u64,
}

impl<'txn, 'a> Reader<'txn, 'a> {
    pub(super) fn new(
        shard: &'a OpenShard,
        txn: &'txn RoTxn<'txn>,
        tables: &'a Tables,
        runs: Vec<Run>,
        wanted: Wanted<'a>,
        cache: &'a mut Cache,
        kept: &'a mut Kept,
    ) -> Self {
        let runs = runs.into_iter().map(|run| OfRun { run, here: Here::Unknown, solo: None });
        let runs = runs.collect();
        Self { shard, txn, tables, wanted, cache, kept, runs, bytes: 0, decoded: 0 }
    }

    /// Turns to a series.
    pub(super) fn enter(&mut self, series: SeriesId) {
        self.runs.iter_mut().for_each(|run| run.here = Here::Unknown);
        self.kept.retain(|key, _| key.series == series);
    }

    /// Leaves what is decoded to the next page, which goes on within this series: with many runs a page may
    /// be full after each of many windows, and each would decode all blocks that reach into it.
    pub(super) fn keep(&mut self) {
        for of in &mut self.runs {
            if let Here::Solo(solo) = &mut of.here
                && let Some(rows) = solo.rows.take()
            {
                self.kept.insert(solo.key, rows);
            }
        }
    }

    /// The parts of a series' window that begins at `from`, and where the next one begins. `fresh`:
    /// the first and the last time of fresh rows.
    pub(super) fn window(
        &mut self,
        series: SeriesId,
        from: i64,
        fresh: Option<(i64, i64)>,
    ) -> heed::Result<(Vec<Part>, Option<i64>)> {
        let mut end: Option<i64> = None;
        for at in 0..self.runs.len() {
            let next = self.locate(at, series, from)?;
            end = match (end, next) {
                (Some(end), Some(next)) => Some(end.min(next)),
                (end, next) => end.or(next),
            };
        }
        let to = self.wanted.filter.to;
        let end = end.filter(|end| *end < to);
        let within = from..end.unwrap_or(to);
        let mut parts = self.damaged(series, &within);
        let touched = fresh.is_some_and(|(first, last)| first < within.end && last >= within.start);
        let mut sources: Vec<(i64, i64, usize)> = Vec::new();
        for (at, of) in self.runs.iter().enumerate() {
            let range = of.here.range();
            let range = range.filter(|(first, last)| *first < within.end && *last >= within.start);
            sources.extend(range.map(|(first, last)| (first, last, at)));
        }
        sources.sort_unstable();
        let mut rest = &sources[..];
        while let Some((_, last, at)) = rest.first() {
            let (mut last, mut count) = (*last, 1);
            while let Some((first, more, _)) = rest.get(count)
                && (*first <= last || touched || self.wanted.windows.is_none())
            {
                last = last.max(*more);
                count += 1;
            }
            if count == 1
                && !touched
                && let Some(known) = self.known(*at, &within)
            {
                parts.push(known);
            } else {
                let mut rows = Vec::with_capacity(count);
                for (.., at) in rest.get(..count).unwrap_or_default() {
                    match self.rows(*at, &within)? {
                        Ok(of) => rows.push(of),
                        Err(damaged) => parts.push(Part::Damaged(damaged)),
                    }
                }
                parts.push(Part::Rows(rows));
            }
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok((parts, end))
    }

    /// Finds what a run has of the series from `from` on, and where its next block begins.
    fn locate(&mut self, at: usize, series: SeriesId, from: i64) -> heed::Result<Option<i64>> {
        let of = &mut self.runs[at];
        match &of.here {
            Here::Nothing | Here::Packed(..) => return Ok(None),
            Here::Solo(Solo { end, .. }) if end.is_none_or(|end| from < end) => return Ok(*end),
            Here::Damaged(block, _) if block.end.is_none_or(|end| from < end) => {
                return Ok(block.end);
            }
            Here::Unknown | Here::Solo(_) | Here::Damaged(..) => {}
        }
        if of.run.max_time < from || of.run.min_time >= self.wanted.filter.to {
            of.here = Here::Nothing;
            return Ok(None);
        }
        if let Some(packed) = self.cache.get(of.run.id, series) {
            of.here = Here::of(packed, series);
            return Ok(None);
        }
        let found = seek(self.txn, self.tables, of.run.id, series, from)?;
        self.bytes += SEEK_BYTES;
        let Some(found) = found.filter(|found| {
            // A block of another series is of interest only if it may have several.
            found.key.series == series || of.solo != Some(found.key) && found.end.is_none()
        }) else {
            of.here = Here::Nothing;
            return Ok(None);
        };
        self.bytes += found.bytes.len();
        let versions = self.shard.versions_in(self.txn, self.tables, of.run.id)?;
        let Found { key, bytes, end, until } = found;
        let damaged = || Arc::new(Damaged { key, bytes: bytes.to_vec(), end });
        let view = View::parse(bytes)
            .ok()
            .filter(|view| view.spans().first().is_some_and(|span| span.series == key.series));
        of.here = match view {
            Some(view) if view.spans().len() == 1 => {
                of.solo = Some(key);
                if key.series == series {
                    Here::Solo(Solo { key, end, bytes, view, rows: None })
                } else {
                    Here::Nothing
                }
            }
            None if end.is_some() || follows(self.txn, self.tables, key)? => {
                of.solo = Some(key);
                if key.series == series { Here::Damaged(damaged(), false) } else { Here::Nothing }
            }
            view => {
                let wanted = |head: &ColumnHead| self.wanted.column(head);
                let group = view.and_then(|view| view.decode(versions.as_ref(), &wanted).ok());
                let group = group.filter(|group| group.times.first() == Some(&key.start));
                let packed = match group {
                    Some(group) => {
                        self.bytes += bytes_of(&group) / EXPANSION;
                        Packed::Group(Arc::new(group))
                    }
                    None => Packed::Damaged(damaged()),
                };
                self.cache.insert(key, until, packed.clone());
                Here::of(packed, series)
            }
        };
        match &of.here {
            Here::Solo(_) | Here::Damaged(..) => Ok(end),
            _ => Ok(None),
        }
    }

    /// Blocks that could not be read and begin before the window's end, each once.
    fn damaged(&mut self, series: SeriesId, within: &Range<i64>) -> Vec<Part> {
        let mut parts = Vec::new();
        for of in &mut self.runs {
            if let Here::Damaged(block, told) = &mut of.here
                && !*told
                && (block.key.series != series || block.key.start < within.end)
            {
                *told = true;
                parts.push(Part::Damaged(Arc::clone(block)));
            }
        }
        parts
    }

    /// What the head of a block says, if that is enough.
    fn known(&self, at: usize, within: &Range<i64>) -> Option<Part> {
        let windows = self.wanted.windows?;
        let Here::Solo(solo) = &self.runs[at].here else { return None };
        let (first, last) = solo.view.time_range();
        let (start, end) = windows.bounds(first);
        if solo.rows.is_some() || first < within.start || last >= within.end || last >= end {
            return None;
        }
        let heads = solo.view.heads().iter().filter(|head| self.wanted.column(head));
        let known = heads.map(|head| {
            let partial = partial(head.statistics.as_ref()?);
            Some(Known { field: head.field, kind: head.kind, name: head.name.clone(), partial })
        });
        Some(Part::Known(start, known.collect::<Option<_>>()?))
    }

    /// The rows of a run within the window; a block that turns out to be damaged is remembered.
    fn rows(&mut self, at: usize, within: &Range<i64>) -> heed::Result<Result<Rows, Arc<Damaged>>> {
        let of = &mut self.runs[at];
        let solo = match &mut of.here {
            Here::Packed(group, range) => {
                let times = group.times.get(range.clone()).unwrap_or_default();
                let before = |time: i64| range.start + times.partition_point(|row| *row < time);
                return Ok(Ok(group.rows_of(before(within.start)..before(within.end))));
            }
            Here::Solo(solo) => solo,
            _ => return Ok(Ok(Rows::default())),
        };
        let rows = match solo.rows.take().or_else(|| self.kept.remove(&solo.key)) {
            Some(rows) => rows,
            None => {
                self.decoded += 1;
                let versions = self.shard.versions_in(self.txn, self.tables, of.run.id)?;
                let wanted = |head: &ColumnHead| self.wanted.column(head);
                let group = solo.view.decode(versions.as_ref(), &wanted).ok();
                let group = group.filter(|group| {
                    let last = group.times.last();
                    group.times.first() == Some(&solo.key.start)
                        && last.is_some_and(|last| solo.end.is_none_or(|end| *last < end))
                });
                let Some(RowGroup { times, versions, columns, .. }) = group else {
                    let (key, end, bytes) = (solo.key, solo.end, solo.bytes.to_vec());
                    let damaged = Arc::new(Damaged { key, bytes, end });
                    of.here = Here::Damaged(Arc::clone(&damaged), true);
                    return Ok(Err(damaged));
                };
                let rows = Rows { times, versions, columns };
                self.bytes += rows.approximate_bytes() / EXPANSION;
                rows
            }
        };
        let inside = rows
            .time_range()
            .is_some_and(|(first, last)| within.start <= first && last < within.end);
        if inside {
            return Ok(Ok(rows));
        }
        let slice = rows.slice(within.start, within.end);
        solo.rows = Some(rows);
        Ok(Ok(slice))
    }
}

impl Here<'_> {
    fn of(packed: Packed, series: SeriesId) -> Self {
        match packed {
            Packed::Damaged(block) => Self::Damaged(block, false),
            Packed::Group(group) => match group.span_of(series) {
                Some(range) => Self::Packed(group, range),
                None => Self::Nothing,
            },
        }
    }

    /// The first and the last time.
    fn range(&self) -> Option<(i64, i64)> {
        match self {
            Self::Solo(solo) => Some(solo.view.time_range()),
            Self::Packed(group, range) => {
                let times = group.times.get(range.clone())?;
                Some((*times.first()?, *times.last()?))
            }
            Self::Unknown | Self::Nothing | Self::Damaged(..) => None,
        }
    }
}

/// A block in LMDB.
struct Found<'txn> {
    key: BlockKey,
    bytes: &'txn [u8],
    /// The time of the first row of the run's next block that begins with the same series.
    end: Option<i64>,
    /// The series that the run's next block of another series begins with.
    until: SeriesId,
}

/// The block of a run that may have the rows of a series from time `from` on: the one that may hold
/// `from`, else the next.
fn seek<'txn>(
    txn: &'txn RoTxn<'_>,
    [runs, ..]: &Tables,
    run: u32,
    series: SeriesId,
    from: i64,
) -> heed::Result<Option<Found<'txn>>> {
    let ours = |found: Option<(&[u8], &'txn [u8])>| {
        let (key, bytes) = found?;
        let key = BlockKey::decode(key)?;
        (key.run == run && key.series > 0 && key.series <= series).then_some((key, bytes))
    };
    let at = BlockKey { run, series, start: from }.encode();
    let before = ours(runs.get_lower_than_or_equal_to(txn, &at)?);
    let found = match before {
        Some((key, _)) if key.series == series => before,
        _ => ours(runs.get_greater_than(txn, &at)?).or(before),
    };
    let Some((key, bytes)) = found else {
        return Ok(None);
    };
    let next = runs.get_greater_than(txn, &key.encode())?;
    let next = next.and_then(|(key, _)| BlockKey::decode(key)).filter(|next| next.run == run);
    let end = next.filter(|next| next.series == key.series).map(|next| next.start);
    let until = next.map_or(SeriesId::MAX, |next| next.series);
    Ok(Some(Found { key, bytes, end, until }))
}

/// Whether the run's block before a block is of the same series.
fn follows(txn: &RoTxn<'_>, [runs, ..]: &Tables, key: BlockKey) -> heed::Result<bool> {
    let before = runs.get_lower_than(txn, &key.encode())?;
    let before = before.and_then(|(key, _)| BlockKey::decode(key));
    Ok(before.is_some_and(|before| (before.run, before.series) == (key.run, key.series)))
}

/// The same of a block as an aggregation would have found in its rows.
fn partial(of: &Statistics) -> Partial {
    let end = |value: &Value| match value {
        Value::String(_) => Value::String(Bytes::new()),
        value => value.clone(),
    };
    Partial {
        count: of.count,
        sum: match of.sum {
            Total::None => Sum::None,
            Total::Float { high, low } => Sum::float(high, low),
            Total::Integer(sum) => Sum::Integer(sum),
        },
        min: end(&of.min),
        max: end(&of.max),
        first: of.first.clone(),
        last: of.last.clone(),
    }
}
