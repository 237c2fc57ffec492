//! Images of the files as a crash leaves them, cut at every step of folds and merges.
//!
//! A kill leaves the files as they were written so far. A power cut may also leave any part of what
//! was written since the last completed sync: the newest page of meta data not there yet, some of
//! the data pages, a shorter file. Each image is opened, given the journal, and held against the
//! model.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use quorate_protocol::id::Sequence;

use super::support::*;
use crate::shard::fault::Step;

const PAGE: usize = 4096;

/// All files of a store, but not those that only matter to running processes.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a crash at one step leaves, and what was known by then.
#[derive(Clone)]
struct Image {
    step: Step,
    files: Files,
    /// What the journal may have forgotten.
    released: Sequence,
    /// How many records were accepted.
    records: usize,
}

fn read(root: &Path, at: &Path, files: &mut Files) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, files);
        } else if path.file_name().is_none_or(|name| name != "lock.mdb") {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

fn write(root: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Images at every step of some folds and merges, and what the journal held in the end.
fn images() -> (Vec<Image>, Journal) {
    let dir = scratch();
    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, root) = (Arc::clone(&images), dir.path().to_owned());
    let accepted = Arc::new(Mutex::new(0));
    let records = Arc::clone(&accepted);
    let (store, visitor) = Visitor::open(tiny(), dir.path(), move |store, step| {
        let mut files = Files::new();
        read(&root, &root, &mut files);
        let records = *records.lock().unwrap();
        let released = store.applied_through();
        taken.lock().unwrap().push(Image { step, files, released, records });
    });
    let mut journal = Journal::default();
    for number in 0..8_u64 {
        let cells: Vec<_> = (0..20)
            .map(|at| {
                let series = (at * 7 + number as u16 * 3) % 14;
                cell(series, i64::from(at % 6), (at % 5) as u8, number as i64)
            })
            .collect();
        journal.append(&store, SHARD, batch(SHARD, number * 5 % 8 + 1, &cells));
        *accepted.lock().unwrap() += 1;
        if number % 2 == 1 {
            fold(&store, SHARD).unwrap();
        }
        if number % 4 == 3 {
            settle(&store, SHARD).unwrap();
            now(store.densify(SHARD)).unwrap();
        }
    }
    visitor.detach();
    let images = images.lock().unwrap().clone();
    (images, journal)
}

/// Opens what the crash left and gives it the journal, as a node does.
fn check(files: &Files, image: &Image, journal: &Journal, what: &str) {
    let dir = scratch();
    write(dir.path(), files);
    let store = open(tiny(), dir.path());
    assert_whole(&store);
    let known = Journal { records: journal.records[..image.records].to_vec() };
    let model = known.content(SHARD);
    known.replay(&store, image.released);
    let before = scan_with(&store, SHARD, Default::default());
    assert!(before.is_ok(), "{what}: {before:?}");
    assert_content(&before.unwrap(), &model);
    fold(&store, SHARD).unwrap();
    settle(&store, SHARD).unwrap();
    assert_content(&scan(&store, SHARD), &model);
    drop(store);
    assert_content(&scan(&open(tiny(), dir.path()), SHARD), &model);
}

#[test]
fn a_kill_at_any_step_leaves_an_image_that_has_everything() {
    let (images, journal) = images();
    for step in [
        Step::Commit,
        Step::Committed,
        Step::Flip,
        Step::Flipped,
        Step::Deleted,
        Step::DenseWritten,
        Step::Replace,
        Step::Replaced,
    ] {
        assert!(images.iter().any(|image| image.step == step), "no image at {step:?}");
    }
    for (at, image) in images.iter().enumerate() {
        check(&image.files, image, &journal, &format!("step {at}, {:?}", image.step));
    }
}

/// What a dense pass replaces is large, and freed a piece at a time when everybody can go on.
#[test]
fn what_a_dense_pass_replaces_is_kept_until_it_can_be_freed_gently() {
    let (images, _) = images();
    let file = |image: &Image, end: &str| {
        let found = image.files.iter().find(|(name, _)| name.ends_with(end));
        found.map(|(_, bytes)| bytes.clone())
    };
    let mut passes = 0;
    for pair in images.windows(2) {
        let [before, after] = pair else { unreachable!() };
        if after.step == Step::Replaced {
            let old = before.files.iter().find(|(name, _)| {
                name.ends_with("data.mdb") && !name.parent().unwrap().ends_with("dense.new")
            });
            assert_eq!(file(after, "old.mdb").as_ref(), old.map(|(_, bytes)| bytes));
            passes += 1;
        } else {
            assert!(file(after, "old.mdb").is_none(), "{:?}", after.step);
        }
    }
    assert_eq!(passes, 2);
}

/// The transaction of each of LMDB's two meta pages, which are the first of the file.
fn meta_txns(data: &[u8]) -> [u64; 2] {
    // A page header of 16 bytes; then the meta data, which ends with the transaction's id.
    let txn = |page: usize| {
        let at = page * PAGE + 16 + 128;
        u64::from_le_bytes(data[at..at + 8].try_into().unwrap())
    };
    [txn(0), txn(1)]
}

/// A power cut between two images that one transaction lies between: nothing says that it was
/// committed, and some of its pages are there.
fn torn(before: &[u8], after: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut luck = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // The file may end where it did, where it would, or on any page between.
    let more = after.len().saturating_sub(before.len()) / PAGE;
    let len = before.len() + luck() as usize % (more + 1) * PAGE;
    let mut torn = before.to_vec();
    torn.resize(len.max(before.len()), 0);
    for page in 2..after.len().min(len) / PAGE {
        let range = page * PAGE..(page + 1) * PAGE;
        if luck() % 2 == 0 {
            torn[range.clone()].copy_from_slice(&after[range]);
        }
    }
    torn
}

#[test]
fn a_power_cut_within_any_transaction_leaves_the_one_before_it() {
    let (images, journal) = images();
    let mut cuts = 0;
    for (at, pair) in images.windows(2).enumerate() {
        let [before, after] = pair else { unreachable!() };
        let changed = |name: &&PathBuf| before.files.get(*name) != after.files.get(*name);
        let names: Vec<_> = after.files.keys().filter(changed).collect();
        for name in names.into_iter().filter(|name| name.ends_with("data.mdb")) {
            let Some(old) = before.files.get(name) else { continue };
            let new = &after.files[name];
            let (was, is) = (meta_txns(old), meta_txns(new));
            let newest = was.into_iter().max().unwrap();
            if after.step == Step::Replaced {
                continue;
            }
            assert_eq!(is.into_iter().max(), Some(newest + 1), "more than one transaction");
            for seed in 0..if soak() { 50 } else { 3 } {
                let mut image = before.clone();
                image.files.insert(name.clone(), torn(old, new, seed + 100 * at as u64));
                check(&image.files, &image, &journal, &format!("within step {at}, seed {seed}"));
                cuts += 1;
            }
            // All of its pages, and the old meta data.
            let mut image = before.clone();
            let mut data = new.clone();
            data[..2 * PAGE].copy_from_slice(&old[..2 * PAGE]);
            image.files.insert(name.clone(), data);
            check(&image.files, &image, &journal, &format!("at the end of step {at}"));
        }
    }
    // What a dense pass has not synced may be of any length, or not there.
    let drafts = |image: &Image| -> Vec<PathBuf> {
        let known = |name: &&PathBuf| !name.ends_with("data.mdb") && !name.ends_with("format");
        image.files.keys().filter(known).cloned().collect()
    };
    for image in images.iter().filter(|image| image.step != Step::Replace) {
        for name in drafts(image) {
            for len in [0, 1, PAGE, 3 * PAGE + 7] {
                let mut image = image.clone();
                image.files.get_mut(&name).unwrap().truncate(len);
                check(&image.files, &image, &journal, &format!("{len} bytes of {name:?}"));
                cuts += 1;
            }
        }
    }
    assert!(cuts > 60, "{cuts} transactions were cut");
}
