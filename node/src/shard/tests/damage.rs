//! Blocks that have changed on disk: kept aside, counted, and nothing else is lost or wrong.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use super::support::*;
use crate::shard::{
    Config, EnvError, ScanError, ScanFilter, ShardStore,
    env::{EnvLimits, Environment},
};

/// A stored entry and where its value lies in the file: pages that were freed may have it too.
struct Stored {
    key: Vec<u8>,
    at: Vec<usize>,
    len: usize,
}

impl Stored {
    /// Changes bytes of the value, wherever it is.
    fn change(&self, file: &mut [u8], range: Range<usize>, change: impl Fn(u8) -> u8) {
        for at in &self.at {
            file[at + range.start..at + range.end]
                .iter_mut()
                .for_each(|byte| *byte = change(*byte));
        }
    }
}

/// The entries of a table of a shard that nobody has open.
fn stored(root: &Path, table: &str) -> Vec<Stored> {
    let limits = EnvLimits { map_bytes: 1 << 20, max_map_bytes: 1 << 30, readers: 16 };
    let env = Environment::open(&root.join(SHARD.to_string()), limits, [table]).unwrap();
    let entries = env.read(|txn, [table]| {
        let entries = table.iter(txn).unwrap().map(|entry| entry.unwrap());
        let entries = entries.map(|(key, value)| (key.to_vec(), value.to_vec()));
        Ok::<Vec<_>, EnvError>(entries.collect())
    });
    let entries = entries.unwrap();
    drop(env);
    let file = fs::read(data(root)).unwrap();
    let find = |(key, value): (Vec<u8>, Vec<u8>)| {
        let windows = file.windows(value.len()).enumerate();
        let at = windows.filter(|(_, window)| *window == value).map(|(at, _)| at).collect();
        Stored { key, at, len: value.len() }
    };
    entries.into_iter().map(find).collect()
}

fn data(root: &Path) -> PathBuf {
    root.join(SHARD.to_string()).join("data.mdb")
}

fn config() -> Config {
    Config { block_rows: 250, scan_bytes: 4 << 10, ..tiny() }
}

/// Three runs of packed and of solo blocks, and the journal they came from.
fn filled(root: &Path) -> Journal {
    let config = Config { merge_runs: 50, ..config() };
    let (store, mut journal) = (open(config, root), Journal::default());
    for number in 0..3_i64 {
        let mut cells = Vec::new();
        // Packed blocks: of some thousands of rows, whatever a solo one may have.
        for series in 0..200 {
            cells.extend((0..8).map(|time| cell(series, time, (time % 5) as u8, number)));
        }
        cells.extend((0..1500).map(|time| cell(1003, time * 2 + number, 0, time * 0x9e37_79b9)));
        journal.append(&store, SHARD, batch(SHARD, number as u64 + 1, &cells));
        fold(&store, SHARD).unwrap();
    }
    journal
}

/// What a scan finds, and which cells it says may be missing.
fn look(store: &ShardStore) -> (Content, Vec<(bytes::Bytes, i64, i64)>) {
    let (mut found, mut damaged) = (Content::new(), Vec::new());
    for item in store.scan(SHARD, ScanFilter::default()).unwrap() {
        match item {
            Ok(item) => add_rows(&mut found, &item.key, &item.rows),
            Err(ScanError::Damaged { shard, key, from, to }) => {
                assert_eq!(shard, SHARD);
                damaged.push((key, from, to));
            }
            Err(other) => panic!("{other}"),
        }
    }
    (found, damaged)
}

/// Everything is there but what lies within the damage; nothing is there that was never written.
fn assert_rest(
    found: &Content,
    damaged: &[(bytes::Bytes, i64, i64)],
    journal: &Journal,
    model: &Content,
) {
    let within = |key: &bytes::Bytes, time: i64| {
        damaged.iter().any(|(of, from, to)| of == key && *from <= time && time < *to)
    };
    for (at, value) in model.iter().filter(|(at, _)| !within(&at.0, at.1)) {
        assert_eq!(found.get(at), Some(value), "{at:?} is outside of {damaged:?}");
    }
    let one = |(_, batch): &_| {
        let mut one = Content::new();
        add_batch(&mut one, batch);
        one
    };
    let mut records: Option<Vec<Content>> = None;
    // A damaged winner may leave an older value to be seen, within what is said to be damaged.
    for (at, value) in found.iter().filter(|(at, value)| model.get(*at) != Some(*value)) {
        let records = records.get_or_insert_with(|| journal.records.iter().map(one).collect());
        let written = records.iter().any(|record| record.get(at) == Some(value));
        assert!(written, "{at:?} was never written");
    }
}

