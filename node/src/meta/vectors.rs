//! What logs and snapshots on disks hold, against the vectors of the specification.
//!
//! Invariant: a vector never changes; a new variant of [`Change`] adds one there and a line here.

use bytes::Bytes;
use quorate_protocol::{
    change::{Change, Consent, NewField, PolicyChange, PolicySpec},
    grant::{Access, ClientGrants, GrantScope},
    id::{ClusterId, DatabaseId, Epoch, FieldId, GroupId, MetaIndex, NodeId, PolicyId, ShardId},
    map::{
        ClusterMap, Database, DeleteReason, Field, Group, Measurement, NextIds, Node, NodeState,
        Policy, Shard, Tombstone, Truncation, TruncationState,
    },
    schema::FieldType,
};

use super::{
    command::Command,
    machine::{decode_snapshot, encode_snapshot},
};
use crate::spec::{vector, vectors};

fn changes() -> Vec<(&'static str, Change)> {
    vec![
        ("change-bootstrap", Change::Bootstrap { cluster: ClusterId(7), name: "fetch".to_owned() }),
        (
            "change-add-node",
            Change::AddNode {
                name: "n1".to_owned(),
                addr: "10.0.0.1:7070".to_owned(),
                zone: Some("a".to_owned()),
                instance: 300,
            },
        ),
        (
            "change-update-node",
            Change::UpdateNode { node: NodeId(2), addr: "[::1]:7070".to_owned(), zone: None },
        ),
        (
            "change-create-database",
            Change::CreateDatabase {
                name: "db".to_owned(),
                policy: PolicySpec {
                    name: "default".to_owned(),
                    duration: 0,
                    group_duration: 604_800_000_000_000,
                    replication: 3,
                },
            },
        ),
        ("change-drop-database", Change::DropDatabase { name: "db".to_owned() }),
        (
            "change-create-groups",
            Change::CreateGroups {
                policy: PolicyId(1),
                times: vec![0, -1, 1_434_055_562_000_000_000],
            },
        ),
        (
            "change-register-fields",
            Change::RegisterFields {
                database: DatabaseId(1),
                fields: vec![
                    NewField {
                        measurement: Bytes::from_static(b"cpu"),
                        field: Bytes::from_static(b"load"),
                        kind: FieldType::Float,
                    },
                    NewField {
                        measurement: Bytes::from_static(b"cpu"),
                        field: Bytes::from_static(b"host"),
                        kind: FieldType::String,
                    },
                ],
            },
        ),
        ("change-remove-node", Change::RemoveNode { node: NodeId(300) }),
        ("change-leave-node", Change::LeaveNode { node: NodeId(300) }),
        ("change-set-voting", Change::SetVoting { node: NodeId(300), votes: false }),
        ("change-set-zone", Change::SetZone { node: NodeId(2), zone: Some("rack-1".to_owned()) }),
        (
            "change-create-policy",
            Change::CreatePolicy {
                database: "db".to_owned(),
                policy: PolicySpec {
                    name: "raw".to_owned(),
                    duration: 172_800_000_000_000,
                    group_duration: 0,
                    replication: 2,
                },
                default: true,
            },
        ),
        (
            "change-alter-policy",
            Change::AlterPolicy {
                database: "db".to_owned(),
                name: "raw".to_owned(),
                change: PolicyChange {
                    duration: Some(0),
                    group_duration: None,
                    replication: Some(3),
                },
            },
        ),
        (
            "change-drop-policy",
            Change::DropPolicy { database: "db".to_owned(), name: "raw".to_owned() },
        ),
        (
            "change-set-default-policy",
            Change::SetDefaultPolicy { database: "db".to_owned(), name: "raw".to_owned() },
        ),
        (
            "change-precreate-groups",
            Change::PrecreateGroups {
                wanted: vec![(PolicyId(1), -1), (PolicyId(2), 3_600_000_000_000)],
            },
        ),
        ("change-expire-groups", Change::ExpireGroups { grace_ns: 600_000_000_000 }),
        (
            "change-truncate-groups",
            Change::TruncateGroups {
                database: "db".to_owned(),
                name: "raw".to_owned(),
                at: 1_434_055_562_000_000_000,
            },
        ),
        ("change-consent-groups", {
            let consent = |group, highest| Consent { group, truncation: MetaIndex(12), highest };
            let groups = vec![consent(GroupId(7), Some(-1)), consent(GroupId(8), None)];
            Change::ConsentGroups { node: NodeId(300), groups }
        }),
        ("change-reopen-groups", Change::ReopenGroups { older_ns: 10_000_000_000 }),
        ("change-delete-group", Change::DeleteGroup { group: GroupId(300) }),
        ("change-prune-tombstones", Change::PruneTombstones { keep_ns: 86_400_000_000_000 }),
        (
            "change-grant",
            Change::Grant {
                client: "app".to_owned(),
                database: Some("db".to_owned()),
                access: Access::READ,
            },
        ),
        (
            "change-revoke",
            Change::Revoke {
                client: "*".to_owned(),
                scope: GrantScope::Everything,
                access: Access::ALL,
            },
        ),
        ("change-forget-grants", Change::ForgetGrants { client: "app".to_owned() }),
    ]
}

