//! What a start must know of a shard, beside its environment: so that thousands of shards need not
//! be opened to find out.
//!
//! Invariant: it is believed only while `data.mdb` has the length and the time of change that stand
//! in it; it is removed when the environment is opened and written when it was closed, after the
//! time of change was made durable, unless the shard is poisoned. So it is missing or outdated for
//! shards that were open when the process died or had a sync fail, and those are opened. Used by
//! [`super::open`] and [`super::ShardStore::open`].

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::UNIX_EPOCH,
};

use bytes::Buf;
use quorate_protocol::id::{Sequence, Version};

use super::slot::Stored;

const NAME: &str = "summary";

/// What the state record says without its runs, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) applied: Sequence,
    pub(super) highest_version: Version,
    pub(super) stored: Stored,
}

/// Length and time of change of a file, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    len: u64,
    changed: u64,
}

impl Stamp {
    /// Of a shard's `data.mdb`.
    pub(super) fn of(shard: &Path) -> io::Result<Self> {
        let found = fs::metadata(shard.join("data.mdb"))?;
        let changed = found.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let changed = u64::try_from(changed.as_nanos()).map_err(io::Error::other)?;
        Ok(Self { len: found.len(), changed })
    }
}

/// The summary of a shard that is not open, if there is one to be believed.
pub(super) fn read(shard: &Path) -> Option<Summary> {
    let bytes = fs::read(shard.join(NAME)).ok()?;
    let (summary, stamp) = decode(&bytes)?;
    (Stamp::of(shard).ok()? == stamp).then_some(summary)
}

/// The shard is being opened.
pub(super) fn remove(shard: &Path) {
    // If it stays, the time of change tells sooner or later.
    let _ = fs::remove_file(shard.join(NAME));
}

/// The shard was closed; `opened` is its stamp from before. Without a summary it is opened at the
/// next start, so errors do not matter.
pub(super) fn write(shard: &Path, summary: Summary, opened: Option<Stamp>) -> io::Result<()> {
    let stamp = Stamp::of(shard)?;
    if opened != Some(stamp) {
        // LMDB syncs the data of the file, and not the time.
        File::open(shard.join("data.mdb"))?.sync_all()?;
    }
    let draft = shard.join(format!("{NAME}.new"));
    fs::write(&draft, encode(summary, stamp))?;
    fs::rename(&draft, shard.join(NAME))
}

fn encode(summary: Summary, stamp: Stamp) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(summary.applied.0.to_le_bytes());
    out.extend(summary.highest_version.0.to_le_bytes());
    out.extend(summary.stored.series.to_le_bytes());
    out.extend(summary.stored.runs.to_le_bytes());
    out.extend(summary.stored.bytes.to_le_bytes());
    out.extend(u64::from(summary.stored.damaged).to_le_bytes());
    out.extend(stamp.len.to_le_bytes());
    out.extend(stamp.changed.to_le_bytes());
    let crc = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(mut bytes: &[u8]) -> Option<(Summary, Stamp)> {
    let crc = bytes.try_get_u32_le().ok()?;
    if bytes.len() != 64 || crc32fast::hash(bytes) != crc {
        return None;
    }
    let mut rest = bytes;
    let mut next = || rest.try_get_u64_le().ok();
    let (applied, highest_version) = (Sequence(next()?), Version(next()?));
    let (series, runs, bytes, damaged) = (next()?, next()?, next()?, next()? != 0);
    let stored = Stored { series, runs, bytes, damaged };
    let summary = Summary { applied, highest_version, stored };
    Some((summary, Stamp { len: next()?, changed: next()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_believed_until_the_file_changes_or_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path();
        let data = shard.join("data.mdb");
        fs::write(&data, "rows").unwrap();
        let stored = Stored { series: 3, runs: 2, bytes: 99, damaged: true };
        let summary = Summary { applied: Sequence(7), highest_version: Version(9), stored };
        assert_eq!(read(shard), None);
        write(shard, summary, None).unwrap();
        assert_eq!(read(shard), Some(summary));
        let good = fs::read(shard.join(NAME)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            fs::write(shard.join(NAME), &bad).unwrap();
            assert_eq!(read(shard), None);
        }
        fs::write(shard.join(NAME), &good).unwrap();
        assert_eq!(read(shard), Some(summary));
        fs::write(&data, "more rows").unwrap();
        assert_eq!(read(shard), None);
        write(shard, summary, None).unwrap();
        remove(shard);
        assert_eq!(read(shard), None);
    }
}
