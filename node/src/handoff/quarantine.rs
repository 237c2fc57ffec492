//! Hints kept aside, with the reason, in files that an operator can inspect and retry.
//!
//! Invariant: a hint is synced here before the books say that it is quarantined. A crash between
//! the two keeps it twice; its sequence tells. Files grow, are numbered, and are never rewritten.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::id::{Sequence, ShardId};
use serde::Serialize;

use super::terminal::Terminal;
use crate::disk::{Disk, Open};
use crate::segment::header::{Header, Kind, Parsed};
use crate::segment::record::RecordMeta;
use crate::segment::writer::FlushError;
use crate::segment::{Found, Reader, Writer, name};

/// The name of the directory inside a queue's.
pub(super) const DIRECTORY: &str = "quarantine";
/// Bytes before the hint itself: sequence, code, flags.
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
    /// Why.
    pub reason: Terminal,
    /// The batch, or the raw bytes of the file where they were damaged.
    #[serde(skip)]
    pub bytes: Bytes,
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
        let ready = self.open_file().map_err(|error| {
            if crate::disk::is_full(&error) { FlushError::Full } else { FlushError::Failed(error) }
        });
        ready?;
        let Some(writer) = self.writer.as_mut() else {
            return Ok(());
        };
        for (hint, sequence) in hints.iter().zip(self.next_record..) {
            let meta =
                RecordMeta { sequence, shard: hint.shard.0, stamp: hint.appended_at, flags: 0 };
            writer.push(&meta, &payload_of(hint));
        }
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
        let header = Header {
            kind: Kind::Quarantine,
            owner: self.owner,
            number,
            first_sequence: 1,
            capacity: 0,
            salt: self.salt,
        };
        let path = self.directory.join(name::of(number));
        self.writer = Some(Writer::create(&*self.disk, &path, header)?);
        self.next_record = 1;
        self.disk.sync_directory(&self.directory)
    }
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
    let directory = queue.join(DIRECTORY);
    let entries = match disk.read_directory(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = directory.join(&entry.name);
        if name::parse(&entry.name).is_none() {
            continue;
        }
        let file = disk.open(&path, Open::Read)?;
        let Parsed::Header(header) = Header::read(&*file)? else {
            continue;
        };
        if header.kind != Kind::Quarantine {
            continue;
        }
        let mut reader = Reader::new(&*file, &header)?;
        loop {
            match reader.next_found()? {
                Found::Record(record) => each_of(record.meta, &record.payload, each),
                Found::Damaged(_) => {}
                Found::End { .. } => break,
            }
        }
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

fn each_of(meta: RecordMeta, payload: &Bytes, each: &mut dyn FnMut(Quarantined)) {
    let Some(prefix) = payload.get(..PREFIX) else {
        return;
    };
    let (words, _) = prefix.as_chunks::<8>();
    let [sequence, code] = words else { return };
    let code = u32::try_from(u64::from_le_bytes(*code)).ok();
    let Some(reason) = code.and_then(Terminal::from_code) else {
        return;
    };
    each(Quarantined {
        sequence: Sequence(u64::from_le_bytes(*sequence)),
        shard: ShardId(meta.shard),
        appended_at: meta.stamp,
        reason,
        bytes: payload.slice(PREFIX..),
    });
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
            let mut found = None;
            each_of(RecordMeta::default(), &payload, &mut |hint| found = Some(hint));
            let hint = found.unwrap();
            assert_eq!(hint.sequence.0, vector.number::<u64>("sequence"));
            assert_eq!(u64::from(hint.reason.code()), vector.number::<u64>("code"));
            let hex: String = hint.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(vector.one("bytes"), hex);
            assert_eq!(payload_of(&hint), vector.bytes);
        }
    }
}
