//! The winner of every field: the same on every replica, whatever the order of arrival.
//!
//! Once pure, with many cases, against a model that is a map; once on three whole nodes that are
//! given the same batches in different orders, before, between and after folds.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use quorate_client::WriteOptions;
use quorate_protocol::{
    batch::Column,
    consistency::Level,
    id::{FieldId, NodeId, Version},
    point::{Point, Value, text::write_line},
    rows::Rows,
    schema::FieldType,
};
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::{simulated, soak},
    load::{EPOCH, write},
    observe::{create_database, exports},
    raw::{Raw, encode, send},
};

/// Fields of the rows: name and type.
const FIELDS: [(&str, FieldType); 3] =
    [("a", FieldType::Integer), ("b", FieldType::Float), ("c", FieldType::String)];

/// One write of one row: version, time, a value for some of the fields.
#[derive(Clone, Debug)]
struct Put {
    version: u64,
    time: i64,
    values: [Option<i8>; 3],
}

fn value(field: usize, drawn: i8) -> Value {
    match FIELDS[field].1 {
        FieldType::Integer => Value::Integer(drawn.into()),
        FieldType::Float => Value::Float(f64::from(drawn)),
        _ => Value::String(drawn.to_string().into()),
    }
}

/// Some values of one row, at least one.
fn values() -> impl Strategy<Value = [Option<i8>; 3]> {
    // Few values, so that ties of version and value occur.
    let cell = || prop::option::weighted(0.7, -2..3_i8);
    [cell(), cell(), cell()].prop_filter("a row has a field", |row| row.iter().any(Option::is_some))
}

/// Three writes of each of two rows; versions may be equal.
fn puts() -> impl Strategy<Value = Vec<Put>> {
    let put = |time: i64| {
        (1..4_u64, values()).prop_map(move |(version, values)| Put { version, time, values })
    };
    (prop::collection::vec(put(10), 3), prop::collection::vec(put(20), 3))
        .prop_map(|(a, b)| a.into_iter().zip(b).flat_map(|(a, b)| [a, b]).collect())
}

/// The model: of every cell the highest (version, canonical value), seen one by one.
fn model(puts: &[Put]) -> BTreeMap<i64, BTreeMap<&'static str, Value>> {
    let mut winners: BTreeMap<(i64, usize), (u64, Value)> = BTreeMap::new();
    for put in puts {
        for (field, drawn) in put.values.iter().enumerate() {
            let Some(drawn) = drawn else { continue };
            let new = (put.version, value(field, *drawn));
            let old = winners.get(&(put.time, field));
            let wins = old.is_none_or(|(version, value)| {
                new.0.cmp(version).then_with(|| new.1.canonical_cmp(value)).is_gt()
            });
            if wins {
                winners.insert((put.time, field), new);
            }
        }
    }
    let mut rows: BTreeMap<i64, BTreeMap<&'static str, Value>> = BTreeMap::new();
    for ((time, field), (_, value)) in winners {
        rows.entry(time).or_default().insert(FIELDS[field].0, value);
    }
    rows
}

/// One write as rows of its own.
fn rows(put: &Put) -> Rows {
    let columns = put.values.iter().enumerate().filter_map(|(field, drawn)| {
        let (name, kind) = FIELDS[field];
        let id = FieldId(u32::try_from(field).unwrap() + 1);
        let mut column = Column::new(id, Bytes::from_static(name.as_bytes()), kind);
        column.present.push(true);
        assert!(column.values.push(value(field, (*drawn)?)));
        Some(column)
    });
    Rows { times: vec![put.time], versions: vec![Version(put.version)], columns: columns.collect() }
}

/// What people would see of rows.
fn seen(rows: Rows) -> BTreeMap<i64, BTreeMap<&'static str, Value>> {
    let rows = rows.collapse();
    let mut out: BTreeMap<i64, BTreeMap<&'static str, Value>> = BTreeMap::new();
    for (at, time) in rows.times.iter().enumerate() {
        let row = out.entry(*time).or_default();
        for column in &rows.columns {
            let name = FIELDS[column.field.0 as usize - 1].0;
            if let Some(value) = column.get(at) {
                row.insert(name, value.to_value());
            }
        }
    }
    out
}

/// All orders of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for next in 0..n {
        all = all
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, next);
                    longer
                })
            })
            .collect();
    }
    all
}

