//! The hint queue of InfluxDB 0.11 (`services/hh/queue.go`), as far as it costs anything: one sync for
//! every record that is appended and for every record that was sent, all under one mutex.
//!
//! Invariant: the same system calls in the same order as there: an append overwrites the 8 bytes at
//! the end of the file with the length, writes the block, writes the 8 bytes anew, and syncs; an
//! advance rewrites the 8 bytes and syncs. One record is one message.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Bytes of one segment file.
const SEGMENT: u64 = 10 << 20;
const FOOTER: u64 = 8;

/// A queue that is written and read.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    dir: PathBuf,
}

struct Inner {
    /// The one that is written.
    tail: File,
    number: u64,
    /// The size of the tail.
    size: u64,
    /// The one that is read, and how far.
    head: File,
    head_number: u64,
    head_size: u64,
    at: u64,
}

fn segment(dir: &Path, number: u64) -> io::Result<File> {
    let path = dir.join(number.to_string());
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() == 0 {
        file.write_all_at(&0_u64.to_be_bytes(), 0)?;
        file.sync_all()?;
    }
    Ok(file)
}

impl Queue {
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let inner = Inner {
            tail: segment(dir, 1)?,
            number: 1,
            size: FOOTER,
            head: segment(dir, 1)?,
            head_number: 1,
            head_size: FOOTER,
            at: 0,
        };
        Ok(Self { inner: Mutex::new(inner), dir: dir.to_owned() })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends one block and syncs.
    pub(crate) fn append(&self, block: &[u8]) -> io::Result<()> {
        let mut inner = self.locked();
        if inner.size + block.len() as u64 > SEGMENT {
            inner.number += 1;
            inner.tail = segment(&self.dir, inner.number)?;
            inner.size = FOOTER;
        }
        let end = inner.size - FOOTER;
        inner.tail.write_all_at(&(block.len() as u64).to_be_bytes(), end)?;
        inner.tail.write_all_at(block, end + 8)?;
        // A tail that is read too keeps the position; its value makes no difference in cost.
        inner.tail.write_all_at(&0_u64.to_be_bytes(), end + 8 + block.len() as u64)?;
        inner.tail.sync_all()?;
        inner.size += 8 + block.len() as u64;
        Ok(())
    }

    /// The block at the position; none at the end.
    pub(crate) fn current(&self) -> io::Result<Option<Vec<u8>>> {
        let mut inner = self.locked();
        inner.head_size = inner.head.metadata()?.len();
        if inner.at + FOOTER >= inner.head_size {
            if inner.head_number == inner.number {
                return Ok(None);
            }
            std::fs::remove_file(self.dir.join(inner.head_number.to_string()))?;
            inner.head_number += 1;
            inner.head = segment(&self.dir, inner.head_number)?;
            inner.at = 0;
        }
        let mut length = [0; 8];
        inner.head.read_exact_at(&mut length, inner.at)?;
        let mut block = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap_or(0)];
        inner.head.read_exact_at(&mut block, inner.at + 8)?;
        Ok(Some(block))
    }

    /// Moves over a block of this length and syncs.
    pub(crate) fn advance(&self, length: usize) -> io::Result<()> {
        let mut inner = self.locked();
        inner.at += 8 + length as u64;
        let end = inner.head.metadata()?.len() - FOOTER;
        inner.head.write_all_at(&inner.at.to_be_bytes(), end)?;
        inner.head.sync_all()
    }
}
