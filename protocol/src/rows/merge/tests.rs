use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::point::Value;

/// Winners by (time, field).
type Model = BTreeMap<(i64, u32), (u64, Value)>;

/// One written cell: time, field, version, value.
type Cell = (i64, u32, u64, Value);

fn model(cells: &[Cell]) -> Model {
    let mut model = Model::new();
    for (time, field, version, value) in cells {
        let slot = model.entry((*time, *field)).or_insert_with(|| (*version, value.clone()));
        let new = (*version, value.clone());
        if new.0.cmp(&slot.0).then_with(|| new.1.canonical_cmp(&slot.1)).is_gt() {
            *slot = new;
        }
    }
    model
}

/// What rows say, and that they keep their rules.
fn read(rows: &Rows) -> Model {
    let mut model = Model::new();
    let keys: Vec<_> = rows.times.iter().zip(&rows.versions).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    assert!(rows.columns.is_sorted_by(|a, b| a.field < b.field));
    for (row, (time, version)) in keys.iter().enumerate() {
        let mut fields = 0;
        for column in &rows.columns {
            assert_eq!(column.present.len(), rows.len());
            assert_eq!(column.values.len(), rows.len());
            if let Some(value) = column.get(row) {
                fields += 1;
                let old = model.insert((**time, column.field.0), (version.0, value.to_value()));
                assert_eq!(old, None, "a field of a time occurs twice");
            }
        }
        assert!(fields > 0, "an empty row");
    }
    assert!(rows.columns.iter().all(|column| column.present.count() > 0));
    model
}

fn rows_of(cells: &[Cell]) -> Rows {
    let one = |(time, field, version, value): &Cell| {
        let name = format!("f{field}").into();
        let mut column = Column::new(FieldId(*field), name, value.field_type());
        column.present.push(true);
        assert!(column.values.push(value.clone()));
        Rows { times: vec![*time], versions: vec![Version(*version)], columns: vec![column] }
    };
    Rows::merge(cells.iter().map(one).collect())
}

/// Field 0 is a float, 1 an integer, 2 a string: one type each.
fn value(field: u32, seed: u8) -> Value {
    match field {
        0 => Value::Float(f64::from(seed) - 2.0),
        1 => Value::Integer(i64::from(seed) - 2),
        _ => Value::String(vec![b'x'; usize::from(seed)].into()),
    }
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let cell = (0_i64..6, 0_u32..3, 1_u64..4, 0_u8..4)
        .prop_map(|(time, field, version, seed)| (time, field, version, value(field, seed)));
    prop::collection::vec(cell, 0..24)
}

proptest! {
    #[test]
    fn merging_is_the_model(a in cells(), b in cells(), c in cells()) {
        let (ra, rb, rc) = (rows_of(&a), rows_of(&b), rows_of(&c));
        let all: Vec<Cell> = [a, b, c].concat();
        let expected = model(&all);
        let at_once = Rows::merge(vec![ra.clone(), rb.clone(), rc.clone()]);
        prop_assert_eq!(&read(&at_once), &expected);
        let left = Rows::merge(vec![Rows::merge(vec![ra.clone(), rb.clone()]), rc.clone()]);
        let right = Rows::merge(vec![rc.clone(), Rows::merge(vec![rb.clone(), ra.clone()])]);
        prop_assert_eq!(&left, &at_once);
        prop_assert_eq!(&right, &at_once);
        let again = Rows::merge(vec![at_once.clone(), rb, at_once.clone(), ra]);
        prop_assert_eq!(&again, &at_once);
        prop_assert_eq!(&Rows::merge(vec![at_once.clone()]), &at_once);
        let mut block = Vec::new();
        at_once.encode(&mut block);
        prop_assert_eq!(&Rows::decode(&block).unwrap(), &at_once);
    }

    #[test]
    fn collapsing_keeps_the_winners(cells in cells()) {
        let flat = rows_of(&cells).collapse();
        prop_assert!(flat.times.is_sorted_by(|a, b| a < b));
        let expected: Vec<_> = model(&cells).into_iter().map(|(at, (_, value))| (at, value)).collect();
        let found: Vec<_> = read(&flat).into_iter().map(|(at, (_, value))| (at, value)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn slices_and_selections_are_the_model(cells in cells(), from in 0_i64..6, to in 0_i64..6) {
        let rows = rows_of(&cells);
        let expected: Model = model(&cells);
        let sliced: Model = expected.clone().into_iter()
            .filter(|((time, _), _)| (from..to).contains(time)).collect();
        prop_assert_eq!(read(&rows.slice(from, to)), sliced);
        let chosen: Model = expected.into_iter().filter(|((_, field), _)| *field != 1).collect();
        prop_assert_eq!(read(&rows.select(&[FieldId(0), FieldId(2)])), chosen);
    }
}

#[test]
fn several_fields_under_every_order_of_three_versions() {
    let writes: [&[Cell]; 3] = [
        &[(1, 0, 1, value(0, 1)), (1, 1, 1, value(1, 1)), (1, 2, 1, value(2, 1))],
        &[(1, 0, 2, value(0, 2)), (1, 1, 2, value(1, 2))],
        &[(1, 0, 3, value(0, 3))],
    ];
    let expected = rows_of(&writes.concat());
    assert_eq!(expected.len(), 3, "each version keeps what it still wins");
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut state = Rows::default();
        for at in order {
            state = Rows::merge(vec![state, rows_of(writes[at])]);
        }
        assert_eq!(state, expected, "{order:?}");
    }
    assert_eq!(expected.collapse().len(), 1);
}

#[test]
fn ties_go_to_the_higher_bits() {
    let rows = rows_of(&[(1, 1, 5, Value::Integer(3)), (1, 1, 5, Value::Integer(-3))]);
    assert_eq!(rows.columns[0].get(0).unwrap().to_value(), Value::Integer(-3));
}
