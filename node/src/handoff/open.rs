//! Opening the queues: headers, books and live tails; nothing else is read.
//!
//! Invariant: opening always succeeds as far as it can. A damaged file is moved to its queue's
//! quarantine, a queue whose directory cannot be used is reported and left alone, a file that is
//! not ours is reported and left alone. What earlier runs removed half is finished.

use std::io;
use std::path::Path;
use std::sync::Arc;

use quorate_protocol::id::NodeId;
use serde::Serialize;

use super::HandoffError;
use super::ledger::{Ledger, is_slot};
use super::log::{HandoffLog, refused};
use super::quarantine::{DIRECTORY as QUARANTINE, UNREADABLE};
use super::queue::{Cursor, Queue, Segment, State};
use crate::disk::{Disk, DiskFile, Open, is_full};
use crate::segment::header::{self, Header, Kind, Parsed};
use crate::segment::{Found, Reader, Writer, name, trailer};

/// What opening the queues found besides hints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OpenReport {
    /// Queues in service.
    pub queues: u64,
    /// Hints that wait in them.
    pub pending: u64,
    /// Segment files with an unreadable header; moved to their queue's `quarantine/`.
    pub unreadable_segments: u64,
    /// Files and directories that are not ours (or of a later version); left alone.
    pub unknown_files: Vec<String>,
    /// Queues that could not be opened, with the reason; they refuse hints until a restart.
    pub failed: Vec<(NodeId, String)>,
}

/// The node whose queue a directory of this name is: only the form that `create` makes, no sign and
/// no leading zeros.
pub(super) fn target_of(name: &str) -> Option<NodeId> {
    name.parse::<u64>().ok().filter(|id| id.to_string() == name).map(NodeId)
}

/// What scanning the last segment showed.
struct LastSegment {
    /// The writer to go on with, if nothing but zeros follows the last record.
    writer: Option<Writer>,
    next_sequence: u64,
    end: u64,
}

impl HandoffLog {
    /// Opens every queue in the directory.
    pub(super) fn recover(&mut self) -> Result<OpenReport, HandoffError> {
        let directory = self.directory.clone();
        self.disk.create_directory(&directory)?;
        let mut report = OpenReport::default();
        for entry in self.disk.read_directory(&directory)? {
            let (Some(target), true) = (target_of(&entry.name), entry.directory) else {
                if entry.name != super::marks::FILE {
                    report.unknown_files.push(entry.name);
                }
                continue;
            };
            match self.recover_queue(target, &directory.join(&entry.name), &mut report) {
                Ok(pending) => {
                    report.queues += 1;
                    report.pending += pending;
                }
                Err(error) => {
                    self.broken.insert(target);
                    report.failed.push((target, error.to_string()));
                }
            }
        }
        Ok(report)
    }

    fn recover_queue(
        &mut self,
        target: NodeId,
        directory: &Path,
        report: &mut OpenReport,
    ) -> Result<u64, HandoffError> {
        let disk = Arc::clone(&self.disk);
        let (mut ledger, books) = Ledger::open(Arc::clone(&disk), directory, target.0, self.salt)?;
        let (mut segments, next_number) = self.list(target, directory, report)?;
        let mut accounts = books.clone().unwrap_or_default();
        if let (None, Some(first)) = (&books, segments.first()) {
            accounts.restart_at(first.header.first_sequence);
        }
        let mut writer = None;
        if let Some(last) = segments.last_mut() {
            let found = scan(&*disk, &directory.join(name::of(last.header.number)), last)?;
            accounts.accept(found.next_sequence);
            last.end = found.end;
            last.file = found.writer.as_ref().map(|writer| Arc::clone(writer.file()));
            writer = found.writer;
        }
        if books.is_none()
            && let Err(error) = ledger.create()
        {
            // It was being made when there was no room: it is made by the first hint that finds some.
            let blank = segments.is_empty() && next_number == 1;
            return if blank && is_full(&error) { Ok(0) } else { Err(error.into()) };
        }
        // A fresh slot: what the old one holds behind a tear is nobody's business any more.
        ledger.turn(&accounts).map_err(refused)?;
        let mut state = State::new(accounts);
        state.segments = segments.into();
        state.cursor = first_pending(&*disk, directory, &state);
        let pending = state.accounts.pending();
        self.adopt(Queue::new(target, directory.to_owned(), state), ledger, writer, next_number);
        self.collect(target)?;
        Ok(pending)
    }

