//! A shard equals a map of winners, whatever happens in whatever order.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::id::{FieldId, Sequence, Version};
use quorate_protocol::point::key::{measurement_of, tags_of};

use super::support::*;
use crate::shard::{ScanFilter, TagFilter, TagTest};

#[derive(Clone, Debug)]
enum Op {
    Write {
        version: u64,
        cells: Vec<Cell>,
    },
    /// An earlier batch once more, as a hint or a resend would bring it.
    Again(usize),
    Fold,
    Merge,
    /// Closes and opens, and replays the journal from somewhere below what was released.
    Reopen(u64),
    Scan {
        from: i64,
        to: i64,
        series: u16,
        field: u8,
    },
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let cell = (0_u16..12, -9_i64..9, 0_u8..4, -3_i64..3);
    let cell = cell.prop_map(|(series, time, field, value)| cell_at(series, time, field, value));
    prop::collection::vec(cell, 1..24)
}

fn cell_at(series: u16, time: i64, field: u8, value: i64) -> Cell {
    cell(series, time, field, value)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1_u64..6, cells()).prop_map(|(version, cells)| Op::Write { version, cells }),
        2 => any::<usize>().prop_map(Op::Again),
        3 => Just(Op::Fold),
        2 => Just(Op::Merge),
        1 => (0_u64..40).prop_map(Op::Reopen),
        2 => (-10_i64..10, 0_i64..12, 0_u16..12, 0_u8..4).prop_map(|(from, len, series, field)| {
            Op::Scan { from, to: from + len, series, field }
        }),
    ]
}

fn filtered(content: &Content, filter: &ScanFilter, host: Option<&str>) -> Content {
    let wanted = |(key, time, field): &(Bytes, i64, FieldId)| {
        let in_time = filter.from <= *time && *time < filter.to;
        let host_is = |host: &str| {
            tags_of(key).any(|(name, value)| name == b"host" && value == host.as_bytes())
        };
        let fields = &filter.fields;
        in_time
            && filter.measurement.as_ref().is_none_or(|m| {
                measurement_of(key) == m.escape_ascii().to_string().replace(' ', "\\ ").as_bytes()
            })
            && host.is_none_or(host_is)
            && (fields.is_empty() || fields.contains(&Bytes::from(format!("f{}", field.0 - 1))))
    };
    content.iter().filter(|(at, _)| wanted(at)).map(|(at, v)| (at.clone(), v.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_shard_equals_a_naive_model(ops in prop::collection::vec(op(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(tiny(), dir.path());
        let (mut journal, mut model) = (Journal::default(), Content::new());
        let (mut highest, mut offered) = (Version(0), false);
        for op in ops {
            match op {
                Op::Write { version, cells } => {
                    let batch = batch(SHARD, version, &cells);
                    add_batch(&mut model, &batch);
                    highest = highest.max(Version(version));
                    journal.append(&store, SHARD, batch);
                    offered = true;
                }
                Op::Again(which) if !journal.records.is_empty() => {
                    let (_, batch) = journal.records[which % journal.records.len()].clone();
                    journal.append(&store, SHARD, batch);
                    offered = true;
                }
                Op::Again(_) => {}
                Op::Fold => {
                    fold(&store, SHARD).unwrap();
                    // A store that was offered nothing yet knows of nothing to release.
                    let through = if offered { journal.records.len() as u64 } else { 0 };
                    prop_assert_eq!(store.applied_through(), Sequence(through));
                    prop_assert_eq!(store.stats().fresh_bytes, 0);
                }
                Op::Merge => drop(merge(&store, SHARD).unwrap()),
                Op::Reopen(less) => {
                    let released = store.applied_through();
                    drop(store);
                    store = open(tiny(), dir.path());
                    let from = Sequence(released.0.saturating_sub(less));
                    journal.replay(&store, from);
                    offered = from.0 < journal.records.len() as u64;
                    prop_assert_eq!(store.highest_version(), highest);
                }
                Op::Scan { from, to, series, field } => {
                    let filter = ScanFilter {
                        measurement: (series % 3 > 0)
                            .then(|| if series % 2 == 0 { "cpu".into() } else { "cpu load".into() }),
                        fields: if field == 3 { vec![] } else { vec![format!("f{field}").into()] },
                        from,
                        to,
                        ..ScanFilter::default()
                    };
                    let found = scan_with(&store, SHARD, filter.clone()).unwrap();
                    prop_assert_eq!(found, filtered(&model, &filter, None));
                    let host = format!("{series}");
                    let test = TagTest::In(vec![host.clone().into()]);
                    let tags = vec![TagFilter { key: "host".into(), test }];
                    let filter = ScanFilter { tags, ..filter };
                    let found = scan_with(&store, SHARD, filter.clone()).unwrap();
                    prop_assert_eq!(found, filtered(&model, &filter, Some(&host)));
                }
            }
        }
        prop_assert_eq!(scan(&store, SHARD), model.clone());
        fold(&store, SHARD).unwrap();
        while merge(&store, SHARD).unwrap() {}
        prop_assert_eq!(scan(&store, SHARD), model);
    }
}

/// Three versions of one row, each with some of three fields: all 343 choices of fields in all six
/// orders of arrival, with folds and merges between the arrivals or not.
#[test]
fn rows_with_several_fields_keep_their_winners_under_every_order_of_three_versions() {
    const ORDERS: [[u64; 3]; 6] =
        [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    let rows = |phase: usize, version: u64| -> Vec<Cell> {
        let mut cells = Vec::new();
        for (order, versions) in ORDERS.iter().enumerate() {
            for choice in 0..343_i64 {
                if versions[phase] == version {
                    let place = u32::try_from(version - 1).unwrap();
                    let fields = 1 + (choice / 7_i64.pow(place)) % 7;
                    for field in (0..3).filter(|field| fields >> field & 1 == 1) {
                        let value = version as i64 * 10 + i64::from(field);
                        cells.push(cell(order as u16, choice, field, value));
                    }
                }
            }
        }
        cells
    };
    for folds in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::shard::Config { merge_runs: 2, ..Default::default() };
        let store = open(config, dir.path());
        let (mut journal, mut model) = (Journal::default(), Content::new());
        for phase in 0..3 {
            for version in 1..=3 {
                let batch = batch(SHARD, version, &rows(phase, version));
                add_batch(&mut model, &batch);
                journal.append(&store, SHARD, batch);
            }
            if folds >> phase & 1 == 1 {
                fold(&store, SHARD).unwrap();
            }
        }
        assert_eq!(scan(&store, SHARD), model);
        assert_eq!(model.len(), 6 * (343 * 3 - 3 * 27));
        merge(&store, SHARD).unwrap();
        assert_eq!(scan(&store, SHARD), model);
    }
}
