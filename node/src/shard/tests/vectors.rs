//! The specification's vectors of the shard formats, in both directions.

use std::{fs, path::Path};

use quorate_protocol::id::{Sequence, Version};

use crate::shard::{
    directory,
    run::BlockKey,
    series,
    state::{Run, State},
};

struct Vector {
    entries: Vec<(String, String)>,
    bytes: Vec<u8>,
}

impl Vector {
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, name: &str) -> T {
        self.all(name).next().unwrap().parse().unwrap()
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The shard vectors of the specification.
fn vectors(kind: &str) -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("SPEC.md")).unwrap();
    let mut found = Vec::new();
    for block in text.split("```vector ").skip(1) {
        let (head, rest) = block.split_once('\n').unwrap();
        if !head.ends_with(&format!(" kind={kind}")) {
            continue;
        }
        let mut vector = Vector {
            entries: Vec::new(),
            bytes: Vec::new(),
        };
        for line in rest.lines().take_while(|line| *line != "```") {
            let (key, value) = line.split_once(": ").unwrap();
            match key {
                "hex" => vector.bytes.extend(unhex(value.trim())),
                _ => vector
                    .entries
                    .push((key.to_owned(), value.trim().to_owned())),
            }
        }
        found.push(vector);
    }
    assert!(!found.is_empty(), "no vectors of kind {kind}");
    found
}

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
        let key = BlockKey {
            run,
            series,
            start: vector.number("start"),
        };
        assert_eq!(key.encode(), *vector.bytes);
        assert_eq!(BlockKey::decode(&vector.bytes), Some(key));
    }
}

#[test]
fn ordered_keys() {
    for vector in vectors("shard-ordered-key") {
        let key = unhex(vector.all("key").next().unwrap());
        assert_eq!(
            series::ordered_entry(&key, vector.number("id")).0,
            vector.bytes
        );
    }
}

#[test]
fn state_records() {
    for vector in vectors("shard-state") {
        let runs = vector.all("run").map(|run| {
            let numbers: Vec<i64> = run
                .split(' ')
                .map(|number| number.parse().unwrap())
                .collect();
            Run {
                id: numbers[0] as u32,
                damaged: numbers[1] == 1,
                blocks: numbers[2] as u64,
                bytes: numbers[3] as u64,
                min_time: numbers[4],
                max_time: numbers[5],
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
