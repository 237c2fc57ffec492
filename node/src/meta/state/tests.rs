//! What commands come to, alone and in any order.

mod alter;
mod delta;
mod grants;
mod grid;
mod seen;
mod truncate;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::{
    change::{NewField, PolicySpec},
    id::{DatabaseId, NodeId, PolicyId},
    map::{Group, NodeState, Policy},
    schema::FieldType,
};

use super::*;

const DAY: u64 = 86_400_000_000_000;

fn spec(duration: u64, group_duration: u64) -> PolicySpec {
    PolicySpec { name: String::new(), duration, group_duration, replication: 2 }
}

fn add_node(name: &str, instance: u128) -> Change {
    Change::AddNode { name: name.to_owned(), addr: "localhost:7".to_owned(), zone: None, instance }
}

fn create(name: &str, policy: PolicySpec) -> Change {
    Change::CreateDatabase { name: name.to_owned(), policy }
}

fn groups(times: &[i64]) -> Change {
    Change::CreateGroups { policy: PolicyId(1), times: times.to_vec() }
}

fn field(measurement: &str, field: &str, kind: FieldType) -> NewField {
    NewField {
        measurement: Bytes::copy_from_slice(measurement.as_bytes()),
        field: Bytes::copy_from_slice(field.as_bytes()),
        kind,
    }
}

/// A map and the index of its next command.
struct Cluster {
    map: ClusterMap,
    index: u64,
    /// Time of the next commands.
    at_ns: u64,
}

impl Cluster {
    /// Bootstrapped, with three nodes and the database `db` of 7-day groups.
    fn new() -> Self {
        let mut cluster = Self { map: ClusterMap::default(), index: 0, at_ns: 0 };
        let first = Change::Bootstrap { cluster: ClusterId(7), name: "test".to_owned() };
        assert_eq!(cluster.apply(first), Outcome::Done);
        for id in 1..=3 {
            let added = cluster.apply(add_node(&format!("n{id}"), u128::from(id)));
            assert_eq!(added, Outcome::Node(NodeId(id)));
        }
        let made = cluster.apply(create("db", spec(0, 0)));
        assert_eq!(made, Outcome::Database(DatabaseId(1)));
        cluster
    }

    fn apply(&mut self, change: Change) -> Outcome {
        self.index += 1;
        let command = Command { at_ns: self.at_ns, change };
        let before = self.map.clone();
        let outcome = apply(&mut self.map, self.index, &command);
        assert_eq!(self.map.index, MetaIndex(self.index));
        if let Outcome::Refused { .. } = outcome {
            let mut unchanged = self.map.clone();
            unchanged.index = before.index;
            assert_eq!(unchanged, before, "a refusal changed the map");
        }
        outcome
    }

    fn refused(&mut self, change: Change) -> Code {
        match self.apply(change) {
            Outcome::Refused { code, .. } => code,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn policy(&mut self) -> &mut Policy {
        let id = self.map.databases[0].policies[0].id;
        self.map.policy_mut(id).unwrap()
    }
}

#[test]
fn nothing_happens_before_the_bootstrap_and_it_happens_once() {
    let mut cluster = Cluster { map: ClusterMap::default(), index: 0, at_ns: 0 };
    assert_eq!(cluster.refused(add_node("n1", 1)), Code::NotReady);
    let bootstrap = |id| Change::Bootstrap { cluster: ClusterId(id), name: "test".to_owned() };
    assert_eq!(cluster.refused(bootstrap(0)), Code::Invalid);
    assert_eq!(cluster.apply(bootstrap(1)), Outcome::Done);
    assert_eq!(cluster.apply(bootstrap(1)), Outcome::Done);
    assert_eq!(cluster.refused(bootstrap(2)), Code::AlreadyExists);
}

#[test]
fn a_node_is_its_name_and_its_disk() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.apply(add_node("n2", 2)), Outcome::Node(NodeId(2)), "found again");
    assert_eq!(cluster.refused(add_node("n2", 9)), Code::AlreadyExists);
    assert_eq!(cluster.refused(add_node("n/2", 9)), Code::Invalid);
    let left = Change::RemoveNode { node: NodeId(3) };
    assert_eq!(cluster.apply(left.clone()), Outcome::Done);
    assert_eq!(cluster.apply(left), Outcome::Done);
    assert_eq!(cluster.refused(add_node("n3", 3)), Code::AlreadyExists);
    assert_eq!(cluster.apply(add_node("n4", 4)), Outcome::Node(NodeId(4)));
    let moved = |node, addr: &str| Change::UpdateNode {
        node: NodeId(node),
        addr: addr.to_owned(),
        zone: Some("b".to_owned()),
    };
    assert_eq!(cluster.refused(moved(3, "h:1")), Code::NodeNotFound);
    assert_eq!(cluster.refused(moved(2, "h:0")), Code::Invalid);
    assert_eq!(cluster.apply(moved(2, "[::1]:9")), Outcome::Done);
    assert_eq!(cluster.map.node(NodeId(2)).unwrap().addr, "[::1]:9");
    let active: Vec<u64> = cluster.map.active_nodes().map(|n| n.id.0).collect();
    assert_eq!(active, [1, 2, 4]);
}

