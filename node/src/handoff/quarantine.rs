//! Hints kept aside, with the reason, in files that an operator can inspect and retry.
//!
//! Invariant: a hint is synced here before the books say that it is quarantined. A crash between
//! the two keeps it twice; its sequence tells. Files grow and are numbered; what is taken out of one
//! (see `retry.rs`) leaves by putting another in its place, in one step.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::id::{Sequence, ShardId};
use serde::Serialize;

use super::queue::ANY_ACK;
use super::terminal::Terminal;
use crate::disk::{Disk, DiskFile, Open};
use crate::segment::header::{self, Header, Kind, Parsed};
use crate::segment::record::RecordMeta;
use crate::segment::writer::FlushError;
use crate::segment::{Found, Reader, Writer, name};

/// The name of the directory inside a queue's.
pub(super) const DIRECTORY: &str = "quarantine";
/// The extension of a file that is to take the place of another.
pub(super) const NEW: &str = "new";
/// What the names of segments begin with that could not be read at all.
pub(super) const UNREADABLE: &str = "unreadable-";
/// Bytes before the hint itself: sequence and code.
const PREFIX: usize = 16;

/// A hint that was kept aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Its place in the queue (of several lost together, the first).
    pub sequence: Sequence,
    /// The shard; 0 where it is not known.
    pub shard: ShardId,
    /// When it was appended, nanoseconds since the Unix epoch; 0 where it is not known.
    pub appended_at: u64,
    /// Whether an `any` acknowledgement rests on it, as far as that is known.
    pub any_ack: bool,
    /// Why.
    pub reason: Terminal,
    /// The batch, or the raw bytes of the file where they were damaged.
    #[serde(skip)]
    pub bytes: Bytes,
}

/// Something in a quarantine file.
#[derive(Debug)]
pub(super) enum Kept {
    /// A hint.
    Hint(Quarantined),
    /// What cannot be read any more, and how many hints it was.
    Damaged { records: u64, bytes: Bytes },
    /// A hint kept for a reason that a later version knows.
    Newer,
}

/// How far a file has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    offset: u64,
    record: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { offset: header::LENGTH, record: 1 }
    }
}

/// The writing end of one queue's quarantine.
#[derive(Debug)]
pub(super) struct Quarantine {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    owner: u64,
    salt: u64,
    /// A file that reaches this size is followed by a new one.
    file_bytes: u64,
    writer: Option<Writer>,
    next_number: Option<u64>,
    next_record: u64,
}

