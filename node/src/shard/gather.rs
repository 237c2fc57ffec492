//! The rows of fresh batches by series, for a fold: decoded once, never taken apart.
//!
//! Invariant: a piece names its series by the id it has, or by a number if nobody knows one; each
//! distinct key without an id is copied once and numbered in order of arrival. Pieces refer to the
//! columns the batches were decoded into. A batch with the series of the one before it, in the same
//! order, costs one comparison of keys per series. Filled and emptied by [`super::fold`].

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Range,
};

use bytes::Bytes;
use quorate_protocol::{
    batch::{DecodedBatch, DecodedSeries},
    id::Version,
    rows::Rows,
};

use super::{
    assemble::{Assembler, Sink},
    error::ShardError,
    series::SeriesId,
    series_cache::{Fingerprint, SeriesCache},
    source::{Source, Sources, one_behind_the_other},
};

/// No further series of the same hash.
const NONE: u32 = u32::MAX;

/// What the piece of a series takes, and sorting it.
const PIECE_BYTES: usize = 48;
/// From here on it is the number of a series that has no id yet.
const UNNAMED: u64 = 1 << 63;

/// Decoded batches.
#[derive(Default)]
pub(super) struct Gathered {
    sources: Sources,
    pieces: Vec<Piece>,
    /// The series of the last batch, in its order.
    previous: Vec<(Bytes, u64)>,
    /// Buffers of [`Self::find`].
    found: Vec<u64>,
    wanted: Vec<usize>,
    prints: Vec<Fingerprint>,
    unknown: Vec<Named>,
    /// Their keys, one behind the other.
    keys: Vec<u8>,
    /// The first of them of each hash.
    by_hash: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    versions: Vec<Version>,
    cells: u64,
    bytes: u64,
}

struct Piece {
    /// An id, or a number from [`UNNAMED`] on.
    series: u64,
    source: u32,
    rows: Range<u32>,
}

/// A series without an id.
struct Named {
    hash: u64,
    key: Range<usize>,
    /// The next series of the same hash, or [`NONE`].
    next: u32,
}

