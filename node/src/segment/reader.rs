//! Reads a segment record by record, past damage, to the last intact record.
//!
//! Invariant: every intact record is found, in order, whatever was done to the bytes around it;
//! memory stays within the largest intact record plus a fixed window. What follows the last intact
//! record is damage if an end mark in it shows that a record was finished there, else a torn tail
//! (or nothing). Called by recovery of the journal and by the hint queues.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::header::{self, Header, Kind};
use super::record::{self, ALIGNMENT, HEADER, Record, RecordHeader};
use super::trailer;
use crate::disk::DiskFile;

/// Bytes read at once.
const WINDOW: usize = 256 << 10;

/// The next thing in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An intact record.
    Record(Record),
    /// Bytes that cannot be read; reading goes on behind them.
    Damaged(Damage),
    /// Nothing intact follows.
    End {
        /// Where the next record would start.
        offset: u64,
        /// Whether a record begins there that was never finished.
        torn: bool,
        /// Whether nothing but zeros follows.
        blank: bool,
    },
}

/// A damaged range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The bytes; empty if records are missing without a trace.
    pub range: Range<u64>,
    /// How many records are lost, told from the sequences around them.
    pub records: u64,
    /// The sequence of the first lost record.
    pub first_sequence: u64,
    /// The header of the lost record, where that is intact and only the payload is not.
    pub header: Option<RecordHeader>,
}

/// What lies between a damaged place and the next record.
#[derive(Debug, Default)]
struct Gap {
    next: Option<(u64, RecordHeader)>,
    /// End marks in it, and the end of the last one.
    marks: u64,
    marks_end: u64,
    blank: bool,
}

