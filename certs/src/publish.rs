//! Puts finished files into a directory, whole or not at all.
//!
//! Invariant: a file appears under its name only when all its bytes are on the disk, with its final
//! mode from the first byte on; without [`Existing::Replace`] nothing that has the name is touched,
//! whoever else is writing at the time. Called by `authority`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// What to do about files that are already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave them and fail.
    Refuse,
    /// Replace them (`--force`).
    Replace,
}

/// One file to write.
pub(crate) struct NewFile<'a> {
    /// Its name within the directory.
    pub(crate) name: &'a str,
    /// All of it.
    pub(crate) content: &'a str,
    /// Whether only its owner may read it (mode 0600 instead of 0644).
    pub(crate) secret: bool,
}

impl<'a> NewFile<'a> {
    pub(crate) fn secret(name: &'a str, content: &'a str) -> Self {
        Self { name, content, secret: true }
    }

    pub(crate) fn public(name: &'a str, content: &'a str) -> Self {
        Self { name, content, secret: false }
    }
}

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A file of that name is there.
    #[error("{} already exists: --force replaces it", .0.display())]
    Exists(PathBuf),
    /// The file system said no.
    #[error("cannot write {}: {source}", file.display())]
    Io {
        /// What was being written.
        file: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// Writes all `files` into `dir`, which is made if need be, in the order given.
///
/// Everything is written and synced under temporary names first, so a full disk is noticed before
/// any name is taken. The first file is what two racing callers compete for.
pub(crate) fn publish(
    dir: &Path,
    files: &[NewFile<'_>],
    existing: Existing,
) -> Result<(), PublishError> {
    let failed = |file: &Path| {
        let file = file.to_owned();
        move |source| PublishError::Io { file, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    if existing == Existing::Refuse {
        for file in files {
            let path = dir.join(file.name);
            match fs::symlink_metadata(&path) {
                Ok(_) => return Err(PublishError::Exists(path)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(&path)(e)),
            }
        }
    }
    let mut staged = Vec::with_capacity(files.len());
    for file in files {
        let path = dir.join(file.name);
        staged.push((Staged::write(dir, file).map_err(failed(&path))?, path));
    }
    for (staged, path) in staged {
        match existing {
            Existing::Replace => staged.replace(&path).map_err(failed(&path))?,
            Existing::Refuse => staged.link(&path).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => PublishError::Exists(path.clone()),
                _ => failed(&path)(e),
            })?,
        }
    }
    sync_dir(dir).map_err(failed(dir))?;
    // The directory itself may be new in its parent.
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent).map_err(failed(parent)),
        Some(_) => sync_dir(Path::new(".")).map_err(failed(dir)),
        None => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A synced file under a temporary name, which goes away with this value.
struct Staged(PathBuf);

impl Staged {
    fn write(dir: &Path, new: &NewFile<'_>) -> io::Result<Self> {
        let (staged, mut file) = Self::create(dir, new)?;
        file.write_all(new.content.as_bytes())?;
        file.sync_all()?;
        Ok(staged)
    }

    fn create(dir: &Path, new: &NewFile<'_>) -> io::Result<(Self, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // A crashed process with this id may have left some names behind; it cannot have left all.
        for _ in 0..1000 {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!(".{}.{}-{n}.tmp", new.name, process::id()));
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(if new.secret { 0o600 } else { 0o644 })
                .open(&path);
            match opened {
                Ok(file) => return Ok((Self(path), file)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Takes the final name; a link, unlike a rename, fails if somebody has it.
    fn link(&self, path: &Path) -> io::Result<()> {
        fs::hard_link(&self.0, path)
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        fs::rename(&self.0, path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already after a rename; otherwise nothing depends on it.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn files(content: &str) -> [NewFile<'_>; 2] {
        ["a", "b"].map(|name| NewFile::public(name, content))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn one_of_many_racing_writers_wins_whole() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<String> = (0..8).map(|i| i.to_string()).collect();
        let won: Vec<bool> = thread::scope(|scope| {
            let tasks: Vec<_> = contents
                .iter()
                .map(|c| scope.spawn(|| publish(dir.path(), &files(c), Existing::Refuse).is_ok()))
                .collect();
            tasks.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|w| **w).count(), 1);
        let winner = &contents[won.iter().position(|w| *w).unwrap()];
        assert_eq!(names(dir.path()), ["a", "b"]);
        for name in ["a", "b"] {
            assert_eq!(&fs::read_to_string(dir.path().join(name)).unwrap(), winner);
        }
    }

    #[test]
    fn nothing_is_written_if_any_name_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        // A dangling link is a taken name too: writing through it would create its target.
        std::os::unix::fs::symlink("nowhere", dir.path().join("b")).unwrap();
        let refused = publish(dir.path(), &files("x"), Existing::Refuse);
        assert!(matches!(refused, Err(PublishError::Exists(p)) if p.ends_with("b")));
        assert_eq!(names(dir.path()), ["b"]);
        publish(dir.path(), &files("x"), Existing::Replace).unwrap();
        assert_eq!(names(dir.path()), ["a", "b"]);
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn a_failure_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        let failed = publish(dir.path(), &files("x"), Existing::Replace);
        assert!(matches!(failed, Err(PublishError::Io { file, .. }) if file.ends_with("b")));
        assert_eq!(names(dir.path()), ["a", "b"]);
    }
}