/// Series hashes are hashes already; this only spreads them over all bits.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, hash: u64) {
        let mixed = (self.0 ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

impl Gathered {
    /// Cells (rows times fields) that are decoded.
    pub(super) const fn cells(&self) -> u64 {
        self.cells
    }

    /// Memory taken, roughly.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The versions of all batches.
    pub(super) fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// Adds all rows of a batch.
    pub(super) fn add(&mut self, batch: DecodedBatch, ids: &SeriesCache) {
        let version = batch.header.part.version;
        if self.versions.last() != Some(&version) {
            self.versions.push(version);
        }
        let mut latest = Vec::new();
        for mut measurement in batch.measurements {
            let series = std::mem::take(&mut measurement.series);
            let (rows, columns) = (measurement.times.len(), measurement.columns.len());
            let source = Source::of_batch(measurement, version);
            self.cells += (rows * columns) as u64;
            self.bytes += (rows * source.row_bytes + PIECE_BYTES * series.len()) as u64;
            self.find(&series, latest.len(), ids);
            let mut rows: Vec<(u64, Range<u32>)> = Vec::with_capacity(series.len());
            for (at, one) in series.into_iter().enumerate() {
                let series = match self.found[at] {
                    0 => UNNAMED | u64::from(self.number(one.hash, &one.key)),
                    found => found,
                };
                rows.push((series, one.rows));
                latest.push((one.key, series));
            }
            let source = self.sources.add(in_order(source, &mut rows));
            let piece = |(series, rows)| Piece { series, source, rows };
            self.pieces.extend(rows.into_iter().map(piece));
        }
        self.previous = latest;
    }

    /// Fills `found` with what stands for each series in a piece, or 0 for those that are not known
    /// yet. `first`: how many series of the batch came before them.
    fn find(&mut self, series: &[DecodedSeries], first: usize, ids: &SeriesCache) {
        let Self { found, wanted, prints, .. } = self;
        found.clear();
        wanted.clear();
        prints.clear();
        for (at, one) in series.iter().enumerate() {
            match self.previous.get(first + at) {
                Some((key, series)) if *key == one.key => found.push(*series),
                _ => {
                    found.push(0);
                    wanted.push(at);
                    prints.push(ids.print(&one.key));
                }
            }
        }
        for (at, print) in wanted.iter().zip(prints) {
            found[*at] = ids.get(*print);
        }
    }

    /// The number of a series without an id.
    fn number(&mut self, hash: u64, key: &[u8]) -> u32 {
        let new = u32::try_from(self.unknown.len()).unwrap_or(NONE);
        let mut at = *self.by_hash.entry(hash).or_insert(new);
        while at != new {
            if self.is(at, hash, key) {
                return at;
            }
            let named = &mut self.unknown[at as usize];
            if named.next == NONE {
                named.next = new;
            }
            at = named.next;
        }
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.unknown.push(Named { hash, key: start..self.keys.len(), next: NONE });
        self.bytes += key.len() as u64 + 64;
        new
    }

    fn is(&self, number: u32, hash: u64, key: &[u8]) -> bool {
        self.unknown.get(number as usize).is_some_and(|named| {
            named.hash == hash && self.keys.get(named.key.clone()) == Some(key)
        })
    }

    /// Hash and key of each series without an id, by number. The keys are not here any more.
    pub(super) fn take_unknown(&mut self) -> Vec<(u64, Bytes)> {
        let keys = Bytes::from(std::mem::take(&mut self.keys));
        self.unknown.iter().map(|named| (named.hash, keys.slice(named.key.clone()))).collect()
    }

    /// Passes all rows on, in order of (series, time), conflicts resolved. `ids` by number, of those
    /// that had none.
    pub(super) fn assemble<S: Sink>(
        mut self,
        ids: &[SeriesId],
        mut assembler: Assembler<S>,
    ) -> Result<S, ShardError> {
        self.previous.clear();
        let mut pieces = std::mem::take(&mut self.pieces);
        for piece in &mut pieces {
            if piece.series >= UNNAMED {
                // Numbers are those of `unknown`.
                piece.series = ids[(piece.series - UNNAMED) as usize];
            }
        }
        // Those of one series stay in order of arrival. Fast, since ids ascend within most batches.
        pieces.sort_by_key(|piece| piece.series);
        for of_series in pieces.chunk_by_mut(|a, b| a.series == b.series) {
            if let Some(first) = of_series.first() {
                assembler.begin(&mut self.sources, first.series)?;
            }
            add(&mut self.sources, &mut assembler, of_series)?;
        }
        assembler.finish(&mut self.sources)
    }
}

/// A source whose series stand in order, where that is worth it: it will be read in order, together
/// with many others, and single rows that stand anywhere would each be a wait for memory.
fn in_order(source: Source, rows: &mut [(u64, Range<u32>)]) -> Source {
    const SHORT: usize = 4;
    let few = source.times.len() >= SHORT * rows.len() || rows.len() < 2 * SHORT;
    if few || rows.is_sorted_by_key(|(series, _)| *series) {
        return source;
    }
    rows.sort_unstable_by_key(|(series, _)| *series);
    let order: Vec<Range<u32>> = rows.iter().map(|(_, rows)| rows.clone()).collect();
    let ordered = source.select(&order);
    one_behind_the_other(rows.iter_mut().map(|(_, rows)| rows));
    ordered
}

/// Adds the pieces of one series.
fn add<S: Sink>(
    sources: &mut Sources,
    assembler: &mut Assembler<S>,
    pieces: &mut [Piece],
) -> Result<(), ShardError> {
    let times =
        |sources: &Sources, piece: &Piece| sources.get(piece.source).time_range(&piece.rows);
    let apart = |two: &[Piece]| times(sources, &two[0]).1 < times(sources, &two[1]).0;
    if !pieces.windows(2).all(apart) {
        pieces.sort_by_key(|piece| times(sources, piece));
    }
    let mut at = 0;
    while let Some(first) = pieces.get(at) {
        // As many as overlap each other, in time, one with the next.
        let mut end = at + 1;
        if end < pieces.len() {
            let mut last = times(sources, first).1;
            while let Some(next) = pieces.get(end)
                && times(sources, next).0 <= last
            {
                last = last.max(times(sources, next).1);
                end += 1;
            }
        }
        if let [piece] = &pieces[at..end] {
            assembler.add(sources, piece.source, piece.rows.clone())?;
        } else {
            let rows = |piece: &Piece| sources.get(piece.source).rows(piece.rows.clone());
            let merged = Rows::merge(pieces[at..end].iter().map(rows).collect());
            add_merged(sources, assembler, merged)?;
        }
        at = end;
    }
    Ok(())
}

/// Adds merged rows of the series under way.
pub(super) fn add_merged<S: Sink>(
    sources: &mut Sources,
    assembler: &mut Assembler<S>,
    rows: Rows,
) -> Result<(), ShardError> {
    // Fewer rows than were read at once, which are counted in u32.
    let len = rows.len() as u32;
    let source = sources.add(Source::of_rows(rows));
    assembler.add(sources, source, 0..len)?;
    sources.retire(source);
    Ok(())
}
