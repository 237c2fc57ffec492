//! LMDB environments: opening, growing and closing them. The only unsafe code of the repository.
//!
//! Invariants: default flags only (every commit is synced; no writable map, no `NO_SYNC`); heed
//! refuses to open a path twice in one process; a map grows only while no transaction is alive in
//! this process, which [`Environment`] guards with a lock that every transaction holds shared.
//! Called by the shard store; the metadata store opens its environment through [`open_env`].
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls,
    types::Bytes,
};

use rustix::{fs::FallocateFlags, io::Errno};

/// A database of raw keys and values; named databases live as long as their environment.
pub(crate) type Table = Database<'static, Bytes, Bytes>;

/// Reader slots of environments opened by [`open_env`]: LMDB's own default.
const DEFAULT_READERS: u32 = 126;

/// Opens or creates the environment in the directory `path`, which must exist. `map_size` is the
/// largest size in bytes, a multiple of the page size; only address space until it is used.
pub(crate) fn open_env(
    path: &Path,
    map_size: usize,
    max_dbs: u32,
) -> heed::Result<Env<WithoutTls>> {
    open(path, map_size, max_dbs, DEFAULT_READERS)
}

/// Makes room for the file in which readers register: LMDB writes it through memory, and a disk that
/// is full then would end the process. Its length, which tells LMDB the number of slots, stays.
fn reserve_readers(path: &Path, readers: u32) -> io::Result<()> {
    let path = path.join("lock.mdb");
    // A slot takes 64 bytes; some more for what comes before them, in whole pages.
    let bytes = (u64::from(readers) * 64 + 1024).next_multiple_of(4096);
    // Not opened once it has its room: closing it would give up LMDB's locks on it.
    if fs::metadata(&path).is_ok_and(|meta| meta.blocks() * 512 >= bytes) {
        return Ok(());
    }
    let file = File::options().create(true).write(true).truncate(false).open(&path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

fn open(path: &Path, map: usize, dbs: u32, readers: u32) -> heed::Result<Env<WithoutTls>> {
    reserve_readers(path, readers)?;
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map).max_dbs(dbs).max_readers(readers);
    // SAFETY: a map is undefined behaviour only if something other than LMDB writes to the file
    // while it is open. The file lies in the node's data directory, which one node locks for
    // itself, and LMDB's own lock file keeps a second opener of the environment consistent.
    unsafe { options.open(path) }
}

/// Free bytes of a file system below which a failed write counts as one without room.
const LITTLE_ROOM: u64 = 1 << 20;

/// Sizes of an environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EnvLimits {
    /// Map size at first, in bytes.
    pub(crate) map_bytes: usize,
    /// Map size at most, in bytes.
    pub(crate) max_map_bytes: usize,
    /// Read transactions alive at once, at most.
    pub(crate) readers: u32,
}

/// Why an environment could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// It cannot be opened.
    #[error("cannot open the LMDB environment {}: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// LMDB's or the system's word.
        source: heed::Error,
    },
    /// The disk is full, or the map has reached its largest size. Nothing was written; the same
    /// write succeeds once there is room.
    #[error("no room for {} ({cause}); free disk space or raise max_map_bytes", path.display())]
    Full {
        /// The environment's directory.
        path: PathBuf,
        /// What is full.
        cause: &'static str,
    },
    /// All reader slots are taken: reads come and go, so one is free in a moment.
    #[error("all reader slots of {} are in use; try again in a moment", path.display())]
    ReadersFull {
        /// The environment's directory.
        path: PathBuf,
    },
    /// A transaction could not be made durable.
    #[error("cannot sync {}: {source}", path.display())]
    Sync {
        /// The environment's directory.
        path: PathBuf,
        /// LMDB's or the system's word.
        source: heed::Error,
    },
    /// Anything else.
    #[error("LMDB failed in {}: {source}", path.display())]
    Lmdb {
        /// The environment's directory.
        path: PathBuf,
        /// LMDB's or the system's word.
        source: heed::Error,
    },
}

