//! The newest segment of a queue torn at every byte: what was written behind the tear is gone, or
//! something else stands there.

use super::*;
use crate::segment::header::{self, Parsed};
use crate::segment::{Found, Reader};

/// What stands behind the tear.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tail {
    Nothing,
    Zeros,
    Noise,
    /// What another queue has written at the same place.
    Past,
}

fn config() -> HandoffConfig {
    HandoffConfig { segment_bytes: 640, ..HandoffConfig::default() }
}

/// The third segment of a queue with a few hints in it, and the number of hints in all.
async fn queue(disk: &MemoryDisk, salt: u64, begin: u64) -> (PathBuf, u64) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let path = PathBuf::from("/handoff");
    let (handoff, _) = Handoff::open(config(), path, salt, shared, Executor::Inline).unwrap();
    let mut hints = 0;
    while segments(disk).len() < 3 || ends(&disk.content(&segment(3)).unwrap()).len() < 4 {
        hints += 1;
        let (shard, bytes) = (ShardId((begin + hints) % 4), batch(begin + hints));
        handoff.append(TARGET, shard, bytes, false, (begin + hints) * SECOND).await.unwrap();
    }
    assert_eq!(segments(disk).len(), 3);
    (segment(3), hints)
}

/// Where each record of a segment ends.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let disk = MemoryDisk::new();
    disk.replace(Path::new("/s"), bytes.to_vec());
    let file = disk.open(Path::new("/s"), Open::Read).unwrap();
    let Parsed::Header(header) = Header::parse(bytes) else { panic!("no header") };
    let mut reader = Reader::new(&*file, &header).unwrap();
    let mut ends = Vec::new();
    while let Found::Record(_) = reader.next_found().unwrap() {
        ends.push(reader.position() as usize);
    }
    ends
}

#[tokio::test]
async fn f05_every_hint_before_a_tear_is_delivered_whatever_stands_behind_it() {
    let (disk, other) = (MemoryDisk::new(), MemoryDisk::new());
    let (path, hints) = queue(&disk, 5, 0).await;
    let (other_path, _) = queue(&other, 6, 1).await;
    let (bytes, past) = (disk.content(&path).unwrap(), other.content(&other_path).unwrap());
    let ends = ends(&bytes);
    let before = hints - ends.len() as u64;
    for cut in 0..=bytes.len() {
        for tail in [Tail::Nothing, Tail::Zeros, Tail::Noise, Tail::Past] {
            let noise = |at: usize| ((at + cut * 7919).wrapping_mul(0x9e37_79b9) >> 13) as u8;
            let mut torn = bytes[..cut].to_vec();
            match tail {
                Tail::Nothing => {}
                Tail::Zeros => torn.resize(bytes.len(), 0),
                Tail::Noise => torn.extend((cut..bytes.len()).map(noise)),
                // With the header of the other queue it would be the other queue.
                Tail::Past if cut < header::LENGTH as usize => continue,
                Tail::Past => torn.extend_from_slice(&past[cut..]),
            }
            let damaged = disk.crash(Keep::All);
            damaged.replace(&path, torn.clone());
            let (handoff, report) = open_with(Arc::new(damaged.clone()), config());
            assert!(report.failed.is_empty(), "cut {cut} {tail:?}: {report:?}");
            let found = take_all(&handoff).await;
            let last = found.len() as u64;
            assert_eq!(found, up_to(last), "cut {cut} {tail:?}");
            let whole = before + ends.iter().filter(|end| **end <= cut).count() as u64;
            // Of a record's padding and end mark nothing is missed.
            assert!((whole..=whole + 1).contains(&last), "cut {cut} {tail:?}: {last} of {whole}");
            assert_eq!(stats(&handoff).quarantined, 0, "cut {cut} {tail:?}: that is no damage");
            assert_eq!(append(&handoff, last + 1).await.unwrap(), Sequence(last + 1));
            // Nothing is written behind a tear, nor without the room that a segment has taken.
            let is_torn = match tail {
                Tail::Nothing => cut < bytes.len(),
                // Before the note of how far it was read.
                Tail::Noise => cut < bytes.len() - 16,
                Tail::Zeros | Tail::Past => false,
            };
            if is_torn && cut >= header::LENGTH as usize {
                let left = damaged.content(&path).is_none_or(|left| left == torn);
                assert!(left, "cut {cut} {tail:?}: it was written to");
            }
            let length = |path: &PathBuf| damaged.content(path).unwrap().len() as u64;
            let files: u64 = segments(&damaged).iter().map(length).sum();
            assert_eq!(stats(&handoff).disk_bytes, files, "cut {cut} {tail:?}");
            drop(handoff);
            let (handoff, _) = open_with(Arc::new(damaged), config());
            assert_eq!(take_all(&handoff).await, up_to(last + 1), "cut {cut} {tail:?}");
        }
    }
}
