//! The rows of fresh batches by series, for a fold: decoded once, never taken apart.
//!
//! Invariant: each distinct key is copied once and numbered in order of arrival; pieces refer to the
//! columns the batches were decoded into. A batch with the series of an earlier one, in the same
//! order, costs one comparison of keys per series. Filled and emptied by [`super::fold`].

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Range,
};

use bytes::Bytes;
use quorate_protocol::{batch::DecodedBatch, id::Version, rows::Rows};

use super::{
    assemble::{Assembler, Sink},
    error::ShardError,
    series::SeriesId,
    source::{Source, Sources},
};

/// No further series of the same hash.
const NONE: u32 = u32::MAX;

/// Decoded batches.
#[derive(Default)]
pub(super) struct Gathered {
    sources: Sources,
    pieces: Vec<Piece>,
    series: Vec<Named>,
    /// All keys, one behind the other.
    keys: Vec<u8>,
    /// The first series of each hash.
    by_hash: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    versions: Vec<Version>,
    cells: u64,
    bytes: u64,
}

struct Piece {
    series: u32,
    source: u32,
    rows: Range<u32>,
}

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
    pub(super) fn add(&mut self, batch: DecodedBatch) {
        let version = batch.header.part.version;
        if self.versions.last() != Some(&version) {
            self.versions.push(version);
        }
        for mut measurement in batch.measurements {
            let series = std::mem::take(&mut measurement.series);
            let (rows, columns) = (measurement.times.len(), measurement.columns.len());
            let source = Source::of_batch(measurement, version);
            self.cells += (rows * columns) as u64;
            self.bytes += (rows * source.row_bytes + 24 * series.len()) as u64;
            let source = self.sources.add(source);
            let mut expected = 0;
            for one in series {
                let number = self.number(one.hash, &one.key, expected);
                expected = number + 1;
                self.pieces.push(Piece { series: number, source, rows: one.rows });
            }
        }
    }

    /// The number of a series, which is perhaps `expected`.
    fn number(&mut self, hash: u64, key: &[u8], expected: u32) -> u32 {
        if self.is(expected, hash, key) {
            return expected;
        }
        let new = u32::try_from(self.series.len()).unwrap_or(NONE);
        let mut at = *self.by_hash.entry(hash).or_insert(new);
        while at != new {
            if self.is(at, hash, key) {
                return at;
            }
            let named = &mut self.series[at as usize];
            if named.next == NONE {
                named.next = new;
            }
            at = named.next;
        }
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.series.push(Named { hash, key: start..self.keys.len(), next: NONE });
        self.bytes += key.len() as u64 + 64;
        new
    }

    fn is(&self, number: u32, hash: u64, key: &[u8]) -> bool {
        self.series.get(number as usize).is_some_and(|named| {
            named.hash == hash && self.keys.get(named.key.clone()) == Some(key)
        })
    }

    /// Hash and key of each series, by number. The keys are not here any more.
    pub(super) fn take_names(&mut self) -> Vec<(u64, Bytes)> {
        let keys = Bytes::from(std::mem::take(&mut self.keys));
        self.series.iter().map(|named| (named.hash, keys.slice(named.key.clone()))).collect()
    }

    /// Passes all rows on, in order of (series, time), conflicts resolved. `ids` by number.
    pub(super) fn assemble<S: Sink>(
        mut self,
        ids: &[SeriesId],
        mut assembler: Assembler<S>,
    ) -> Result<S, ShardError> {
        let mut order: Vec<(SeriesId, u32)> = ids.iter().copied().zip(0..).collect();
        order.sort_unstable();
        // The pieces of each series together, in order of arrival.
        let mut starts = vec![0_u32; ids.len() + 1];
        for piece in &self.pieces {
            starts[piece.series as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut sorted: Vec<(u32, Range<u32>)> = vec![(0, 0..0); self.pieces.len()];
        for piece in std::mem::take(&mut self.pieces) {
            let at = &mut next[piece.series as usize];
            sorted[*at as usize] = (piece.source, piece.rows);
            *at += 1;
        }
        for (id, number) in order {
            let range = starts[number as usize] as usize..starts[number as usize + 1] as usize;
            assembler.begin(&mut self.sources, id)?;
            add(&mut self.sources, &mut assembler, &mut sorted[range])?;
        }
        assembler.finish(&mut self.sources)
    }
}

/// Adds the pieces of one series.
fn add<S: Sink>(
    sources: &mut Sources,
    assembler: &mut Assembler<S>,
    pieces: &mut [(u32, Range<u32>)],
) -> Result<(), ShardError> {
    let times = |sources: &Sources, (source, rows): &(u32, Range<u32>)| {
        sources.get(*source).time_range(rows)
    };
    let apart = |two: &[(u32, Range<u32>)]| times(sources, &two[0]).1 < times(sources, &two[1]).0;
    if !pieces.windows(2).all(apart) {
        pieces.sort_by_key(|piece| times(sources, piece));
    }
    let mut at = 0;
    while let Some(first) = pieces.get(at) {
        // As many as overlap each other, in time, one with the next.
        let (mut last, mut end) = (times(sources, first).1, at + 1);
        while let Some(next) = pieces.get(end)
            && times(sources, next).0 <= last
        {
            last = last.max(times(sources, next).1);
            end += 1;
        }
        if let [(source, rows)] = &pieces[at..end] {
            assembler.add(sources, *source, rows.clone())?;
        } else {
            let rows = |(source, rows): &(u32, Range<u32>)| sources.get(*source).rows(rows.clone());
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
