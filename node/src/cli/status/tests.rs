//! What is shown of looks that were made by hand.

use std::{collections::BTreeMap, sync::Arc};

use quorate_protocol::{
    id::{GroupId, MetaIndex, NodeId, ShardId},
    map::{ClusterMap, Database, Group, Node, NodeState, Policy, Shard},
    message::{Lacking, NodeStatus, QueueStatus, RaftRole, ShardState},
};
use serde_json::Value;

use super::{
    Look,
    describe::{KEYS, describe},
    picture::picture,
};
use crate::cli::{replicas::Replicas, survey::Survey, table::WIDTH};

const DAY: i64 = 86_400_000_000_000;
const NOW: i64 = 1_700_000_000_000_000_000;

fn node(id: u64) -> Node {
    Node {
        id: NodeId(id),
        name: format!("storage-{id}"),
        addr: format!("192.168.100.{id}:7100"),
        zone: Some("rack-12".to_owned()),
        state: NodeState::Active,
        instance: 0,
    }
}

fn answer(id: u64, role: RaftRole, queues: Vec<QueueStatus>) -> NodeStatus {
    NodeStatus {
        node: NodeId(id),
        role,
        leader: Some(NodeId(1)),
        meta_index: MetaIndex(40),
        poisoned: false,
        fresh_bytes: 1,
        journal_bytes: 2,
        queues,
        version: "0.1.0".to_owned(),
        sync_interval_ms: 50,
        log_index: 1_000,
        applied_index: 1_000 - id + 1,
        certificate_expires_s: 1_800_000_000 + 86_400 * id,
    }
}

/// Five nodes with 40 shards of three owners; node five is down and node four has a damaged shard.
fn look() -> Look {
    let shard = |n: u64| Shard {
        id: ShardId(n),
        owners: (0..3).map(|step| NodeId(1 + (n + step) % 5)).collect(),
        ..serde_json::from_str(r#"{"id":0,"epoch":1,"owners":[]}"#).unwrap()
    };
    let group = |n: u64| Group {
        id: GroupId(n),
        start: NOW + n as i64 * DAY,
        end: NOW + (n as i64 + 1) * DAY,
        shards: vec![shard(2 * n), shard(2 * n + 1)],
        truncation: None,
    };
    let policy = Policy {
        id: Default::default(),
        name: "ninety_days".to_owned(),
        duration: 0,
        group_duration: DAY as u64,
        replication: 3,
        groups: (0..20).map(|id| group(id).into()).collect(),
        deleted: Vec::new(),
    };
    let database = Database {
        id: Default::default(),
        name: "telemetry".to_owned(),
        default_policy: Default::default(),
        policies: vec![policy.into()],
        measurements: Vec::new(),
    };
    let map = ClusterMap {
        name: "production-east".to_owned(),
        nodes: (1..=5).map(node).collect(),
        databases: vec![database.into()],
        ..ClusterMap::default()
    };
    let queue = |target| QueueStatus {
        target: NodeId(target),
        accepted: 3_000_000,
        pending: 1_000_000,
        delivered: 2_000_000,
        bytes: 5 << 30,
        oldest_ns: NOW as u64,
        ..QueueStatus::default()
    };
    let nodes = BTreeMap::from([
        (NodeId(1), Some(answer(1, RaftRole::Leader, vec![queue(5)]))),
        (NodeId(2), Some(answer(2, RaftRole::Follower, vec![queue(5), queue(4)]))),
        (NodeId(3), Some(answer(3, RaftRole::Candidate, Vec::new()))),
        (NodeId(4), Some(answer(4, RaftRole::Learner, Vec::new()))),
        (NodeId(5), None),
    ]);
    let damaged = ShardState {
        shard: ShardId(2),
        series: 1,
        runs: 1,
        bytes: 1,
        fresh_bytes: 0,
        damaged: true,
        poisoned: false,
    };
    let lacks = |shard, owner, hints, marks| Lacking {
        shard: ShardId(shard),
        owner: NodeId(owner),
        hints,
        marks,
    };
    let mut replicas = Replicas::default();
    replicas.add(NodeId(1), Vec::new(), &[lacks(0, 5, 1_000_000, 0)]);
    replicas.add(NodeId(2), Vec::new(), &[lacks(5, 1, 1, 0), lacks(0, 5, 3, 0)]);
    replicas.add(NodeId(3), Vec::new(), &[lacks(5, 1, 2_000, 2)]);
    replicas.add(NodeId(4), vec![damaged], &[]);
    let why = "node 5 at 192.168.100.5:7100 does not answer the handshake; is it running?";
    let reasons = BTreeMap::from([(NodeId(5), why.to_owned())]);
    let survey = Survey { map: Arc::new(map), nodes, asked: Some(NodeId(2)), reasons };
    Look { survey, replicas }
}

#[test]
fn no_line_is_wider_than_a_terminal() {
    let text = picture(&look());
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > WIDTH).collect();
    assert!(wide.is_empty(), "{wide:?} in\n{text}");
    for part in [
        "cluster 'production-east', leader storage-1\n",
        " 2  storage-2  192.168.100.2:7100  rack-12  alive  follower     1  0.1.0\n",
        " 5  storage-5  192.168.100.5:7100  rack-12  down\n",
        "  storage-5: node 5 at 192.168.100.5:7100 does not answer",
        "telemetry  ninety_days      20      40       120     95      25               1\n",
        "  shard 2 (telemetry.ninety_days): storage-4 damaged, storage-5 down\n",
        "  and 15 more: see 'quorate shard ls'\n",
        "storage-2  storage-4  1,000,000            0  5.0 GiB  2023-11-14T22:13:20Z\n",
        "hints: 3,000,000 pending, 6,000,000 delivered of 9,000,000 accepted\n",
        "note: nodes that are down may keep more hints\n",
        "note: storage-1 acknowledges before it syncs, which it does every 50 ms\n",
        "certificates: storage-1's ends first, on 2027-01-16T08:00:00Z\n",
    ] {
        assert!(text.contains(part), "{part:?} not in\n{text}");
    }
    assert!(KEYS.lines().chain(super::EXAMPLES.lines()).all(|line| line.len() <= WIDTH + 10));
}

