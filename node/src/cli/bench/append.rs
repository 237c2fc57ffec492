//! How fast bytes become durable: write at the end of a file, `fdatasync`, again.
//!
//! Invariant: only writes and syncs are on the clock; making a file ready is not. The bare limit of
//! the journal and the hint queues, which do the same through the same file layer.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::samples::Samples;
use crate::disk::{Disk, DiskFile, Open, SystemDisk};

/// A file begins anew when it is this large: as large as a segment of the journal.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of one write and sync, and their names.
pub(super) const SIZES: [(&str, usize); 5] =
    [("4k", 4 << 10), ("64k", 64 << 10), ("256k", 256 << 10), ("1m", 1 << 20), ("4m", 4 << 20)];

/// What the file is like before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Empty: every sync writes its new length too.
    Growing,
    /// Allocated and never written.
    Preallocated,
    /// Written once and synced: nothing but the bytes changes.
    Recycled,
}

impl State {
    pub(super) const ALL: [Self; 3] = [Self::Growing, Self::Preallocated, Self::Recycled];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Growing => "growing",
            Self::Preallocated => "preallocated",
            Self::Recycled => "recycled",
        }
    }
}

/// Appends `size` bytes and syncs, until that has taken `time`, to a file in `dir`, which stays
/// there: a recycled one is the same for all sizes.
pub(super) fn measure(
    dir: &Path,
    state: State,
    size: usize,
    time: Duration,
) -> io::Result<Samples> {
    let path = dir.join(state.name());
    let bytes: Vec<u8> = (0..size).map(|at| (at * 167 % 251) as u8).collect();
    let mut samples = Samples::of(size);
    let mut took = Duration::ZERO;
    let mut file = ready(&path, state, &bytes)?;
    let mut offset = 0;
    while took < time {
        if offset + size as u64 > FILE_BYTES {
            offset = 0;
            if state != State::Recycled {
                file = ready(&path, state, &bytes)?;
            }
        }
        let begun = Instant::now();
        file.write_at(offset, &bytes)?;
        file.sync_data()?;
        let latency = begun.elapsed();
        samples.add(latency);
        took += latency;
        offset += size as u64;
    }
    Ok(samples.finish(took))
}

/// A file in this state, durable; new unless it is recycled.
fn ready(path: &Path, state: State, bytes: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    if state == State::Recycled {
        match SystemDisk.open(path, Open::Existing) {
            Err(error) if missing(&error) => {}
            found => return found,
        }
    }
    match SystemDisk.remove(path) {
        Err(error) if !missing(&error) => return Err(error),
        _ => {}
    }
    let file = SystemDisk.open(path, Open::CreateNew)?;
    if state != State::Growing {
        file.allocate(FILE_BYTES)?;
    }
    if state == State::Recycled {
        for offset in (0..FILE_BYTES).step_by(bytes.len()) {
            let room = usize::try_from(FILE_BYTES - offset).unwrap_or(usize::MAX);
            file.write_at(offset, bytes.get(..room).unwrap_or(bytes))?;
        }
    }
    file.sync_data()?;
    if let Some(dir) = path.parent() {
        SystemDisk.sync_directory(dir)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_measured_in_files_no_larger_than_a_segment() {
        let dir = tempfile::tempdir().unwrap();
        for state in State::ALL {
            for size in [1 << 20, 3 << 20] {
                let samples = measure(dir.path(), state, size, Duration::from_millis(1)).unwrap();
                assert!(samples.bytes_per_second() > 0.0);
            }
            let file = SystemDisk.open(&dir.path().join(state.name()), Open::Read).unwrap();
            assert!(file.length().unwrap() <= FILE_BYTES);
            assert_eq!(state == State::Growing, file.length().unwrap() < FILE_BYTES);
        }
    }
}
