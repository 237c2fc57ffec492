//! Released segments kept for reuse.
//!
//! Invariant: a spare is named `spare-<number>` until its new header is synced, so a crash at any
//! moment finds either a spare or a segment with a valid header. What it held before is unreadable
//! under the new header.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Open};
use crate::segment::header::{self, Header};
use crate::segment::{Writer, name};

const PREFIX: &str = "spare-";

/// The spares of a journal's directory.
#[derive(Debug)]
pub(super) struct Spares {
    paths: VecDeque<PathBuf>,
    limit: usize,
}

/// Whether a file name is a spare's.
pub(super) fn is_spare(file: &str) -> bool {
    file.strip_prefix(PREFIX).and_then(name::parse).is_some()
}

impl Spares {
    pub(super) fn new(limit: usize) -> Self {
        Self { paths: VecDeque::new(), limit }
    }

    pub(super) fn count(&self) -> usize {
        self.paths.len()
    }

    /// Takes in a file left by an earlier run; one too many or of another size is removed.
    pub(super) fn adopt(&mut self, disk: &dyn Disk, path: PathBuf, bytes: u64) -> io::Result<()> {
        let length = disk.open(&path, Open::Read)?.length()?;
        if self.paths.len() < self.limit && length == bytes {
            self.paths.push_back(path);
            Ok(())
        } else {
            disk.remove(&path)
        }
    }

    /// Takes a segment out of the journal, as a spare if `keep` and there is need for one.
    pub(super) fn give_back(&mut self, disk: &dyn Disk, path: &Path, keep: bool) -> io::Result<()> {
        let file = path.file_name().map(|file| file.to_string_lossy()).unwrap_or_default();
        if !keep || self.paths.len() >= self.limit {
            return disk.remove(path);
        }
        let spare = path.with_file_name(format!("{PREFIX}{file}"));
        disk.rename(path, &spare)?;
        self.paths.push_back(spare);
        Ok(())
    }

    /// Removes all of them.
    pub(super) fn clear(&mut self, disk: &dyn Disk) -> io::Result<()> {
        while let Some(path) = self.paths.front() {
            disk.remove(path)?;
            self.paths.pop_front();
        }
        Ok(())
    }

    /// Makes a spare the segment at `path`; `None` if there is none.
    pub(super) fn reuse(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
        header: Header,
    ) -> io::Result<Option<Writer>> {
        let Some(spare) = self.paths.pop_front() else {
            return Ok(None);
        };
        let file = disk.open(&spare, Open::Existing)?;
        file.write_at(0, &header.encode())?;
        file.sync_data()?;
        disk.rename(&spare, path)?;
        if let Some(directory) = path.parent() {
            disk.sync_directory(directory)?;
        }
        Ok(Some(Writer::resume(file, header, header::LENGTH)))
    }
}