impl Quarantine {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        queue: &Path,
        owner: u64,
        salt: u64,
        file_bytes: u64,
    ) -> Self {
        Self {
            disk,
            directory: queue.join(DIRECTORY),
            owner,
            salt,
            file_bytes,
            writer: None,
            next_number: None,
            next_record: 1,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds hints, durably.
    pub(super) fn keep(&mut self, hints: &[Quarantined]) -> Result<(), FlushError> {
        self.open_file().map_err(failed)?;
        let Some(writer) = self.writer.as_mut() else {
            return Ok(());
        };
        push(writer, self.next_record, hints);
        let result = writer.flush();
        match &result {
            Ok(()) => self.next_record += hints.len() as u64,
            Err(_) => self.writer = None,
        }
        result
    }

    fn open_file(&mut self) -> io::Result<()> {
        if self.writer.as_ref().is_some_and(|writer| writer.position() < self.file_bytes) {
            return Ok(());
        }
        self.disk.create_directory(&self.directory)?;
        let number = match self.next_number {
            Some(number) => number,
            None => {
                let entries = self.disk.read_directory(&self.directory)?;
                entries.iter().filter_map(|entry| name::parse(&entry.name)).max().unwrap_or(0) + 1
            }
        };
        self.next_number = Some(number + 1);
        let path = self.directory.join(name::of(number));
        self.writer = Some(Writer::create(&*self.disk, &path, self.header(number))?);
        self.next_record = 1;
        self.disk.sync_directory(&self.directory)
    }

    fn header(&self, number: u64) -> Header {
        Header {
            kind: Kind::Quarantine,
            owner: self.owner,
            number,
            first_sequence: 1,
            capacity: 0,
            salt: self.salt,
        }
    }

    /// Ends a file, if it is the one that is being written: only then may it be replaced.
    pub(super) fn leave(&mut self, number: u64) {
        if self.writer.as_ref().is_some_and(|writer| writer.header().number == number) {
            self.writer = None;
        }
    }

    /// Leaves only these hints of a file, durably: all of them stay or only these, whenever the
    /// power goes.
    pub(super) fn replace(&self, number: u64, hints: &[Quarantined]) -> Result<(), FlushError> {
        let path = self.directory.join(name::of(number));
        if hints.is_empty() {
            self.disk.remove(&path).map_err(failed)?;
        } else {
            let new = path.with_extension(NEW);
            match self.disk.remove(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
            let writer = Writer::create(&*self.disk, &new, self.header(number));
            let mut writer = writer.map_err(failed)?;
            push(&mut writer, 1, hints);
            writer.flush()?;
            self.disk.rename(&new, &path).map_err(failed)?;
        }
        self.disk.sync_directory(&self.directory).map_err(failed)
    }
}

fn failed(error: io::Error) -> FlushError {
    if crate::disk::is_full(&error) { FlushError::Full } else { FlushError::Failed(error) }
}

fn push(writer: &mut Writer, first_record: u64, hints: &[Quarantined]) {
    for (hint, sequence) in hints.iter().zip(first_record..) {
        let flags = if hint.any_ack { ANY_ACK } else { 0 };
        let meta = RecordMeta { sequence, shard: hint.shard.0, stamp: hint.appended_at, flags };
        writer.push(&meta, &payload_of(hint));
    }
}

/// The numbers of a queue's quarantine files, ascending; none if there is no quarantine.
///
/// # Errors
/// Any I/O error except a missing directory.
pub(super) fn numbers(disk: &dyn Disk, queue: &Path) -> io::Result<Vec<u64>> {
    let entries = match disk.read_directory(&queue.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    Ok(entries.iter().filter_map(|entry| name::parse(&entry.name)).collect())
}

/// The segments in a queue's quarantine that could not be read at all.
///
/// # Errors
/// Any I/O error except a missing directory.
pub(super) fn unreadable(disk: &dyn Disk, queue: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = queue.join(DIRECTORY);
    let entries = match disk.read_directory(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let is_ours = |name: &str| name.strip_prefix(UNREADABLE).and_then(name::parse).is_some();
    let ours = entries.iter().filter(|entry| !entry.directory && is_ours(&entry.name));
    Ok(ours.map(|entry| directory.join(&entry.name)).collect())
}

/// Removes these files of a queue's quarantine, durably.
///
/// # Errors
/// The first I/O error.
pub(super) fn remove(disk: &dyn Disk, queue: &Path, files: &[PathBuf]) -> io::Result<()> {
    files.iter().try_for_each(|file| disk.remove(file))?;
    if files.is_empty() { Ok(()) } else { disk.sync_directory(&queue.join(DIRECTORY)) }
}

/// Reads a file on from `at` until `each` has had enough and says so with false; whether its end
/// was reached. One that is gone, or no quarantine file, has nothing in it.
///
/// # Errors
/// Any other I/O error.
pub(super) fn read_file(
    disk: &dyn Disk,
    queue: &Path,
    number: u64,
    at: &mut Progress,
    each: &mut dyn FnMut(Kept) -> bool,
) -> io::Result<bool> {
    let file = match disk.open(&queue.join(DIRECTORY).join(name::of(number)), Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    let header = match Header::read(&*file)? {
        Parsed::Header(header) if header.kind == Kind::Quarantine => header,
        _ => return Ok(true),
    };
    let limit = Reader::limit_of(file.length()?, &header);
    let mut reader = Reader::within(&*file, &header, at.offset, limit, at.record);
    loop {
        let kept = match reader.next_found()? {
            Found::Record(record) => {
                at.record = record.meta.sequence + 1;
                hint_of(record.meta, &record.payload).map_or(Kept::Newer, Kept::Hint)
            }
            Found::Damaged(damage) => {
                at.record = at.record.max(damage.first_sequence + damage.records);
                Kept::Damaged { records: damage.records.max(1), bytes: raw(&*file, damage.range)? }
            }
            Found::End { .. } => return Ok(true),
        };
        at.offset = reader.position();
        if !each(kept) {
            return Ok(false);
        }
    }
}

/// The bytes of a range, as far as they can be read.
pub(super) fn raw(file: &dyn DiskFile, range: Range<u64>) -> io::Result<Bytes> {
    // A range lies inside the file, which is as large as the segment size or its one record.
    let end = range.end.min(file.length()?);
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(range.start)).unwrap_or(0)];
    let count = file.read_at(range.start, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes.into())
}

/// Reads a queue's quarantine, calling `each` per hint; unreadable parts are skipped.
///
/// # Errors
/// Any I/O error except a missing directory, which is an empty quarantine.
pub(super) fn read(
    disk: &dyn Disk,
    queue: &Path,
    each: &mut dyn FnMut(Quarantined),
) -> io::Result<()> {
    for number in numbers(disk, queue)? {
        read_file(disk, queue, number, &mut Progress::default(), &mut |kept| {
            if let Kept::Hint(hint) = kept {
                each(hint);
            }
            true
        })?;
    }
    Ok(())
}

/// The stored form of a hint.
fn payload_of(hint: &Quarantined) -> Vec<u8> {
    let mut payload = Vec::with_capacity(PREFIX + hint.bytes.len());
    payload.extend_from_slice(&hint.sequence.0.to_le_bytes());
    payload.extend_from_slice(&u64::from(hint.reason.code()).to_le_bytes());
    payload.extend_from_slice(&hint.bytes);
    payload
}

/// Reads the stored form; `None` for what a later version has kept.
pub(super) fn hint_of(meta: RecordMeta, payload: &Bytes) -> Option<Quarantined> {
    let (words, _) = payload.get(..PREFIX)?.as_chunks::<8>();
    let [sequence, code] = words else { return None };
    let reason = Terminal::from_code(u32::try_from(u64::from_le_bytes(*code)).ok()?)?;
    Some(Quarantined {
        sequence: Sequence(u64::from_le_bytes(*sequence)),
        shard: ShardId(meta.shard),
        appended_at: meta.stamp,
        any_ack: meta.flags & ANY_ACK != 0,
        reason,
        bytes: payload.slice(PREFIX..),
    })
}

#[cfg(test)]
mod tests {
    use super::super::terminal::QuarantineReason;
    use super::*;
    use crate::disk::{Keep, MemoryDisk};

    #[test]
    fn what_is_kept_is_durable_and_reads_back_across_files_and_restarts() {
        let disk = MemoryDisk::new();
        let queue = Path::new("/h/3");
        disk.create_directory(queue).unwrap();
        let hint = |sequence: u64| Quarantined {
            sequence: Sequence(sequence),
            shard: ShardId(sequence % 3),
            appended_at: sequence * 100,
            any_ack: sequence.is_multiple_of(2),
            reason: Terminal::Quarantined(QuarantineReason::Refused(7)),
            bytes: Bytes::from(vec![sequence as u8; sequence as usize]),
        };
        let all: Vec<_> = [5, 3, 9, 30, 31, 32, 1].map(hint).into();
        for part in all.chunks(2) {
            let mut quarantine = Quarantine::new(Arc::new(disk.clone()), queue, 3, 1, 200);
            for hint in part {
                quarantine.keep(std::slice::from_ref(hint)).unwrap();
            }
        }
        for keep in [Keep::All, Keep::Synced] {
            let mut found = Vec::new();
            read(&disk.crash(keep), queue, &mut |hint| found.push(hint)).unwrap();
            assert_eq!(found, all, "{keep:?}");
        }
        read(&disk, Path::new("/h/4"), &mut |_| panic!("an empty quarantine")).unwrap();
    }
    #[test]
    fn hints_are_kept_as_specified() {
        for vector in crate::spec::vectors("quarantined") {
            let payload = Bytes::from(vector.bytes.clone());
            let hint = hint_of(RecordMeta::default(), &payload).unwrap();
            assert_eq!(hint.sequence.0, vector.number::<u64>("sequence"));
            assert_eq!(u64::from(hint.reason.code()), vector.number::<u64>("code"));
            let hex: String = hint.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(vector.one("bytes"), hex);
            assert_eq!(payload_of(&hint), vector.bytes);
        }
    }
}
