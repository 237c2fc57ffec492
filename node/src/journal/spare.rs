//! Released segments kept for reuse.
//!
//! Invariant: a spare is named `spare-<number>` until its new header is synced, so a crash at any
//! moment finds either a spare or a segment with a valid header. What it held before is unreadable
//! under the new header. What is too many is only renamed here, since removing a large file takes as
//! long as a hundred syncs: whoever has released it removes it, beside the commits.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, Open};
use crate::segment::header::{self, Header};
use crate::segment::{Writer, name};

const PREFIX: &str = "spare-";

/// The spares of a journal's directory.
#[derive(Debug)]
pub(super) struct Spares {
    paths: VecDeque<PathBuf>,
    limit: usize,
    surplus: Surplus,
}

/// Released files that nobody needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Surplus(Arc<Mutex<Vec<PathBuf>>>);

impl Surplus {
    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Removes them.
    pub(super) fn remove(&self, disk: &dyn Disk) {
        let paths = std::mem::take(&mut *self.lock());
        for path in paths {
            if let Err(error) = disk.remove(&path) {
                // It is found again at the next start, as a spare.
                let path = path.display();
                tracing::warn!(%error, %path, "a released journal segment could not be removed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file name is a spare's.
pub(super) fn is_spare(file: &str) -> bool {
    file.strip_prefix(PREFIX).and_then(name::parse).is_some()
}

impl Spares {
    pub(super) fn new(limit: usize, surplus: Surplus) -> Self {
        Self { paths: VecDeque::new(), limit, surplus }
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
        let spare = path.with_file_name(format!("{PREFIX}{file}"));
        disk.rename(path, &spare)?;
        if keep && self.paths.len() < self.limit {
            self.paths.push_back(spare);
        } else {
            self.surplus.lock().push(spare);
        }
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