#[test]
fn any_byte_of_any_block_may_change_and_the_rest_is_served() {
    let original = scratch();
    let journal = filled(original.path());
    let model = journal.content(SHARD);
    let blocks = stored(original.path(), "runs");
    assert!(blocks.len() > 12, "{} blocks", blocks.len());
    let mut luck = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        luck ^= luck << 13;
        luck ^= luck >> 7;
        luck ^= luck << 17;
        luck as usize % below
    };
    for round in 0..if soak() { 1000 } else { 12 } {
        let dir = scratch();
        let path = dir.path().join(SHARD.to_string());
        fs::create_dir(&path).unwrap();
        for name in ["data.mdb", "format"] {
            let from = original.path().join(SHARD.to_string()).join(name);
            fs::copy(from, path.join(name)).unwrap();
        }
        let block = &blocks[next(blocks.len())];
        let mut file = fs::read(data(dir.path())).unwrap();
        // One bit, one byte, or all that follows in the block.
        let at = next(block.len);
        match round % 3 {
            0 => {
                let bit = 1 << next(8);
                block.change(&mut file, at..at + 1, |byte| byte ^ bit);
            }
            1 => {
                let more = 1 + next(255) as u8;
                block.change(&mut file, at..at + 1, |byte| byte.wrapping_add(more));
            }
            _ => block.change(&mut file, at..block.len, |byte| byte ^ 0xa5),
        }
        fs::write(data(dir.path()), &file).unwrap();

        let store = open(config(), dir.path());
        let (found, damaged) = look(&store);
        assert!(!damaged.is_empty(), "round {round}: the damage went unnoticed: {:?}", block.key);
        assert_rest(&found, &damaged, &journal, &model);
        assert!(store.stats().bad_blocks > 0);
        let kept = || fs::read_dir(path.join("quarantine")).unwrap().count();
        let (bad, aside) = (store.stats().bad_blocks, kept());
        assert_eq!(aside as u64, 2 * bad, "a block and a reason each");
        // Merging leaves the damaged run alone, and goes on with the others.
        settle(&store, SHARD).unwrap();
        let again = look(&store);
        assert!(!again.1.is_empty(), "round {round}: the damage was merged away");
        assert_rest(&again.0, &again.1, &journal, &model);
        // New data is taken in and served beside it.
        let mut journal = Journal { records: journal.records.clone() };
        journal.append(&store, SHARD, batch(SHARD, 9, &[cell(2060, 1, 0, 1)]));
        fold(&store, SHARD).unwrap();
        drop(store);
        let store = open(config(), dir.path());
        let (found, damaged) = look(&store);
        assert_rest(&found, &damaged, &journal, &journal.content(SHARD));
        assert_eq!(kept(), aside, "the same block was kept aside twice");
    }
}

#[test]
fn a_shard_whose_files_are_damaged_costs_no_other_shard_anything() {
    let root = scratch();
    let other = quorate_protocol::id::ShardId(8);
    let mut journal = filled(root.path());
    let store = open(config(), root.path());
    journal.append(&store, other, batch(other, 1, &[cell(1, 1, 0, 1)]));
    fold(&store, other).unwrap();
    drop(store);
    let state = stored(root.path(), "state");
    let state = state.into_iter().find(|entry| entry.key == b"state").unwrap();
    let intact = fs::read(data(root.path())).unwrap();
    type Damage = (&'static str, Box<dyn Fn(&mut Vec<u8>)>);
    let damages: [Damage; 4] = [
        ("its state record", Box::new(move |file| state.change(file, 9..10, |byte| byte ^ 1))),
        ("both meta pages", Box::new(|file| file[..8192].fill(0x5a))),
        ("an empty file", Box::new(Vec::clear)),
        ("a file of something else", Box::new(|file| *file = b"something else".repeat(1000))),
    ];
    for (what, damage) in damages {
        let mut file = intact.clone();
        damage(&mut file);
        fs::write(data(root.path()), file).unwrap();
        let store = ShardStore::open(config(), root.path(), crate::executor::Executor::Inline);
        let store = store.unwrap_or_else(|error| panic!("{what} keeps the store closed: {error}"));
        assert_content(&scan(&store, other), &journal.content(other));
        // The damaged one may be empty or refuse; it may not invent anything.
        if let Ok(found) = scan_with(&store, SHARD, ScanFilter::default()) {
            let model = journal.content(SHARD);
            assert!(found.is_empty() || found == model, "{what}: {} cells", found.len());
        }
        journal.append(&store, other, batch(other, 2, &[cell(1, 2, 0, 1)]));
        fold(&store, other).unwrap();
        assert_content(&scan(&store, other), &journal.content(other));
    }
}
