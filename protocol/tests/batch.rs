//! Encoded parts: what is written is what is read, and nothing else is read.

// Everything here is a test; clippy only knows the functions that are marked.
#![allow(clippy::unwrap_used)]

mod parts;

use std::collections::BTreeMap;

use bytes::Bytes;
use parts::{Fields, Packed, Part, block};
use proptest::prelude::*;
use quorate_protocol::{
    batch::{Batch, DecodeError, EncodeError, EncodedBatch, PartHeader, Selection, encode_part},
    id::{BatchId, DatabaseId, Epoch, FieldId, MetaIndex, PolicyId, ShardId, Version},
    point::{Point, PointError, Value},
    rows::Rows,
    schema::FieldType,
};

const HEADER: PartHeader = PartHeader {
    batch: BatchId(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00),
    version: Version(1_700_000_000_000_000_001),
    meta_index: MetaIndex(42),
    database: DatabaseId(3),
    policy: PolicyId(4),
    shard: ShardId(5),
    epoch: Epoch(6),
};

/// Series key, time, field id: value.
type Model = BTreeMap<(Bytes, i64, u32), Value>;

/// Field ids by name: `f0` has 0. The type is in the name as well, so that there are no conflicts.
fn id_of(_: &[u8], name: &[u8], _: FieldType) -> Option<FieldId> {
    std::str::from_utf8(&name[1..]).ok()?.parse().ok().map(FieldId)
}

fn model(points: &[Point]) -> Model {
    let mut model = Model::new();
    for point in points {
        for (name, value) in point.fields() {
            let FieldId(id) = id_of(b"", name, value.field_type()).unwrap();
            model.insert((point.key().clone(), point.time(), id), value.clone());
        }
    }
    model
}

fn add_rows(model: &mut Model, key: &Bytes, rows: &Rows) {
    for column in &rows.columns {
        for (row, time) in rows.times.iter().enumerate() {
            if let Some(value) = column.get(row) {
                let old = model.insert((key.clone(), *time, column.field.0), value.to_value());
                assert_eq!(old, None, "twice");
            }
        }
    }
}

fn read(parts: &[Bytes]) -> Model {
    let mut model = Model::new();
    for part in parts {
        let part = EncodedBatch::parse(part.clone()).unwrap();
        assert_eq!(part.header().part, HEADER);
        for (key, hash, rows) in part.decode().unwrap().into_rows() {
            assert_eq!(hash, quorate_protocol::hash::series_hash(&key));
            assert!(rows.versions.iter().all(|version| *version == HEADER.version));
            assert!(!rows.is_empty());
            add_rows(&mut model, &key, &rows);
        }
    }
    model
}

fn value(kind: u32) -> BoxedStrategy<Value> {
    match kind {
        0 => (-50_i32..50).prop_map(|i| Value::Float(f64::from(i))).boxed(),
        1 => (-5000_i32..5000).prop_map(|i| Value::Float(f64::from(i) / 100.0)).boxed(),
        2 => (prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::NEGATIVE)
            .prop_map(Value::Float)
            .boxed(),
        3 => any::<i64>().prop_map(Value::Integer).boxed(),
        4 => any::<u64>().prop_map(Value::Unsigned).boxed(),
        5 => any::<bool>().prop_map(Value::Boolean).boxed(),
        _ => prop::collection::vec(any::<u8>(), 0..9)
            .prop_map(|bytes| Value::String(bytes.into()))
            .boxed(),
    }
}

fn point() -> impl Strategy<Value = Point> {
    let fields: Vec<_> = (0..7)
        .map(|kind| prop::option::weighted(0.6, value(kind)).prop_map(move |value| (kind, value)))
        .collect();
    let tags = (0_u8..3, prop::option::of(0_u8..4), prop::option::weighted(0.3, 0_u8..3));
    (0_u8..2, tags, fields, -4_i64..4).prop_filter_map("no fields", |(name, tags, fields, time)| {
        let mut builder = Point::builder(format!("m {name}")).tag("b", format!("b{}", tags.0));
        if let Some(tag) = tags.1 {
            builder = builder.tag("a=", format!("a,{tag}"));
        }
        if let Some(tag) = tags.2 {
            builder = builder.tag("c", format!("c{tag}"));
        }
        for (kind, value) in fields {
            if let Some(value) = value {
                builder = builder.field(format!("f{kind}"), value);
            }
        }
        builder.at(time * 10_000_000_000).ok()
    })
}

fn batch_of(points: &[Point]) -> Batch {
    let mut batch = Batch::new();
    points.iter().for_each(|point| batch.push(point));
    batch
}

