//! The directory of a shard: its name, its format marker, its removal.
//!
//! Invariants: a directory whose marker names a newer format is not touched; a marker is durable
//! before anything else is in its directory; a directory that is being removed has a name of its
//! own, so that a half-removed shard is never opened. Called by [`super::open`] and
//! [`super::ShardStore`].

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_protocol::id::ShardId;

use super::{config::Config, error::ShardError};

/// The newest format this release reads and writes.
pub const FORMAT: u32 = 1;
const MARKER: &str = "format";
const MARKER_DRAFT: &str = "format.new";
const MAGIC: &[u8; 8] = b"QSHARD\r\n";
const DROPPED: &str = "dropped";

/// Where a shard is.
pub(super) fn path(root: &Path, shard: ShardId) -> PathBuf {
    root.join(shard.to_string())
}

/// An I/O error with what was tried.
pub(super) fn io_error(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ShardError + use<> {
    let path = path.to_owned();
    move |source| ShardError::Io { what, path, source }
}

/// Makes names created or removed in a directory durable.
pub(super) fn sync(path: &Path) -> Result<(), ShardError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error("sync", path))
}

/// The shards that have a directory, ascending. Finishes removals that a crash has cut short.
pub(super) fn list(root: &Path) -> Result<Vec<ShardId>, ShardError> {
    fs::create_dir_all(root).map_err(io_error("create", root))?;
    let mut shards = Vec::new();
    for entry in fs::read_dir(root).map_err(io_error("list", root))? {
        let entry = entry.map_err(io_error("list", root))?;
        let (name, path) = (entry.file_name(), entry.path());
        if path.extension().is_some_and(|extension| extension == DROPPED) {
            delete(&path)?;
        } else if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
            shards.push(ShardId(id));
        }
    }
    shards.sort_unstable();
    Ok(shards)
}

/// Verifies the marker. `false`: there is no shard here yet.
pub(super) fn check(path: &Path) -> Result<bool, ShardError> {
    let marker = path.join(MARKER);
    let bytes = match fs::read(&marker) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.join("data.mdb").exists() {
                let why = "its format marker is missing";
                return Err(ShardError::BadDirectory { path: path.to_owned(), why });
            }
            return Ok(false);
        }
        Err(error) => return Err(io_error("read", &marker)(error)),
    };
    let format = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.first_chunk())
        .map(|format| u32::from_le_bytes(*format));
    match format {
        Some(1..=FORMAT) => Ok(true),
        Some(found) if found > FORMAT => {
            Err(ShardError::NewerFormat { path: path.to_owned(), found, supported: FORMAT })
        }
        _ => {
            let why = "its format marker is damaged";
            Err(ShardError::BadDirectory { path: path.to_owned(), why })
        }
    }
}