#[test]
fn changes_are_encoded_as_specified() {
    for (name, change) in changes() {
        let bytes = vector("change", name).bytes;
        assert_eq!(postcard::to_allocvec(&change).unwrap(), bytes, "{name}");
        let (read, rest) = postcard::take_from_bytes::<Change>(&bytes).unwrap();
        assert_eq!((read, rest), (change, &[][..]), "{name}");
    }
    let known = |name: &str| changes().iter().any(|(known, _)| *known == name);
    for vector in vectors("change") {
        let refused = vector.name == "change-unknown";
        assert!(refused || known(&vector.name), "no test for {}", vector.name);
    }
}

/// A map with one of everything: a group that is whole, one that is closing, one that is deleted.
fn map() -> ClusterMap {
    const DAY: i64 = 86_400_000_000_000;
    let group = |id: u64, start: i64, truncation| Group {
        id: GroupId(id),
        start,
        end: start + DAY,
        shards: vec![Shard { id: ShardId(id), epoch: Epoch(1), owners: vec![NodeId(1)] }],
        truncation,
    };
    let closing = Truncation {
        index: MetaIndex(11),
        at: DAY / 2,
        since_ns: 1_700_000_000_000_000_000,
        highest: Some(DAY / 2 + 5),
        consents: vec![NodeId(1)],
        state: TruncationState::Closing,
    };
    let policy = Policy {
        id: PolicyId(1),
        name: "default".to_owned(),
        duration: 0,
        group_duration: DAY as u64,
        replication: 2,
        groups: vec![group(1, -DAY, None).into(), group(2, 0, Some(closing)).into()],
        deleted: vec![Tombstone {
            group: GroupId(3),
            start: DAY,
            end: 2 * DAY,
            shards: vec![ShardId(3)],
            at_ns: 1_700_000_000_000_000_000,
            reason: DeleteReason::Emptied,
        }],
    };
    let load = Field { id: FieldId(1), name: "load".into(), kind: FieldType::Float };
    ClusterMap {
        index: MetaIndex(12),
        cluster: ClusterId(7),
        name: "fetch".to_owned(),
        nodes: vec![Node {
            id: NodeId(1),
            name: "n1".to_owned(),
            addr: "10.0.0.1:7070".to_owned(),
            zone: Some("a".to_owned()),
            state: NodeState::Active,
            instance: 300,
        }],
        databases: vec![
            Database {
                id: DatabaseId(1),
                name: "db".to_owned(),
                default_policy: PolicyId(1),
                policies: vec![policy.into()],
                measurements: vec![Measurement { name: "cpu".into(), fields: vec![load] }.into()],
            }
            .into(),
        ],
        next: NextIds { node: 2, database: 2, policy: 2, group: 4, shard: 4, field: 2 },
        grants: Vec::new(),
    }
}

#[test]
fn commands_and_snapshots_are_encoded_as_specified() {
    let command = Command {
        at_ns: 1_700_000_000_000_000_000,
        change: Change::RemoveNode { node: NodeId(300) },
    };
    let bytes = vector("command", "command").bytes;
    assert_eq!(postcard::to_allocvec(&command).unwrap(), bytes);
    assert_eq!(postcard::from_bytes::<Command>(&bytes).unwrap(), command);

    let bytes = vector("snapshot", "snapshot-empty").bytes;
    assert_eq!(encode_snapshot(&ClusterMap::default()).unwrap(), bytes);
    assert_eq!(decode_snapshot(&bytes).unwrap(), ClusterMap::default());
    let bytes = vector("snapshot", "snapshot-map").bytes;
    assert_eq!(encode_snapshot(&map()).unwrap(), bytes);
    assert_eq!(decode_snapshot(&bytes).unwrap(), map());
    let bytes = vector("snapshot", "snapshot-grants").bytes;
    let mut app = ClientGrants::nothing("app");
    app.set(DatabaseId(1), Access::READ);
    let granted = ClusterMap { grants: vec![app.into()], ..map() };
    assert_eq!(encode_snapshot(&granted).unwrap(), bytes);
    assert_eq!(decode_snapshot(&bytes).unwrap(), granted);
    assert!(decode_snapshot(&vector("snapshot", "snapshot-bad-crc").bytes).is_err());
}

#[test]
fn a_change_of_a_later_version_is_an_error_not_something_else() {
    assert!(postcard::from_bytes::<Change>(&vector("change", "change-unknown").bytes).is_err());
}