proptest! {
    #[test]
    fn parts_read_back_with_the_later_row_winning(points in prop::collection::vec(point(), 1..60)) {
        let batch = batch_of(&points);
        prop_assert_eq!(batch.rows(), points.len());
        let part = encode_part(&batch, &HEADER, Selection::All, &id_of).unwrap();
        prop_assert_eq!(read(&[part]), model(&points));
    }

    #[test]
    fn routing_splits_without_loss(points in prop::collection::vec(point(), 1..60)) {
        let batch = batch_of(&points);
        let mut selections = vec![vec![Vec::new(); batch.measurements().len()]; 3];
        for (measurement, row, hash, _) in batch.rows_iter() {
            selections[(hash % 3) as usize][measurement].push(row);
        }
        let mut parts = Vec::new();
        for selection in &selections {
            match encode_part(&batch, &HEADER, Selection::Rows(selection), &id_of) {
                Ok(part) => parts.push(part),
                Err(EncodeError::Empty) => assert!(selection.iter().all(Vec::is_empty)),
                Err(other) => panic!("{other}"),
            }
        }
        prop_assert_eq!(read(&parts), model(&points));
    }

    #[test]
    fn columns_without_an_id_leave_no_trace(points in prop::collection::vec(point(), 1..40)) {
        let ids = |m: &[u8], name: &[u8], kind| id_of(m, name, kind).filter(|id| id.0 % 2 == 0);
        let mut expected = model(&points);
        expected.retain(|(_, _, id), _| id % 2 == 0);
        match encode_part(&batch_of(&points), &HEADER, Selection::All, &ids) {
            Ok(part) => prop_assert_eq!(read(&[part]), expected),
            Err(error) => {
                prop_assert_eq!(error, EncodeError::Empty);
                prop_assert!(expected.is_empty());
            }
        }
    }

    #[test]
    fn changed_parts_with_a_good_checksum_are_safe(
        (points, at, to) in (prop::collection::vec(point(), 1..20), any::<prop::sample::Index>(), any::<u8>())
    ) {
        let part = encode_part(&batch_of(&points), &HEADER, Selection::All, &id_of).unwrap();
        let mut bytes = part.to_vec();
        let at = 8 + at.index(bytes.len() - 8);
        bytes[at] = to;
        parts::seal(&mut bytes);
        if let Ok(part) = EncodedBatch::parse(bytes.into()) && let Ok(decoded) = part.decode() {
            for (_, _, rows) in decoded.into_rows() {
                prop_assert!(rows.times.is_sorted_by(|a, b| a < b));
                prop_assert_eq!(&Rows::merge(vec![rows.clone()]), &rows);
            }
        }
    }
}

#[test]
fn every_damaged_bit_and_every_cut_is_found() {
    let points: Vec<Point> = (0..20)
        .map(|i| {
            Point::builder("m").tag("t", format!("{}", i % 3)).field("f0", i).at(i.into()).unwrap()
        })
        .collect();
    let part = encode_part(&batch_of(&points), &HEADER, Selection::All, &id_of).unwrap();
    for bit in 0..part.len() * 8 {
        let mut bad = part.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(EncodedBatch::parse(bad.into()).is_err(), "bit {bit}");
    }
    for cut in 0..part.len() {
        assert!(EncodedBatch::parse(part.slice(..cut)).is_err(), "cut at {cut}");
    }
}

#[test]
fn one_field_with_two_types_is_decided_by_the_ids() {
    let mut batch = Batch::new();
    batch.push(&Point::builder("m").field("f0", 1.5).at(1).unwrap());
    batch.push(&Point::builder("m").field("f0", 2_i64).at(2).unwrap());
    batch.push(&Point::builder("m").field("f0", 3_i64).field("f1", true).at(3).unwrap());
    assert_eq!(batch.measurements()[0].columns().len(), 3);
    let floats = |m: &[u8], name: &[u8], kind| {
        assert_eq!(m, b"m");
        if kind == FieldType::Integer { None } else { id_of(m, name, kind) }
    };
    let part = encode_part(&batch, &HEADER, Selection::All, &floats).unwrap();
    let rows = EncodedBatch::parse(part).unwrap().decode().unwrap().into_rows().next().unwrap().2;
    assert_eq!(rows.times, [1, 3]);
    assert_eq!(rows.columns.len(), 2);
}

