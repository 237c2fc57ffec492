//! Batches that are filled by handles of series: they hold what the same points would make.

// Everything here is a test; clippy only knows the functions that are marked.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::{
    batch::{
        Batch, CellSlice, EncodedBatch, FillError, Layout, PartHeader, Selection, encode_part,
    },
    id::{FieldId, Version},
    point::{MAX_KEY_LEN, MAX_STRING_LEN, MAX_TIME, Part, Point, PointError, Value},
    rows::Rows,
    schema::FieldType,
};

const NAMES: [&str; 5] = ["float", "integer", "unsigned", "boolean", "string"];
const KINDS: [FieldType; 5] = [
    FieldType::Float,
    FieldType::Integer,
    FieldType::Unsigned,
    FieldType::Boolean,
    FieldType::String,
];

fn field_id(_: &[u8], name: &[u8], _: FieldType) -> Option<FieldId> {
    let at = NAMES.iter().position(|field| field.as_bytes() == name)?;
    u32::try_from(at + 1).ok().map(FieldId)
}

fn encode(batch: &Batch) -> Bytes {
    let header = PartHeader { version: Version(7), ..PartHeader::default() };
    encode_part(batch, &header, Selection::All, &field_id).unwrap()
}

/// Key, hash and rows of every series.
fn decode(part: Bytes) -> Vec<(Bytes, u64, Rows)> {
    EncodedBatch::parse(part).unwrap().decode().unwrap().into_rows().collect()
}

/// The columns in the orders that the two layouts of a measurement have them in.
const ORDERS: [[usize; 5]; 2] = [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]];

fn layout(measurement: usize, order: usize) -> Layout {
    let builder = Layout::builder(format!("m, {measurement}"));
    let builder =
        ORDERS[order].iter().fold(builder, |builder, at| builder.column(NAMES[*at], KINDS[*at]));
    builder.build().unwrap()
}

type Row = (usize, usize, i64, [Option<Value>; 5]);

/// What is added at once.
#[derive(Clone, Debug)]
enum Step {
    /// One row: layout (measurement, order), host, time, values by field.
    Row(usize, usize, Row),
    Points(Vec<Row>),
    Series(usize, usize, Vec<Row>),
    Columns(usize, usize, Vec<Row>),
}

