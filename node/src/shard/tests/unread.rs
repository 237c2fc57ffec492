//! Shards that cannot be opened at the start, for a reason that passes.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_protocol::id::{Sequence, ShardId, Version};

use super::support::*;
use crate::shard::{AdmitError, EnvError, ScanFilter, ShardError, ShardStore};

const OTHER: ShardId = ShardId(8);

/// Keeps a shard from being opened without harm to it.
struct Obstacle(PathBuf);

impl Obstacle {
    fn put(root: &Path) -> Self {
        let at = root.join(SHARD.to_string()).join("lock.mdb");
        fs::remove_file(&at).unwrap();
        symlink(root.join("missing/file"), &at).unwrap();
        Self(at)
    }

    fn clear(self) {
        fs::remove_file(self.0).unwrap();
    }
}

fn rows(value: i64) -> Vec<Cell> {
    (0..4).map(|series| cell(series, value, 0, value)).collect()
}

/// The shard has folded records 2 to 9, the other one the first; the process died.
fn filled(root: &Path) -> Journal {
    let (store, mut journal) = (open(tiny(), root), Journal::default());
    journal.append(&store, OTHER, batch(OTHER, 1, &rows(1)));
    fold(&store, OTHER).unwrap();
    for value in 2..10 {
        journal.append(&store, SHARD, batch(SHARD, 50, &rows(value)));
    }
    fold(&store, SHARD).unwrap();
    journal
}

fn is_unread(store: &ShardStore, shard: ShardId) -> bool {
    matches!(store.admit(shard, 1), Err(AdmitError::Unread { retry_after_ms: 50, .. }))
}

#[test]
fn it_is_opened_at_first_use_and_until_then_nothing_of_it_is_released_or_taken_in() {
    let dir = scratch();
    let mut journal = filled(dir.path());
    let obstacle = Obstacle::put(dir.path());
    let store = open(tiny(), dir.path());
    assert_eq!((store.stats().poisoned, store.stats().unread), (0, 1));
    assert_eq!(store.found_applied(), Sequence(1));
    journal.replay(&store, Sequence(0));
    assert_eq!(store.applied_through(), Sequence(1), "the journal would forget it");
    assert!(is_unread(&store, SHARD) && store.admit(OTHER, 1).is_ok());
    for error in [
        fold(&store, SHARD).unwrap_err(),
        settle(&store, SHARD).unwrap_err(),
        store.verify(SHARD).unwrap_err(),
    ] {
        assert!(matches!(error, ShardError::Env(EnvError::Open { .. })), "{error}");
    }
    assert!(scan_with(&store, SHARD, ScanFilter::default()).is_err(), "an answer without its runs");
    assert_eq!(scan(&store, OTHER), journal.content(OTHER));

    obstacle.clear();
    assert_eq!(scan(&store, SHARD), journal.content(SHARD));
    let before = runs(&store, SHARD);
    fold(&store, SHARD).unwrap();
    assert_eq!(runs(&store, SHARD), before, "it was folded once more");
    assert_eq!((store.stats().unread, store.stats().fresh_bytes), (0, 0));
    assert_eq!(store.applied_through(), Sequence(9));
    assert_eq!(store.highest_version(), Version(50));
    assert!(store.sizes().iter().all(|size| size.series == 4));
    drop(store.admit(SHARD, 1).unwrap());
    journal.append(&store, SHARD, batch(SHARD, 51, &rows(3)));
    fold(&store, SHARD).unwrap();
    assert_eq!(scan(&store, SHARD), journal.content(SHARD));
}

