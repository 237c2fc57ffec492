//! Appends groups of records to one segment.
//!
//! Invariant: [`Writer::flush`] returns success only after every pushed record was written and
//! synced. When the disk is full it takes the group back, so that nothing of it can appear; after
//! any other failure the state of the file is unknown and the writer must not be used again.
//! Owned by whoever commits: the journal's or the hint queues' committer.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::header::{self, Header, Kind};
use super::record::{self, RecordMeta};
use super::trailer;
use crate::disk::{Disk, DiskFile, Open, is_full};

/// Payloads below this are copied together: cheaper than a part of their own in a system call.
const COPIED: usize = 4096;
/// The largest buffer that is kept from group to group.
const KEPT: usize = 4 << 20;

/// Why a group was not stored.
#[derive(Debug)]
pub enum FlushError {
    /// No room; nothing of the group remains and the writer can be used again.
    Full,
    /// It may or may not be on the disk; the writer is spent.
    Failed(io::Error),
}

/// The end of a segment that is being written.
#[derive(Debug)]
pub struct Writer {
    file: Arc<dyn DiskFile>,
    header: Header,
    seed: u32,
    /// Where the next group goes.
    position: u64,
    /// The group, but for the payloads in `shared`.
    buffer: Vec<u8>,
    /// Payloads that are written from where they are, each with its place in the buffer.
    shared: Vec<(usize, Bytes)>,
    /// Bytes of the group.
    pushed: usize,
    /// Something was written since the last sync.
    unsynced: bool,
    /// The file does not have the room of its capacity and needs it before the next write.
    cut: bool,
}

impl Writer {
    /// Creates the file (its directory must still be synced) and writes the header, which the
    /// first flush makes durable.
    ///
    /// # Errors
    /// Any I/O error; a partly made file is removed again where possible.
    pub fn create(disk: &dyn Disk, path: &Path, header: Header) -> io::Result<Self> {
        let mut writer = Self::create_small(disk, path, header)?;
        if header.capacity == 0 {
            return Ok(writer);
        }
        if let Err(error) = writer.file.allocate(header.capacity) {
            drop(writer);
            // The first error is the one to report; a leftover holds no record.
            let _ = disk.remove(path);
            return Err(error);
        }
        writer.cut = false;
        Ok(writer)
    }

