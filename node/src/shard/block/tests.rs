//! Blocks against the groups they were made of, and against whoever damages them.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::{
    batch::{Column, Presence, Values},
    id::{FieldId, Version},
    point::{MAX_TIME, MIN_TIME, Value},
    schema::FieldType,
};

use super::*;

mod damage;
mod groups;
mod summaries;
mod vectors;

use groups::*;

fn encoded(group: &RowGroup, table: Option<&VersionTable>, density: Density) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encode(group, table, density, &mut out, &mut Scratch::default());
    out.split_off(6)
}

fn density(dense: bool) -> Density {
    if dense { Density::Dense } else { Density::Cheap }
}

fn everything(_: &ColumnHead) -> bool {
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn groups_come_back_as_they_were(
        group in group(),
        dense in any::<bool>(),
        shared in any::<bool>(),
    ) {
        let table = VersionTable::new(group.versions.clone());
        let table = shared.then_some(&table);
        let block = encoded(&group, table, density(dense));
        let view = View::parse(&block).unwrap();
        prop_assert_eq!(view.spans(), &group.spans[..]);
        prop_assert_eq!(view.rows(), group.times.len());
        let (first, last) = view.time_range();
        prop_assert_eq!(Some(&first), group.times.iter().min());
        prop_assert_eq!(Some(&last), group.times.iter().max());
        prop_assert_eq!(view.decode(table, &everything).unwrap(), group.clone());
        // What is not wanted is left out.
        let some = view.decode(table, &|head| head.field.0 % 2 == 0).unwrap();
        let even: Vec<Column> =
            group.columns.iter().filter(|column| column.field.0 % 2 == 0).cloned().collect();
        prop_assert_eq!(some, RowGroup { columns: even, ..group });
    }

    #[test]
    fn tables_come_back_as_they_were(
        (first, gaps) in (any::<u64>(), prop::collection::vec(0_u64..5_000_000_000, 1..300)),
        dense in any::<bool>(),
    ) {
        let mut version = first;
        let versions = gaps.iter().map(|gap| {
            version = version.wrapping_add(*gap);
            Version(version)
        });
        let table = VersionTable::new(versions.collect());
        prop_assert!(table.versions().is_sorted_by(|a, b| a < b));
        let mut bytes = Vec::new();
        table.encode(density(dense), &mut bytes);
        prop_assert_eq!(VersionTable::decode(&bytes), Ok(table));
        bytes[first as usize % (gaps.len() + 8).min(10)] ^= 1;
        prop_assert!(VersionTable::decode(&bytes).is_err());
    }
}

#[test]
fn a_version_that_is_not_in_the_table_makes_the_block_bring_its_own() {
    let mut group = solo(vec![1.0, 2.0]);
    group.versions = vec![Version(3), Version(9)];
    let table = VersionTable::new(vec![Version(3), Version(4)]);
    let block = encoded(&group, Some(&table), Density::Cheap);
    assert_eq!(View::parse(&block).unwrap().versions(None).unwrap(), group.versions);
}

#[test]
fn a_block_with_shared_versions_needs_the_table_it_was_made_with() {
    let group = solo(vec![1.0, 2.0]);
    let table = VersionTable::new((0..3).map(Version).collect());
    let block = encoded(&group, Some(&table), Density::Cheap);
    let view = View::parse(&block).unwrap();
    assert_eq!(view.versions(Some(&table)).unwrap(), group.versions);
    assert_eq!(view.versions(None), Err(BlockError::NoVersionTable));
    let short = VersionTable::new(vec![Version(0)]);
    assert!(matches!(view.versions(Some(&short)), Err(BlockError::Invalid(_))));
}

#[test]
fn spans_are_found_and_cut_out() {
    let mut group = solo(vec![1.0, 2.0, 3.0]);
    group.spans = vec![Span { series: 4, rows: 0..1 }, Span { series: 7, rows: 1..3 }];
    let mut column = Column::new(FieldId(2), Bytes::from_static(b"w"), FieldType::Boolean);
    column.push_absent();
    column.push_absent();
    column.present.push(true);
    assert!(column.values.push(Value::Boolean(true)));
    group.columns.push(column);
    assert_eq!(group.span_of(5), None);
    assert_eq!(group.span_of(7), Some(1..3));
    let rows = group.rows_of(1..3);
    assert_eq!((rows.times.len(), rows.columns.len()), (2, 2));
    assert_eq!(group.rows_of(0..1).columns.len(), 1);
}

/// The figures that the format was chosen for, here for a series of a day.
#[test]
fn dense_random_walks_are_small() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut level = 50_i32;
    let walk: Vec<f64> = (0..8640)
        .map(|_| {
            // About normal: the sum of four dice.
            let mut step = 0;
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                step += (state >> 33) as i32 % 10;
            }
            level = (level * 10 + (step - 18) * 3).clamp(0, 1000) / 10;
            f64::from(level)
        })
        .collect();
    let len = walk.len();
    let group = solo(walk);
    let bytes = |density| encoded(&group, None, density).len();
    let (cheap, dense) = (bytes(Density::Cheap), bytes(Density::Dense));
    assert!(dense * 100 < len * 45, "{dense} bytes for {len} rows");
    assert!(cheap * 100 < len * 90, "{cheap} bytes for {len} rows");
}