#[test]
fn a_sequence_that_it_has_applied_in_a_journal_now_lost_is_taken_in_all_the_same() {
    for crash in [false, true] {
        let dir = scratch();
        let old = filled(dir.path());
        let obstacle = Obstacle::put(dir.path());
        // The journal is lost; the new one begins behind what is known to be applied.
        let store = open(tiny(), dir.path());
        let mut next = store.found_applied();
        let mut journal = Journal::default();
        let mut append = |store: &ShardStore, shard, value| {
            let one = batch(shard, 60, &rows(value));
            next = Sequence(next.0 + 1);
            journal.records.push((shard, one.clone()));
            store.accept(shard, next, one).unwrap();
            next
        };
        append(&store, OTHER, 2);
        assert!(is_unread(&store, SHARD));
        obstacle.clear();
        fold(&store, SHARD).unwrap();
        drop(store.admit(SHARD, 1).unwrap());
        let sequence = append(&store, SHARD, 3);
        assert!(sequence < Sequence(9), "the shard had not applied it: nothing is tested");
        let mut model = old.content(SHARD);
        add_batch(&mut model, &journal.records[1].1);
        assert_eq!(scan(&store, SHARD), model);
        if crash {
            drop(store);
            let store = open(tiny(), dir.path());
            store.accept(SHARD, sequence, journal.records[1].1.clone()).unwrap();
            assert_eq!(scan(&store, SHARD), model, "it was skipped");
            fold(&store, SHARD).unwrap();
            assert_eq!(scan(&store, SHARD), model);
        } else {
            fold(&store, SHARD).unwrap();
            assert_eq!(scan(&store, SHARD), model, "it was skipped");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_background_opens_it_when_it_can() {
    let dir = scratch();
    let journal = filled(dir.path());
    let obstacle = Obstacle::put(dir.path());
    // Nothing is replayed: its writers wait for it, and nobody else asks.
    let store = open(tiny(), dir.path());
    store.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(is_unread(&store, SHARD));
    obstacle.clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(store.admit(SHARD, 1).is_ok());
    assert_eq!(scan(&store, SHARD), journal.content(SHARD));
    store.close().await;
}

#[test]
fn what_turns_out_to_be_damaged_is_poisoned_sooner_or_later() {
    let dir = scratch();
    let journal = filled(dir.path());
    let obstacle = Obstacle::put(dir.path());
    let data = dir.path().join("7/data.mdb");
    let intact = fs::read(&data).unwrap();
    fs::write(&data, vec![0x5a; intact.len()]).unwrap();
    let store = open(tiny(), dir.path());
    journal.replay(&store, Sequence(0));
    assert_eq!((store.stats().poisoned, store.stats().unread), (0, 1));
    obstacle.clear();
    assert!(matches!(fold(&store, SHARD), Err(ShardError::Poisoned { .. })));
    assert_eq!((store.stats().poisoned, store.applied_through()), (1, Sequence(1)));
    drop(store);
    // Without the obstacle it is known at once.
    let store = open(tiny(), dir.path());
    assert_eq!((store.stats().poisoned, store.stats().unread), (1, 0));
    assert!(matches!(store.admit(SHARD, 1), Err(AdmitError::Poisoned(SHARD))));
    drop(store);
    fs::write(&data, intact).unwrap();
    fs::remove_file(dir.path().join("7/format")).unwrap();
    assert_eq!(open(tiny(), dir.path()).stats().poisoned, 1, "no marker");
}

#[test]
fn only_what_does_not_pass_by_itself_lasts() {
    let path = PathBuf::from("shards/7");
    let opening = |source| ShardError::Env(EnvError::Open { path: path.clone(), source });
    let system = |code| io::Error::from_raw_os_error(code);
    // Room, descriptors of the process and of the system, memory, permission, a read-only disk.
    for code in [28, 24, 23, 12, 13, 1, 30, 5] {
        assert!(!opening(heed::Error::Io(system(code))).lasts(), "{}", system(code));
        let file = ShardError::Io { what: "read", path: path.clone(), source: system(code) };
        assert!(!file.lasts(), "{file}");
    }
    let full = EnvError::Full { path: path.clone(), cause: "the disk is full" };
    assert!(!ShardError::from(full).lasts());
    for passing in [heed::MdbError::ReadersFull, heed::MdbError::MapFull] {
        assert!(!opening(heed::Error::Mdb(passing)).lasts(), "{passing}");
    }
    use heed::MdbError::{Corrupted, Invalid, PageNotFound, VersionMismatch};
    for damage in [Corrupted, Invalid, PageNotFound, VersionMismatch] {
        assert!(opening(heed::Error::Mdb(damage)).lasts(), "{damage}");
    }
    assert!(ShardError::BadDirectory { path: path.clone(), why: "damaged" }.lasts());
    let sync = EnvError::Sync { path: path.clone(), source: heed::Error::Io(system(5)) };
    assert!(ShardError::from(sync).lasts());
    assert!(ShardError::Io { what: "read", path, source: system(20) }.lasts(), "not a directory");
}
