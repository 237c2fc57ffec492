//! Putting row groups together: spans of sources in, row groups out, copied column by column.
//!
//! Invariants: series ascend, and times ascend strictly from span to span of a series, so nothing
//! is compared here; a time of a series is never split over two row groups, and a series is either
//! within one packed row group or has row groups of its own. What waits is at most one packed group
//! and, of the series under way, two groups. Fed by [`super::gather`] and [`super::weave`].

use std::ops::Range;

use quorate_protocol::rows::Rows;

use super::{
    block::{MAX_CELLS, MAX_ROWS, RowGroup, Span},
    config::Config,
    error::ShardError,
    series::SeriesId,
    source::{Source, Sources},
    splice::{self, Head, count, missing},
};

/// Rows of a packed row group, at most.
const PACKED_ROWS: usize = 4096;
/// A series with so many rows gets row groups of its own, which merges move as they are. Fewer would
/// spend more on heads and statistics than on values.
pub(super) const SOLO_ROWS: usize = 512;
/// Columns of a packed row group, at most, unless one series has more.
const PACKED_COLUMNS: usize = 256;

/// Where row groups go.
pub(super) trait Sink {
    /// Takes a row group; they come in order.
    fn put(&mut self, group: &RowGroup) -> Result<(), ShardError>;

    /// Takes an encoded row group of one series as it is.
    fn put_encoded(&mut self, block: EncodedGroup) -> Result<(), ShardError>;
}

/// An encoded row group of one series, with versions of its own.
#[derive(Debug)]
pub(super) struct EncodedGroup {
    pub(super) series: SeriesId,
    /// The first and the last time.
    pub(super) times: (i64, i64),
    pub(super) rows: usize,
    pub(super) bytes: Vec<u8>,
}

/// How large row groups become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of groups of one series.
    pub(super) rows: usize,
    /// Decoded, roughly.
    pub(super) bytes: usize,
}

impl Limits {
    pub(super) fn new(rows: usize, bytes: usize) -> Self {
        Self { rows: rows.clamp(1, MAX_ROWS / 2), bytes: bytes.clamp(1, 4 * MAX_CELLS) }
    }

    pub(super) fn of(config: &Config) -> Self {
        Self::new(config.block_rows, config.block_bytes)
    }
}

#[derive(Clone, Debug)]
struct Piece {
    series: SeriesId,
    source: u32,
    rows: Range<u32>,
}

/// Makes row groups of spans.
pub(super) struct Assembler<S> {
    pub(super) sink: S,
    limits: Limits,
    /// Small series that are complete.
    packed: Vec<Piece>,
    packed_rows: usize,
    packed_bytes: usize,
    /// The columns of `packed`, ascending.
    heads: Vec<Head>,
    /// Counts packed groups, from 1.
    number: u64,
    /// The series under way; 0 before the first.
    series: SeriesId,
    current: Vec<Piece>,
    current_rows: usize,
    current_bytes: usize,
    /// The series under way has row groups of its own.
    solo: bool,
}

impl<S: Sink> Assembler<S> {
    pub(super) const fn new(sink: S, limits: Limits) -> Self {
        Self {
            sink,
            limits,
            packed: Vec::new(),
            packed_rows: 0,
            packed_bytes: 0,
            heads: Vec::new(),
            number: 1,
            series: 0,
            current: Vec::new(),
            current_rows: 0,
            current_bytes: 0,
            solo: false,
        }
    }

    /// Begins the next series.
    pub(super) fn begin(
        &mut self,
        sources: &mut Sources,
        series: SeriesId,
    ) -> Result<(), ShardError> {
        self.end(sources)?;
        self.series = series;
        Ok(())
    }

    /// Adds rows of the series under way, behind those it has.
    pub(super) fn add(
        &mut self,
        sources: &mut Sources,
        source: u32,
        rows: Range<u32>,
    ) -> Result<(), ShardError> {
        if rows.is_empty() {
            return Ok(());
        }
        sources.hold(source);
        self.current_rows += rows.len();
        self.current_bytes += rows.len() * sources.get(source).row_bytes;
        self.current.push(Piece { series: self.series, source, rows });
        if !self.solo && (self.current_rows >= SOLO_ROWS || self.current_bytes > self.limits.bytes)
        {
            self.flush(sources)?;
            self.solo = true;
        }
        while self.solo && self.current_rows >= 2 * self.step() {
            self.put_solo(sources, self.step())?;
        }
        Ok(())
    }

    /// Whether an encoded row group may be added as it is without leaving crumbs before it.
    pub(super) const fn takes_encoded(&self) -> bool {
        self.current_rows == 0 || self.current_rows >= SOLO_ROWS / 2
    }

    /// Adds an encoded row group of the series under way, behind the rows it has.
    pub(super) fn add_encoded(
        &mut self,
        sources: &mut Sources,
        block: EncodedGroup,
    ) -> Result<(), ShardError> {
        if !self.solo {
            self.flush(sources)?;
            self.solo = true;
        }
        self.put_rest(sources)?;
        self.sink.put_encoded(block)
    }

    /// Puts everything out that waits.
    pub(super) fn finish(mut self, sources: &mut Sources) -> Result<S, ShardError> {
        self.end(sources)?;
        self.flush(sources)?;
        Ok(self.sink)
    }

    /// Rows of a group of the series under way.
    fn step(&self) -> usize {
        let per_row = self.current_bytes.div_ceil(self.current_rows.max(1)).max(1);
        (self.limits.bytes / per_row).clamp(1, self.limits.rows)
    }