#[test]
fn an_owner_and_the_last_node_cannot_leave() {
    let mut cluster = Cluster::new();
    cluster.apply(groups(&[0]));
    let leave = |node| Change::RemoveNode { node: NodeId(node) };
    assert_eq!(cluster.refused(leave(1)), Code::Invalid);
    assert_eq!(cluster.refused(leave(9)), Code::NodeNotFound);
    let drop = Change::DropDatabase { name: "db".to_owned() };
    assert_eq!(cluster.apply(drop), Outcome::Done);
    assert_eq!(cluster.apply(leave(1)), Outcome::Done);
    assert_eq!(cluster.apply(leave(2)), Outcome::Done);
    assert_eq!(cluster.refused(leave(3)), Code::Invalid);
}

#[test]
fn who_leaves_is_taken_out_of_the_owners_of_every_shard_at_once() {
    let mut cluster = Cluster::new();
    cluster.apply(groups(&[0, 8 * DAY as i64]));
    let leave = |node| Change::LeaveNode { node: NodeId(node) };
    assert_eq!(cluster.refused(leave(9)), Code::NodeNotFound);
    let before: Vec<_> = cluster.map.shards().map(|place| place.shard.clone()).collect();
    assert_eq!(cluster.apply(leave(2)), Outcome::Done);
    assert_eq!(cluster.apply(leave(2)), Outcome::Done, "again");
    for (place, mut before) in cluster.map.shards().zip(before) {
        before.owners.retain(|owner| *owner != NodeId(2));
        assert_eq!(*place.shard, before);
    }
    assert!(!cluster.map.node(NodeId(2)).unwrap().is_member());
    // With two copies on three nodes, some shard is now on node 3 alone.
    match cluster.apply(leave(3)) {
        Outcome::Refused { code: Code::Invalid, detail } => {
            assert!(detail.contains("db.default shard "), "{detail}");
            assert!(detail.ends_with("move or drop them first"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    cluster.apply(Change::DropDatabase { name: "db".to_owned() });
    assert_eq!(cluster.apply(leave(3)), Outcome::Done);
    assert_eq!(cluster.refused(leave(1)), Code::Invalid);
}

#[test]
fn one_node_at_least_may_vote_and_zones_have_names() {
    let mut cluster = Cluster::new();
    let voting = |node, votes| Change::SetVoting { node: NodeId(node), votes };
    assert_eq!(cluster.apply(voting(1, false)), Outcome::Done);
    assert_eq!(cluster.apply(voting(2, false)), Outcome::Done);
    assert_eq!(cluster.refused(voting(3, false)), Code::Invalid);
    assert_eq!(cluster.refused(Change::LeaveNode { node: NodeId(3) }), Code::Invalid);
    assert_eq!(cluster.map.active_nodes().count(), 3, "they own shards as before");
    assert_eq!(cluster.apply(voting(1, true)), Outcome::Done);
    assert_eq!(cluster.apply(voting(3, false)), Outcome::Done);
    assert_eq!(cluster.refused(voting(9, true)), Code::NodeNotFound);

    let zone =
        |zone: Option<&str>| Change::SetZone { node: NodeId(2), zone: zone.map(str::to_owned) };
    assert_eq!(cluster.apply(zone(Some("b"))), Outcome::Done);
    assert_eq!(cluster.refused(zone(Some("no zone"))), Code::Invalid);
    assert_eq!(cluster.map.node(NodeId(2)).unwrap().zone.as_deref(), Some("b"));
    assert_eq!(cluster.apply(zone(None)), Outcome::Done);
    assert_eq!(cluster.map.node(NodeId(2)).unwrap().zone, None);
}

#[test]
fn the_same_database_again_is_no_error_another_is() {
    let mut cluster = Cluster::new();
    let policy = cluster.policy().clone();
    assert_eq!(policy.name, "default");
    assert_eq!(policy.group_duration, 7 * DAY);
    assert_eq!(policy.replication, 2);
    let again = cluster.apply(create("db", spec(0, 7 * DAY)));
    assert_eq!(again, Outcome::Database(DatabaseId(1)));
    let other = create("db", spec(DAY, 0));
    assert_eq!(cluster.refused(other), Code::AlreadyExists);
    for bad in ["", "a b", "ä", &"x".repeat(65)] {
        assert_eq!(cluster.refused(create(bad, spec(0, 0))), Code::Invalid);
    }
    for bad in [spec(1, 0), spec(0, 1), spec(DAY, 2 * DAY), spec(u64::MAX, 0)] {
        assert_eq!(cluster.refused(create("db2", bad)), Code::Invalid);
    }
    let drop = |name: &str| Change::DropDatabase { name: name.to_owned() };
    assert_eq!(cluster.apply(drop("db")), Outcome::Done);
    assert_eq!(cluster.refused(drop("db")), Code::DatabaseNotFound);
    let again = cluster.apply(create("db", spec(0, 0)));
    assert_eq!(again, Outcome::Database(DatabaseId(2)), "ids are not reused");
}

#[test]
fn f19_groups_are_found_again_and_clipped_to_their_gap() {
    let mut cluster = Cluster::new();
    cluster.policy().group_duration = DAY;
    cluster.apply(groups(&[0, 1]));
    let bounds = |policy: &Policy| -> Vec<(i64, i64)> {
        policy.groups.iter().map(|g| (g.start, g.end)).collect()
    };
    let day = DAY as i64;
    assert_eq!(bounds(cluster.policy()), [(0, day)]);
    cluster.policy().group_duration = 7 * DAY;
    cluster.apply(groups(&[-1, day]));
    // 1970-01-01 was a Thursday and 7-day groups start on Mondays.
    assert_eq!(bounds(cluster.policy()), [(-3 * day, 0), (0, day), (day, 4 * day)]);
    assert_eq!(cluster.refused(groups(&[i64::MAX])), Code::Invalid);
    let unknown = Change::CreateGroups { policy: PolicyId(9), times: vec![0] };
    assert_eq!(cluster.refused(unknown), Code::PolicyNotFound);
}

#[test]
fn too_many_groups_at_once_make_none() {
    let mut cluster = Cluster::new();
    let times: Vec<i64> = (0..33).map(|week| week * 7 * DAY as i64).collect();
    assert_eq!(cluster.refused(groups(&times)), Code::LimitExceeded);
    assert_eq!(cluster.apply(groups(&times[..32])), Outcome::Done);
    assert_eq!(cluster.apply(groups(&times)), Outcome::Done, "one is new");
    assert_eq!(cluster.policy().groups.len(), 33);
}

#[test]
fn without_nodes_there_are_no_groups() {
    let mut cluster = Cluster::new();
    for node in &mut cluster.map.nodes {
        node.state = NodeState::Removed;
    }
    assert_eq!(cluster.refused(groups(&[0])), Code::NoNodes);
}

#[test]
fn a_group_of_three_nodes_with_two_copies_has_three_shards() {
    let mut cluster = Cluster::new();
    cluster.apply(groups(&[0]));
    let index = cluster.index;
    let group = cluster.policy().groups[0].clone();
    let owners: Vec<Vec<u64>> =
        group.shards.iter().map(|shard| shard.owners.iter().map(|id| id.0).collect()).collect();
    assert_eq!(owners.len(), 3);
    assert_eq!(owners[0][0], index % 3 + 1, "the round starts at the index");
}

#[test]
fn the_first_type_of_a_field_stays() {
    let mut cluster = Cluster::new();
    let register = |fields| Change::RegisterFields { database: DatabaseId(1), fields };
    let first = vec![
        field("cpu", "load", FieldType::Float),
        field("cpu", "busy", FieldType::Integer),
        field("cpu", "load", FieldType::String),
    ];
    assert_eq!(cluster.apply(register(first)), Outcome::Done);
    let second = vec![field("cpu", "busy", FieldType::Float)];
    assert_eq!(cluster.apply(register(second)), Outcome::Done);
    let database = &cluster.map.databases[0];
    let load = database.field(b"cpu", b"load").unwrap();
    let busy = database.field(b"cpu", b"busy").unwrap();
    assert_eq!((load.kind, load.id.0), (FieldType::Float, 1));
    assert_eq!((busy.kind, busy.id.0), (FieldType::Integer, 2));
    let elsewhere = Change::RegisterFields { database: DatabaseId(9), fields: vec![] };
    assert_eq!(cluster.refused(elsewhere), Code::DatabaseNotFound);
}

#[test]
fn fields_over_a_limit_are_left_out_and_the_rest_is_registered() {
    let mut cluster = Cluster::new();
    let many = (0..=1_024).map(|i| field("wide", &format!("f{i:04}"), FieldType::Float));
    let mut fields: Vec<NewField> = many.collect();
    fields.push(field("cpu", "load", FieldType::Float));
    fields.push(field("", "load", FieldType::Float));
    let outcome = cluster.apply(Change::RegisterFields { database: DatabaseId(1), fields });
    let Outcome::Partly { code, detail } = outcome else { panic!("{outcome:?}") };
    assert_eq!(code, Code::LimitExceeded);
    assert!(detail.starts_with("2 of 1027 fields"), "{detail}");
    let database = &cluster.map.databases[0];
    assert_eq!(database.measurement(b"wide").unwrap().fields.len(), 1_024);
    assert!(database.field(b"wide", b"f1024").is_none());
    assert!(database.field(b"cpu", b"load").is_some());
}

#[test]
fn measurements_are_limited() {
    let mut cluster = Cluster::new();
    let register = |range: std::ops::Range<u32>| Change::RegisterFields {
        database: DatabaseId(1),
        fields: range.map(|i| field(&format!("m{i}"), "f", FieldType::Boolean)).collect(),
    };
    assert_eq!(cluster.apply(register(0..10_000)), Outcome::Done);
    assert!(matches!(
        cluster.apply(register(9_999..10_001)),
        Outcome::Partly { code: Code::LimitExceeded, .. }
    ));
    assert_eq!(cluster.map.databases[0].measurements.len(), 10_000);
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Event {
    Change(Change),
    GroupDuration(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let minute = 60_000_000_000u64;
    let near = -40_i64 * DAY as i64..40 * DAY as i64;
    let time = prop_oneof![9 => near, 1 => any::<i64>()];
    let event = prop_oneof![
        4 => prop::collection::vec(time, 0..6).prop_map(|times| Event::Change(groups(&times))),
        2 => prop_oneof![minute..DAY, DAY..30 * DAY].prop_map(Event::GroupDuration),
        1 => (0u8..6, 0u8..3).prop_map(|(name, disk)| {
            Event::Change(add_node(&format!("x{name}"), u128::from(disk)))
        }),
        1 => (1u64..8).prop_map(|id| Event::Change(Change::RemoveNode { node: NodeId(id) })),
        1 => (1u64..8).prop_map(|id| Event::Change(Change::LeaveNode { node: NodeId(id) })),
        1 => (0u8..3).prop_map(|name| Event::Change(create(&format!("d{name}"), spec(0, 0)))),
        1 => (0u8..3).prop_map(|name| {
            Event::Change(Change::DropDatabase { name: format!("d{name}") })
        }),
        1 => (1u32..4, "[ab]", "[ab]").prop_map(|(database, m, f)| {
            let fields = vec![field(&m, &f, FieldType::Float)];
            Event::Change(Change::RegisterFields { database: DatabaseId(database), fields })
        }),
    ];
    prop::collection::vec(event, 1..40)
}

fn run(events: &[Event]) -> Result<Cluster, TestCaseError> {
    let mut cluster = Cluster::new();
    let mut ids = std::collections::BTreeSet::new();
    for event in events {
        let change = match event {
            Event::GroupDuration(duration) => {
                cluster.policy().group_duration = *duration;
                continue;
            }
            Event::Change(change) => change.clone(),
        };
        let before = cluster.map.clone();
        let outcome = cluster.apply(change.clone());
        let old: std::collections::BTreeSet<_> =
            before.shards().map(|place| place.shard.id).collect();
        for place in cluster.map.shards() {
            let is_new = !old.contains(&place.shard.id);
            prop_assert!(!is_new || ids.insert(place.shard.id), "shard id reused");
            prop_assert!(!place.shard.owners.is_empty());
        }
        for place in cluster.map.shards() {
            for owner in &place.shard.owners {
                prop_assert!(cluster.map.node(*owner).unwrap().is_member(), "owned by nobody");
            }
        }
        let bounds = |group: &Arc<Group>| {
            let shards: Vec<_> = group.shards.iter().map(|shard| shard.id).collect();
            (group.id, group.start, group.end, shards)
        };
        let now: Vec<_> = cluster.policy().groups.iter().map(bounds).collect();
        for group in &before.databases[0].policies[0].groups {
            prop_assert!(now.contains(&bounds(group)), "a group changed");
        }
        if let (Change::CreateGroups { times, .. }, Outcome::Done) = (&change, &outcome) {
            let policy = cluster.policy();
            prop_assert!(times.iter().all(|time| policy.group_at(*time).is_some()));
        }
        for pair in cluster.policy().groups.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start, "overlap");
            prop_assert!(pair[0].start < pair[0].end);
        }
    }
    Ok(cluster)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn f19_groups_never_overlap_ids_are_unique_and_replays_agree(events in events()) {
        let once = run(&events)?;
        let twice = run(&events)?;
        prop_assert_eq!(&once.map, &twice.map);
        let nodes: Vec<_> = once.map.nodes.iter().map(|node| node.id).collect();
        prop_assert!(nodes.is_sorted_by(|a, b| a < b));
        let databases: Vec<_> = once.map.databases.iter().map(|database| database.id).collect();
        prop_assert!(databases.is_sorted_by(|a, b| a < b));
    }
}
