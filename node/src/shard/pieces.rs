//! The rows of fresh batches that a scan wants, by series.
//!
//! Invariant: each distinct key is kept once, each value once, in the column it was decoded into;
//! a series' rows are put together only when they are asked for. (Rows of their own for every series
//! of every batch take fifteen times the memory when there are 100,000 series.) Filled from decoded
//! batches by [`super::read`].

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use quorate_protocol::{batch::DecodedBatch, rows::Rows};

use super::{
    filter::ScanFilter,
    source::{Source, one_behind_the_other},
    splice::{self, count},
};

/// The rows of one series in one measurement of one batch.
struct Piece {
    series: u32,
    source: u32,
    rows: Range<u32>,
}

/// A series of some fresh batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreshSeries {
    pub(super) hash: u64,
    pub(super) key: Bytes,
    /// Among the pieces.
    pieces: Range<usize>,
}

/// Decoded batches while they are being added.
#[derive(Default)]
pub(super) struct Collector {
    sources: Vec<Source>,
    pieces: Vec<Piece>,
    series: BTreeMap<(u64, Bytes), u32>,
}

/// Decoded batches, by series.
#[derive(Default)]
pub(super) struct Pieces {
    sources: Vec<Source>,
    pieces: Vec<Piece>,
}

impl Collector {
    /// Adds the wanted rows of a batch; `escaped` is the filter's measurement.
    pub(super) fn add_wanted(
        &mut self,
        batch: DecodedBatch,
        filter: &ScanFilter,
        escaped: Option<&[u8]>,
    ) {
        let version = batch.header.part.version;
        for mut measurement in batch.measurements {
            if escaped.is_some_and(|wanted| *wanted != *measurement.escaped_name) {
                continue;
            }
            let (mut wanted, mut ranges) = (Vec::new(), Vec::new());
            for series in std::mem::take(&mut measurement.series) {
                if filter.tags_match(&series.key) {
                    let rows = within(&measurement.times, series.rows, filter);
                    if !rows.is_empty() {
                        wanted.push(self.number(series.hash, &series.key));
                        ranges.push(rows);
                    }
                }
            }
            if ranges.is_empty() {
                continue;
            }
            if !filter.fields.is_empty() {
                measurement.columns.retain(|column| filter.fields.contains(&column.name));
            }
            let number = u32::try_from(self.sources.len()).unwrap_or(u32::MAX);
            self.sources.push(shrink(Source::of_batch(measurement, version), &mut ranges));
            let piece = |(series, rows)| Piece { series, source: number, rows };
            self.pieces.extend(wanted.into_iter().zip(ranges).map(piece));
        }
    }

    fn number(&mut self, hash: u64, key: &Bytes) -> u32 {
        if let Some(number) = self.series.get(&(hash, key.clone())) {
            return *number;
        }
        let number = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        // A copy, because the key holds on to all keys of its batch.
        self.series.insert((hash, Bytes::copy_from_slice(key)), number);
        number
    }

    /// The series, by (hash, key), and their rows.
    pub(super) fn finish(mut self) -> (Vec<FreshSeries>, Pieces) {
        self.pieces.sort_by_key(|piece| piece.series);
        let mut starts = Vec::with_capacity(self.series.len());
        for (at, piece) in self.pieces.iter().enumerate() {
            if piece.series as usize == starts.len() {
                starts.push(at);
            }
        }
        let end =
            |number: u32| starts.get(number as usize + 1).copied().unwrap_or(self.pieces.len());
        let series = self
            .series
            .into_iter()
            .map(|((hash, key), number)| {
                // Every number was given together with its first piece.
                let start = starts.get(number as usize).copied().unwrap_or(self.pieces.len());
                FreshSeries { hash, key, pieces: start..end(number) }
            })
            .collect();
        (series, Pieces { sources: self.sources, pieces: self.pieces })
    }
}

/// The rows of a series within the filter's times.
fn within(times: &[i64], rows: Range<u32>, filter: &ScanFilter) -> Range<u32> {
    let slice = times.get(rows.start as usize..rows.end as usize).unwrap_or_default();
    // Fewer than 2^20 rows, so the positions fit.
    let before = |time: i64| slice.partition_point(|row| *row < time) as u32;
    let (start, end) = (before(filter.from), before(filter.to));
    rows.start + start..rows.start + end.max(start)
}

/// Keeps a source as it is if most of it is wanted, else only its wanted rows.
fn shrink(source: Source, ranges: &mut [Range<u32>]) -> Source {
    let wanted: usize = ranges.iter().map(Range::len).sum();
    if wanted * 4 > source.times.len() {
        return source;
    }
    let wanted = source.select(ranges);
    one_behind_the_other(ranges.iter_mut());
    wanted
}

impl Pieces {
    /// The merged rows of a series.
    pub(super) fn rows(&self, series: &FreshSeries) -> Rows {
        let mut pieces: Vec<&Piece> = self.of(series).iter().collect();
        pieces.sort_by_key(|piece| self.times(piece));
        let apart = |two: &[&Piece]| match two {
            [a, b] => self.times(a).map(|times| times.1) < self.times(b).map(|times| times.0),
            _ => true,
        };
        if pieces.windows(2).all(apart) {
            // The usual case. Merging also drops rows without values.
            return Rows::merge(vec![self.joined(&pieces)]);
        }
        Rows::merge(pieces.into_iter().map(|piece| self.joined(&[piece])).collect())
    }

    /// The first and the last time of a series.
    pub(super) fn time_range(&self, series: &FreshSeries) -> Option<(i64, i64)> {
        let times = || self.of(series).iter().filter_map(|piece| self.times(piece));
        Some((times().map(|(first, _)| first).min()?, times().map(|(_, last)| last).max()?))
    }

    fn of(&self, series: &FreshSeries) -> &[Piece] {
        self.pieces.get(series.pieces.clone()).unwrap_or_default()
    }

    /// The first and the last time of a piece.
    fn times(&self, piece: &Piece) -> Option<(i64, i64)> {
        Some(self.sources.get(piece.source as usize)?.time_range(&piece.rows))
    }

    /// Rows of pieces that follow each other in time.
    fn joined(&self, pieces: &[&Piece]) -> Rows {
        let (mut sources, mut parts, mut heads) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            if let Some(source) = self.sources.get(piece.source as usize) {
                parts.push((
                    sources.len() as u32,
                    piece.rows.start as usize..piece.rows.end as usize,
                ));
                sources.push(source);
                count(&mut heads, source);
            }
        }
        splice::rows(&sources, parts, &heads)
    }
}
