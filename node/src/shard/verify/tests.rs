//! Verifications: what is whole passes, open or closed, and each kind of damage is told by its name.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::shard::{
    Config, ScanFilter,
    env::{self, Table},
    naive::{self, Cell, Event, SHARD, cells, event, once, small_blocks, tiny},
    run::BlockKey,
};

/// All files of a shard's directory with their bytes.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let bytes = fs::read(entry.path()).unwrap_or_default();
        (entry.file_name().into_string().unwrap(), bytes)
    };
    fs::read_dir(path).unwrap().map(entry).collect()
}

proptest! {
    #![proptest_config(naive::cases(32))]
    #[test]
    fn what_is_whole_passes_open_and_closed_and_is_not_touched(
        writes in prop::collection::vec((1_u64..6, cells()), 1..12),
        events in prop::collection::vec(event(), 1..12), small: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let writes: Vec<_> = writes.into_iter().map(|(v, cells)| (v, once(cells))).collect();
        let config = if small { small_blocks() } else { tiny() };
        let store = naive::store(config, dir.path(), &writes, &events);
        let report = store.verify(SHARD).unwrap();
        prop_assert!(report.is_good(), "{:#?}", report.problems);
        prop_assert_eq!(report.garbage_blocks, 0);
        drop(store);
        let path = directory::path(dir.path(), SHARD);
        if path.exists() {
            let before = files(&path);
            prop_assert_eq!(verify_dir(&path).unwrap(), report);
            prop_assert!(files(&path) == before);
        }
    }
}

/// Two runs of several blocks each.
fn store(dir: &Path, config: Config) -> ShardStore {
    let cells = |from: i64| -> Vec<Cell> {
        let place =
            |at: i64| Cell { series: (at % 4) as u16, time: from + at, field: 0, value: at };
        (0..40).map(place).collect()
    };
    let config = Config { merge_runs: 9, fold_limit_bytes: 1 << 20, ..config };
    naive::store(config, dir, &[(1, cells(0)), (2, cells(20))], &[Event::Fold])
}

/// What a verification finds after somebody has changed the tables.
fn after(change: impl Fn(&mut heed::RwTxn<'_>, &Tables)) -> VerifyReport {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), small_blocks());
    assert!(store.verify(SHARD).unwrap().is_good());
    let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
    pin.env
        .write(|txn, tables| {
            change(txn, tables);
            Ok(())
        })
        .unwrap();
    drop(pin);
    let report = store.verify(SHARD).unwrap();
    assert_eq!(report.found > 0, !report.is_good());
    drop(store);
    assert_eq!(verify_dir(&directory::path(dir.path(), SHARD)).unwrap(), report);
    report
}

fn entries(txn: &heed::RwTxn<'_>, table: &Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entry = |entry: heed::Result<(&[u8], &[u8])>| {
        let (key, value) = entry.unwrap();
        (key.to_vec(), value.to_vec())
    };
    table.iter(txn).unwrap().map(entry).collect()
}