    /// As [`create`](Self::create), but takes the room of its capacity only before the first write.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_small(disk: &dyn Disk, path: &Path, header: Header) -> io::Result<Self> {
        let file = disk.open(path, Open::CreateNew)?;
        let made = file.write_at(0, &header.encode());
        if let Err(error) = made {
            drop(file);
            // The first error is the one to report; a leftover has no valid header.
            let _ = disk.remove(path);
            return Err(error);
        }
        let cut = header.capacity > 0;
        Ok(Self { cut, ..Self::resume(file, header, header::LENGTH) })
    }

    /// Goes on in an existing file at `position`, behind which there must be nothing but zeros or
    /// what the header's seed makes unreadable.
    #[must_use]
    pub fn resume(file: Arc<dyn DiskFile>, header: Header, position: u64) -> Self {
        let seed = header.seed();
        Self {
            file,
            header,
            seed,
            position,
            buffer: Vec::new(),
            shared: Vec::new(),
            pushed: 0,
            unsynced: false,
            cut: false,
        }
    }

    /// The file, for readers of what is committed.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// What the segment says about itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The end of what is written.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The checksum from which those of the records continue.
    #[must_use]
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// Whether something was written since the last sync.
    #[must_use]
    pub fn unsynced(&self) -> bool {
        self.unsynced
    }

    /// Bytes the file takes.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        if self.cut { self.position } else { self.header.capacity.max(self.position) }
    }

    /// Bytes pushed but not flushed.
    #[must_use]
    pub fn pushed(&self) -> usize {
        self.pushed
    }

    /// Whether a payload of `length` bytes still fits behind what was pushed.
    #[must_use]
    pub fn fits(&self, length: usize) -> bool {
        let end = self.position + self.pushed as u64 + record::total(length as u64);
        self.header.capacity == 0 || end <= records_end(&self.header)
    }

    /// Adds a record to the group; returns where it will start.
    pub fn push(&mut self, meta: &RecordMeta, payload: &[u8]) -> u64 {
        let before = self.buffer.len();
        record::encode(self.seed, meta, payload, &mut self.buffer);
        self.grow(self.buffer.len() - before)
    }

    /// As [`push`](Self::push), but copies nothing of a payload that is not small. `checksum` must
    /// be the payload's, continued from [`seed`](Self::seed).
    pub fn push_shared(&mut self, meta: &RecordMeta, payload: &Bytes, checksum: u32) -> u64 {
        let before = self.buffer.len();
        record::encode_head(self.seed, meta, payload.len(), checksum, &mut self.buffer);
        if payload.len() < COPIED {
            self.buffer.extend_from_slice(payload);
        } else {
            self.shared.push((self.buffer.len(), payload.clone()));
        }
        record::encode_tail(self.seed, payload.len(), &mut self.buffer);
        let elsewhere = if payload.len() < COPIED { 0 } else { payload.len() };
        self.grow(self.buffer.len() - before + elsewhere)
    }

    fn grow(&mut self, bytes: usize) -> u64 {
        let offset = self.position + self.pushed as u64;
        self.pushed += bytes;
        offset
    }

    /// Forgets the pushed group.
    pub fn discard(&mut self) {
        self.buffer.clear();
        self.shared.clear();
        self.pushed = 0;
    }

    /// Writes the group without a sync: for notes whose loss is harmless until the next one.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn write(&mut self) -> Result<(), FlushError> {
        self.put(false)
    }

    /// Writes and syncs the group.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn flush(&mut self) -> Result<(), FlushError> {
        self.put(true)
    }

    /// Makes durable what was written without a sync.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn sync(&mut self) -> Result<(), FlushError> {
        if self.unsynced {
            self.file.sync_data().map_err(FlushError::Failed)?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Gives the room back that no record takes; the next write takes it again.
    ///
    /// # Errors
    /// Any I/O error; the file is then as long as it was, and usable.
    pub fn shrink(&mut self) -> io::Result<()> {
        if self.header.capacity > 0 && !self.cut {
            self.file.set_length(self.position)?;
            self.cut = true;
        }
        Ok(())
    }

    fn put(&mut self, sync: bool) -> Result<(), FlushError> {
        let result = self.write_group().and_then(|()| if sync { self.sync() } else { Ok(()) });
        if result.is_ok() {
            self.position += self.pushed as u64;
        }
        self.discard();
        // Keeps the allocation, unless an unusual record made it unusually large.
        if self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        }
        result
    }

    fn write_group(&mut self) -> Result<(), FlushError> {
        if self.cut {
            match self.file.allocate(self.header.capacity) {
                Ok(()) => self.cut = false,
                Err(error) if is_full(&error) => return Err(FlushError::Full),
                Err(error) => return Err(FlushError::Failed(error)),
            }
        }
        let written = if self.shared.is_empty() {
            self.file.write_at(self.position, &self.buffer)
        } else {
            let mut parts = Vec::with_capacity(2 * self.shared.len() + 1);
            let mut rest = self.buffer.as_slice();
            let mut from = 0;
            for (place, payload) in &self.shared {
                let (before, after) = rest.split_at((place - from).min(rest.len()));
                parts.extend([IoSlice::new(before), IoSlice::new(payload)]);
                (rest, from) = (after, *place);
            }
            parts.push(IoSlice::new(rest));
            self.file.write_parts_at(self.position, &mut parts)
        };
        self.unsynced = true;
        match written {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => self.take_back(),
            Err(error) => Err(FlushError::Failed(error)),
        }
    }

    /// Cuts off what a failed write left, durably: a crash must not bring it back.
    fn take_back(&mut self) -> Result<(), FlushError> {
        self.cut = self.header.capacity > 0;
        self.file.set_length(self.position).map_err(FlushError::Failed)?;
        self.sync()?;
        Err(FlushError::Full)
    }
}

/// Where records must end in a segment of fixed capacity.
fn records_end(header: &Header) -> u64 {
    let reserved = if header.kind == Kind::Hints { trailer::LENGTH } else { 0 };
    header.capacity.saturating_sub(reserved)
}

/// The capacity of a new segment: the usual one, or what one large payload needs.
#[must_use]
pub fn capacity_for(usual: u64, payload: usize) -> u64 {
    usual.max(header::LENGTH + record::total(payload as u64) + trailer::LENGTH)
}

#[cfg(test)]
mod tests {
    use super::super::reader::{Found, Reader};
    use super::*;
    use crate::disk::{FaultDisk, Keep, MemoryDisk};

    const HEADER: Header = Header {
        kind: Kind::Hints,
        owner: 1,
        number: 1,
        first_sequence: 1,
        capacity: 4096,
        salt: 9,
    };

    fn meta(sequence: u64) -> RecordMeta {
        RecordMeta { sequence, shard: 5, stamp: 0, flags: 0 }
    }

    fn setup() -> (MemoryDisk, FaultDisk, Writer) {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        disk.create_directory(Path::new("/d")).unwrap();
        let writer = Writer::create(&disk, Path::new("/d/s"), HEADER).unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
        (memory, disk, writer)
    }

    fn sequences(disk: &MemoryDisk) -> Vec<u64> {
        let file = disk.open(Path::new("/d/s"), Open::Read).unwrap();
        let mut reader = Reader::new(&*file, &HEADER).unwrap();
        let mut found = Vec::new();
        loop {
            match reader.next_found().unwrap() {
                Found::Record(record) => found.push(record.meta.sequence),
                Found::Damaged(damage) => panic!("{damage:?}"),
                Found::End { .. } => return found,
            }
        }
    }

