//! Whatever commands do to a map, the step from the map before gives it, on the wire and on a disk.

use quorate_protocol::{
    change::Consent,
    grant::{Access, GrantScope},
    id::GroupId,
    map::{GroupDifferences, MapDelta, MapUpdate, apply_updates},
};

use super::*;
use crate::{
    executor::Executor,
    meta::{rows, store::Store},
};

/// Commands about a few names and ids, so that they meet.
pub(super) fn commands() -> impl Strategy<Value = Vec<Change>> {
    let name = || prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned);
    let rule = || prop::sample::select(vec!["default", "p"]).prop_map(str::to_owned);
    let times = prop::collection::vec(-40 * DAY as i64..40 * DAY as i64, 1..4);
    let field = (prop::sample::select(vec!["m", "n"]), "[a-c]{1,2}");
    let fields = prop::collection::vec(field, 1..4).prop_map(|fields| {
        let new = |(measurement, field): (&str, String)| NewField {
            measurement: measurement.to_owned().into(),
            field: field.into(),
            kind: FieldType::Float,
        };
        fields.into_iter().map(new).collect::<Vec<_>>()
    });
    let client = || prop::sample::select(vec!["*", "x", "y"]).prop_map(str::to_owned);
    let scope = prop_oneof![
        name().prop_map(GrantScope::Database),
        Just(GrantScope::AllDatabases),
        Just(GrantScope::Everything),
    ];
    let command = prop_oneof![
        2 => name().prop_map(|name| create(&name, spec(0, DAY))),
        1 => name().prop_map(|name| Change::DropDatabase { name }),
        1 => (name(), rule(), any::<bool>()).prop_map(|(database, name, default)| {
            let policy = PolicySpec { name, ..spec(30 * DAY, DAY) };
            Change::CreatePolicy { database, policy, default }
        }),
        1 => (name(), rule(), 1..4u64).prop_map(|(database, name, days)| {
            let change = quorate_protocol::change::PolicyChange {
                duration: Some(days * DAY),
                ..Default::default()
            };
            Change::AlterPolicy { database, name, change }
        }),
        1 => (name(), rule()).prop_map(|(database, name)| Change::DropPolicy { database, name }),
        1 => (name(), rule())
            .prop_map(|(database, name)| Change::SetDefaultPolicy { database, name }),
        6 => (1..6u32, times)
            .prop_map(|(policy, times)| Change::CreateGroups { policy: PolicyId(policy), times }),
        4 => (1..4u32, fields).prop_map(|(database, fields)| {
            Change::RegisterFields { database: DatabaseId(database), fields }
        }),
        1 => (1..5u64).prop_map(|node| Change::LeaveNode { node: NodeId(node) }),
        1 => (4..7u64).prop_map(|n| add_node(&format!("n{n}"), n.into())),
        1 => Just(Change::ExpireGroups { grace_ns: 0 }),
        2 => (name(), rule(), -40 * DAY as i64..40 * DAY as i64)
            .prop_map(|(database, name, at)| Change::TruncateGroups { database, name, at }),
        2 => (1..4u64, 1..9u64, 1..30u64, prop::option::of(0..DAY as i64)).prop_map(
            |(node, group, index, highest)| {
                let (group, truncation) = (GroupId(group), MetaIndex(index));
                let groups = vec![Consent { group, truncation, highest }];
                Change::ConsentGroups { node: NodeId(node), groups }
            }
        ),
        1 => Just(Change::ReopenGroups { older_ns: DAY }),
        1 => (1..9u64).prop_map(|group| Change::DeleteGroup { group: GroupId(group) }),
        1 => Just(Change::PruneTombstones { keep_ns: 5 * DAY }),
        3 => (client(), prop::option::of(name()))
            .prop_map(|(client, database)| Change::Grant { client, database, access: Access::ALL }),
        2 => (client(), scope, any::<bool>()).prop_map(|(client, scope, write)| {
            let access = if write { Access::WRITE } else { Access::ALL };
            Change::Revoke { client, scope, access }
        }),
        1 => client().prop_map(|client| Change::ForgetGrants { client }),
    ];
    prop::collection::vec(command, 1..40)
}

/// Every map that these commands lead to, the first one being empty.
pub(super) fn history(commands: Vec<Change>) -> Vec<Arc<ClusterMap>> {
    let bootstrap = Change::Bootstrap { cluster: ClusterId(1), name: "c".to_owned() };
    let nodes = (1..=3).map(|n| add_node(&format!("n{n}"), n));
    let mut maps = vec![Arc::new(ClusterMap::default())];
    for (change, index) in [bootstrap].into_iter().chain(nodes).chain(commands).zip(1..) {
        let mut next = Arc::clone(maps.last().unwrap());
        let at_ns = index * DAY;
        apply(Arc::make_mut(&mut next), index, &Command { at_ns, change });
        maps.push(next);
    }
    maps
}

