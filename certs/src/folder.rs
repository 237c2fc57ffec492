//! A folder of certificates that is looked at again and again: what a process follows while it runs.
//!
//! Invariants: what is in use changes only for files that are whole, belong together and are for the
//! same holder, so a look in the middle of a renewal changes nothing; what one look alone finds unusable is
//! not told, since files change one after the other; a whole list of revocations counts whatever is wrong
//! with the rest; a revocation that was seen stays for as long as the process does, also if the list
//! disappears. No clock and no task here: whoever follows brings both. Called by the node's and
//! the client's followers, on a timer and on SIGHUP.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use crate::authority::{CA_CERT, LEAF_CERT, LEAF_KEY};
use crate::credentials::Credentials;
use crate::load::LoadError;
use crate::revocation::CRL;

/// What tells one state of a file from another: inode, length, and the times of its content and of its
/// inode in ns. None if it is not there.
type Mark = Option<(u64, u64, i128, i128)>;

/// One state of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([Mark; 4]);

impl Stamp {
    fn of(dir: &Path) -> Self {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self([CA_CERT, LEAF_CERT, LEAF_KEY, CRL].map(|name| {
            let file = fs::metadata(dir.join(name)).ok()?;
            let times = (ns(file.mtime(), file.mtime_nsec()), ns(file.ctime(), file.ctime_nsec()));
            Some((file.ino(), file.len(), times.0, times.1))
        }))
    }
}

/// A folder and what was last taken from it.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    current: Credentials,
    taken: Stamp,
    /// The state that could not be used when last looked at, and whether that was told.
    unusable: Option<(Stamp, bool)>,
}

impl Folder {
    /// Reads the folder for the first time, with a clock to judge peers by if that is not the system's.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn open(
        dir: &Path,
        now: UnixTime,
        time: Option<Arc<dyn TimeProvider>>,
    ) -> Result<Self, LoadError> {
        // Before the files: one that changes in between is read again.
        let taken = Stamp::of(dir);
        let mut current = Credentials::load(dir, now)?;
        if let Some(time) = time {
            current = current.with_time(time);
        }
        Ok(Self { dir: dir.to_owned(), current, taken, unusable: None })
    }

    /// What was last taken.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.current
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the files again if one has changed; gives what is to be used from now on, or nothing. Blocks
    /// for as long as a few small reads do.
    ///
    /// # Errors
    /// What is wrong with files that two looks in a row could not use, once for each state of them; what was
    /// in use stays so.
    pub fn changed(&mut self, now: UnixTime) -> Result<Option<Credentials>, LoadError> {
        let stamp = Stamp::of(&self.dir);
        if stamp == self.taken {
            return Ok(None);
        }
        match self.read(now) {
            Ok(new) => {
                (self.taken, self.unusable) = (stamp, None);
                self.current = new.clone();
                Ok(Some(new))
            }
            // It may become usable without a further change: when its time comes.
            Err(_) if self.unusable == Some((stamp, true)) => Ok(None),
            Err(error) => {
                let told = self.in_doubt();
                self.unusable = Some((stamp, told));
                if told { Err(error) } else { Ok(None) }
            }
        }
    }

    /// Whether the last look, and not the one before it, found something unusable: a renewal may be under way,
    /// and it is worth looking again soon.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        matches!(self.unusable, Some((_, false)))
    }

    /// While what is there cannot be used: what was in use, with what the list in the folder revokes besides
    /// if there is any. Whoever is on it is out, even if the holder's own certificate is there too.
    pub fn revoked(&mut self) -> Option<Credentials> {
        // What is wrong with the list is told by `changed`.
        let new = self.current.revoking_by(&self.dir).ok().flatten()?;
        self.current = new.clone();
        Some(new)
    }

    fn read(&self, now: UnixTime) -> Result<Credentials, LoadError> {
        let new = Credentials::load(&self.dir, now)?;
        let (was, is) = (self.current.identity(), new.identity());
        let same =
            was.cluster == is.cluster && was.is_node() == is.is_node() && was.name() == is.name();
        if !same {
            return Err(LoadError::OtherHolder {
                file: self.dir.join(LEAF_CERT),
                was: Box::new(was.clone()),
                is: Box::new(is.clone()),
            });
        }
        Ok(new.succeeding(&self.current))
    }
}

#[cfg(test)]
mod tests;