#[test]
fn columns_may_be_filled_in_any_order() {
    let mut batch = Batch::new();
    let m = batch.measurement("my m").unwrap();
    let hosts =
        [m.series(&[("host", "a"), ("dc", "x y")]).unwrap(), m.series(&[("host", "b")]).unwrap()];
    assert_eq!(m.series(&[("dc", "x y"), ("host", "a")]).unwrap(), hosts[0]);
    assert_eq!(m.series_key(hosts[0]), br"my\ m,dc=x\ y,host=a");
    let (float, string) =
        (m.column(b"f0", FieldType::Float).unwrap(), m.column(b"f6", FieldType::String).unwrap());
    let rows: Vec<_> = (0..6).map(|i| m.row(hosts[i % 2], 100 - i as i64).unwrap()).collect();
    for row in [5, 1, 3] {
        m.set_float(rows[row], float, row as f64).unwrap();
    }
    for row in [2, 3, 3] {
        m.set_string(rows[row], string, "text").unwrap();
    }
    assert_eq!(m.set_float(rows[0], float, f64::NAN), Err(PointError::NotFinite));
    assert!(matches!(m.set_integer(rows[0], float, 1), Err(PointError::WrongType { .. })));
    assert!(matches!(m.row(hosts[0], i64::MAX), Err(PointError::TimeOutOfRange(_))));
    assert!(m.column(b"", FieldType::Float).is_err() && m.series(&[("", "x")]).is_err());
    let expected = |base: i64| {
        let key = |series: &str| Bytes::copy_from_slice(series.as_bytes());
        let (a, b) = (key(r"my\ m,dc=x\ y,host=a"), key(r"my\ m,host=b"));
        Model::from([
            ((b.clone(), base - 1, 0), Value::Float(1.0)),
            ((b.clone(), base - 3, 0), Value::Float(3.0)),
            ((b.clone(), base - 5, 0), Value::Float(5.0)),
            ((a, base - 2, 6), Value::from("text")),
            ((b, base - 3, 6), Value::from("text")),
        ])
    };
    let part = encode_part(&batch, &HEADER, Selection::All, &id_of).unwrap();
    assert_eq!(read(&[part]), expected(100));
    // References outlive the rows.
    batch.clear_rows();
    assert!(batch.is_empty());
    assert_eq!(encode_part(&batch, &HEADER, Selection::All, &id_of), Err(EncodeError::Empty));
    let m = batch.measurement("my m").unwrap();
    let row = m.row(hosts[1], 7).unwrap();
    m.set_float(row, float, 1.0).unwrap();
    let part = encode_part(&batch, &HEADER, Selection::All, &id_of).unwrap();
    assert_eq!(read(&[part]).len(), 1);
}

#[test]
fn bad_selections_are_refused() {
    let batch = batch_of(&[Point::builder("m").field("f0", 1.0).at(1).unwrap()]);
    for selection in [vec![vec![1]], vec![vec![0, 0]]] {
        let result = encode_part(&batch, &HEADER, Selection::Rows(&selection), &id_of);
        assert_eq!(result, Err(EncodeError::BadSelection));
    }
}

#[test]
fn too_many_rows_are_refused_before_they_are_written() {
    let mut batch = Batch::new();
    let m = batch.measurement("m").unwrap();
    let (series, column) =
        (m.series::<&str, &str>(&[]).unwrap(), m.column(b"f0", FieldType::Boolean).unwrap());
    for time in 0..=quorate_protocol::batch::MAX_ROWS as i64 {
        let row = m.row(series, time).unwrap();
        m.set_boolean(row, column, true).unwrap();
    }
    let result = encode_part(&batch, &HEADER, Selection::All, &id_of);
    assert!(matches!(result, Err(EncodeError::TooLarge { .. })), "{result:?}");
}

#[test]
fn steady_fleets_are_small() {
    let points: Vec<Point> = (0..5000_i64)
        .map(|i| {
            let (host, step) = (i % 1000, i / 1000);
            let mut builder = Point::builder("cpu").tag("hostname", format!("host_{host}"));
            for tag in 1..10 {
                builder = builder.tag(format!("tag{tag}"), format!("value {}", host * tag % 17));
            }
            for field in 0..10 {
                builder =
                    builder.field(format!("f{field}"), ((host * 7 + field * step) % 101) as f64);
            }
            builder.at(1_700_000_000_000_000_000 + step * 10_000_000_000).unwrap()
        })
        .collect();
    let part = encode_part(&batch_of(&points), &HEADER, Selection::All, &id_of).unwrap();
    assert!(part.len() / points.len() < 20, "{} bytes a row", part.len() / points.len());
    assert_eq!(read(&[part]), model(&points));
}

/// What decoding says about hand-made bytes.
fn decode(change: impl FnOnce(&mut Part)) -> Result<usize, DecodeError> {
    let mut part = Part::valid();
    change(&mut part);
    EncodedBatch::parse(part.bytes().into())?.decode().map(|batch| batch.measurements.len())
}

#[test]
fn hand_made_parts_are_read() {
    assert_eq!(decode(|_| ()), Ok(1));
}

