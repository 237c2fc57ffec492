//! A disk that fails on purpose.
//!
//! Invariant: each fault happens exactly when it was planned and is counted when it happened, so a
//! test can assert that it tested something. Wraps any other disk. Faults can be limited to paths
//! that contain a given part.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Entry, Open};

/// How often each planned fault has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Syncs (of files or directories) that failed.
    pub syncs: u64,
    /// Writes that failed after writing a part.
    pub writes: u64,
    /// Writes and allocations refused because the disk was full.
    pub full: u64,
    /// Operations refused after the planned stop.
    pub stopped: u64,
}

#[derive(Debug, Default)]
struct Plan {
    only: Option<String>,
    syncs_until_failure: Option<u64>,
    writes_until_failure: Option<(u64, usize)>,
    room: Option<u64>,
    operations_until_stop: Option<u64>,
    operations: u64,
    injected: Injected,
}

/// A wrapper that injects faults; clones share the plan.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    inner: Arc<dyn Disk>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn DiskFile>,
    plan: Arc<Mutex<Plan>>,
    /// Whether the path is one that the plan applies to.
    planned: bool,
}

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("injected {what} failure"))
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plan {
    /// Counts a mutating operation; an error once the planned stop is reached.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.operations_until_stop {
            Some(0) => {
                self.injected.stopped += 1;
                Err(failed("stop"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step()?;
        if let Some(left) = &mut self.syncs_until_failure {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.syncs_until_failure = None;
                self.injected.syncs += 1;
                return Err(failed("sync"));
            }
        }
        Ok(())
    }

    /// How much of a write of `length` bytes happens, and what it then reports.
    fn write(&mut self, length: usize) -> (usize, io::Result<()>) {
        if let Err(error) = self.step() {
            // The write in flight when the power goes is torn in the middle, once.
            let torn = if self.injected.stopped == 1 { length / 2 } else { 0 };
            return (torn, Err(error));
        }
        if let Some((left, kept)) = &mut self.writes_until_failure {
            *left = left.saturating_sub(1);
            if *left == 0 {
                let kept = (*kept).min(length);
                self.writes_until_failure = None;
                self.injected.writes += 1;
                return (kept, Err(failed("write")));
            }
        }
        if let Some(room) = &mut self.room {
            let fits = length.min(usize::try_from(*room).unwrap_or(usize::MAX));
            *room -= fits as u64;
            if fits < length {
                self.injected.full += 1;
                return (fits, Err(io::ErrorKind::StorageFull.into()));
            }
        }
        (length, Ok(()))
    }

    fn grow(&mut self) -> io::Result<()> {
        self.step()?;
        if self.room == Some(0) {
            self.injected.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl FaultDisk {
    /// Wraps `inner`; no fault is planned yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// Limits every fault to paths that contain `part`; files opened from now on.
    pub fn only(&self, part: &str) {
        lock(&self.plan).only = Some(part.to_owned());
    }

    /// The `nth` sync from now (1 is the next), of a file or directory, fails with an I/O error.
    pub fn fail_sync(&self, nth: u64) {
        lock(&self.plan).syncs_until_failure = Some(nth);
    }

    /// The `nth` write from now (1 is the next) writes `kept` bytes, then fails with an I/O error.
    pub fn fail_write(&self, nth: u64, kept: usize) {
        lock(&self.plan).writes_until_failure = Some((nth, kept));
    }

    /// After `bytes` more written bytes the disk is full; `None` gives the room back.
    pub fn set_room(&self, bytes: Option<u64>) {
        lock(&self.plan).room = bytes;
    }

    /// After so many more mutating operations every operation fails, the first write among them
    /// after half of its bytes: the process is dead from there on.
    pub fn stop_after(&self, operations: u64) {
        lock(&self.plan).operations_until_stop = Some(operations);
    }

    /// Mutating operations seen so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.plan).operations
    }

    /// Which faults have happened.
    #[must_use]
    pub fn injected(&self) -> Injected {
        lock(&self.plan).injected
    }

    fn planned(&self, path: &Path) -> bool {
        let plan = lock(&self.plan);
        plan.only.as_ref().is_none_or(|part| path.to_string_lossy().contains(part.as_str()))
    }

    fn step(&self, path: &Path) -> io::Result<()> {
        if self.planned(path) { lock(&self.plan).step() } else { Ok(()) }
    }
}

impl Disk for FaultDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let planned = self.planned(path);
        if planned && matches!(how, Open::Create | Open::CreateNew) {
            lock(&self.plan).grow()?;
        }
        let inner = self.inner.open(path, how)?;
        Ok(Arc::new(FaultFile { inner, plan: Arc::clone(&self.plan), planned }))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.step(path)?;
        self.inner.create_directory(path)
    }

    fn read_directory(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.inner.read_directory(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(path)?;
        self.inner.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(from)?;
        self.inner.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        if self.planned(path) {
            lock(&self.plan).sync()?;
        }
        self.inner.sync_directory(path)
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        let room = lock(&self.plan).room;
        Ok(self.inner.available(path)?.min(room.unwrap_or(u64::MAX)))
    }
}

impl DiskFile for FaultFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.planned {
            return self.inner.write_at(offset, bytes);
        }
        let (count, result) = lock(&self.plan).write(bytes.len());
        if let Some(part) = bytes.get(..count).filter(|part| !part.is_empty()) {
            self.inner.write_at(offset, part)?;
        }
        result
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.planned {
            lock(&self.plan).sync()?;
        }
        self.inner.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        if self.planned {
            lock(&self.plan).step()?;
        }
        self.inner.set_length(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        if self.planned && self.inner.length()? < length {
            lock(&self.plan).grow()?;
        }
        self.inner.allocate(length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryDisk, is_full};
    use super::*;

    #[test]
    fn faults_happen_when_planned_and_are_counted() {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        disk.create_directory(Path::new("/d")).unwrap();
        let path = Path::new("/d/f");
        let file = disk.open(path, Open::CreateNew).unwrap();
        disk.fail_sync(2);
        file.sync_data().unwrap();
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        disk.set_room(Some(6));
        file.write_at(0, b"1234").unwrap();
        assert!(is_full(&file.write_at(4, b"5678").unwrap_err()));
        assert!(is_full(&file.allocate(1000).unwrap_err()));
        disk.set_room(None);
        disk.fail_write(1, 1);
        file.write_at(6, b"xy").unwrap_err();
        assert_eq!(memory.content(path).unwrap(), b"123456x");
        disk.stop_after(1);
        file.write_at(0, b"A").unwrap();
        file.write_at(0, b"BCDE").unwrap_err();
        file.write_at(0, b"BCDE").unwrap_err();
        assert_eq!(memory.content(path).unwrap(), b"BC3456x");
        let expected = Injected { syncs: 1, writes: 1, full: 2, stopped: 2 };
        assert_eq!(disk.injected(), expected);
    }
}
