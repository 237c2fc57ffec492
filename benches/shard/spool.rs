//! The load, made beforehand: encoded parts in a file.
//!
//! Invariant: reading a part costs a copy and nothing else, so that what is measured is the store.
//! Made by the process that starts the parts, read by them.

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use bytes::Bytes;
use quorate_benches::fleet::{BATCH_ROWS, Parts, Shape};
use quorate_protocol::id::ShardId;

/// The shard of all parts.
pub(crate) const SHARD: ShardId = ShardId(1);

/// Writes `parts` parts of 5,000 rows to a file, unless it is there.
pub(crate) fn make(path: &Path, shape: Shape, parts: usize) {
    if path.exists() {
        return;
    }
    let mut out = BufWriter::new(File::create(path).expect("the load's file can be made"));
    let mut fleet = Parts::new(shape, SHARD);
    for _ in 0..parts {
        let part = fleet.next(BATCH_ROWS).expect("the fleet is valid");
        let length = u32::try_from(part.len()).expect("a part is small");
        let written = out.write_all(&length.to_le_bytes()).and_then(|()| out.write_all(&part));
        written.expect("the load can be written");
    }
    out.flush().expect("the load can be written");
}

/// A file of parts.
pub(crate) struct Spool {
    file: File,
    /// Where each part is, and its length.
    places: Vec<(u64, usize)>,
}

impl Spool {
    pub(crate) fn open(path: &Path) -> Self {
        let mut file = File::open(path).expect("the load was made");
        let (mut places, mut at, mut length) = (Vec::new(), 0, [0; 4]);
        while file.read_exact(&mut length).is_ok() {
            let length = u32::from_le_bytes(length);
            places.push((at + 4, length as usize));
            at += 4 + u64::from(length);
            let mut skipped = (&mut file).take(u64::from(length));
            std::io::copy(&mut skipped, &mut std::io::sink()).expect("the load can be read");
        }
        Self { file, places }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn part(&self, at: usize) -> Bytes {
        let (place, length) = self.places[at];
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, place).expect("the load can be read");
        bytes.into()
    }
}
