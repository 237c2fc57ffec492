//! How the cluster map and its updates travel, against the vectors of the specification.

#![allow(missing_docs)]

use std::sync::Arc;

use quorate_protocol::{
    grant::{Access, ClientGrants},
    id::{ClusterId, DatabaseId, Epoch, FieldId, GroupId, MetaIndex, NodeId, PolicyId, ShardId},
    map::{
        ClusterMap, DeleteReason, Field, Group, MapChange, MapDelta, MapUpdate, NextIds, Node,
        NodeState, Policy, Shard, Tombstone, Truncation, TruncationState, apply_updates,
    },
    schema::FieldType,
};

mod spec;

const WEEK: i64 = 604_800_000_000_000;

fn group() -> Group {
    let shard = Shard { id: ShardId(9), epoch: Epoch(1), owners: vec![NodeId(1), NodeId(2)] };
    let closing = Truncation {
        index: MetaIndex(299),
        at: -WEEK / 2,
        since_ns: 1_700_000_000_000_000_000,
        highest: Some(-1),
        consents: vec![NodeId(2)],
        state: TruncationState::Closing,
    };
    let (id, shards) = (GroupId(5), vec![shard]);
    Group { id, start: -WEEK, end: 0, shards, truncation: Some(closing) }
}

/// From nothing to a map with one of everything.
fn first() -> MapDelta {
    let database = DatabaseId(3);
    let node = Node {
        id: NodeId(1),
        name: "n1".to_owned(),
        addr: "10.0.0.1:7070".to_owned(),
        zone: Some("a".to_owned()),
        state: NodeState::Active,
        instance: 300,
    };
    let policy = Policy {
        id: PolicyId(4),
        name: "default".to_owned(),
        duration: 0,
        group_duration: WEEK as u64,
        replication: 2,
        groups: Vec::new(),
        deleted: vec![Tombstone {
            group: GroupId(4),
            start: 0,
            end: WEEK,
            shards: vec![ShardId(8)],
            at_ns: 1_700_000_000_000_000_000,
            reason: DeleteReason::Emptied,
        }],
    };
    let field = |id, name: &'static str, kind| Field { id: FieldId(id), name: name.into(), kind };
    MapDelta {
        from: MetaIndex(0),
        index: MetaIndex(300),
        next: NextIds { node: 2, database: 4, policy: 5, group: 6, shard: 10, field: 8 },
        changes: vec![
            MapChange::Cluster { cluster: ClusterId(7), name: "fetch".to_owned() },
            MapChange::Node(node),
            MapChange::Database { id: database, name: "db".to_owned(), default_policy: policy.id },
            MapChange::Policy { database, policy: policy.clone() },
            MapChange::Group { database, policy: policy.id, group: Arc::new(group()) },
            MapChange::Fields {
                database,
                measurement: "cpu".into(),
                fields: vec![
                    field(7, "load", FieldType::Float),
                    field(6, "up", FieldType::Boolean),
                ],
            },
        ],
    }
}

/// What takes away again what can be taken away.
fn second() -> MapDelta {
    let (database, policy) = (DatabaseId(3), PolicyId(4));
    MapDelta {
        from: MetaIndex(300),
        index: MetaIndex(301),
        next: first().next,
        changes: vec![
            MapChange::GroupsGone { database, policy, groups: vec![GroupId(5)] },
            MapChange::PolicyGone { database, policy },
            MapChange::DatabaseGone(database),
        ],
    }
}

/// Grants come and go, on a node.
fn third() -> MapDelta {
    let mut app = ClientGrants::nothing("app");
    app.set(DatabaseId(3), Access::READ);
    MapDelta {
        from: MetaIndex(301),
        index: MetaIndex(302),
        next: first().next,
        changes: vec![MapChange::Grants(app), MapChange::GrantsGone("*".to_owned())],
    }
}

#[test]
fn updates_are_encoded_as_specified() {
    let mut map = ClusterMap::default();
    first().apply(&mut map).unwrap();
    let cases = [
        ("map-delta", MapUpdate::Delta(first())),
        ("map-delta-gone", MapUpdate::Delta(second())),
        ("map-delta-grants", MapUpdate::Delta(third())),
        ("map-whole", MapUpdate::Whole(map.clone())),
    ];
    for (name, update) in &cases {
        let bytes = spec::vector("map-update", name).bytes;
        assert_eq!(hex(&postcard::to_allocvec(update).unwrap()), hex(&bytes), "{name}");
        assert_eq!(&postcard::from_bytes::<MapUpdate>(&bytes).unwrap(), update, "{name}");
    }
    assert_eq!(spec::vectors("map-update").len(), cases.len());

    // Grants are in no encoding of a map.
    let granted = ClusterMap { grants: vec![ClientGrants::nothing("app").into()], ..map.clone() };
    assert_eq!(postcard::to_allocvec(&granted), postcard::to_allocvec(&map));

    // The same map by either way; nothing but the node is left of it in the end.
    let update = |name| spec::vector("map-update", name).bytes;
    let nothing = Arc::default();
    let whole = apply_updates(&nothing, &update("map-whole")).unwrap().unwrap();
    let both = [update("map-delta"), update("map-delta-gone")].concat();
    assert_eq!(apply_updates(&nothing, &update("map-delta")).unwrap().unwrap(), whole);
    let last = apply_updates(&nothing, &both).unwrap().unwrap();
    assert_eq!(apply_updates(&whole, &both).unwrap().unwrap(), last);
    assert_eq!((last.nodes.len(), last.databases.len()), (1, 0));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
