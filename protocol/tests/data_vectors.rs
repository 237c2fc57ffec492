//! The test vectors of the data formats, read out of the document that defines them.

// Everything here is a test; clippy only knows the functions that are marked.
#![allow(clippy::unwrap_used)]

mod spec;

use quorate_protocol::{
    batch::{Batch, BatchHeader, DecodeError, EncodedBatch, PartHeader, Selection, encode_part},
    id::{BatchId, DatabaseId, Epoch, FieldId, MetaIndex, PolicyId, ShardId, Version},
    line::{Options, parse_into},
    point::{Point, text},
    rows::{BlockError, Rows},
    schema::FieldType,
};

use crate::spec::{Vector, vectors};

fn field_id(vector: &Vector, name: &[u8], kind: FieldType) -> Option<FieldId> {
    vector.all("field").into_iter().find_map(|field| {
        let mut words = field.split(' ');
        let (id, field, of) = (words.next()?, words.next()?, words.next()?);
        (field.as_bytes() == name && of == kind.name()).then(|| FieldId(id.parse().unwrap()))
    })
}

fn header(vector: &Vector) -> PartHeader {
    PartHeader {
        batch: BatchId(u128::from_str_radix(vector.one("batch"), 16).unwrap()),
        version: Version(vector.number("version")),
        meta_index: MetaIndex(vector.number("meta_index")),
        database: DatabaseId(vector.number("database")),
        policy: PolicyId(vector.number("policy")),
        shard: ShardId(vector.number("shard")),
        epoch: Epoch(vector.number("epoch")),
    }
}

fn encode(vector: &Vector, lines: &str, header: &PartHeader) -> bytes::Bytes {
    let mut batch = Batch::new();
    let outcome = parse_into(&mut batch, lines.as_bytes(), Options::default());
    assert_eq!(outcome.errors, []);
    let ids = |_: &[u8], name: &[u8], kind| field_id(vector, name, kind);
    encode_part(&batch, header, Selection::All, &ids).unwrap()
}

fn lines_of(key: &[u8], rows: &Rows) -> Vec<String> {
    let line = |row: usize| {
        let mut fields: Vec<_> =
            rows.columns.iter().filter_map(|c| Some((&c.name[..], c.get(row)?))).collect();
        fields.sort_by_key(|(name, _)| *name);
        let mut line = Vec::new();
        text::write_line(&mut line, key, fields, rows.times[row]);
        String::from_utf8(line).unwrap()
    };
    (0..rows.len()).map(line).collect()
}

fn name(error: &DecodeError) -> String {
    format!("{error:?}").split('(').next().unwrap().to_owned()
}

#[test]
fn batch_parts() {
    for vector in vectors("batch-part") {
        let part = EncodedBatch::parse(vector.bytes.clone().into()).unwrap();
        let BatchHeader { part: header, .. } = *part.header();
        assert_eq!(header, self::header(&vector), "{}", vector.name);
        let mut found = Vec::new();
        for (key, _, rows) in part.decode().unwrap().into_rows() {
            for column in &rows.columns {
                let id = field_id(&vector, &column.name, column.kind());
                assert_eq!(id, Some(column.field), "{}", vector.name);
            }
            found.extend(lines_of(&key, &rows));
        }
        assert_eq!(found, vector.all("line"), "{}", vector.name);
        assert_eq!(encode(&vector, &found.join("\n"), &header), vector.bytes, "{}", vector.name);
    }
}

#[test]
fn bad_batch_parts() {
    for vector in vectors("batch-part-bad") {
        let result =
            EncodedBatch::parse(vector.bytes.clone().into()).and_then(|part| part.decode());
        let error = result.err().map(|error| name(&error));
        assert_eq!(error.as_deref(), Some(vector.one("error")), "{}", vector.name);
    }
}

#[test]
fn row_blocks() {
    for vector in vectors("row-block") {
        let rows = Rows::decode(&vector.bytes).unwrap();
        let mut parts = Vec::new();
        let mut expected = Vec::new();
        let mut key = Vec::new();
        for row in vector.all("row") {
            let (version, line) = row.split_once(' ').unwrap();
            let version = Version(version.parse().unwrap());
            let part = encode(&vector, line, &PartHeader { version, ..PartHeader::default() });
            for (of, _, rows) in EncodedBatch::parse(part).unwrap().decode().unwrap().into_rows() {
                key = of.to_vec();
                parts.push(rows);
            }
            expected.push((version, line.to_owned()));
        }
        let found: Vec<_> = rows.versions.iter().copied().zip(lines_of(&key, &rows)).collect();
        assert_eq!(found, expected, "{}", vector.name);
        let merged = Rows::merge(parts);
        assert_eq!(merged, rows, "{}", vector.name);
        let mut block = Vec::new();
        merged.encode(&mut block);
        assert_eq!(block, vector.bytes, "{}", vector.name);
    }
}

#[test]
fn bad_row_blocks() {
    for vector in vectors("row-block-bad") {
        let error = match Rows::decode(&vector.bytes).unwrap_err() {
            BlockError::UnknownFormat(_) => "UnknownFormat".to_owned(),
            BlockError::Format(error) => name(&error),
            other => panic!("{other}"),
        };
        assert_eq!(error, vector.one("error"), "{}", vector.name);
    }
}

#[test]
fn lines() {
    for vector in vectors("line") {
        let mut batch = Batch::new();
        let outcome = parse_into(&mut batch, &vector.bytes, Options::default());
        assert_eq!(outcome.errors, [], "{}", vector.name);
        let mut found = Vec::new();
        for measurement in batch.measurements() {
            for (row, series, time) in measurement.rows() {
                let columns = measurement.columns().iter();
                let mut fields: Vec<_> =
                    columns.filter_map(|c| Some((&c.name()[..], c.get(row)?))).collect();
                fields.sort_by_key(|(name, _)| *name);
                let mut line = Vec::new();
                text::write_line(&mut line, measurement.series_key(series), fields, time);
                found.push(String::from_utf8(line).unwrap());
            }
        }
        assert_eq!(found, vector.all("line"), "{}", vector.name);
    }
}

#[test]
fn bad_lines() {
    for vector in vectors("line-bad") {
        let mut batch = Batch::new();
        let outcome = parse_into(&mut batch, &vector.bytes, Options::default());
        let [error] = &outcome.errors[..] else { panic!("{}: {outcome:?}", vector.name) };
        let found = (format!("{:?}", error.reason), error.column.to_string());
        let expected = (vector.one("error").to_owned(), vector.one("column").to_owned());
        assert_eq!(found, expected, "{}", vector.name);
        assert!(batch.is_empty());
    }
}

#[test]
fn a_point_is_its_canonical_line() {
    let point = Point::builder("m").tag("k", "v").field("f", 1.5).at(7).unwrap();
    assert_eq!(point.to_line(), b"m,k=v f=1.5 7");
}