/// A cursor over the records of one segment.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a dyn DiskFile,
    seed: u32,
    position: u64,
    limit: u64,
    last: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Reader<'a> {
    /// Starts at the first record.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn new(file: &'a dyn DiskFile, header: &Header) -> io::Result<Self> {
        let limit = Self::limit_of(file.length()?, header);
        Ok(Self::within(file, header, header::LENGTH, limit, header.first_sequence))
    }

    /// Reads from `position` to `limit`, expecting `next_sequence` first. Both must be record
    /// boundaries that the caller knows, or `limit` the end of the file.
    #[must_use]
    pub fn within(
        file: &'a dyn DiskFile,
        header: &Header,
        position: u64,
        limit: u64,
        next_sequence: u64,
    ) -> Self {
        let last = next_sequence.saturating_sub(1).min(record::MAX_SEQUENCE);
        let seed = header.seed();
        Self { file, seed, position, limit, last, window: Vec::new(), window_start: 0 }
    }

    /// Where records must have ended in a file of `length` bytes.
    #[must_use]
    pub fn limit_of(length: u64, header: &Header) -> u64 {
        if header.kind == Kind::Hints && header.capacity > 0 && length >= header.capacity {
            header.capacity.saturating_sub(trailer::LENGTH)
        } else {
            length
        }
    }

    /// Where the next record starts.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The record header at the current position, if one is intact there.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn header(&mut self) -> io::Result<Option<RecordHeader>> {
        self.header_at(self.position)
    }

    /// The sequence that is expected next.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.last + 1
    }

    /// Passes the next record without looking at its payload; false, and nothing is passed, if its
    /// header is not intact or records before it are missing.
    ///
    /// # Errors
    /// Any I/O error; the position is unchanged.
    pub fn skip(&mut self) -> io::Result<bool> {
        let next = self.header()?.filter(|header| header.meta.sequence == self.last + 1);
        if let Some(header) = next {
            self.position += record::total(u64::from(header.length));
            self.last = header.meta.sequence;
        }
        Ok(next.is_some())
    }

    /// The next record, damage or end.
    ///
    /// # Errors
    /// Any I/O error; the position is unchanged.
    pub fn next_found(&mut self) -> io::Result<Found> {
        if self.limit.saturating_sub(self.position) < record::SMALLEST {
            return Ok(Found::End { offset: self.position, torn: false, blank: true });
        }
        let start = self.position;
        let Some(header) = self.header_at(start)? else {
            let gap = self.gap(start)?;
            return Ok(self.pass(start, gap, None));
        };
        if header.meta.sequence > self.last + 1 {
            // Records are missing, but no bytes: a file in the middle of the log was shortened.
            return Ok(self.damaged(start..start, header.meta.sequence - 1, None));
        }
        let total = record::total(u64::from(header.length));
        let payload_at = start + HEADER as u64;
        let seed = self.seed;
        let payload = self.bytes(payload_at, header.length as usize)?;
        if record::checksum(seed, payload) == header.payload_crc {
            let payload = Bytes::copy_from_slice(payload);
            self.position = start + total;
            self.last = header.meta.sequence;
            return Ok(Found::Record(Record { offset: start, meta: header.meta, payload }));
        }
        if self.u32_at(start + total - 4)? == record::end_mark(seed) {
            self.position = start + total;
            return Ok(self.damaged(start..start + total, header.meta.sequence, Some(header)));
        }
        let gap = self.gap(start + ALIGNMENT)?;
        Ok(self.pass(start, gap, Some(header)))
    }

    /// Decides what the bytes from `start` to the next record were.
    fn pass(&mut self, start: u64, gap: Gap, header: Option<RecordHeader>) -> Found {
        if let Some((offset, next)) = gap.next {
            self.position = offset;
            let lost = next.meta.sequence - 1;
            return self.damaged(start..offset, lost, header.filter(|h| h.meta.sequence == lost));
        }
        if gap.marks > 0 {
            self.position = gap.marks_end;
            return self.damaged(start..gap.marks_end, self.last + gap.marks, None);
        }
        Found::End { offset: start, torn: header.is_some(), blank: gap.blank && header.is_none() }
    }

    fn damaged(
        &mut self,
        range: Range<u64>,
        last_lost: u64,
        header: Option<RecordHeader>,
    ) -> Found {
        let first_sequence = self.last + 1;
        let records = last_lost.saturating_sub(self.last);
        self.last = self.last.max(last_lost);
        Found::Damaged(Damage { range, records, first_sequence, header })
    }

    /// The record header at `offset`, if it is intact, new, possible and inside the limit.
    fn header_at(&mut self, offset: u64) -> io::Result<Option<RecordHeader>> {
        if self.limit.saturating_sub(offset) < record::SMALLEST {
            return Ok(None);
        }
        let (seed, last, room) = (self.seed, self.last, self.limit - offset);
        let header = record::parse(seed, self.bytes(offset, HEADER)?);
        Ok(header.filter(|header| {
            (last + 1..=record::MAX_SEQUENCE).contains(&header.meta.sequence)
                && record::total(u64::from(header.length)) <= room
        }))
    }

    /// Looks for the next intact record header from `offset` on.
    fn gap(&mut self, mut offset: u64) -> io::Result<Gap> {
        let mut gap = Gap { blank: true, ..Gap::default() };
        let mark = record::end_mark(self.seed).to_le_bytes();
        while offset < self.limit {
            let step = WINDOW.min(usize::try_from(self.limit - offset).unwrap_or(WINDOW));
            let chunk = self.bytes(offset, step)?;
            if is_blank(chunk) {
                offset += step as u64;
                continue;
            }
            gap.blank = false;
            let words = chunk.chunks(ALIGNMENT as usize).zip(0u64..);
            let interesting: Vec<(u64, bool)> = words
                .filter_map(|(word, index)| {
                    let is_record = word.starts_with(&record::MAGIC);
                    let is_mark = word.get(4..8) == Some(&mark);
                    (is_record || is_mark).then_some((offset + index * ALIGNMENT, is_record))
                })
                .collect();
            for (at, is_record) in interesting {
                if !is_record {
                    gap.marks += 1;
                    gap.marks_end = at + ALIGNMENT;
                } else if let Some(header) = self.header_at(at)? {
                    gap.next = Some((at, header));
                    return Ok(gap);
                }
            }
            offset += step as u64;
        }
        Ok(gap)
    }

    fn u32_at(&mut self, offset: u64) -> io::Result<u32> {
        let bytes = self.bytes(offset, 4)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    /// `length` bytes from `offset`, both inside the limit.
    fn bytes(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let inside = |start: u64, have: usize| {
            offset >= start && offset + length as u64 <= start + have as u64
        };
        if !inside(self.window_start, self.window.len()) {
            let room = usize::try_from(self.limit - offset.min(self.limit)).unwrap_or(usize::MAX);
            self.window.resize(length.max(WINDOW).min(room), 0);
            self.window_start = offset;
            let read = self.file.read_at(offset, &mut self.window)?;
            self.window.truncate(read);
        }
        let at = usize::try_from(offset - self.window_start).unwrap_or(usize::MAX);
        self.window.get(at..at + length).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Whether there are only zeros; compared in blocks, because most of a fresh segment is.
fn is_blank(bytes: &[u8]) -> bool {
    const BLOCK: [u8; 4096] = [0; 4096];
    bytes.chunks(BLOCK.len()).all(|chunk| BLOCK.starts_with(chunk))
}

#[cfg(test)]
mod tests;