fn runner(cases: usize) -> TestRunner {
    let config = Config {
        cases: u32::try_from(cases).unwrap(),
        failure_persistence: None,
        ..Config::default()
    };
    // The same cases in every run.
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn rows_merge_to_the_model_in_every_order_and_grouping() {
    let orders = orders(3);
    runner(soak(400))
        .run(&puts(), |puts| {
            let expected = model(&puts);
            // A write is one batch: its rows at both times travel together.
            let batches: Vec<Rows> =
                puts.chunks(2).map(|pair| Rows::merge(pair.iter().map(rows).collect())).collect();
            for order in &orders {
                let [a, b, c] = [0, 1, 2].map(|at| batches[order[at]].clone());
                let flat = Rows::merge(vec![a.clone(), b.clone(), c.clone()]);
                let left = Rows::merge(vec![Rows::merge(vec![a.clone(), b.clone()]), c.clone()]);
                let right = Rows::merge(vec![a.clone(), Rows::merge(vec![b, c.clone()])]);
                let again = Rows::merge(vec![left.clone(), a, flat.clone(), c]);
                prop_assert_eq!(&flat, &left);
                prop_assert_eq!(&flat, &right);
                prop_assert_eq!(&flat, &again, "delivering twice changes something");
                prop_assert_eq!(&seen(flat), &expected);
            }
            Ok(())
        })
        .unwrap();
}

fn point(series: usize, put: &Put) -> Point {
    let mut builder = Point::builder("rows").tag("series", format!("s{series:03}"));
    for (field, drawn) in put.values.iter().enumerate() {
        if let Some(drawn) = drawn {
            builder = builder.field(FIELDS[field].0, value(field, *drawn));
        }
    }
    builder.at(EPOCH + put.time).unwrap()
}

#[test]
fn replicas_equal_the_model_in_every_order_of_three_versions() {
    let mut runner = runner(1);
    let count = soak(12);
    // One series per case, all in one cluster.
    let cases: Vec<Vec<Put>> =
        (0..count).map(|_| puts().new_tree(&mut runner).unwrap().current()).collect();
    simulated(async {
        let mut cluster = Cluster::simulated(3, 51).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        // Registers the fields and the group; another series than the cases'.
        let ledger = Ledger::new();
        let first = Put { version: 0, time: 0, values: [Some(0); 3] };
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[point(count, &first)], &all, &ledger).await.unwrap();

        let raw = Raw::new(cluster.client_env(), cluster.client_credentials("raw"));
        let map = client.map();
        let base = 1_700_000_000_000_000_000;
        let orders = orders(3);
        for (replica, node) in cluster.ids().into_iter().enumerate() {
            let connection = raw.connect(&map, node).await;
            for (series, puts) in cases.iter().enumerate() {
                // Another order on every replica, all orders over the cases; a fold at another
                // place on every one, too.
                let order = &orders[(series + replica * 2) % orders.len()];
                for (step, at) in order.iter().enumerate() {
                    for put in &puts[at * 2..at * 2 + 2] {
                        let version = Version(base + put.version);
                        let (request, bytes) = encode(&map, "db", &[point(series, put)], version);
                        let written = send(&connection, &request, &bytes).await;
                        assert_eq!(written.copy.unwrap().error, None);
                    }
                    if (series + replica) % 3 == step {
                        cluster.node(node).fold().await;
                    }
                }
            }
        }
        let expected = expected_export(&cases, count, &first);
        for (node, text) in exports(&client, "db", &cluster.ids()).await {
            assert_eq!(text, expected, "node {node}");
        }
        for node in cluster.ids() {
            cluster.node(node).fold().await;
        }
        for (node, text) in exports(&client, "db", &cluster.ids()).await {
            assert_eq!(text, expected, "node {node}, folded");
        }
        assert_eq!(cluster.ids().len(), usize::try_from(NodeId(3).0).unwrap());
        cluster.finish().await;
    });
}

/// The export that the model predicts.
fn expected_export(cases: &[Vec<Put>], count: usize, first: &Put) -> String {
    let mut out = Vec::new();
    let with_first =
        cases.iter().map(|puts| model(puts)).chain([model(std::slice::from_ref(first))]);
    for (series, rows) in with_first.enumerate() {
        assert!(series <= count);
        for (time, row) in rows {
            let key = format!("rows,series=s{series:03}");
            let fields = row.iter().map(|(name, value)| (name.as_bytes(), value.as_ref()));
            write_line(&mut out, key.as_bytes(), fields, EPOCH + time);
            out.push(b'\n');
        }
    }
    String::from_utf8(out).unwrap()
}
