//! The parser against what the reference implementation said about 492 texts.
//!
//! The corpus is `lp_cases.jsonl` in `$QUORATE_DATA`, else in `../shared/data` beside the workspace.
//! Compared are the verdict and the points (key, hash, fields with type and bits, time), never the
//! corpus' `canonical`, which keeps what was written rather than what it means.

// Everything here is a test; clippy only knows the functions that are marked.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, path::PathBuf};

use quorate_protocol::{
    batch::Batch,
    line::{Options, Outcome, Precision, parse_into},
    point::ValueRef,
};
use serde_json::Value as Json;

/// Rows that the labelling build of the reference refused because it was built without unsigned
/// integers, which later versions accept, and so do we. With each row: the unsigned fields we read.
const UNSIGNED: &[(u64, &[(&str, u64)])] = &[
    (174, &[("value", u64::MAX)]),
    (175, &[("value", u64::MAX)]),
    (177, &[("value", 0)]),
    (178, &[("value", 0)]),
    (214, &[("u", 123)]),
    (256, &[("bb", 23)]),
    (408, &[("asdf", 23)]),
    (435, &[("asdf", 23), ("bar", 5)]),
    (437, &[("qux", 9)]),
];

/// Key, hash, time, and fields as `type:bits`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    key: String,
    hash: u64,
    time: i64,
    fields: BTreeMap<String, String>,
}

fn corpus() -> Option<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = std::env::var_os("QUORATE_DATA").map_or(root.join("../shared/data"), PathBuf::from);
    let path = dir.join("lp_cases.jsonl");
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            println!("NOT RUN: no corpus at {} ({error}); set QUORATE_DATA", path.display());
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn show(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Float(value) => format!("float:{:x}", value.to_bits()),
        ValueRef::Integer(value) => format!("int:{value}"),
        ValueRef::Unsigned(value) => format!("uint:{value}"),
        ValueRef::Boolean(value) => format!("bool:{value}"),
        ValueRef::String(value) => format!("string:{}", text(value)),
    }
}

fn rows_of(batch: &Batch) -> Vec<Row> {
    let mut rows = Vec::new();
    for measurement in batch.measurements() {
        for (row, series, time) in measurement.rows() {
            let fields = measurement
                .columns()
                .iter()
                .filter_map(|column| Some((text(column.name()), show(column.get(row)?))));
            rows.push(Row {
                key: text(measurement.series_key(series)),
                hash: measurement.series_hash(series),
                time,
                fields: fields.collect(),
            });
        }
    }
    rows
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(json: &Json) -> T {
    json.as_str().unwrap().parse().unwrap()
}

fn expected_rows(case: &Json) -> Vec<Row> {
    let field = |(name, field): (&String, &Json)| {
        let (kind, value) = (field["type"].as_str().unwrap(), field["value"].as_str().unwrap());
        let value = match kind {
            "float" => {
                let bits = value.rsplit('|').next().unwrap();
                format!("{:x}", u64::from_str_radix(bits, 16).unwrap())
            }
            _ => value.to_owned(),
        };
        (name.clone(), format!("{kind}:{value}"))
    };
    let row = |point: &Json| Row {
        key: point["key"].as_str().unwrap().to_owned(),
        hash: number(&point["hash_id"]),
        time: number(&point["time_ns"]),
        fields: point["fields"].as_object().unwrap().iter().map(field).collect(),
    };
    case["points"].as_array().unwrap().iter().map(row).collect()
}

fn parse(case: &Json) -> (Batch, Outcome) {
    let precision = case["precision"].as_str().unwrap();
    let precision: Precision =
        if precision.is_empty() { Precision::default() } else { precision.parse().unwrap() };
    let options = Options { precision, default_time: number(&case["default_time_ns"]) };
    let mut batch = Batch::new();
    let outcome = parse_into(&mut batch, case["input"].as_str().unwrap().as_bytes(), options);
    (batch, outcome)
}

fn check(case: &Json) -> Result<(), String> {
    let (batch, outcome) = parse(case);
    let verdict = match (outcome.points, outcome.errors.len()) {
        (_, 0) => "ok",
        (0, _) => "err",
        _ => "partial",
    };
    let mut found = rows_of(&batch);
    if found.len() != outcome.points || outcome.lines != outcome.points + outcome.errors.len() {
        return Err(format!("counts do not add up: {outcome:?}"));
    }
    let mut expected = expected_rows(case);
    found.sort();
    expected.sort();
    let id = case["id"].as_u64().unwrap();
    if let Some((_, fields)) = UNSIGNED.iter().find(|(row, _)| *row == id) {
        let unsigned: Vec<Row> = found
            .extract_if(.., |row| row.fields.values().any(|value| value.starts_with("uint:")))
            .collect();
        let [row] = &unsigned[..] else {
            return Err(format!("one unsigned row, not {unsigned:?}"));
        };
        for (name, value) in *fields {
            if row.fields.get(*name) != Some(&format!("uint:{value}")) {
                return Err(format!("{name} is not {value}u in {row:?}"));
            }
        }
        if verdict != "ok" || found != expected {
            return Err(format!("{verdict}: {found:?} instead of {expected:?}"));
        }
        return Ok(());
    }
    if verdict != case["expected"].as_str().unwrap() {
        return Err(format!("{verdict} {:?}", outcome.errors));
    }
    if found != expected {
        return Err(format!("{found:?} instead of {expected:?}"));
    }
    Ok(())
}

#[test]
fn every_case_of_the_corpus_is_read_as_labelled() {
    let Some(corpus) = corpus() else { return };
    let cases: Vec<Json> = corpus.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cases.len(), 492);
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(why) = check(case) {
            wrong.push(format!("{} {:?} ({}): {why}", case["id"], case["input"], case["expected"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn a_bad_line_costs_its_neighbours_nothing() {
    let Some(corpus) = corpus() else { return };
    for case in corpus.lines() {
        let case: Json = serde_json::from_str(case).unwrap();
        let input = case["input"].as_str().unwrap();
        // Quotes that stay open take the following lines with them, as they should.
        if case["expected"] != "err" || input.contains(['"', '\\']) {
            continue;
        }
        let (batch, outcome) = parse(&case);
        if outcome.errors.is_empty() {
            continue;
        }
        assert!(batch.measurements().is_empty(), "something is left of {input:?}");
        let mut batch = Batch::new();
        let text = format!("good v=1 1\n{input}\ngood v=2 2\n");
        let outcome = parse_into(&mut batch, text.as_bytes(), Options::default());
        assert_eq!((outcome.points, batch.rows()), (2, 2), "{input:?}");
        assert_eq!(batch.measurements().len(), 1);
        assert_eq!(batch.measurements()[0].columns().len(), 1);
        for error in &outcome.errors {
            assert!(error.line >= 2 && error.column >= 1);
            assert!(input.contains(&text[error.range.clone()]));
        }
    }
}