    /// The segments of a queue by number, and the next number.
    fn list(
        &self,
        target: NodeId,
        directory: &Path,
        report: &mut OpenReport,
    ) -> Result<(Vec<Segment>, u64), HandoffError> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut next_number = 1;
        for entry in self.disk.read_directory(directory)? {
            let number = name::parse(&entry.name).filter(|_| !entry.directory);
            let Some(number) = number else {
                if !is_slot(&entry.name) && entry.name != QUARANTINE {
                    report.unknown_files.push(format!("{target}/{}", entry.name));
                }
                continue;
            };
            next_number = next_number.max(number.saturating_add(1));
            let path = directory.join(&entry.name);
            let file = self.disk.open(&path, Open::Read)?;
            match Header::read(&*file)? {
                Parsed::Header(header)
                    if (header.kind, header.owner, header.number)
                        == (Kind::Hints, target.0, number) =>
                {
                    let bytes = file.length()?;
                    let end = Reader::limit_of(bytes, &header);
                    let segment = Segment { header, end, bytes, file: None, suspect: false };
                    segments.push(segment);
                }
                Parsed::Blank => self.disk.remove(&path)?,
                Parsed::Newer(_) => {
                    report.unknown_files.push(format!("{target}/{}", entry.name));
                }
                Parsed::Header(_) | Parsed::Damaged => {
                    let aside = directory.join(QUARANTINE);
                    self.disk.create_directory(&aside)?;
                    let name = format!("{UNREADABLE}{}", entry.name);
                    self.disk.rename(&path, &aside.join(name))?;
                    self.disk.sync_directory(&aside)?;
                    self.disk.sync_directory(directory)?;
                    report.unreadable_segments += 1;
                }
            }
        }
        segments.sort_by_key(|segment| segment.header.number);
        Ok((segments, next_number))
    }
}

/// Reads the last segment to its end.
fn scan(disk: &dyn Disk, path: &Path, segment: &Segment) -> io::Result<LastSegment> {
    let file = disk.open(path, Open::Existing)?;
    let (next_sequence, end, blank) = end_of(&*file, &segment.header)?;
    let whole = segment.bytes >= segment.header.capacity;
    let writer = (blank && whole).then(|| Writer::resume(Arc::clone(&file), segment.header, end));
    Ok(LastSegment { writer, next_sequence, end })
}

/// The sequence behind the last record of a segment, where that ends, and whether only zeros follow.
pub(super) fn end_of(file: &dyn DiskFile, header: &Header) -> io::Result<(u64, u64, bool)> {
    let mut reader = Reader::new(file, header)?;
    let mut next_sequence = header.first_sequence;
    loop {
        match reader.next_found()? {
            Found::Record(record) => next_sequence = record.meta.sequence + 1,
            Found::Damaged(damage) => {
                next_sequence = next_sequence.max(damage.first_sequence + damage.records);
            }
            Found::End { offset, blank, .. } => return Ok((next_sequence, offset, blank)),
        }
    }
}

/// Where handing out starts: at the lowest pending record, or somewhat before it.
fn first_pending(disk: &dyn Disk, directory: &Path, state: &State) -> Cursor {
    let floor = state.accounts.floor();
    let index = (0..state.segments.len()).find(|index| state.sequences_end(*index) > floor);
    let index = index.unwrap_or(state.segments.len().saturating_sub(1));
    let Some(segment) = state.segments.get(index) else {
        return Cursor { number: 0, offset: header::LENGTH, sequence: floor };
    };
    let header = &segment.header;
    let start =
        Cursor { number: header.number, offset: header::LENGTH, sequence: header.first_sequence };
    let Ok(file) = disk.open(&directory.join(name::of(header.number)), Open::Read) else {
        return start;
    };
    let mut cursor = noted(&*file, header, segment.end, floor).unwrap_or(start);
    // Sequences before the first segment have no file any more.
    if floor < cursor.sequence {
        return Cursor { number: 0, offset: header::LENGTH, sequence: floor };
    }
    let mut reader = Reader::within(&*file, header, cursor.offset, segment.end, cursor.sequence);
    while let Ok(Found::Record(record)) = reader.next_found()
        && record.meta.sequence < floor
    {
        cursor.offset = reader.position();
        cursor.sequence = record.meta.sequence + 1;
    }
    cursor
}

/// The record that a segment's trailer points at, if there is one at or before `floor`: a note ahead of
/// the books would skip hints that were not booked.
fn noted(file: &dyn DiskFile, header: &Header, end: u64, floor: u64) -> Option<Cursor> {
    let offset = trailer::read(file, header).ok()?;
    let mut reader = Reader::within(file, header, offset, end, header.first_sequence);
    let sequence = reader.header().ok()??.meta.sequence;
    (sequence <= floor).then_some(Cursor { number: header.number, offset, sequence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::MemoryDisk, spec::vectors};

    #[test]
    fn reading_goes_on_where_the_specification_says() {
        let mut seen = 0;
        for vector in vectors("segment-read") {
            let Parsed::Header(header) = Header::parse(&vector.bytes) else { panic!("no header") };
            assert_eq!(header.capacity, vector.bytes.len() as u64, "{}", vector.name);
            let disk = MemoryDisk::new();
            disk.replace(Path::new("/s"), vector.bytes.clone());
            let file = disk.open(Path::new("/s"), Open::Read).unwrap();
            let (next_sequence, end, _) = end_of(&*file, &header).unwrap();
            assert_eq!(next_sequence, 3, "{}", vector.name);
            let start = (header::LENGTH, header.first_sequence);
            let at = |floor| {
                let noted = noted(&*file, &header, end, floor);
                let (offset, sequence) =
                    noted.map_or(start, |noted| (noted.offset, noted.sequence));
                format!("offset={offset} sequence={sequence}")
            };
            assert_eq!(at(2), vector.one("next"), "{}", vector.name);
            assert_eq!(at(1), "offset=128 sequence=1", "{}: ahead of the books", vector.name);
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}
