//! Whatever batches come in, the row groups hold the winners, in order, and are cut by the rules.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::rows::Rows;

use super::*;
use crate::shard::{
    block::{self, Density, Scratch, View},
    gather::Gathered,
    series_cache::{CacheBudget, SeriesCache},
    tests::support::{Cell, Content, SHARD, add_batch, add_rows, batch, cell},
};

#[derive(Default)]
struct Collected(Vec<RowGroup>);

impl Sink for Collected {
    fn put(&mut self, group: &RowGroup) -> Result<(), ShardError> {
        self.0.push(group.clone());
        Ok(())
    }

    fn put_encoded(&mut self, _: EncodedGroup) -> Result<(), ShardError> {
        unreachable!("nothing here is encoded")
    }
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let parts = (0_u16..30, -9_i64..9, 0_u8..5, -3_i64..3);
    let cell = parts.prop_map(|(series, time, field, value)| cell(series, time, field, value));
    prop::collection::vec(cell, 1..60)
}

/// The row groups of some batches, and the keys by id.
fn assemble(batches: &[(u64, Vec<Cell>)], limits: Limits) -> (Vec<RowGroup>, Vec<Bytes>, Content) {
    let (mut gathered, mut model) = (Gathered::default(), Content::new());
    let cache = SeriesCache::new(0, CacheBudget::new(0), true);
    for (version, cells) in batches {
        let batch = batch(SHARD, *version, cells);
        add_batch(&mut model, &batch);
        gathered.add(batch.decode().unwrap(), &cache);
    }
    let names = gathered.take_unknown();
    // Ids that do not follow the order of arrival.
    let count = names.len() as u64;
    let ids: Vec<SeriesId> = (0..count).map(|number| count - number).collect();
    let groups = gathered.assemble(&ids, Assembler::new(Collected::default(), limits)).unwrap().0;
    (groups, names.into_iter().rev().map(|(_, key)| key).collect(), model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn row_groups_hold_exactly_the_winners(
        batches in prop::collection::vec((1_u64..6, cells()), 1..8),
        rows in 1_usize..9, bytes in 1_usize..3000,
    ) {
        let (groups, keys, model) = assemble(&batches, Limits { rows, bytes });
        let (mut found, mut values) = (Content::new(), 0);
        let mut last = (0, i64::MIN);
        let mut groups_of: BTreeMap<SeriesId, Vec<usize>> = BTreeMap::new();
        for group in &groups {
            let mut encoded = Vec::new();
            block::encode(group, None, Density::Cheap, &mut encoded, &mut Scratch::default());
            let view = View::parse(&encoded).unwrap();
            prop_assert_eq!(&view.decode(None, &|_| true).unwrap(), group);
            for span in &group.spans {
                let part: Rows = group.rows_of(span.range());
                let (first, end) = part.time_range().unwrap();
                prop_assert!((span.series, first) > last, "a time was split, or order was lost");
                last = (span.series, end);
                groups_of.entry(span.series).or_default().push(group.spans.len());
                values += part.columns.iter().map(|c| c.present.count()).sum::<usize>();
                add_rows(&mut found, &keys[span.series as usize - 1], &part);
            }
        }
        prop_assert_eq!(values, found.len());
        prop_assert_eq!(found, model);
        for spans in groups_of.values().filter(|spans| spans.len() > 1) {
            prop_assert!(spans.iter().all(|count| *count == 1), "a packed series was split");
        }
    }
}

#[test]
fn small_series_share_groups_and_large_ones_have_their_own() {
    let limits = Limits { rows: 3000, bytes: 1 << 20 };
    let mut batches = Vec::new();
    for part in 0..10 {
        let mut cells = Vec::new();
        for time in part * 700..(part + 1) * 700 {
            cells.push(cell(2, time, 0, time));
            let early = time % 700;
            if part < 3 && early < 400 {
                cells.extend([cell(1, early, 0, 1), cell(3, early, 1, 1)]);
            }
        }
        batches.push((1 + part as u64, cells));
    }
    let (groups, keys, model) = assemble(&batches, limits);
    let shapes: Vec<Vec<usize>> = groups
        .iter()
        .map(|group| group.spans.iter().map(|span| span.rows.len()).collect())
        .collect();
    let solo = shapes.iter().filter(|spans| spans.len() == 1 && spans[0] >= SOLO_ROWS);
    assert_eq!(solo.clone().map(|spans| spans[0]).sum::<usize>(), 7000, "{shapes:?}");
    assert!(solo.clone().all(|spans| spans[0] <= 3000), "{shapes:?}");
    let small: BTreeSet<usize> =
        shapes.iter().flatten().copied().filter(|rows| *rows < SOLO_ROWS).collect();
    assert_eq!(small, BTreeSet::from([400]), "{shapes:?}");
    let rows: usize = shapes.iter().flatten().sum();
    assert_eq!((keys.len(), rows), (3, 7800));
    assert_eq!(model.len(), 7800);
}