#[test]
fn nodes_refuse_every_broken_rule() {
    use DecodeError::{Invalid, TooLarge, Truncated};
    let invalid = |why: &str, change: &dyn Fn(&mut Part)| match decode(change) {
        Err(Invalid(what) | TooLarge(what)) => assert!(what.contains(why), "{what}, not {why}"),
        other => panic!("{why}: {other:?}"),
    };
    invalid("a series occurs twice", &|part| part.indices = vec![1, 1]);
    invalid("a series occurs twice", &|part| part.dictionary = vec![b"a", b"a"]);
    invalid("dictionary index", &|part| part.indices = vec![1, 3]);
    invalid("dictionary index", &|part| part.indices = vec![1, -1]);
    invalid("dictionary size", &|part| part.dictionary = vec![b"a", b"b", b"c"]);
    invalid("tag value is not escaped", &|part| part.dictionary = vec![b"a", b"b,x=y"]);
    invalid("tag value is not escaped", &|part| part.dictionary = vec![b"a", b"b\\"]);
    invalid("tag key is not escaped", &|part| part.tag = b"t=");
    invalid("measurement's name", &|part| part.name = b"a,b");
    invalid("measurement's name", &|part| part.name = b"");
    invalid("times do not ascend", &|part| part.times = vec![10, -1, 10]);
    invalid("times do not ascend", &|part| part.times = vec![10, 0, 10]);
    invalid("time range", &|part| part.min_time = 9);
    invalid("time range", &|part| part.max_time = 21);
    invalid("impossible time range", &|part| (part.min_time, part.max_time) = (20, 10));
    invalid("impossible time range", &|part| part.max_time = i64::MAX);
    invalid("more rows", &|part| part.rows = 2);
    invalid("another row count", &|part| part.rows = 4);
    invalid("impossible row or measurement count", &|part| part.rows = 0);
    invalid("impossible row count", &|part| part.counts = vec![3, 0]);
    invalid("impossible row count", &|part| part.counts = vec![2, -1]);
    invalid("row or measurement count", &|part| part.measurements = 0);
    invalid("not finite", &|part| part.fields[0].values = Fields::floats(&[1.0, f64::NAN, 2.0]));
    invalid("not finite", &|part| {
        part.fields[0].values = Fields::floats(&[1.0, f64::INFINITY, 2.0])
    });
    invalid("encoding", &|part| part.fields[0].values[0] = 9);
    invalid("field type", &|part| part.fields[0].kind = 9);
    invalid("presence tag", &|part| part.fields[0].present = vec![2]);
    invalid("padding bits", &|part| part.fields[0].present = vec![1, 0b1111]);
    invalid("no values", &|part| part.fields[0].present = vec![1, 0]);
    invalid("a row has no values", &|part| {
        part.fields[0].present = vec![1, 0b011];
        part.fields[0].values = Fields::floats(&[1.0, 2.0]);
    });
    invalid("no fields", &|part| part.fields.clear());
    invalid("field ids do not ascend", &|part| part.fields.push(part.fields[0].clone()));
    invalid("field's name", &|part| part.fields[0].name = b"");
    invalid("left over", &|part| part.tail = vec![0]);
    assert_eq!(decode(|part| part.measurements = 2), Err(Truncated));
    assert!(decode(|part| part.format = 2) == Err(DecodeError::UnknownFormat(2)));
    assert!(decode(|part| part.flags = 1) == Err(DecodeError::UnknownFlags(1)));
}

#[test]
fn claims_beyond_the_bytes_take_no_memory() {
    // A million rows and series in a few bytes: chunks of width zero are legal and tiny.
    let zeros = |count: usize| Packed::zeros(count);
    let rows = 1 << 20;
    let mut part = Part::valid();
    part.rows = rows;
    part.raw_block = Some(block(|out| {
        parts::bytes(out, b"m");
        parts::varint(out, 1);
        parts::varint(out, 0);
        out.extend(Packed::of(&[i64::from(rows)]));
        // All times equal is refused after, and only after, the times have been read.
        out.extend(zeros(rows as usize));
        parts::varint(out, 1 << 40);
    }));
    let result = EncodedBatch::parse(part.bytes().into()).unwrap().decode();
    assert!(matches!(result, Err(DecodeError::Invalid(_))), "{result:?}");
    for (series, tags) in [(1_u64 << 40, 0), (1, 1 << 40), (u64::MAX, u64::MAX)] {
        let mut part = Part::valid();
        part.raw_block = Some(block(|out| {
            parts::bytes(out, b"m");
            parts::varint(out, series);
            parts::varint(out, tags);
        }));
        assert!(EncodedBatch::parse(part.bytes().into()).unwrap().decode().is_err());
    }
}