#[test]
fn what_a_replica_lacks_is_told_but_does_not_make_it_unsound() {
    let mut look = look();
    // One group, of shards 4 and 5, and node five is back.
    let map = Arc::make_mut(&mut look.survey.map);
    let policy = map.databases[0].policies[0].id;
    map.policy_mut(policy).unwrap().groups.retain(|group| group.id == GroupId(2));
    look.replicas.add(NodeId(5), Vec::new(), &[]);
    let text = picture(&look);
    for part in [
        "telemetry  ninety_days       1       2         6      6       2               0\n",
        "  shard 4 (telemetry.ninety_days): storage-5 behind by up to 1,000,003 other hi…\n",
        "  shard 5 (telemetry.ninety_days): storage-1 behind by 2,001 hints, 2 marks\n",
    ] {
        assert!(text.contains(part), "{part:?} not in\n{text}");
    }
    let object = describe(&look);
    let replica = |shard: usize, place: usize| object["shards"][shard]["replicas"][place].clone();
    for (shard, place, node, expected) in
        [(0, 0, 5, (true, 0, 0)), (0, 1, 1, (false, 0, 0)), (1, 0, 1, (true, 2_001, 2))]
    {
        let found = replica(shard, place);
        assert_eq!((&found["node"], &found["state"]), (&node.into(), &"empty".into()));
        let (behind, hints, marks) = expected;
        assert_eq!(found["behind"], behind, "{found}");
        assert_eq!((&found["hints"], &found["marks"]), (&hints.into(), &marks.into()));
    }
    assert!(look.complaints().iter().all(|what| !what.contains("shard")), "healthy all the same");
}

#[test]
fn what_is_missing_is_told_in_full() {
    let missing = look().complaints();
    assert_eq!(
        missing,
        [
            "node storage-3 sees no leader",
            "node storage-5 is down",
            "shard 2 on node storage-4 is damaged"
        ]
    );
    let missing = look().survey.undrained();
    assert_eq!(missing[0], "node storage-5 is down");
    assert_eq!(missing[1], "storage-1 has 1,000,000 hints for storage-5");
    assert_eq!(missing.len(), 4);
}

/// All keys of an object and of what is in it.
fn keys(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                into.push(key.clone());
                keys(value, into);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_json_is_explained() {
    let object = describe(&look());
    let mut all = Vec::new();
    keys(&object, &mut all);
    let words: Vec<&str> = KEYS.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for key in all {
        assert!(words.contains(&&key[..]), "{key} is not in the help");
    }
    assert_eq!(object["nodes"][1]["lag"], 1);
    assert_eq!(object["nodes"][4]["lag"], Value::Null);
    assert_eq!(object["shards"][2]["replicas"][1]["state"], "damaged");
    assert_eq!(
        (&object["shards"][2]["sound"], &object["shards"][2]["quorum"]),
        (&1.into(), &false.into())
    );
    assert_eq!(object["queues"][2]["target"], 4);
}
