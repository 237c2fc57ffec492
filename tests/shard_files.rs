//! Files of a shard that something else has changed, and disks with hardly any room: in processes
//! of their own, because LMDB reads its files through memory and believes its own pages.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output},
};

use quorate_node::shard::Config;
use quorate_protocol::id::{Sequence, ShardId};
use quorate_tests::harness::{
    limit::{real, soak},
    shard::{Content, add_batch, batch, open},
    small_disk::SmallDisk,
};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-shard-under-test");
const SHARD: ShardId = ShardId(7);

fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn run(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).output().unwrap()
}

/// Some runs of packed blocks and larger ones; what they hold.
async fn fill(dir: &Path) -> Content {
    let config = Config { merge_runs: 50, block_rows: 512, ..Config::default() };
    let store = open(config, dir).unwrap();
    let mut content = Content::new();
    for number in 1..=3_u64 {
        let times = number as i64 % 2;
        for (part, batch) in
            [batch(SHARD, 2 * number, times, 60, 5), batch(SHARD, 2 * number + 1, 50, 2, 400)]
                .into_iter()
                .enumerate()
        {
            add_batch(&mut content, &batch);
            store.accept(SHARD, Sequence(2 * number + part as u64), batch).unwrap();
        }
        store.flush(SHARD).await.unwrap();
    }
    content
}

/// What became of a scan of changed files.
#[derive(Debug, Default)]
struct Outcomes {
    /// Nothing that a scan reads was hit.
    whole: usize,
    /// Damage was reported, or the scan refused.
    told: usize,
    /// LMDB took the process with it.
    ended: usize,
    /// Something is missing or wrong and nobody said so.
    silent: usize,
}

#[test]
fn bytes_changed_anywhere_in_the_file_are_never_served_as_values() {
    real(async {
        let dir = scratch();
        let model = fill(dir.path()).await;
        let data = Path::new("7/data.mdb");
        let intact = fs::read(dir.path().join(data)).unwrap();
        let mut luck = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            luck ^= luck << 13;
            luck ^= luck >> 7;
            luck ^= luck << 17;
            luck as usize % below
        };
        let mut outcomes = Outcomes::default();
        for round in 0..soak(40) {
            let copy = scratch();
            fs::create_dir(copy.path().join("7")).unwrap();
            fs::copy(dir.path().join("7/format"), copy.path().join("7/format")).unwrap();
            let mut file = intact.clone();
            let at = next(file.len());
            // A bit, or a piece of a page as a broken disk would return it.
            if round % 2 == 0 {
                file[at] ^= 1 << next(8);
            } else {
                let end = (at + 1 + next(512)).min(file.len());
                file[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31) ^ 0x5c);
            }
            fs::write(copy.path().join(data), &file).unwrap();
            let output = run(&["scan", copy.path().to_str().unwrap(), "7"]);
            if !output.status.success() {
                // Only by LMDB: this software does not panic.
                let stderr = String::from_utf8_lossy(&output.stderr);
                let own = stderr.contains("panicked") && !stderr.contains("/heed-");
                assert!(!own, "a change at {at}: {stderr}");
                assert!(output.status.signal().is_some(), "{output:?}");
                outcomes.ended += 1;
                continue;
            }
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            if found.get("error").is_some() {
                outcomes.told += 1;
                continue;
            }
            let cells = found["cells"].as_object().unwrap();
            for (at_cell, value) in cells {
                // What is served was written: of that row, that field, that version.
                let version = value[0].as_u64().unwrap();
                let text = value[1].as_str().unwrap();
                let known = model.get(at_cell);
                let newest = known.is_some_and(|known| known.0.0 == version && known.1 == text);
                let older = known.is_some_and(|known| version < known.0.0);
                assert!(newest || older, "a change at {at} invents {at_cell}: {value}");
            }
            match (cells.len() == model.len(), found["damaged"].as_u64().unwrap()) {
                (_, 1..) => outcomes.told += 1,
                (true, _) => outcomes.whole += 1,
                (false, _) => outcomes.silent += 1,
            }
        }
        println!("{outcomes:?}");
        assert!(outcomes.told > 0, "nothing that matters was hit: {outcomes:?}");
        assert_eq!(outcomes.silent, 0, "{outcomes:?}");
    });
}

#[test]
fn a_disk_with_any_little_room_left_never_ends_the_process() {
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    let root = disk.path().join("shards");
    let words = |shard: &str| run(&["fold", root.to_str().unwrap(), shard]);
    assert!(words("1").status.success());
    let mut refused = 0;
    // Page by page: what is tried first finds no room at each of them in turn.
    for pages in 0..40_u64 {
        let shard = (pages + 2).to_string();
        disk.leave(pages * 4096);
        let output = words(&shard);
        assert!(
            output.status.success(),
            "{pages} pages left: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        if !answer["error"].is_null() {
            refused += 1;
            assert_eq!(answer["retryable"], true, "{answer}");
        }
        disk.clear();
        // With room, the same shard is made after all, whatever is left of the attempt.
        let output = words(&shard);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(answer["error"].is_null(), "{pages} pages left, then room: {answer}");
        fs::remove_dir_all(root.join(&shard)).unwrap();
    }
    assert!(refused > 5, "there was always room");
}
