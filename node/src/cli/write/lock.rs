//! One load at a time uses a state.
//!
//! Invariants: whoever holds the lock holds it on the file that has the name now, so a file that its
//! holder has removed locks nobody out and lets nobody in; the system lets go of it when the process
//! ends, however it ends. Used by [`super::keep`].

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Locks `path` with `.lock` behind it; none if somebody else has.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let file = File::options().write(true).create(true).truncate(false).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // If not, its last holder has removed it since it was opened.
            if has_name(&file, &path)? {
                return Ok(Some(Self { path, _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock goes. A file that stays is in nobody's way.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether this is the file that has the name now.
fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(named) => {
            let own = file.metadata()?;
            Ok((named.dev(), named.ino()) == (own.dev(), own.ino()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_no_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        for _ in 0..2 {
            let held = Lock::take(&path).unwrap().unwrap();
            assert!(Lock::take(&path).unwrap().is_none());
            drop(held);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
        // As a killed holder leaves it.
        std::fs::write(directory.path().join("state.lock"), "").unwrap();
        assert!(Lock::take(&path).unwrap().is_some());
    }

    #[test]
    fn a_file_that_lost_its_name_is_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.lock");
        let old = File::create(&path).unwrap();
        assert!(has_name(&old, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!has_name(&old, &path).unwrap());
        let new = File::create(&path).unwrap();
        assert!(has_name(&new, &path).unwrap() && !has_name(&old, &path).unwrap());
    }

    /// Threads that take and let go at will: never two at once.
    #[test]
    fn removing_the_file_lets_nobody_in() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 2_000 {
                        let Some(lock) = Lock::take(&path).unwrap() else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
