//! The specification's vectors of blocks and version tables.

use quorate_protocol::{
    batch::Batch,
    line::{Options, parse_into},
};

use super::*;
use crate::spec::{Vector, vectors};

fn table(vector: &Vector) -> Option<VersionTable> {
    let [versions] = vector.all("table")[..] else { return None };
    let versions = versions.split(' ').map(|version| Version(version.parse().unwrap()));
    Some(VersionTable::new(versions.collect()))
}

/// The group that the `field` and `row` entries describe.
fn group_of(vector: &Vector) -> RowGroup {
    let mut group = RowGroup::default();
    let rows = vector.all("row");
    let mut lines = Batch::new();
    for (row, entry) in (0_u32..).zip(&rows) {
        let mut words = entry.splitn(3, ' ');
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let (series, version) = (number(), number());
        match group.spans.last_mut() {
            Some(span) if span.series == series => span.rows.end = row + 1,
            _ => group.spans.push(Span { series, rows: row..row + 1 }),
        }
        group.versions.push(Version(version));
        let line = words.next().unwrap();
        let outcome = parse_into(&mut lines, line.as_bytes(), Options::default());
        assert_eq!(outcome.errors, [], "{}", vector.name);
    }
    let measurement = &lines.measurements()[0];
    group.times = measurement.rows().map(|(_, _, time)| time).collect();
    assert_eq!(group.times.len(), rows.len(), "{}: one measurement", vector.name);
    for field in vector.all("field") {
        let words: Vec<&str> = field.split(' ').collect();
        let from = measurement.columns().iter().find(|column| column.name() == words[1]).unwrap();
        let name = Bytes::copy_from_slice(words[1].as_bytes());
        let mut column = Column::new(FieldId(words[0].parse().unwrap()), name, from.kind());
        assert_eq!(column.kind().name(), words[2], "{}", vector.name);
        for (row, _, _) in measurement.rows() {
            match from.get(row) {
                None => column.push_absent(),
                Some(value) => {
                    column.present.push(true);
                    assert!(column.values.push(value.to_value()));
                }
            }
        }
        group.columns.push(column);
    }
    group
}

fn text(value: &Value) -> String {
    match value {
        Value::Float(value) => format!("{value:?}"),
        Value::Integer(value) => value.to_string(),
        Value::Unsigned(value) => value.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::String(value) => String::from_utf8(value.to_vec()).unwrap(),
    }
}

fn summary(head: &ColumnHead) -> Option<String> {
    let Statistics { count, sum, min, max, first, last } = head.statistics.as_ref()?;
    let sum = match sum {
        Sum::None => "-".to_owned(),
        Sum::Float { high, low } => format!("{high:?} {low:?}"),
        Sum::Integer(sum) => sum.to_string(),
    };
    let [min, max] = [min, max].map(text);
    let [first, last] = [first, last].map(|(time, value)| format!("{time} {}", text(value)));
    let name = String::from_utf8(head.name.to_vec()).unwrap();
    Some(format!("{name} {count} {sum} {min} {max} {first} {last}"))
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| {
        let digits: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("hex: {digits}\n")
    });
    lines.collect()
}

#[test]
fn blocks() {
    for vector in vectors("shard-block") {
        let (group, table) = (group_of(&vector), table(&vector));
        if vector.one("density") == "cheap" {
            let block = encoded(&group, table.as_ref(), Density::Cheap);
            assert!(block == vector.bytes, "{}:\n{}", vector.name, hex(&block));
        }
        let view = View::parse(&vector.bytes).unwrap();
        assert_eq!(view.decode(table.as_ref(), &everything).unwrap(), group, "{}", vector.name);
        let summaries: Vec<String> = view.heads().iter().filter_map(summary).collect();
        assert_eq!(summaries, vector.all("statistics"), "{}", vector.name);
    }
}

#[test]
fn bad_blocks() {
    for vector in vectors("shard-block-bad") {
        let error = View::parse(&vector.bytes)
            .and_then(|view| view.decode(table(&vector).as_ref(), &everything))
            .unwrap_err();
        let name = format!("{error:?}");
        assert_eq!(name.split('(').next().unwrap(), vector.one("error"), "{}", vector.name);
    }
}

#[test]
fn version_tables() {
    for vector in vectors("shard-versions") {
        let table = table(&vector).unwrap();
        let mut bytes = Vec::new();
        table.encode(Density::Cheap, &mut bytes);
        assert!(bytes == vector.bytes, "{}:\n{}", vector.name, hex(&bytes));
        assert_eq!(VersionTable::decode(&vector.bytes), Ok(table));
    }
}
