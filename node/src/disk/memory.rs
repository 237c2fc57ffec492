//! A file system in memory that can lose power.
//!
//! Invariant: it keeps what was synced apart from what was only written, and [`MemoryDisk::crash`]
//! builds the image that a machine could find after a kill (everything written is there) or a
//! power cut (any part of what was not synced is gone, directory entries included). Used by tests
//! and simulations, where it is also much faster than a real disk. Directories count as durable
//! once created.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Entry, Open};

/// What survives of the bytes that were written but not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of them: a killed process.
    All,
    /// None, and no directory entry that was not synced.
    Synced,
    /// The first so many bytes, in the order of writing.
    First(usize),
    /// The last so many bytes, in the order of writing: caches write back in any order.
    Last(usize),
}

/// Files in memory; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    tree: Arc<Mutex<Tree>>,
    clock: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Tree {
    directories: BTreeSet<PathBuf>,
    live: BTreeMap<PathBuf, Arc<MemoryFile>>,
    synced: BTreeMap<PathBuf, Arc<MemoryFile>>,
}

#[derive(Debug)]
struct MemoryFile {
    content: Mutex<Content>,
    clock: Arc<AtomicU64>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    live: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<(u64, Change)>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn size(&self) -> usize {
        match self {
            Self::Write(_, bytes) => bytes.len(),
            Self::Length(_) => 0,
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length as usize, 0),
            Self::Write(offset, bytes) => {
                let from = *offset as usize;
                let to = from + bytes.len();
                if content.len() < to {
                    content.resize(to, 0);
                }
                if let Some(place) = content.get_mut(from..to) {
                    place.copy_from_slice(bytes);
                }
            }
        }
    }

    fn part(&self, first: usize, last: usize) -> Self {
        match self {
            Self::Length(length) => Self::Length(*length),
            Self::Write(offset, bytes) => Self::Write(
                offset + first as u64,
                bytes.get(first..last).unwrap_or_default().to_vec(),
            ),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as the next start would find it; this one goes on unchanged.
    #[must_use]
    pub fn crash(&self, keep: Keep) -> Self {
        let after = Self::new();
        let tree = lock(&self.tree);
        let names = if keep == Keep::Synced { &tree.synced } else { &tree.live };
        let mut pending: Vec<(u64, PathBuf, Change)> = Vec::new();
        let mut images = BTreeMap::new();
        for (path, file) in names {
            let content = lock(&file.content);
            images.insert(path.clone(), content.synced.clone());
            pending.extend(content.pending.iter().map(|(at, c)| (*at, path.clone(), c.clone())));
        }
        pending.sort_by_key(|(at, ..)| *at);
        let total: usize = pending.iter().map(|(.., change)| change.size()).sum();
        let kept = match keep {
            Keep::All => 0..total,
            Keep::Synced => 0..0,
            Keep::First(count) => 0..count.min(total),
            Keep::Last(count) => total.saturating_sub(count)..total,
        };
        let mut position = 0;
        for (_, path, change) in &pending {
            let size = change.size();
            let first = kept.start.saturating_sub(position).min(size);
            let last = kept.end.saturating_sub(position).min(size);
            let whole = size == 0 && keep != Keep::Synced;
            if let Some(image) = images.get_mut(path).filter(|_| first < last || whole) {
                change.part(first, last).apply(image);
            }
            position += size;
        }
        {
            let mut fresh = lock(&after.tree);
            fresh.directories.clone_from(&tree.directories);
            for (path, image) in images {
                let content = Content { live: image.clone(), synced: image, pending: Vec::new() };
                let file =
                    MemoryFile { content: Mutex::new(content), clock: Arc::clone(&after.clock) };
                fresh.live.insert(path, Arc::new(file));
            }
            fresh.synced = fresh.live.clone();
        }
        after
    }

    /// The bytes of a file as a reader sees them now.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        lock(&self.tree).live.get(path).map(|file| lock(&file.content).live.clone())
    }

    /// Replaces a file, durably: the way a test damages one.
    pub fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let content = Content { live: bytes.clone(), synced: bytes, pending: Vec::new() };
        let file = MemoryFile { content: Mutex::new(content), clock: Arc::clone(&self.clock) };
        let file = Arc::new(file);
        let mut tree = lock(&self.tree);
        tree.live.insert(path.to_owned(), Arc::clone(&file));
        tree.synced.insert(path.to_owned(), file);
    }

    /// All paths, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        lock(&self.tree).live.keys().cloned().collect()
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut tree = lock(&self.tree);
        if let Some(file) = tree.live.get(path) {
            if how == Open::CreateNew {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file: Arc<MemoryFile> = Arc::clone(file);
            return Ok(file);
        }
        let parent = path.parent().is_none_or(|parent| tree.directories.contains(parent));
        if matches!(how, Open::Existing | Open::Read) || !parent {
            return Err(missing(path));
        }
        let file =
            Arc::new(MemoryFile { content: Mutex::default(), clock: Arc::clone(&self.clock) });
        tree.live.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut tree = lock(&self.tree);
        tree.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn read_directory(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let tree = lock(&self.tree);
        if !tree.directories.contains(path) {
            return Err(missing(path));
        }
        let inside = |child: &&PathBuf| child.parent() == Some(path);
        let name = |child: &PathBuf| {
            child.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let files = tree.live.keys().filter(inside);
        let directories = tree.directories.iter().filter(inside);
        let mut entries: Vec<_> = files
            .map(|child| Entry { name: name(child), directory: false })
            .chain(directories.map(|child| Entry { name: name(child), directory: true }))
            .collect();
        entries.sort();
        Ok(entries)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.tree).live.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = lock(&self.tree);
        let file = tree.live.remove(from).ok_or_else(|| missing(from))?;
        tree.live.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut tree = lock(&self.tree);
        let Tree { live, synced, .. } = &mut *tree;
        synced.retain(|child, _| child.parent() != Some(path));
        let inside = live.iter().filter(|(child, _)| child.parent() == Some(path));
        synced.extend(inside.map(|(child, file)| (child.clone(), Arc::clone(file))));
        Ok(())
    }

    fn available(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl MemoryFile {
    fn change(&self, change: Change) {
        let mut content = lock(&self.content);
        change.apply(&mut content.live);
        content.pending.push((self.clock.fetch_add(1, Ordering::Relaxed), change));
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = lock(&self.content);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.live.len());
        let rest = content.live.get(from..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = lock(&self.content);
        let Content { synced, pending, .. } = &mut *content;
        pending.drain(..).for_each(|(_, change)| change.apply(synced));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.content).live.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length));
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        if self.length()? < length {
            self.set_length(length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with_unsynced() -> (MemoryDisk, PathBuf) {
        let disk = MemoryDisk::new();
        disk.create_directory(Path::new("/d")).unwrap();
        let path = PathBuf::from("/d/f");
        let file = disk.open(&path, Open::CreateNew).unwrap();
        file.write_at(0, b"synced").unwrap();
        file.sync_data().unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
        file.write_at(6, b"tail").unwrap();
        disk.open(Path::new("/d/new"), Open::CreateNew).unwrap();
        (disk, path)
    }

    #[test]
    fn a_power_cut_forgets_what_was_not_synced() {
        let (disk, path) = disk_with_unsynced();
        assert_eq!(disk.content(&path).unwrap(), b"syncedtail");
        assert_eq!(disk.crash(Keep::Synced).content(&path).unwrap(), b"synced");
        assert_eq!(disk.crash(Keep::Synced).paths(), std::slice::from_ref(&path));
        assert_eq!(disk.crash(Keep::All).content(&path).unwrap(), b"syncedtail");
        assert_eq!(disk.crash(Keep::All).paths().len(), 2);
        assert_eq!(disk.crash(Keep::First(2)).content(&path).unwrap(), b"syncedta");
        assert_eq!(disk.crash(Keep::Last(2)).content(&path).unwrap(), b"synced\0\0il");
    }

    #[test]
    fn an_unsynced_rename_is_undone() {
        let (disk, path) = disk_with_unsynced();
        disk.rename(&path, Path::new("/d/g")).unwrap();
        assert_eq!(disk.crash(Keep::Synced).paths(), [path]);
        assert_eq!(disk.read_directory(Path::new("/d")).unwrap().len(), 2);
    }
}
