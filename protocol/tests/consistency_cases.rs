//! The decision grid of the system this descends from, row by row, against the ack tracker.
//!
//! Where the tracker decides otherwise, [`Differs`] names it with the reason; everything else must agree, and a
//! failure must be called definite exactly when nothing of the write can appear later.

// Everything here is a test; clippy only knows the functions that are marked.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::PathBuf;

use quorate_protocol::consistency::{Copy, Level, Tracker, Verdict};
use serde_json::Value;

/// Where the design differs from the grid on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Differs {
    /// An owner hangs and the level is out of reach whatever it answers: there the caller heard of it when its
    /// timeout was over, here at once, since an application can do something about it (F23).
    ToldAtOnce,
    /// The level hangs on owners that hang: there that is a timeout, here no verdict. The caller's deadline is not
    /// the tracker's business, and on a live cluster silence ends before it (`tests/grid.rs`).
    NotDecidedHere,
}

/// How many rows each difference has: no other row may differ.
const DIFFERENCES: [(Differs, usize); 2] =
    [(Differs::ToldAtOnce, 201), (Differs::NotDecidedHere, 219)];

fn rows() -> Option<Vec<Value>> {
    let shared = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let dir = std::env::var_os("QUORATE_DATA").map_or(shared, PathBuf::from);
    let path = dir.join("consistency_cases.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("NOTE: no conformance rows at {}; set QUORATE_DATA to run them", path.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn every_row_of_the_grid() {
    let Some(rows) = rows() else { return };
    let (mut seen, mut differences) = (0, Vec::new());
    for row in rows.iter().filter(|row| row["kind"] == "grid") {
        let level: Level = row["consistency"].as_str().unwrap().parse().unwrap();
        let owners = row["owners"].as_u64().unwrap() as usize;
        assert_eq!(level.required(owners) as u64, row["required"].as_u64().unwrap(), "{row}");

        let mut tracker = Tracker::new(level, owners, 1);
        let outcomes: Vec<&str> =
            row["outcomes"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
        for (owner, outcome) in outcomes.iter().enumerate() {
            match *outcome {
                "ok" => tracker.copy(owner, Copy::Stored),
                "hang" => tracker.verdict(),
                "retry" | "retry_hhfull" | "conflict" => tracker.copy(owner, Copy::Refused),
                other => panic!("unknown outcome {other}"),
            };
        }
        let hints = row["v0_11_hints_queued"].as_u64().unwrap();
        (0..hints).for_each(|_| {
            tracker.hinted();
        });
        tracker.no_more_hints();

        let count = |what: &str| outcomes.iter().filter(|outcome| **outcome == what).count();
        let (stored, hanging) = (count("ok"), count("hang"));
        let differs = match row["v0_11_result"].as_str().unwrap() {
            "timeout" if stored + hanging >= level.required(owners) => {
                Some(Differs::NotDecidedHere)
            }
            "timeout" => Some(Differs::ToldAtOnce),
            _ => None,
        };
        let expected = match (differs, row["v0_11_result"] == "success") {
            (Some(Differs::NotDecidedHere), _) => Verdict::Waiting,
            (None, true) => Verdict::Reached,
            (Some(Differs::ToldAtOnce), _) | (None, false) => Verdict::Impossible,
        };
        differences.extend(differs);
        assert_eq!(tracker.verdict(), expected, "{row}");
        if expected == Verdict::Impossible {
            assert_eq!(tracker.definite(), stored + hanging == 0 && hints == 0, "{row}");
        }
        seen += 1;
    }
    assert_eq!(seen, 1224);
    for (differs, rows) in DIFFERENCES {
        let found = differences.iter().filter(|one| **one == differs).count();
        assert_eq!(found, rows, "{differs:?}");
    }
}

#[test]
fn every_named_row() {
    let Some(rows) = rows() else { return };
    for row in rows.iter().filter(|row| row["kind"] == "named") {
        if row["name"] == "write to non-existent database" {
            continue; // Not a question of levels: such a write fails before it has shards.
        }
        let level: Level = row["consistency"].as_str().unwrap().parse().unwrap();
        let errors = row["owner_errors"].as_array().unwrap();
        let mut tracker = Tracker::new(level, errors.len(), 1);
        for (owner, error) in errors.iter().enumerate() {
            if error.is_null() {
                tracker.copy(owner, Copy::Stored);
            } else {
                tracker.copy(owner, Copy::Refused);
                tracker.hinted();
            }
        }
        tracker.no_more_hints();
        let ok = tracker.verdict() == Verdict::Reached;
        assert_eq!(ok, row["expected_error"].is_null(), "{row}");
    }
}