impl EnvError {
    /// Whether it stands until somebody has seen to the file: what LMDB finds in it is wrong, or it
    /// may not be what was synced.
    pub(super) const fn lasts(&self) -> bool {
        match self {
            Self::Full { .. } | Self::ReadersFull { .. } => false,
            Self::Sync { .. } => true,
            Self::Open { source, .. } | Self::Lmdb { source, .. } => matches!(
                source,
                heed::Error::Mdb(
                    MdbError::Invalid
                        | MdbError::Corrupted
                        | MdbError::PageNotFound
                        | MdbError::VersionMismatch
                        | MdbError::Incompatible
                        | MdbError::Panic
                )
            ),
        }
    }
}

/// An environment that was opened to be read.
pub(crate) enum ReadOnly<const N: usize> {
    /// It has all tables.
    Whole(Environment<N>),
    /// Nothing was ever committed to it.
    Unwritten,
    /// A table is missing.
    Incomplete,
}

/// What happened inside a write transaction.
enum Failed {
    /// The map is full: grow and try again.
    Map,
    Body(heed::Error),
    Commit(heed::Error),
}

/// An open environment with `N` databases that can grow.
pub(crate) struct Environment<const N: usize> {
    env: Env<WithoutTls>,
    tables: [Table; N],
    path: PathBuf,
    max_map_bytes: usize,
    /// Held shared by every transaction, alone by growth.
    growing: RwLock<()>,
}

impl<const N: usize> Environment<N> {
    /// Opens or creates the environment and its databases; the directory must exist.
    pub(crate) fn open(path: &Path, limits: EnvLimits, names: [&str; N]) -> Result<Self, EnvError> {
        let wrap = |source| {
            let path = path.to_owned();
            if disk_full(&source) || matches!(source, heed::Error::Io(_)) && no_room(&path) {
                return EnvError::Full { path, cause: "the disk is full" };
            }
            EnvError::Open { path, source }
        };
        let dbs = u32::try_from(N).unwrap_or(u32::MAX);
        let mut map = round_up(limits.map_bytes);
        loop {
            let env = open(path, map, dbs, limits.readers).map_err(wrap)?;
            // Slots of a process that was killed would otherwise keep its old pages for ever.
            env.clear_stale_readers().map_err(wrap)?;
            match create_tables(&env, names) {
                Ok(tables) => {
                    return Ok(Self {
                        env,
                        tables,
                        path: path.to_owned(),
                        max_map_bytes: limits.max_map_bytes,
                        growing: RwLock::new(()),
                    });
                }
                Err(heed::Error::Mdb(MdbError::MapFull)) if map < limits.max_map_bytes => {
                    map = round_up(map.saturating_mul(2));
                }
                Err(error) => return Err(wrap(error)),
            }
        }
    }

    /// The largest number of bytes the map can hold now.
    #[cfg(test)]
    pub(crate) fn map_bytes(&self) -> usize {
        self.env.info().map_size
    }

