//! Aggregates equal those of a naive model, whatever happened to the store.

use proptest::prelude::*;

use super::*;
use crate::shard::naive::{self, SHARD, Winners, cells, event, once, small_blocks, tiny};

/// One value after the other.
fn expected(winners: &Winners, filter: &AggregateFilter) -> Vec<FieldWindows> {
    let mut out: Vec<FieldWindows> = Vec::new();
    let measurement = filter.scan.escaped_measurement();
    for ((key, field, time), (_, value)) in winners {
        let name = Bytes::from(format!("f{}", field - 1));
        let fields = &filter.scan.fields;
        let wanted = (filter.scan.from..filter.scan.to).contains(time)
            && filter.scan.key_matches(measurement.as_deref(), key)
            && (fields.is_empty() || fields.contains(&name));
        if !wanted {
            continue;
        }
        let (start, end) = filter.windows.bounds(*time);
        assert!(start <= *time && *time < end);
        let one = Partial::one(*time, value.clone());
        match out.last_mut() {
            Some(last) if last.key == *key && last.field.0 == *field => {
                match last.windows.last_mut() {
                    Some((known, partial)) if *known == start => partial.merge(&one),
                    _ => last.windows.push((start, one)),
                }
            }
            _ => out.push(FieldWindows {
                key: key.clone(),
                field: FieldId(*field),
                name,
                kind: value.field_type(),
                windows: vec![(start, one)],
            }),
        }
    }
    out
}

/// Rounds of one series joined, their order verified.
fn joined(items: impl Iterator<Item = AggregateItem>) -> Vec<FieldWindows> {
    let mut out: BTreeMap<(Bytes, FieldId), FieldWindows> = BTreeMap::new();
    let mut last: Option<FieldWindows> = None;
    for item in items {
        let item = item.unwrap();
        assert!(item.windows.is_sorted_by(|a, b| a.0 < b.0) && !item.windows.is_empty());
        if let Some(last) = &last {
            let later_round = item.key == last.key && item.windows[0].0 > last.windows[0].0;
            assert!((&item.key, item.field) > (&last.key, last.field) || later_round);
        }
        last = Some(item.clone());
        match out.get_mut(&(item.key.clone(), item.field)) {
            Some(known) => {
                assert!(known.windows.last().unwrap().0 < item.windows[0].0);
                known.windows.extend(item.windows);
            }
            None => drop(out.insert((item.key.clone(), item.field), item)),
        }
    }
    out.into_values().collect()
}

proptest! {
    #![proptest_config(naive::cases(64))]
    #[test]
    fn aggregates_equal_a_naive_model(
        writes in prop::collection::vec((1_u64..6, cells()), 1..12),
        events in prop::collection::vec(event(), 1..12),
        every in 0_u64..12, from in -10_i64..10, len in 0_i64..20, field in 0_u8..7, all: bool,
        small: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let writes: Vec<_> = writes.into_iter().map(|(v, cells)| (v, once(cells))).collect();
        let store = naive::store(if small { small_blocks() } else { tiny() }, dir.path(), &writes, &events);
        let winners = naive::winners(&writes);
        let scan = ScanFilter {
            measurement: (!all).then(|| "cpu load".into()),
            fields: if field == 6 { vec![] } else { vec![format!("f{field}").into()] },
            from: if all { i64::MIN } else { from },
            to: if all { i64::MAX } else { from + len },
            ..ScanFilter::default()
        };
        let filter = AggregateFilter { scan, windows: Windows::new(every) };
        let found = joined(store.aggregate(SHARD, filter.clone()).unwrap());
        prop_assert_eq!(found, expected(&winners, &filter));
    }
}
