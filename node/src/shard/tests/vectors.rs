//! The specification's vectors of the shard formats, in both directions.

use std::fs;

use quorate_protocol::id::{Sequence, Version};

use crate::{
    shard::{
        directory,
        run::BlockKey,
        series,
        state::{Run, State},
    },
    spec::{unhex, vectors},
};

#[test]
fn markers() {
    for vector in vectors("shard-marker") {
        assert_eq!(vector.number::<u32>("format"), directory::FORMAT);
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("1");
        directory::create(root.path(), &path).unwrap();
        assert_eq!(fs::read(path.join("format")).unwrap(), vector.bytes);
    }
}

#[test]
fn block_keys() {
    for vector in vectors("shard-block-key") {
        let (run, series) = (vector.number("run"), vector.number("series"));
        let key = BlockKey { run, series, start: vector.number("start") };
        assert_eq!(key.encode(), *vector.bytes);
        assert_eq!(BlockKey::decode(&vector.bytes), Some(key));
    }
}

#[test]
fn ordered_keys() {
    for vector in vectors("shard-ordered-key") {
        let key = unhex(vector.one("key"));
        assert_eq!(series::ordered_entry(&key, vector.number("id")).0, vector.bytes);
    }
}

#[test]
fn state_records() {
    for vector in vectors("shard-state") {
        let runs = vector.all("run").into_iter().map(|run| {
            let numbers: Vec<i64> = run.split(' ').map(|number| number.parse().unwrap()).collect();
            Run {
                id: numbers[0] as u32,
                damaged: numbers[1] == 1,
                dense: numbers[2] == 1,
                blocks: numbers[3] as u64,
                rows: numbers[4] as u64,
                bytes: numbers[5] as u64,
                min_time: numbers[6],
                max_time: numbers[7],
            }
        });
        let state = State {
            applied: Sequence(vector.number("applied")),
            highest_version: Version(vector.number("highest_version")),
            runs: runs.collect(),
        };
        assert_eq!(state.encode(), vector.bytes);
        assert_eq!(State::decode(&vector.bytes), Some(state));
    }
}