fn kinds(report: &VerifyReport) -> Vec<ProblemKind> {
    let mut kinds: Vec<_> = report.problems.iter().map(|problem| problem.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// A block, not a version table.
fn block(txn: &heed::RwTxn<'_>, runs: &Table, nth: usize) -> (Vec<u8>, Vec<u8>) {
    let mut blocks = entries(txn, runs);
    blocks.retain(|(key, _)| BlockKey::decode(key).unwrap().series > 0);
    blocks.swap_remove(nth)
}

#[test]
fn a_flipped_bit_in_a_block() {
    let report = after(|txn, [runs, ..]| {
        let (key, mut bytes) = block(txn, runs, 1);
        *bytes.last_mut().unwrap() ^= 1;
        runs.put(txn, &key, &bytes).unwrap();
    });
    assert_eq!((kinds(&report), report.found), (vec![ProblemKind::Block], 1));
}

#[test]
fn a_flipped_bit_in_a_version_table() {
    let report = after(|txn, [runs, ..]| {
        let key = BlockKey::versions(1).encode();
        let mut bytes = runs.get(txn, &key).unwrap().unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        runs.put(txn, &key, &bytes).unwrap();
    });
    assert_eq!(kinds(&report), [ProblemKind::Versions]);
}

#[test]
fn a_block_that_stands_elsewhere() {
    let report = after(|txn, [runs, ..]| {
        let (key, bytes) = block(txn, runs, 0);
        runs.delete(txn, &key).unwrap();
        let key = BlockKey { start: 2, ..BlockKey::decode(&key).unwrap() };
        runs.put(txn, &key.encode(), &bytes).unwrap();
    });
    assert_eq!(kinds(&report), [ProblemKind::Order]);
}

#[test]
fn a_block_that_is_there_twice_or_missing() {
    let report = after(|txn, [runs, ..]| {
        let (key, _) = block(txn, runs, 0);
        runs.delete(txn, &key).unwrap();
    });
    assert_eq!(kinds(&report), [ProblemKind::Run]);
    let report = after(|txn, [runs, ..]| {
        let (key, bytes) = block(txn, runs, 0);
        let key = BlockKey { start: 1000, ..BlockKey::decode(&key).unwrap() };
        runs.put(txn, &key.encode(), &bytes).unwrap();
    });
    assert_eq!(kinds(&report), [ProblemKind::Order, ProblemKind::Run]);
}

#[test]
fn statistics_that_are_not_those_of_the_values() {
    let mut found = 0;
    for at in 0..200 {
        let report = after(|txn, [runs, ..]| {
            let (key, mut bytes) = block(txn, runs, 0);
            if let Some(byte) = bytes.get_mut(4 + at) {
                *byte ^= 2;
            }
            let checksum = crc32fast::hash(&bytes[4..]);
            bytes[..4].copy_from_slice(&checksum.to_le_bytes());
            runs.put(txn, &key, &bytes).unwrap();
        });
        found += usize::from(kinds(&report) == [ProblemKind::Statistics]);
        if found > 1 {
            return;
        }
    }
    panic!("{found} changes of statistics were told");
}

#[test]
fn a_state_record_that_is_damaged_or_says_something_else() {
    let report = after(|txn, [.., states]| {
        let mut state = State::decode(states.get(txn, state::KEY).unwrap().unwrap()).unwrap();
        state.runs[0].rows += 1;
        states.put(txn, state::KEY, &state.encode()).unwrap();
    });
    assert_eq!((kinds(&report), report.found), (vec![ProblemKind::Run], 1));
    let report = after(|txn, [.., states]| {
        let mut state = State::decode(states.get(txn, state::KEY).unwrap().unwrap()).unwrap();
        state.highest_version = quorate_protocol::id::Version(1);
        states.put(txn, state::KEY, &state.encode()).unwrap();
    });
    assert_eq!(kinds(&report), [ProblemKind::Run]);
    let report = after(|txn, [.., states]| {
        states.put(txn, state::KEY, b"rubble").unwrap();
    });
    assert_eq!((kinds(&report), report.found), (vec![ProblemKind::State], 1));
}

#[test]
fn entries_missing_in_any_table_of_series() {
    for (table, kind) in [
        (1, ProblemKind::Series),
        (2, ProblemKind::Series),
        (3, ProblemKind::Series),
        (4, ProblemKind::Index),
    ] {
        let count = {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path(), tiny());
            let pin = store.inner.open.pin(SHARD).unwrap().unwrap();
            pin.env.write(|txn, tables| Ok(entries(txn, &tables[table]).len())).unwrap()
        };
        for nth in 0..count {
            let report = after(|txn, tables| {
                let key = entries(txn, &tables[table]).swap_remove(nth).0;
                tables[table].delete(txn, &key).unwrap();
            });
            assert!(kinds(&report).contains(&kind), "table {table}: {:?}", report.problems);
        }
    }
}

#[test]
fn entries_too_many_in_any_table_of_series() {
    let report = after(|txn, [_, _, _, keys, ..]| {
        keys.put(txn, b"cpu\0\x01\0\0\0\0\0\0\0\x63", b"").unwrap();
    });
    assert_eq!(kinds(&report), [ProblemKind::Series]);
    let report = after(|txn, [.., index, _]| {
        let (key, _) = entries(txn, index).swap_remove(0);
        let mut key = key;
        let last = key.len() - 1;
        key[last] = 3;
        index.put(txn, &key, b"").unwrap();
    });
    assert_eq!(kinds(&report), [ProblemKind::Index]);
    // A hash and a posting of an id that no series has: an unfinished fold left them.
    let report = after(|txn, [_, series, .., index, _]| {
        series.put(txn, &[7; 12], &99_u64.to_le_bytes()).unwrap();
        let (mut key, _) = entries(txn, index).swap_remove(0);
        let last = key.len() - 1;
        key[last] = 99;
        index.put(txn, &key, b"").unwrap();
    });
    assert!(report.problems.iter().all(|problem| problem.detail.contains("none before it")));
}

#[test]
fn leftovers_of_dead_runs_are_counted() {
    let report = after(|txn, [runs, ..]| {
        for run in [0, 900] {
            let key = BlockKey { run, series: 1, start: 0 }.encode();
            runs.put(txn, &key, &[1; 10]).unwrap();
        }
    });
    assert!(report.is_good());
    assert_eq!((report.garbage_blocks, report.garbage_bytes), (2, 20));
}

#[test]
fn a_report_describes_the_first_problems_only() {
    let report = after(|txn, [runs, ..]| {
        for start in 100..400 {
            runs.put(txn, &BlockKey { run: 1, series: 9, start }.encode(), &[]).unwrap();
        }
    });
    assert_eq!(report.problems.len(), MAX_PROBLEMS);
    assert!(report.found >= 300);
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes"), "not ours").unwrap();
    assert!(matches!(verify_dir(dir.path()), Err(ShardError::BadDirectory { .. })));
    let store = store(dir.path(), tiny());
    assert!(store.scan(SHARD, ScanFilter::default()).is_ok());
    drop(store);
    let path = directory::path(dir.path(), SHARD);
    fs::write(path.join("data.mdb"), vec![1; 8192]).unwrap();
    assert!(matches!(verify_dir(&path), Err(ShardError::Env(_))));
}

#[test]
fn a_shard_that_was_never_finished_is_no_problem_and_one_without_a_table_is() {
    let root = tempfile::tempdir().unwrap();
    let path = directory::path(root.path(), SHARD);
    let check = |what: &str| {
        let report = verify_dir(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(report, VerifyReport::default(), "{what}");
    };
    // Step by step, as a store makes it.
    fs::create_dir(&path).unwrap();
    check("an empty directory");
    fs::write(path.join("format.new"), "QSH").unwrap();
    check("a draft of the marker");
    directory::create(root.path(), &path).unwrap();
    check("a marker");
    for len in [0, 4096] {
        fs::write(path.join("data.mdb"), vec![0; len]).unwrap();
        check(&format!("a file of {len} bytes"));
    }
    fs::remove_file(path.join("data.mdb")).unwrap();
    drop(env::open_env(&path, 1 << 20, 6).unwrap());
    assert!(fs::metadata(path.join("data.mdb")).unwrap().len() > 0);
    check("an environment without a transaction");
    let limits = env::EnvLimits { map_bytes: 1 << 20, max_map_bytes: 1 << 20, readers: 16 };
    drop(Environment::open(&path, limits, ["runs"]).unwrap());
    assert!(matches!(verify_dir(&path), Err(ShardError::BadDirectory { .. })));
}