    #[test]
    fn a_full_disk_takes_the_group_back_and_recovers() {
        let (memory, disk, mut writer) = setup();
        writer.push(&meta(1), b"one");
        writer.flush().unwrap();
        disk.set_room(Some(70));
        writer.push(&meta(2), b"two");
        writer.push(&meta(3), b"three");
        assert!(matches!(writer.flush(), Err(FlushError::Full)));
        assert_eq!(sequences(&memory.crash(Keep::All)), [1], "an unacknowledged record appeared");
        assert_eq!(sequences(&memory.crash(Keep::Synced)), [1]);
        writer.push(&meta(2), b"again");
        assert!(matches!(writer.flush(), Err(FlushError::Full)));
        assert_eq!(disk.injected().full, 2);
        disk.set_room(None);
        writer.push(&meta(2), b"again");
        writer.flush().unwrap();
        assert_eq!(sequences(&memory.crash(Keep::Synced)), [1, 2]);
        assert_eq!(memory.content(Path::new("/d/s")).unwrap().len(), 4096);
    }

    #[test]
    fn shared_payloads_are_written_as_copied_ones_are() {
        let write = |shared: bool| {
            let memory = MemoryDisk::new();
            memory.create_directory(Path::new("/d")).unwrap();
            let header = Header { capacity: 1 << 20, kind: Kind::Journal, ..HEADER };
            let mut writer = Writer::create(&memory, Path::new("/d/s"), header).unwrap();
            for (sequence, length) in [(1, 0), (2, COPIED), (3, 5), (4, COPIED + 3), (5, 9000)] {
                let payload = Bytes::from(vec![sequence as u8; length]);
                let sum = record::checksum(writer.seed(), &payload);
                let offset = if shared {
                    writer.push_shared(&meta(sequence), &payload, sum)
                } else {
                    writer.push(&meta(sequence), &payload)
                };
                assert_eq!(offset % record::ALIGNMENT, 0);
                if sequence == 3 {
                    writer.flush().unwrap();
                }
            }
            writer.flush().unwrap();
            assert!(!writer.unsynced());
            memory.crash(Keep::Synced).content(Path::new("/d/s"))
        };
        assert!(write(true) == write(false));
    }

    #[test]
    fn a_file_that_gave_its_room_back_takes_it_again_with_the_next_record() {
        let (memory, disk, mut writer) = setup();
        writer.push(&meta(1), b"one");
        writer.flush().unwrap();
        writer.shrink().unwrap();
        let length = || memory.content(Path::new("/d/s")).unwrap().len() as u64;
        assert_eq!((length(), writer.allocated()), (writer.position(), writer.position()));
        assert_eq!(sequences(&memory.crash(Keep::Synced)), [1]);
        disk.set_room(Some(0));
        writer.push(&meta(2), b"two");
        assert!(matches!(writer.flush(), Err(FlushError::Full)));
        disk.set_room(None);
        writer.push(&meta(2), b"two");
        writer.flush().unwrap();
        assert_eq!((length(), writer.allocated()), (4096, 4096));
        assert_eq!(sequences(&memory.crash(Keep::Synced)), [1, 2]);
    }

    #[test]
    fn a_group_is_durable_only_after_flush() {
        let (memory, _, mut writer) = setup();
        writer.push(&meta(1), b"one");
        writer.write().unwrap();
        assert!(writer.unsynced());
        assert!(sequences(&memory.crash(Keep::All)) == [1]);
        assert!(memory.crash(Keep::Synced).content(Path::new("/d/s")).unwrap().is_empty());
        writer.push(&meta(2), b"two");
        writer.flush().unwrap();
        assert_eq!(sequences(&memory.crash(Keep::Synced)), [1, 2]);
    }

    #[test]
    fn failures_are_reported_and_fit_is_exact() {
        let (_, disk, mut writer) = setup();
        disk.fail_write(1, 10);
        writer.push(&meta(1), b"one");
        assert!(matches!(writer.flush(), Err(FlushError::Failed(_))));
        disk.fail_sync(1);
        writer.push(&meta(1), b"one");
        assert!(matches!(writer.flush(), Err(FlushError::Failed(_))));
        assert_eq!((disk.injected().writes, disk.injected().syncs), (1, 1));
        let most = 4096 - 128 - 8 - 48;
        assert!(writer.fits(most));
        assert!(!writer.fits(most + 1));
        let header = Header { capacity: capacity_for(100, 1000), number: 2, ..HEADER };
        let writer = Writer::create(&disk, Path::new("/d/t"), header).unwrap();
        assert!(writer.fits(1000));
    }
}
