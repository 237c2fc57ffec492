//! What counts as a series that is known, over folds, restarts and drops.

use std::collections::BTreeSet;

use proptest::prelude::*;
use quorate_protocol::id::Sequence;

use super::support::*;
use crate::shard::Config;

#[derive(Clone, Debug)]
enum Deed {
    /// A batch with one row of each of these series.
    Append(BTreeSet<u16>),
    Fold,
    Merge,
    Reopen,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => prop::collection::btree_set(0_u16..24, 1..6).prop_map(Deed::Append),
        2 => Just(Deed::Fold),
        1 => Just(Deed::Merge),
        1 => Just(Deed::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_series_is_known_as_soon_as_it_was_accepted_and_for_good(
        deeds in prop::collection::vec(deed(), 1..24),
        asked in prop::collection::vec(prop::collection::btree_set(0_u16..24, 1..4), 6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { fold_limit_bytes: 600, ..tiny() };
        let (mut store, mut journal) = (open(config, dir.path()), Journal::default());
        let (mut known, mut folded) = (BTreeSet::new(), BTreeSet::new());
        let of = |series: &BTreeSet<u16>, time| {
            let cells: Vec<_> = series.iter().map(|series| cell(*series, time, 0, 1)).collect();
            batch(SHARD, 1, &cells)
        };
        for (time, deed) in (1..).zip(deeds) {
            match deed {
                Deed::Append(series) => {
                    journal.append(&store, SHARD, of(&series, time));
                    known.extend(series);
                }
                Deed::Fold => {
                    fold(&store, SHARD).unwrap();
                    folded.clone_from(&known);
                }
                Deed::Merge => settle(&store, SHARD).unwrap(),
                Deed::Reopen => {
                    drop(store);
                    store = open(config, dir.path());
                    journal.replay(&store, Sequence(0));
                }
            }
            prop_assert_eq!(store.series(SHARD), folded.len() as u64);
            for series in &asked {
                let brings = store.inner.brings_series(&of(series, 0)).unwrap();
                prop_assert_eq!(brings, !series.is_subset(&known), "{:?} of {:?}", series, known);
            }
        }
    }
}
