//! Arbitrary valid row groups.

use super::*;

/// A column's values come from one of these.
fn value(kind: FieldType) -> BoxedStrategy<Value> {
    match kind {
        FieldType::Float => prop_oneof![
            (-1000_i32..1000).prop_map(|i| Value::Float(f64::from(i))),
            (-1000_i32..1000).prop_map(|i| Value::Float(f64::from(i) / 100.0)),
            (prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL)
                .prop_map(Value::Float),
        ]
        .boxed(),
        FieldType::Integer => prop_oneof![
            (-100_i64..100).prop_map(Value::Integer),
            any::<i64>().prop_map(Value::Integer)
        ]
        .boxed(),
        FieldType::Unsigned => prop_oneof![
            (0_u64..100).prop_map(Value::Unsigned),
            any::<u64>().prop_map(Value::Unsigned)
        ]
        .boxed(),
        FieldType::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        FieldType::String => prop_oneof![
            prop::sample::select(vec!["", "on", "off", "unknown"])
                .prop_map(|text| Value::String(Bytes::from_static(text.as_bytes()))),
            prop::collection::vec(any::<u8>(), 0..100).prop_map(|text| Value::String(text.into())),
        ]
        .boxed(),
    }
}

/// A column over `rows` rows: a palette of values, and per row one of them or none.
fn column(rows: usize) -> impl Strategy<Value = Column> {
    let kinds = [
        FieldType::Float,
        FieldType::Integer,
        FieldType::Unsigned,
        FieldType::Boolean,
        FieldType::String,
    ];
    (0_u32..4, prop::sample::select(kinds.to_vec()), 0_usize..4)
        .prop_flat_map(move |(field, kind, sparse)| {
            let palette = prop::collection::vec(value(kind), 1..20);
            let picks = prop::collection::vec((any::<prop::sample::Index>(), 0_usize..4), rows);
            (Just(field), Just(kind), Just(sparse), palette, picks)
        })
        .prop_map(|(field, kind, sparse, palette, picks)| {
            let name = Bytes::from(format!("field{field}"));
            let mut column = Column::new(FieldId(field), name, kind);
            for (pick, absent) in picks {
                if absent < sparse {
                    column.push_absent();
                } else {
                    column.present.push(true);
                    assert!(column.values.push(pick.get(&palette).clone()));
                }
            }
            column
        })
}

/// Rows of up to 20 series.
pub(super) fn group() -> impl Strategy<Value = RowGroup> {
    let clock = prop_oneof![
        Just((1_700_000_000_000_000_000_i64, 10_000_000_000_i64)),
        Just((-50, 7)),
        Just((MIN_TIME, 1)),
        Just((MAX_TIME - 1000, 1)),
    ];
    // Per row: (the next series, steps to the row before, version).
    let row = (0_usize..40, 0_i64..3, 0_u64..50);
    let rows = prop_oneof![
        prop::collection::vec(row.clone(), 1..20),
        prop::collection::vec(row, 100..400)
    ];
    (clock, rows, any::<bool>(), any::<u64>())
        .prop_flat_map(|(clock, rows, solo, salt)| {
            let columns = prop::collection::vec(column(rows.len()), 1..6);
            (Just((clock, rows, solo, salt)), columns)
        })
        .prop_map(|(((start, step), rows, solo, salt), mut columns)| {
            let mut keys: Vec<(u32, i64, Version)> = Vec::new();
            let (mut series, mut time) = (1, start);
            for (next, steps, version) in &rows {
                if *next == 0 && !solo {
                    (series, time) = (series + 1 + (salt % 3) as u32, start);
                }
                time = time.saturating_add(steps * step).min(MAX_TIME);
                keys.push((series, time, Version(salt.wrapping_add(*version))));
            }
            keys.sort_unstable();
            keys.dedup();
            let len = keys.len();
            columns.sort_by_key(|column| (column.field, column.kind()));
            columns.dedup_by_key(|column| (column.field, column.kind()));
            let mut columns: Vec<Column> =
                columns.iter().map(|column| column.slice(0..len)).collect();
            columns.retain(|column| column.present.any());
            // Whatever else there is, one column has every row.
            columns.push(Column {
                field: FieldId(9),
                name: Bytes::from_static(b"steady"),
                present: Presence::all(len),
                values: Values::Integer((0..len as i64).collect()),
            });
            let mut group = RowGroup { columns, ..RowGroup::default() };
            for (row, (series, time, version)) in (0_u32..).zip(keys) {
                match group.spans.last_mut() {
                    Some(span) if span.series == u64::from(series) => span.rows.end = row + 1,
                    _ => group.spans.push(Span { series: series.into(), rows: row..row + 1 }),
                }
                group.times.push(time);
                group.versions.push(version);
            }
            group
        })
}

/// Rows of series 1 with one column of floats, a second apart.
pub(super) fn solo(values: Vec<f64>) -> RowGroup {
    let len = values.len();
    let column = Column {
        field: FieldId(1),
        name: Bytes::from_static(b"v"),
        present: Presence::all(len),
        values: Values::Float(values),
    };
    RowGroup {
        spans: vec![Span { series: 1, rows: 0..len as u32 }],
        times: (0..len as i64).map(|at| at * 1_000_000_000).collect(),
        versions: vec![Version(1); len],
        columns: vec![column],
    }
}