/// Makes a directory with its marker, durably.
pub(super) fn create(root: &Path, path: &Path) -> Result<(), ShardError> {
    fs::create_dir_all(path).map_err(io_error("create", path))?;
    let (draft, marker) = (path.join(MARKER_DRAFT), path.join(MARKER));
    let mut file = File::create(&draft).map_err(io_error("create", &draft))?;
    file.write_all(MAGIC)
        .and_then(|()| file.write_all(&FORMAT.to_le_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(io_error("write", &draft))?;
    fs::rename(&draft, &marker).map_err(io_error("rename", &draft))?;
    sync(path)?;
    sync(root)
}

/// Whether a directory without a marker has nothing in it but what [`create`] begins with.
pub(super) fn is_unborn(path: &Path) -> Result<bool, ShardError> {
    for entry in fs::read_dir(path).map_err(io_error("list", path))? {
        if entry.map_err(io_error("list", path))?.file_name() != MARKER_DRAFT {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the directory of a shard, which nobody has open, its last name; `None` if there is none.
pub(super) fn condemn(root: &Path, path: &Path) -> Result<Option<PathBuf>, ShardError> {
    if !path.exists() {
        return Ok(None);
    }
    let dropped = path.with_extension(DROPPED);
    fs::rename(path, &dropped).map_err(io_error("rename", path))?;
    sync(root)?;
    Ok(Some(dropped))
}

/// Deletes a directory, unless somebody else has.
pub(super) fn delete(path: &Path) -> Result<(), ShardError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(io_error("remove", path)),
    }
}

/// Deletes a directory whose files may be large, [`Config::delete_piece_bytes`] at a time: a file
/// system that frees all of a large file at once keeps every sync waiting meanwhile. `rest` is called
/// after each piece.
pub(super) fn delete_gently(
    path: &Path,
    config: &Config,
    mut rest: impl FnMut(Duration),
) -> Result<(), ShardError> {
    for entry in fs::read_dir(path).into_iter().flatten().filter_map(Result::ok) {
        // Deleting it whole will do where this fails.
        let _ = shrink(&entry.path(), config, &mut rest);
    }
    delete(path)
}

fn shrink(path: &Path, config: &Config, rest: &mut impl FnMut(Duration)) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let metadata = file.metadata()?;
    // Under another name it is in use.
    if metadata.nlink() > 1 {
        return Ok(());
    }
    let mut length = metadata.len();
    let piece = config.delete_piece_bytes.max(1);
    while length > piece {
        length -= piece;
        file.set_len(length)?;
        rest(Duration::from_millis(config.delete_pause_ms));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_recognised_and_a_newer_or_damaged_one_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = path(root.path(), ShardId(7));
        assert!(!check(&path).unwrap());
        create(root.path(), &path).unwrap();
        assert!(check(&path).unwrap());
        fs::write(path.join(MARKER), [MAGIC.as_slice(), &2_u32.to_le_bytes()].concat()).unwrap();
        assert!(matches!(check(&path), Err(ShardError::NewerFormat { found: 2, .. })));
        for damaged in [&b""[..], b"QSHARD\r\n\x01", b"QSHARD\r\n\0\0\0\0", b"junkjunk\x01\0\0\0"] {
            fs::write(path.join(MARKER), damaged).unwrap();
            assert!(matches!(check(&path), Err(ShardError::BadDirectory { .. })));
        }
        fs::remove_file(path.join(MARKER)).unwrap();
        fs::write(path.join("data.mdb"), "x").unwrap();
        assert!(matches!(check(&path), Err(ShardError::BadDirectory { .. })));
    }

    #[test]
    fn a_file_that_has_another_name_stays_whole() {
        let root = tempfile::tempdir().unwrap();
        let (live, old) = (root.path().join("live"), root.path().join("old"));
        fs::write(&live, vec![1; 20_000]).unwrap();
        fs::create_dir(&old).unwrap();
        fs::hard_link(&live, old.join("data.mdb")).unwrap();
        let config = Config { delete_piece_bytes: 4096, ..Config::default() };
        delete_gently(&old, &config, |_| panic!("nothing is freed")).unwrap();
        assert!(!old.exists());
        assert_eq!(fs::read(&live).unwrap(), vec![1; 20_000]);
    }

    #[test]
    fn a_large_file_is_freed_in_pieces() {
        let root = tempfile::tempdir().unwrap();
        let config = Config { delete_piece_bytes: 4096, delete_pause_ms: 3, ..Config::default() };
        let home = path(root.path(), ShardId(7));
        create(root.path(), &home).unwrap();
        let large = home.join("data.mdb");
        fs::write(&large, vec![1; 20_000]).unwrap();
        let mut sizes = Vec::new();
        let rest = |pause| {
            assert_eq!(pause, Duration::from_millis(3));
            sizes.push(fs::metadata(&large).unwrap().len());
        };
        delete_gently(&home, &config, rest).unwrap();
        assert_eq!(sizes, [15_904, 11_808, 7_712, 3_616]);
        assert!(!home.exists());
    }

    #[test]
    fn removals_that_were_cut_short_are_finished() {
        let root = tempfile::tempdir().unwrap();
        for id in [3, 12, 5] {
            create(root.path(), &path(root.path(), ShardId(id))).unwrap();
        }
        fs::write(root.path().join("notes.txt"), "not ours").unwrap();
        condemn(root.path(), &path(root.path(), ShardId(12))).unwrap();
        let condemned = condemn(root.path(), &path(root.path(), ShardId(5))).unwrap().unwrap();
        delete(&condemned).unwrap();
        assert_eq!(condemn(root.path(), &path(root.path(), ShardId(5))).unwrap(), None);
        assert_eq!(list(root.path()).unwrap(), [ShardId(3)]);
        assert!(!root.path().join("12.dropped").exists());
        assert!(root.path().join("notes.txt").exists());
    }
}
