//! Placement against the reference system's own answers, in `shardgroup_vectors.jsonl`.
//!
//! The file lies in `$QUORATE_DATA`, else in `../shared/data` beside the workspace; where it is
//! absent the test says so and passes.

#![allow(missing_docs, clippy::print_stdout)]

use std::path::PathBuf;

use quorate_protocol::{
    hash::series_hash,
    id::{Epoch, GroupId, ShardId},
    map::{Group, Shard},
    placement::{default_group_duration, group_bounds},
};
use serde_json::Value;

fn vectors() -> Option<String> {
    let dir = std::env::var_os("QUORATE_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = dir.join("shardgroup_vectors.jsonl");
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        println!("note: {} is absent, nothing compared", path.display());
    }
    text
}

fn number<T: std::str::FromStr>(row: &Value, key: &str) -> Option<T> {
    row[key].as_str()?.parse().ok()
}

fn group(shards: u64) -> Group {
    let shard = |id| Shard { id: ShardId(id), epoch: Epoch(1), owners: Vec::new() };
    let shards = (0..shards).map(shard).collect();
    Group { id: GroupId(1), start: 0, end: 1, shards, truncation: None }
}

#[test]
fn placement_agrees_with_the_reference() {
    let Some(text) = vectors() else { return };
    let mut rows = [0usize; 3];
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        match row["kind"].as_str().unwrap() {
            "truncate" => {
                rows[0] += 1;
                let time: i64 = number(&row, "time_ns").unwrap();
                let duration = number(&row, "duration_ns").unwrap();
                let (start, end) = group_bounds(time, duration);
                // A bound that the row does not give in ns is outside the range of times.
                let clamped = |bound: i64| bound == i64::MIN || bound == i64::MAX;
                match number::<i64>(&row, "start_ns") {
                    Some(expected) => assert_eq!(start, expected, "{line}"),
                    None => assert!(clamped(start) || clamped(end), "{line}"),
                }
                match number::<i64>(&row, "end_ns") {
                    Some(expected) => assert_eq!(end, expected, "{line}"),
                    None => assert!(clamped(start) || clamped(end), "{line}"),
                }
            }
            "default_shard_group_duration" => {
                rows[1] += 1;
                let duration = number(&row, "rp_duration_ns").unwrap();
                let expected: u64 = number(&row, "shard_group_duration_ns").unwrap();
                assert_eq!(default_group_duration(duration), expected, "{line}");
            }
            "hash" => {
                rows[2] += 1;
                let hash = series_hash(row["key"].as_str().unwrap().as_bytes());
                assert_eq!(Some(hash), number(&row, "fnv1a64"), "{line}");
                for (shards, index) in row["shard_index_by_n"].as_object().unwrap() {
                    let group = group(shards.parse().unwrap());
                    let shard = group.shard_for(hash).unwrap();
                    assert_eq!(Some(shard.id.0), index.as_u64(), "{line}");
                }
            }
            other => panic!("unknown kind {other}"),
        }
    }
    assert!(rows.iter().all(|count| *count > 0), "{rows:?}");
}
