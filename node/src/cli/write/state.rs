//! `--state`: how far a load got, in a file that outlives it.
//!
//! Invariants: the file is the one before or the one after a save, whatever happens in between, and
//! after [`Store::save`] it survives a power cut; a file that is torn or changed is refused, never
//! half believed. What it says is true of every line before its mark: each has an outcome, which is
//! counted, and each that was not written is in the rejects file. Used by `write`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::tally::Tally;
use crate::disk::{Disk, Open};

/// What the first line of the file begins with; then comes the checksum of the rest.
const HEAD: &str = "quorate-load 1 ";
/// No state is so large; what is, is something else.
const MAX_FILE: u64 = 1 << 20;

/// A place in the content of an input (unpacked), between two lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Bytes before it.
    pub(crate) offset: u64,
    /// The number of the line that begins here, from 1.
    pub(crate) line: usize,
    /// XXH3 of all bytes before it: what makes an input the same input.
    pub(crate) hash: u64,
    /// The line before it has no newline: the input ended there.
    pub(crate) open: bool,
}

impl Mark {
    /// The beginning of any input.
    pub(crate) fn start() -> Self {
        Self { offset: 0, line: 1, hash: xxhash_rust::xxh3::xxh3_64(&[]), open: false }
    }
}

/// What decides how lines are read and where they go: the same for all of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) database: String,
    pub(crate) policy: Option<String>,
    /// Nanoseconds per unit of the times.
    pub(crate) unit_ns: i64,
    /// Where lines that were not written go.
    pub(crate) rejects: Option<PathBuf>,
}

/// How far a load got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// What was loaded, for people: the input is known by its content.
    pub(crate) input: String,
    pub(crate) plan: Plan,
    /// Time of lines without one. It is kept so that a line has the same time whenever it is sent.
    pub(crate) default_time: i64,
    pub(crate) mark: Mark,
    /// The input was read to its end.
    pub(crate) finished: bool,
    pub(crate) tally: Tally,
    /// The time spent so far.
    pub(crate) seconds: f64,
    /// Bytes of the rejects file that belong to what is before the mark.
    pub(crate) rejects_length: u64,
}

impl State {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let body = serde_json::to_vec(self).map_err(io::Error::other)?;
        let mut text = format!("{HEAD}{:08x}\n", crc32fast::hash(&body)).into_bytes();
        text.extend(body);
        text.push(b'\n');
        Ok(text)
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let text = text.strip_prefix(HEAD.as_bytes())?.strip_suffix(b"\n")?;
        let (sum, body) = text.split_at_checked(8)?;
        let body = body.strip_prefix(b"\n")?;
        let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
        (sum == crc32fast::hash(body)).then(|| serde_json::from_slice(body).ok())?
    }
}

/// The file.
#[derive(Debug)]
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Store {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: &Path) -> Self {
        Self { disk, path: path.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says; none if it is not there.
    pub(crate) fn load(&self) -> io::Result<Option<State>> {
        let file = match self.disk.open(&self.path, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = vec![0; usize::try_from(file.length()?.min(MAX_FILE)).unwrap_or(0)];
        let length = file.read_at(0, &mut text)?;
        text.truncate(length);
        let damaged = "it is damaged, or no state of a load; use another file, or remove it";
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, damaged);
        State::decode(&text).map(Some).ok_or_else(damaged)
    }

    /// Replaces the file, durably.
    pub(crate) fn save(&self, state: &State) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let file = self.disk.open(&new, Open::Create)?;
        file.set_length(0)?;
        file.write_at(0, &state.encode()?)?;
        file.sync_data()?;
        self.disk.rename(&new, &self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.disk.sync_directory(directory.unwrap_or_else(|| Path::new(".")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{FaultDisk, Keep, MemoryDisk};

    const PATH: &str = "dir/state";

    fn state(points: usize) -> State {
        State {
            input: "/data/ä.lp".to_owned(),
            plan: Plan {
                database: "metrics".to_owned(),
                policy: Some("raw".to_owned()),
                unit_ns: 1,
                rejects: Some(PathBuf::from("/tmp/bad.lp")),
            },
            default_time: -17,
            mark: Mark { offset: u64::MAX - 1, line: 12, hash: u64::MAX, open: false },
            finished: false,
            tally: Tally { points, rejected: 3, range: Some((-5, 6)), ..Tally::default() },
            seconds: 0.1,
            rejects_length: 99,
        }
    }

    fn memory() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_directory(Path::new("dir")).unwrap();
        disk
    }

    fn store(disk: impl Disk + 'static) -> Store {
        Store::new(Arc::new(disk), Path::new(PATH))
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let store = store(memory());
        assert_eq!(store.load().unwrap(), None);
        for points in [0, 1, usize::MAX] {
            store.save(&state(points)).unwrap();
            assert_eq!(store.load().unwrap(), Some(state(points)));
        }
    }

    #[test]
    fn a_torn_or_changed_file_is_refused() {
        let (disk, whole) = (memory(), state(5).encode().unwrap());
        store(disk.clone()).save(&state(5)).unwrap();
        for length in 0..whole.len() {
            disk.replace(Path::new(PATH), whole[..length].to_vec());
            assert!(store(disk.clone()).load().is_err(), "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            disk.replace(Path::new(PATH), changed);
            assert!(store(disk.clone()).load().is_err(), "byte {at}");
        }
    }

    /// Ends after each operation of a save, by a kill or by a power cut.
    #[test]
    fn a_save_that_is_interrupted_leaves_the_one_before_or_the_new_one() {
        let count = {
            let disk = FaultDisk::new(Arc::new(memory()));
            store(disk.clone()).save(&state(1)).unwrap();
            disk.operations()
        };
        for operations in 0..=count {
            for keep in [Keep::All, Keep::Synced, Keep::First(20), Keep::Last(20)] {
                let disk = memory();
                store(disk.clone()).save(&state(1)).unwrap();
                let fault = FaultDisk::new(Arc::new(disk.clone()));
                fault.stop_after(operations);
                let saved = store(fault).save(&state(2)).is_ok();
                let found = store(disk.crash(keep)).load().unwrap().unwrap();
                assert!(found == state(2) || (!saved && found == state(1)), "{operations}");
            }
        }
    }
}
