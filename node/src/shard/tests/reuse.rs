//! Space that is freed is used again.

use std::fs;

use super::support::*;
use crate::shard::Config;

/// The same points, rewritten: while a merge works its old runs are still there, and pages are used
/// again two transactions after they were freed. What is bounded is the largest size of the file.
const BOUND: f64 = 4.0;

#[test]
fn a_shard_rewritten_ten_times_over_does_not_grow_without_bound() {
    let dir = scratch();
    let config =
        Config { merge_runs: 2, map_bytes: 1 << 20, txn_bytes: 32 << 10, ..Config::default() };
    let store = open(config, dir.path());
    let mut journal = Journal::default();
    let size = || fs::metadata(dir.path().join("7/data.mdb")).unwrap().len();
    let (mut first, mut sizes) = (0, Vec::new());
    for round in 0..if soak() { 100 } else { 10 } {
        for part in 0..4 {
            let cells: Vec<_> = (0..2000)
                .map(|row| {
                    let noise = (row * 0x9e37 + round * 77) % 0xffff;
                    cell((row % 8 * 5 + 2) as u16, part * 250 + row / 8, 0, noise)
                })
                .collect();
            journal.append(&store, SHARD, batch(SHARD, 1 + round as u64, &cells));
            fold(&store, SHARD).unwrap();
        }
        settle(&store, SHARD).unwrap();
        if round == 0 {
            first = size();
        }
        sizes.push(size());
    }
    assert_content(&scan(&store, SHARD), &journal.content(SHARD));
    let largest = *sizes.iter().max().unwrap();
    assert!(largest as f64 <= BOUND * first as f64, "{sizes:?}");
    // And it has stopped growing long before the end.
    let half = sizes.len() / 2;
    let early = *sizes[..half].iter().max().unwrap();
    assert!(largest as f64 <= 1.25 * early as f64, "{sizes:?}");
    eprintln!("bytes after each rewrite: {sizes:?}");
}