    fn put_rest(&mut self, sources: &mut Sources) -> Result<(), ShardError> {
        while self.current_rows > 0 {
            // Two halves rather than a whole and a crumb.
            let parts = self.current_rows.div_ceil(self.step()).max(1);
            self.put_solo(sources, self.current_rows.div_ceil(parts))?;
        }
        Ok(())
    }

    /// Puts out a group of the first `rows` rows of the series under way, or a few more where
    /// rows of one time go on.
    fn put_solo(&mut self, sources: &mut Sources, rows: usize) -> Result<(), ShardError> {
        let (mut left, mut whole, mut cut) = (rows, 0, None);
        let (mut heads, mut last) = (Vec::new(), None);
        for piece in &self.current {
            let source = sources.get(piece.source);
            if last.replace(source.layout) != Some(source.layout) {
                let columns = heads.len() + missing(&heads, source);
                let cells = columns * (rows - left + piece.rows.len().min(left));
                // Sources with different columns: the group would be mostly empty.
                if whole > 0 && 8 * cells > self.limits.bytes {
                    break;
                }
                count(&mut heads, source);
            }
            if piece.rows.len() > left {
                let mut end = piece.rows.start as usize + left;
                while end > 0
                    && end < piece.rows.end as usize
                    && source.times.get(end) == source.times.get(end - 1)
                {
                    end += 1;
                }
                // Below the end of the piece, which fits.
                cut = (left > 0 && end < piece.rows.end as usize).then_some(end as u32);
                whole += usize::from(left > 0 && cut.is_none());
                break;
            }
            left -= piece.rows.len();
            whole += 1;
            if left == 0 {
                break;
            }
        }
        let mut pieces: Vec<Piece> = self.current.drain(..whole).collect();
        if let (Some(end), Some(rest)) = (cut, self.current.first_mut()) {
            sources.hold(rest.source);
            pieces.push(Piece { rows: rest.rows.start..end, ..rest.clone() });
            rest.rows.start = end;
        }
        let bytes = |piece: &Piece| piece.rows.len() * sources.get(piece.source).row_bytes;
        self.current_bytes -= pieces.iter().map(bytes).sum::<usize>();
        self.current_rows -= pieces.iter().map(|piece| piece.rows.len()).sum::<usize>();
        self.put(sources, &pieces, &heads)
    }

    /// Ends the series under way.
    fn end(&mut self, sources: &mut Sources) -> Result<(), ShardError> {
        if self.solo {
            self.put_rest(sources)?;
            self.solo = false;
            return Ok(());
        }
        let mut new = 0;
        for piece in &self.current {
            let source = sources.get(piece.source);
            if source.counted_for != self.number {
                new += missing(&self.heads, source);
            }
        }
        let columns = self.heads.len() + new;
        let rows = self.packed_rows + self.current_rows;
        if rows > PACKED_ROWS
            || columns > PACKED_COLUMNS
            || 8 * columns * rows > self.limits.bytes
            || self.packed_bytes + self.current_bytes > self.limits.bytes
        {
            self.flush(sources)?;
        }
        for piece in &self.current {
            let source = sources.get_mut(piece.source);
            if source.counted_for != self.number {
                source.counted_for = self.number;
                count(&mut self.heads, source);
            }
        }
        self.packed.append(&mut self.current);
        self.packed_rows += std::mem::take(&mut self.current_rows);
        self.packed_bytes += std::mem::take(&mut self.current_bytes);
        Ok(())
    }

    /// Puts the packed group out.
    fn flush(&mut self, sources: &mut Sources) -> Result<(), ShardError> {
        if self.packed.is_empty() {
            return Ok(());
        }
        let pieces = std::mem::take(&mut self.packed);
        let heads = std::mem::take(&mut self.heads);
        (self.packed_rows, self.packed_bytes) = (0, 0);
        self.number += 1;
        self.put(sources, &pieces, &heads)
    }

    fn put(
        &mut self,
        sources: &mut Sources,
        pieces: &[Piece],
        heads: &[Head],
    ) -> Result<(), ShardError> {
        let group = build(sources, pieces, heads);
        for piece in pieces {
            sources.release(piece.source);
        }
        self.sink.put(&group)
    }
}

/// Copies the pieces together.
fn build(sources: &Sources, pieces: &[Piece], heads: &[Head]) -> RowGroup {
    // Each source once, and which one a piece is of.
    let mut order: Vec<u32> = pieces.iter().map(|piece| piece.source).collect();
    order.sort_unstable();
    order.dedup();
    let used: Vec<&Source> = order.iter().map(|number| sources.get(*number)).collect();
    let parts = pieces.iter().map(|piece| {
        // Found, since `order` was made from the same pieces.
        let at = order.partition_point(|number| *number < piece.source);
        (at as u32, piece.rows.start as usize..piece.rows.end as usize)
    });
    let Rows { times, versions, columns } = splice::rows(&used, parts.collect(), heads);
    RowGroup { spans: spans(pieces), times, versions, columns }
}

fn spans(pieces: &[Piece]) -> Vec<Span> {
    let (mut spans, mut start) = (Vec::new(), 0);
    for of_series in pieces.chunk_by(|a, b| a.series == b.series) {
        // A row group has far fewer rows than fit into u32.
        let rows: u32 = of_series.iter().map(|piece| piece.rows.end - piece.rows.start).sum();
        spans.extend(
            of_series.first().map(|piece| Span { series: piece.series, rows: start..start + rows }),
        );
        start += rows;
    }
    spans
}

#[cfg(test)]
mod tests;