fn row() -> impl Strategy<Value = Row> {
    let values = (
        prop::option::of(prop_oneof![
            (-50_i32..50).prop_map(f64::from),
            prop::num::f64::NORMAL | prop::num::f64::ZERO
        ]),
        prop::option::of(any::<i64>()),
        prop::option::of(any::<u64>()),
        prop::option::of(any::<bool>()),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..5)),
    );
    (0_usize..2, 0_usize..4, -3_i64..3, values).prop_filter_map(
        "no fields",
        |(measurement, host, time, (float, integer, unsigned, boolean, string))| {
            let values = [
                float.map(Value::Float),
                integer.map(Value::Integer),
                unsigned.map(Value::Unsigned),
                boolean.map(Value::Boolean),
                string.map(Value::from),
            ];
            values.iter().any(Option::is_some).then_some((measurement, host, time, values))
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let layout = (0_usize..2, 0_usize..2);
    let rows = || prop::collection::vec(row(), 0..6);
    prop_oneof![
        (layout.clone(), row()).prop_map(|((a, b), row)| Step::Row(a, b, row)),
        rows().prop_map(Step::Points),
        (layout.clone(), rows()).prop_map(|((a, b), rows)| Step::Series(a, b, rows)),
        (layout, rows()).prop_map(|((a, b), rows)| Step::Columns(a, b, rows)),
    ]
}

fn tags(host: usize) -> Vec<(&'static str, String)> {
    let host_tag = ("host", format!("h {host}"));
    // Given in an order that is not the key's, and not the same tags for every host.
    if host == 3 { vec![host_tag] } else { vec![("z", "=,".to_owned()), host_tag] }
}

fn point((measurement, host, time, values): &Row) -> Point {
    let mut point = Point::builder(format!("m, {measurement}"));
    for (key, value) in tags(*host) {
        point = point.tag(key, value);
    }
    for (name, value) in NAMES.iter().zip(values) {
        if let Some(value) = value {
            point = point.field(name, value.clone());
        }
    }
    point.at(*time).unwrap()
}

/// Values of one field over many rows, as slices of the field's own type.
fn column(rows: &[Row], field: usize) -> Box<dyn CellSlice> {
    let values = rows.iter().map(|row| row.3[field].clone());
    macro_rules! typed {
        ($variant:ident) => {{
            let all: Vec<Option<_>> = values
                .map(|value| match value {
                    Some(Value::$variant(value)) => Some(value),
                    _ => None,
                })
                .collect();
            // Where all are there, without options, which is another way through the code.
            match all.iter().cloned().collect::<Option<Vec<_>>>() {
                Some(all) => Box::new(all),
                None => Box::new(all),
            }
        }};
    }
    match KINDS[field] {
        FieldType::Float => typed!(Float),
        FieldType::Integer => typed!(Integer),
        FieldType::Unsigned => typed!(Unsigned),
        FieldType::Boolean => typed!(Boolean),
        FieldType::String => typed!(String),
    }
}

/// Both batches, filled in turn.
struct Pair {
    layouts: [[Layout; 2]; 2],
    points: Batch,
    handles: Batch,
}

impl Pair {
    fn new() -> Self {
        let layouts = [0, 1].map(|measurement| [0, 1].map(|order| layout(measurement, order)));
        Self { layouts, points: Batch::new(), handles: Batch::new() }
    }

    fn add(&mut self, step: &Step) {
        match step {
            Step::Row(measurement, order, row) => {
                let row = (*measurement, row.1, row.2, row.3.clone());
                self.points.push(&point(&row));
                let layout = &self.layouts[*measurement][*order];
                let series = layout.series(&tags(row.1)).unwrap();
                let mut fill = self.handles.fill(layout);
                let cells = ORDERS[*order].map(|field| row.3[field].clone());
                if row.1 == 0 {
                    fill.push(&series, row.2, &cells[..]).unwrap();
                } else {
                    let [a, b, c, d, e] = cells;
                    fill.push(&series, row.2, (a, b, c, d, e)).unwrap();
                }
            }
            Step::Points(rows) => {
                for point in rows.iter().map(point) {
                    self.points.push(&point);
                    self.handles.push(&point);
                }
            }
            Step::Series(measurement, order, rows) => {
                let host = rows.first().map_or(0, |row| row.1);
                let rows = self.rows(*measurement, rows, |_| host);
                let layout = &self.layouts[*measurement][*order];
                let times: Vec<i64> = rows.iter().map(|row| row.2).collect();
                let columns = ORDERS[*order].map(|field| column(&rows, field));
                let columns: Vec<&dyn CellSlice> = columns.iter().map(|column| &**column).collect();
                let series = layout.series(&tags(host)).unwrap();
                self.handles.fill(layout).push_series(&series, &times, &columns).unwrap();
            }
            Step::Columns(measurement, order, rows) => {
                let rows = self.rows(*measurement, rows, |host| host);
                let layout = &self.layouts[*measurement][*order];
                let times: Vec<i64> = rows.iter().map(|row| row.2).collect();
                let columns = ORDERS[*order].map(|field| column(&rows, field));
                let columns: Vec<&dyn CellSlice> = columns.iter().map(|column| &**column).collect();
                let series: Vec<_> =
                    rows.iter().map(|row| layout.series(&tags(row.1)).unwrap()).collect();
                self.handles.fill(layout).push_columns(&series, &times, &columns).unwrap();
            }
        }
    }

    /// The rows with another measurement and perhaps another host; added to the batch of points.
    fn rows(
        &mut self,
        measurement: usize,
        rows: &[Row],
        host: impl Fn(usize) -> usize,
    ) -> Vec<Row> {
        let rows = rows.iter().map(|row| (measurement, host(row.1), row.2, row.3.clone()));
        rows.inspect(|row| self.points.push(&point(row))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_handles_build_is_what_points_build(
        first in prop::collection::vec(step(), 0..8),
        second in prop::collection::vec(step(), 0..8),
    ) {
        let mut pair = Pair::new();
        // The second time with the same layouts and handles, into the cleared batch.
        for steps in [first, second] {
            pair.points.clear_rows();
            pair.handles.clear_rows();
            steps.iter().for_each(|step| pair.add(step));
            prop_assert_eq!(pair.handles.rows(), pair.points.rows());
            if pair.points.is_empty() {
                continue;
            }
            let (points, handles) = (decode(encode(&pair.points)), decode(encode(&pair.handles)));
            let sorted = |mut series: Vec<(Bytes, u64, Rows)>| {
                series.sort_by(|a, b| a.0.cmp(&b.0));
                series
            };
            prop_assert_eq!(sorted(handles), sorted(points));
        }
    }
}

#[test]
fn one_layout_fills_many_batches_each_with_all_its_keys() {
    let layout = Layout::builder("cpu").float("float").build().unwrap();
    let a = layout.series(&[("host", "a")]).unwrap();
    let b = layout.series(&[("host", "b")]).unwrap();
    assert_eq!(layout.series(&[("host", "a")]).unwrap(), a);
    assert_ne!(a, b);
    assert_eq!(&a.key()[..], b"cpu,host=a");
    assert_eq!(a.hash(), quorate_protocol::hash::series_hash(b"cpu,host=a"));
    for (first, second) in [(&a, &b), (&b, &a)] {
        let mut batch = Batch::new();
        let mut fill = batch.fill(&layout);
        fill.push(first, 2, [1.0]).unwrap();
        fill.push(second, 1, [2.0]).unwrap();
        fill.push(first, 1, [3.0]).unwrap();
        // The later row wins.
        fill.push(first, 2, (4.0,)).unwrap();
        let hashes: Vec<u64> = batch.rows_iter().map(|(_, _, hash, _)| hash).collect();
        assert_eq!(
            hashes,
            [first, second, first, first].map(quorate_protocol::batch::Series::hash)
        );
        let series = decode(encode(&batch));
        assert_eq!(series.len(), 2);
        assert_eq!((series[0].0.clone(), series[0].1), (first.key(), first.hash()));
        assert_eq!(series[0].2.times, [1, 2]);
        assert_eq!(series[0].2.columns[0].get(1).unwrap().to_value(), Value::Float(4.0));
        assert_eq!(series[1].2.times, [1]);
    }
}

#[test]
fn narrow_numbers_and_all_kinds_of_strings_are_taken() {
    let layout = Layout::builder("m").float("float").integer("integer").unsigned("unsigned");
    let layout = layout.string("string").build().unwrap();
    // No tags.
    let series = layout.series::<&str, &str>(&[]).unwrap();
    let mut batch = Batch::new();
    let mut fill = batch.fill(&layout);
    fill.push(&series, 0, (0.5_f32, -7, 7_u32, "a")).unwrap();
    fill.push(&series, 1, (0.5, -7_i64, 7_u64, "a".to_owned())).unwrap();
    fill.push(&series, 2, (0.5, -7, 7_u32, &b"a"[..])).unwrap();
    fill.push(&series, 3, (Value::Float(0.5), -7, 7_u32, Bytes::from_static(b"a"))).unwrap();
    let rows: &[&dyn CellSlice] = &[&[0.5_f32], &[-7], &[7_u32], &[b"a".to_vec()]];
    fill.push_series(&series, &[4], rows).unwrap();
    assert_eq!(
        fill.push(&series, 5, (f32::INFINITY, 1, 1_u32, "a")),
        Err(FillError::Row { row: 0, reason: PointError::NotFinite })
    );
    let (key, _, rows) = decode(encode(&batch)).remove(0);
    assert_eq!((&key[..], rows.len()), (&b"m"[..], 5));
    let expected =
        [Value::Float(0.5), Value::Integer(-7), Value::Unsigned(7), Value::String("a".into())];
    for row in 0..rows.len() {
        let found: Vec<Value> =
            rows.columns.iter().map(|column| column.get(row).unwrap().to_value()).collect();
        assert_eq!(found, expected, "{row}");
    }
}

#[test]
fn many_threads_share_a_layout() {
    let layout = Layout::builder("m").integer("integer").build().unwrap();
    let parts = std::thread::scope(|scope| {
        let fill = |first: i64| {
            let layout = layout.clone();
            move || {
                let mut batch = Batch::new();
                for at in 0..300 {
                    // Every series is made by several of them.
                    let series = layout.series(&[("k", ((first + at) % 400).to_string())]).unwrap();
                    batch.fill(&layout).push(&series, at, [first + at]).unwrap();
                }
                encode(&batch)
            }
        };
        let threads: Vec<_> = [0, 50, 100, 350].map(|first| scope.spawn(fill(first))).into();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for part in parts {
        let series = decode(part);
        assert_eq!(series.len(), 300);
        for (key, hash, rows) in series {
            assert_eq!(hash, quorate_protocol::hash::series_hash(&key));
            let value = rows.columns[0].get(0).unwrap().to_value();
            let Value::Integer(value) = value else { panic!("{value:?}") };
            assert_eq!(&key[..], format!("m,k={}", value % 400).as_bytes());
        }
    }
}

#[test]
fn layouts_and_series_are_checked_when_they_are_made() {
    let build = |name: &str, fields: &[&str]| {
        fields.iter().fold(Layout::builder(name), |builder, name| builder.float(name)).build()
    };
    assert_eq!(build("", &["f"]).unwrap_err(), PointError::Empty(Part::Measurement));
    assert_eq!(build("m", &[]).unwrap_err(), PointError::NoFields);
    assert_eq!(build("m", &[""]).unwrap_err(), PointError::Empty(Part::Field));
    assert_eq!(build("m", &["f", "g", "f"]).unwrap_err(), PointError::DuplicateField("f".into()));
    let long = "f".repeat(MAX_KEY_LEN);
    assert!(matches!(build("m", &[&long]), Err(PointError::KeyTooLong { .. })));
    let layout = build("m", &["f", &long[..MAX_KEY_LEN - 20]]).unwrap();
    assert!(layout.series(&[("k", "v")]).is_ok());
    // Key and the longest column's name are too long together.
    let series = layout.series(&[("k", "x".repeat(20))]);
    assert!(matches!(series, Err(PointError::KeyTooLong { .. })));
    let twice = layout.series(&[("k", "a"), ("k", "b")]);
    assert_eq!(twice, Err(PointError::DuplicateTag("k".into())));
}

#[test]
fn what_is_refused_leaves_nothing() {
    let layout = Layout::builder("m").float("float").string("string").build().unwrap();
    let other = Layout::builder("m").float("float").string("string").build().unwrap();
    let series = layout.series(&[("k", "v")]).unwrap();
    let foreign = other.series(&[("k", "v")]).unwrap();
    let mut batch = Batch::new();
    let mut fill = batch.fill(&layout);
    let reason = |reason| Err(FillError::Row { row: 0, reason });
    assert_eq!(fill.push(&foreign, 0, (1.0, "x")), Err(FillError::OtherLayout { row: 0 }));
    assert_eq!(fill.push(&series, 0, (1.0,)), Err(FillError::ColumnCount { columns: 2, given: 1 }));
    assert_eq!(
        fill.push(&series, MAX_TIME + 1, (1.0, "x")),
        reason(PointError::TimeOutOfRange(MAX_TIME + 1))
    );
    assert_eq!(fill.push(&series, 0, (f64::NAN, "x")), reason(PointError::NotFinite));
    let wrong = PointError::WrongType { column: FieldType::String, given: FieldType::Integer };
    assert_eq!(fill.push(&series, 0, (1.0, 1_i64)), reason(wrong.clone()));
    let long = "x".repeat(MAX_STRING_LEN + 1);
    assert_eq!(
        fill.push(&series, 0, (1.0, &long[..])),
        reason(PointError::StringTooLong { len: long.len() })
    );
    assert_eq!(fill.push(&series, 0, (None::<f64>, None::<&str>)), reason(PointError::NoFields));

    let (floats, strings) = ([1.0, 2.0], ["x", "y"]);
    let one = [series.clone()];
    let two = [series.clone(), foreign];
    assert_eq!(
        fill.push_columns(&one, &[0, 1], &[&floats, &strings]),
        Err(FillError::RowCount { column: None, rows: 2, given: 1 })
    );
    assert_eq!(
        fill.push_columns(&two, &[0, 1], &[&floats, &strings]),
        Err(FillError::OtherLayout { row: 1 })
    );
    assert_eq!(
        fill.push_series(&series, &[0], &[&[1.0], &strings]),
        Err(FillError::RowCount { column: Some(1), rows: 1, given: 2 })
    );
    assert_eq!(
        fill.push_series(&series, &[0, 1], &[&floats]),
        Err(FillError::ColumnCount { columns: 2, given: 1 })
    );
    assert_eq!(
        fill.push_series(&series, &[0, 1], &[&[1.0, f64::INFINITY], &strings]),
        Err(FillError::Row { row: 1, reason: PointError::NotFinite })
    );
    assert_eq!(
        fill.push_series(&series, &[0, i64::MIN], &[&floats, &strings]),
        Err(FillError::Row { row: 1, reason: PointError::TimeOutOfRange(i64::MIN) })
    );
    assert_eq!(
        fill.push_series(&series, &[0, 1], &[&floats, &[1_i64, 2]]),
        Err(FillError::Row { row: 0, reason: wrong })
    );
    assert_eq!(
        fill.push_series(&series, &[0, 1], &[&[Some(1.0), None], &[Some("x"), None]]),
        Err(FillError::Row { row: 1, reason: PointError::NoFields })
    );
    let measurement = &batch.measurements()[0];
    assert!(measurement.is_empty() && measurement.columns().iter().all(|column| column.is_empty()));

    batch.fill(&layout).push_series(&series, &[0, 1], &[&floats, &strings]).unwrap();
    assert_eq!(decode(encode(&batch))[0].2.times, [0, 1]);
}
