//! The test vectors of windows of a field, read out of the document that defines them.

// Everything here is a test; clippy only knows the functions that are marked.
#![allow(clippy::unwrap_used)]

mod spec;

use quorate_protocol::{
    aggregate::{FieldWindows, Partial, Sum},
    id::FieldId,
    point::Value,
    schema::FieldType,
};

use crate::spec::vectors;

fn value(kind: FieldType, text: &str) -> Value {
    match kind {
        FieldType::Float => text.parse::<f64>().unwrap().into(),
        FieldType::Integer => text.parse::<i64>().unwrap().into(),
        FieldType::Unsigned => text.parse::<u64>().unwrap().into(),
        FieldType::Boolean => text.parse::<bool>().unwrap().into(),
        FieldType::String => text.to_owned().into(),
    }
}

fn window(kind: FieldType, text: &str) -> (i64, Partial) {
    let mut words = text.split(' ');
    let (start, count) = (words.next().unwrap(), words.next().unwrap());
    let word =
        |name: &str| text.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let at = |name: &str| {
        let (text, time) = word(name)?.split_once('@')?;
        Some((time.parse::<i64>().unwrap(), value(kind, text)))
    };
    let first = at("first").unwrap();
    let mut partial = Partial::one(first.0, first.1);
    partial.count = count.parse().unwrap();
    partial.last = at("last").unwrap_or(partial.last);
    if let Some(min) = word("min") {
        partial.min = value(kind, min);
        partial.max = value(kind, word("max").unwrap());
    }
    partial.sum = match (word("sum"), kind) {
        (None, _) => partial.sum,
        (Some(sum), FieldType::Float) => {
            let (high, low) = sum.split_once(',').unwrap();
            Sum::Float { high: high.parse().unwrap(), low: low.parse().unwrap() }
        }
        (Some(sum), _) => Sum::Integer(sum.parse().unwrap()),
    };
    (start.parse().unwrap(), partial)
}

#[test]
fn field_windows() {
    for vector in vectors("field-windows") {
        let mut field = vector.one("field").split(' ');
        let id = FieldId(field.next().unwrap().parse().unwrap());
        let name = field.next().unwrap().to_owned();
        let word = field.next().unwrap();
        let kind = (0..5).filter_map(FieldType::from_u8).find(|kind| kind.name() == word).unwrap();
        let windows = FieldWindows {
            key: vector.one("key").to_owned().into(),
            field: id,
            name: name.into(),
            kind,
            windows: vector.all("window").into_iter().map(|text| window(kind, text)).collect(),
        };
        let mut bytes = Vec::new();
        windows.encode(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, vector.bytes, "{}: {hex}", vector.name);
        assert_eq!(FieldWindows::decode(&vector.bytes), Ok(windows), "{}", vector.name);
    }
}

#[test]
fn bad_field_windows() {
    for vector in vectors("field-windows-bad") {
        let error = FieldWindows::decode(&vector.bytes).unwrap_err();
        let name = format!("{error:?}").split('(').next().unwrap().to_owned();
        assert_eq!(name, vector.one("error"), "{}", vector.name);
    }
}
