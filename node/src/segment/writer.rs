//! Appends groups of records to one segment.
//!
//! Invariant: [`Writer::flush`] returns success only after every pushed record was written and
//! synced. When the disk is full it takes the group back, so that nothing of it can appear; after
//! any other failure the state of the file is unknown and the writer must not be used again.
//! Owned by whoever commits: the journal's or the hint queues' committer.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::header::{self, Header, Kind};
use super::record::{self, RecordMeta};
use super::trailer;
use crate::disk::{Disk, DiskFile, Open, is_full};

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
    /// Where the next group goes; everything before it is synced.
    position: u64,
    buffer: Vec<u8>,
    /// The file was cut back after the disk was full and needs its room again.
    cut: bool,
}

impl Writer {
    /// Creates the file (its directory must still be synced) and writes the header, which the
    /// first flush makes durable.
    ///
    /// # Errors
    /// Any I/O error; a partly made file is removed again where possible.
    pub fn create(disk: &dyn Disk, path: &Path, header: Header) -> io::Result<Self> {
        let file = disk.open(path, Open::CreateNew)?;
        let made = (|| {
            if header.capacity > 0 {
                file.allocate(header.capacity)?;
            }
            file.write_at(0, &header.encode())
        })();
        if let Err(error) = made {
            drop(file);
            // The first error is the one to report; a leftover has no valid header.
            let _ = disk.remove(path);
            return Err(error);
        }
        Ok(Self::resume(file, header, header::LENGTH))
    }

    /// Goes on in an existing file at `position`, behind which there must be nothing but zeros or
    /// what the header's seed makes unreadable.
    #[must_use]
    pub fn resume(file: Arc<dyn DiskFile>, header: Header, position: u64) -> Self {
        let seed = header.seed();
        Self { file, header, seed, position, buffer: Vec::new(), cut: false }
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

    /// The end of what is synced.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes pushed but not flushed.
    #[must_use]
    pub fn pushed(&self) -> usize {
        self.buffer.len()
    }

    /// Whether a payload of `length` bytes still fits behind what was pushed.
    #[must_use]
    pub fn fits(&self, length: usize) -> bool {
        let end = self.position + self.buffer.len() as u64 + record::total(length as u64);
        self.header.capacity == 0 || end <= records_end(&self.header)
    }

    /// Adds a record to the group; returns where it will start.
    pub fn push(&mut self, meta: &RecordMeta, payload: &[u8]) -> u64 {
        let offset = self.position + self.buffer.len() as u64;
        record::encode(self.seed, meta, payload, &mut self.buffer);
        offset
    }

    /// Forgets the pushed group.
    pub fn discard(&mut self) {
        self.buffer.clear();
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

    fn put(&mut self, sync: bool) -> Result<(), FlushError> {
        let group = std::mem::take(&mut self.buffer);
        let result = self.put_bytes(&group, sync);
        if result.is_ok() {
            self.position += group.len() as u64;
        }
        // Keeps the allocation, unless an unusual record made it unusually large.
        if group.capacity() <= 32 << 20 {
            self.buffer = group;
            self.buffer.clear();
        }
        result
    }

    fn put_bytes(&mut self, group: &[u8], sync: bool) -> Result<(), FlushError> {
        if self.cut {
            match self.file.allocate(self.header.capacity) {
                Ok(()) => self.cut = false,
                Err(error) if is_full(&error) => return Err(FlushError::Full),
                Err(error) => return Err(FlushError::Failed(error)),
            }
        }
        match self.file.write_at(self.position, group) {
            Ok(()) if sync => self.file.sync_data().map_err(FlushError::Failed),
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => self.take_back(),
            Err(error) => Err(FlushError::Failed(error)),
        }
    }

    /// Cuts off what a failed write left, durably: a crash must not bring it back.
    fn take_back(&mut self) -> Result<(), FlushError> {
        self.cut = self.header.capacity > 0;
        self.file.set_length(self.position).map_err(FlushError::Failed)?;
        self.file.sync_data().map_err(FlushError::Failed)?;
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
    fn a_group_is_durable_only_after_flush() {
        let (memory, _, mut writer) = setup();
        writer.push(&meta(1), b"one");
        writer.write().unwrap();
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