    /// Runs `body` on a snapshot. It must be quick (pages freed meanwhile cannot be reused) and
    /// must not start another transaction of this environment: growth waits for it.
    pub(crate) fn read<T, E: From<EnvError>>(
        &self,
        body: impl FnOnce(&RoTxn<'_>, &[Table; N]) -> Result<T, E>,
    ) -> Result<T, E> {
        let _alive = self.growing.read().unwrap_or_else(PoisonError::into_inner);
        let txn = match self.env.read_txn() {
            Err(heed::Error::Mdb(MdbError::ReadersFull)) => {
                self.env.clear_stale_readers().map_err(|e| self.wrap(e))?;
                self.env.read_txn()
            }
            other => other,
        };
        let txn = txn.map_err(|e| self.wrap(e))?;
        body(&txn, &self.tables)
    }

    /// Runs `body` in a write transaction and commits it, synced. `body` runs again, from nothing,
    /// when the map had to grow.
    pub(crate) fn write<T>(
        &self,
        mut body: impl FnMut(&mut RwTxn<'_>, &[Table; N]) -> heed::Result<T>,
    ) -> Result<T, EnvError> {
        loop {
            match self.try_write(&mut body) {
                Ok(done) => return Ok(done),
                Err(Failed::Map) => self.grow()?,
                Err(Failed::Body(source)) if disk_full(&source) => {
                    return Err(self.full("the disk is full"));
                }
                // LMDB calls a write that was cut short for want of room an I/O error.
                Err(Failed::Commit(source)) if disk_full(&source) || no_room(&self.path) => {
                    return Err(self.full("the disk is full"));
                }
                // LMDB panics (in its own sense) after a half-written meta page.
                Err(Failed::Body(source @ heed::Error::Mdb(MdbError::Panic)))
                | Err(Failed::Commit(source)) => {
                    return Err(EnvError::Sync { path: self.path.clone(), source });
                }
                Err(Failed::Body(source)) => return Err(self.wrap(source)),
            }
        }
    }

    fn try_write<T>(
        &self,
        body: &mut impl FnMut(&mut RwTxn<'_>, &[Table; N]) -> heed::Result<T>,
    ) -> Result<T, Failed> {
        let _alive = self.growing.read().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.env.write_txn().map_err(Failed::Body)?;
        let done = body(&mut txn, &self.tables).map_err(|error| match error {
            heed::Error::Mdb(MdbError::MapFull) => Failed::Map,
            other => Failed::Body(other),
        })?;
        txn.commit().map_err(|error| match error {
            heed::Error::Mdb(MdbError::MapFull) => Failed::Map,
            other => Failed::Commit(other),
        })?;
        Ok(done)
    }

    fn grow(&self) -> Result<(), EnvError> {
        let _alone = self.growing.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.env.info().map_size;
        let next = round_up(now.saturating_mul(2).min(self.max_map_bytes));
        if next <= now {
            return Err(self.full("max_map_bytes is reached"));
        }
        // SAFETY: resizing is sound while this process has no transaction alive in the
        // environment: all of them hold `growing` shared, and it is held alone here.
        unsafe { self.env.resize(next) }.map_err(|e| self.wrap(e))
    }

    fn full(&self, cause: &'static str) -> EnvError {
        EnvError::Full { path: self.path.clone(), cause }
    }

    /// An error of a read, with the environment's name.
    pub(crate) fn wrap(&self, source: heed::Error) -> EnvError {
        let path = self.path.clone();
        match source {
            heed::Error::Mdb(MdbError::ReadersFull) => EnvError::ReadersFull { path },
            source => EnvError::Lmdb { path, source },
        }
    }
}

impl<const N: usize> Environment<N> {
    /// Opens an environment that nobody else has open, to read it; nothing in the directory is
    /// changed, not even the lock file.
    pub(crate) fn open_read_only(path: &Path, names: [&str; N]) -> Result<ReadOnly<N>, EnvError> {
        let wrap = |source| {
            let path = path.to_owned();
            if disk_full(&source) || matches!(source, heed::Error::Io(_)) && no_room(&path) {
                return EnvError::Full { path, cause: "the disk is full" };
            }
            EnvError::Open { path, source }
        };
        let file = path.join("data.mdb").metadata().map_err(|e| wrap(e.into()))?;
        let map = round_up(usize::try_from(file.len()).unwrap_or(usize::MAX));
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map).max_dbs(u32::try_from(N).unwrap_or(u32::MAX));
        // SAFETY: without a lock file, LMDB does not know of other processes; the caller has said
        // that there are none. The file is not written to here, and not mapped for writing.
        let env = unsafe {
            options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK);
            options.open(path)
        };
        let env = env.map_err(wrap)?;
        if env.info().last_txn_id == 0 {
            return Ok(ReadOnly::Unwritten);
        }
        let Some(tables) = open_tables(&env, names).map_err(wrap)? else {
            return Ok(ReadOnly::Incomplete);
        };
        let (path, growing) = (path.to_owned(), RwLock::new(()));
        Ok(ReadOnly::Whole(Self { env, tables, path, max_map_bytes: map, growing }))
    }
}

fn open_tables<const N: usize>(
    env: &Env<WithoutTls>,
    names: [&str; N],
) -> heed::Result<Option<[Table; N]>> {
    let done = env.open_databases_and_commit(env.read_txn()?, |opener, txn| {
        let mut tables = Vec::with_capacity(N);
        for name in names {
            tables.extend(opener.open_database::<Bytes, Bytes>(txn, Some(name))?);
        }
        let tables: Result<[_; N], _> = tables.try_into();
        Ok::<_, heed::Error>(match tables {
            Ok(tables) => CommitOrAbort::Commit(tables),
            Err(_) => CommitOrAbort::Abort(()),
        })
    })?;
    Ok(match done {
        CommitOrAbort::Commit(tables) => Some(tables),
        CommitOrAbort::Abort(()) => None,
    })
}

fn create_tables<const N: usize>(
    env: &Env<WithoutTls>,
    names: [&str; N],
) -> heed::Result<[Table; N]> {
    let txn = env.write_txn()?;
    let done = env.create_databases_and_commit(txn, |opener, txn| {
        let mut tables = Vec::with_capacity(N);
        for name in names {
            tables.push(opener.create_database::<Bytes, Bytes>(txn, Some(name))?);
        }
        let tables: Result<[_; N], _> = tables.try_into();
        Ok::<_, heed::Error>(match tables {
            Ok(tables) => CommitOrAbort::Commit(tables),
            Err(_) => CommitOrAbort::Abort(()),
        })
    })?;
    match done {
        CommitOrAbort::Commit(tables) => Ok(tables),
        // One table was pushed per name, so the conversion above cannot fail.
        CommitOrAbort::Abort(()) => Err(heed::Error::Mdb(MdbError::DbsFull)),
    }
}

/// Whether the file system has next to no room. The failed transaction is done over from what was
/// committed, writing all of its pages again, so this may even be wrong.
fn no_room(path: &Path) -> bool {
    let room = |stat: rustix::fs::StatVfs| stat.f_bavail.saturating_mul(stat.f_frsize);
    rustix::fs::statvfs(path).is_ok_and(|stat| room(stat) < LITTLE_ROOM)
}

fn disk_full(error: &heed::Error) -> bool {
    let heed::Error::Io(error) = error else {
        return false;
    };
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Map sizes are multiples of 64 KiB, which every page size divides.
const fn round_up(bytes: usize) -> usize {
    bytes.saturating_add(0xffff) & !0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: EnvLimits =
        EnvLimits { map_bytes: 128 << 10, max_map_bytes: 4 << 20, readers: 16 };

    fn fill(env: &Environment<1>, from: u32, count: u32) -> Result<(), EnvError> {
        env.write(|txn, [table]| {
            for key in from..from + count {
                table.put(txn, &key.to_be_bytes(), &[7; 3000])?;
            }
            Ok(())
        })
    }

    #[test]
    fn a_full_map_grows_and_the_write_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::open(dir.path(), LIMITS, ["t"]).unwrap();
        let before = env.map_bytes();
        fill(&env, 0, 300).unwrap();
        assert!(env.map_bytes() > before);
        let rows = env.read(|txn, [table]| table.len(txn).map_err(|e| env.wrap(e))).unwrap();
        assert_eq!(rows, 300);
    }

    #[test]
    fn the_cap_is_a_typed_error_and_what_was_committed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::open(dir.path(), LIMITS, ["t"]).unwrap();
        fill(&env, 0, 100).unwrap();
        let error = fill(&env, 100, 5000).unwrap_err();
        assert!(matches!(error, EnvError::Full { .. }), "{error}");
        fill(&env, 100, 10).unwrap();
        let rows = env.read(|txn, [table]| table.len(txn).map_err(|e| env.wrap(e))).unwrap();
        assert_eq!(rows, 110);
    }

    #[test]
    fn a_path_is_not_opened_twice_and_opens_again_after_closing() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::open(dir.path(), LIMITS, ["t"]).unwrap();
        fill(&env, 0, 300).unwrap();
        assert!(Environment::open(dir.path(), LIMITS, ["t"]).is_err());
        drop(env);
        // The file is larger than the configured map by now.
        let env = Environment::open(dir.path(), LIMITS, ["t"]).unwrap();
        fill(&env, 300, 300).unwrap();
    }
}
