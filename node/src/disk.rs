//! The disk as a parameter: the few operations that durable files are made of.
//!
//! Invariant: nothing in the journal, the hint queues or the marks touches a file except through
//! these traits, so that a test can fail, tear or lose any single operation. [`SystemDisk`] is the
//! real one; [`FaultDisk`] wraps any other and injects faults; [`MemoryDisk`] forgets on demand
//! whatever was not synced. LMDB has its own files and does not come through here.

mod fault;
mod memory;
mod system;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use fault::{FaultDisk, Injected};
pub use memory::{Keep, MemoryDisk};
pub use system::SystemDisk;

/// How [`Disk::open`] treats a file that is or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Read and write; the file must exist.
    Existing,
    /// Read only; the file must exist.
    Read,
    /// Read and write; created if missing, never truncated.
    Create,
    /// Read and write; the file must not exist.
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The file name; names that are not UTF-8 are shown with replacement characters, which no
    /// file of ours has.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
}

/// A file that is read and written at offsets. Safe to share: reads may run beside one writer.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Any I/O error; a prefix of `bytes` may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `parts`, one behind the other, at `offset`, as one write. `parts` are used up.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_parts_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_at(offset, &bytes)
    }

    /// Fills `buffer` from `offset`; fewer bytes than asked for means the end of the file.
    ///
    /// # Errors
    /// Any I/O error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes the content, and the length needed to read it, durable.
    ///
    /// # Errors
    /// Any I/O error; what was written since the last success is then of unknown durability.
    fn sync_data(&self) -> io::Result<()>;

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// Any I/O error.
    fn length(&self) -> io::Result<u64>;

    /// Truncates, or extends with zeros.
    ///
    /// # Errors
    /// Any I/O error.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Reserves room and extends the file with zeros up to `length`; never shortens it.
    ///
    /// # Errors
    /// Any I/O error, [`io::ErrorKind::StorageFull`] among them.
    fn allocate(&self, length: u64) -> io::Result<()>;
}

/// A file system, as far as durable files need one. Calls block.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens or creates a file.
    ///
    /// # Errors
    /// Any I/O error.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a directory and its parents; it may exist already.
    ///
    /// # Errors
    /// Any I/O error.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// Any I/O error.
    fn read_directory(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Removes a file.
    ///
    /// # Errors
    /// Any I/O error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, replacing the destination.
    ///
    /// # Errors
    /// Any I/O error.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes creations, removals and renames in a directory durable.
    ///
    /// # Errors
    /// Any I/O error.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Bytes that this process may still write to the file system of `path`.
    ///
    /// # Errors
    /// Any I/O error.
    fn available(&self, path: &Path) -> io::Result<u64>;
}

/// Whether an error means that there is no room: it goes away by itself when space returns.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