fn encode(old: &ClusterMap, new: &ClusterMap) -> Vec<u8> {
    postcard::to_allocvec(&MapUpdate::Delta(MapDelta::between(old, new))).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_delta_makes_the_newer_map_of_the_older_one(
        commands in commands(),
        cut in any::<prop::sample::Index>(),
    ) {
        let maps = history(commands);
        let (first, last) = (&maps[cut.index(maps.len())], maps.last().unwrap());
        // One by one, with those before the first passed over; and all at once.
        let all: Vec<u8> = maps.windows(2).flat_map(|two| encode(&two[0], &two[1])).collect();
        let newest = apply_updates(first, &all).unwrap();
        prop_assert_eq!(newest.as_ref().unwrap_or(first), last);
        let newest = apply_updates(first, &encode(first, last)).unwrap();
        prop_assert_eq!(newest.as_ref().unwrap_or(first), last);
        // A map that shares no parts with the other is compared by what it holds.
        let mut other: ClusterMap =
            postcard::from_bytes(&postcard::to_allocvec(last.as_ref()).unwrap()).unwrap();
        other.grants = last.grants.iter().map(|it| Arc::new(it.as_ref().clone())).collect();
        prop_assert_eq!(MapDelta::between(first, &other), MapDelta::between(first, last));
        prop_assert_eq!(&MapDelta::between(&other, last).changes, &[]);
    }

    #[test]
    fn groups_that_are_gone_or_different_are_all_that_are_named(
        commands in commands(),
        cut in any::<prop::sample::Index>(),
    ) {
        let maps = history(commands);
        let (old, new) = (&maps[cut.index(maps.len())], maps.last().unwrap());
        let all = |map: &ClusterMap| {
            let policies = map.policies().flat_map(|policy| &policy.groups);
            policies.map(|group| (group.id, group.as_ref().clone())).collect()
        };
        let mut known: std::collections::BTreeMap<_, Group> = all(old);
        let found = GroupDifferences::between(old, new);
        for gone in found.gone {
            let before = known.remove(&gone.id);
            prop_assert_eq!(before.as_ref(), Some(gone));
        }
        for (_, policy, group) in found.changed {
            prop_assert!(new.policies().any(|known| known.id == policy));
            prop_assert!(known.insert(group.id, group.clone()).as_ref() != Some(group));
        }
        prop_assert_eq!(known, all(new));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_loaded_is_what_was_saved(commands in commands(), together in 1usize..5) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 16 << 20, Executor::Inline).unwrap();
        let maps = history(commands);
        let steps: Vec<MapDelta> =
            maps.windows(2).map(|two| MapDelta::between(&two[0], &two[1])).collect();
        for (steps, map) in steps.chunks(together).zip(maps[1..].chunks(together)) {
            store.write(|store, txn| rows::save(store, txn, steps)).unwrap();
            let txn = store.env.read_txn().unwrap();
            prop_assert_eq!(&rows::load(&store, &txn).unwrap(), map.last().unwrap().as_ref());
        }
        let last = maps.last().unwrap();
        let txn = store.env.read_txn().unwrap();
        let kept = store.map.len(&txn).unwrap();
        drop(txn);
        store.write(|store, txn| rows::replace(store, txn, last)).unwrap();
        let txn = store.env.read_txn().unwrap();
        prop_assert_eq!(&rows::load(&store, &txn).unwrap(), last.as_ref());
        prop_assert_eq!(store.map.len(&txn).unwrap(), kept, "nothing was left behind");
    }
}

#[test]
fn news_that_do_not_follow_are_refused() {
    let maps = history(vec![create("a", spec(0, DAY)), groups(&[0])]);
    let [.., a, b, c] = &maps[..] else { panic!() };
    let gap = apply_updates(a, &encode(b, c)).unwrap_err();
    assert_eq!(
        gap.to_string(),
        format!("map is at index {}, the delta starts at {}", a.index, b.index)
    );
    assert!(apply_updates(b, &encode(a, c)).is_err(), "it is from before");
    let mut cut = encode(b, c);
    cut.pop();
    assert!(apply_updates(b, &cut).is_err());
    assert_eq!(apply_updates(c, &encode(b, c)), Ok(None));
    // A step from another history.
    let empty = Arc::new(ClusterMap { index: b.index, ..ClusterMap::default() });
    assert!(apply_updates(&empty, &encode(b, c)).is_err());
}
