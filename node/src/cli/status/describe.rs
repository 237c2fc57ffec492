//! A look as `--json` shows it. Scripts depend on it: keys are added, never changed.

use quorate_protocol::{
    id::NodeId,
    map::{Node, NodeState, ShardPlace},
    message::QueueStatus,
};
use serde_json::{Value, json};

use super::Look;
use crate::cli::{replicas::Health, survey::accounting};

/// What the keys mean; a test holds it against what is printed.
pub(super) const KEYS: &str = "\
--json prints one object on one line (one per look with --watch). Later versions may
add keys. What a node that is down would have to say is null.
  cluster     the cluster's name
  leader      id of the node that leads, or null
  asked       id of the node that was asked and has asked the others, or null
  nodes       [{id, name, addr, zone, member: active|non-voter, state: alive|down,
              reason, role: leader|follower|candidate|learner, lag, version,
              poisoned, meta_index, log_index, applied_index, fresh_bytes,
              journal_bytes, sync_interval_ms, certificate_expires_s}]; reason says
              why a node is down; certificate_expires_s is the last moment at which
              others accept its certificate (s since 1970);
              lag = log_index of the leader - applied_index
  shards      [{id, owners, database, policy, group, start, end, sound, quorum,
              replicas: [{node, name, state: ok|empty|down|damaged|stopped,
              behind, hints, marks}]}]; sound counts replicas that are ok or
              empty, quorum says if most are; a replica is behind if hints for it
              are pending, or marks say that it lacks something, or its node has
              pending hints of which it is not known for which shard they are
  hints       {accepted, delivered, pending, quarantined, expired, discarded} of all
              queues; accepted is the sum of the others
  queues      the same of each queue, with {holder, target, bytes, oldest_ns}: the
              ids of who keeps it and for whom, bytes on disk, and since when the
              oldest pending hint is there (ns since 1970, 0 if none is pending)";

pub(super) fn describe(look: &Look) -> Value {
    let survey = &look.survey;
    let nodes: Vec<Value> = survey.map.active_nodes().map(|known| node(look, known)).collect();
    let shards: Vec<Value> = survey.map.shards().map(|place| shard(look, &place)).collect();
    let queues: Vec<Value> = survey.queues().map(|(holder, held)| queue(holder, held)).collect();
    json!({
        "cluster": survey.map.name,
        "nodes": nodes,
        "leader": survey.leader(),
        "asked": survey.asked,
        "shards": shards,
        "hints": accounting(&survey.hints()),
        "queues": queues,
    })
}

fn node(look: &Look, node: &Node) -> Value {
    let answer = look.survey.answer(node.id);
    json!({
        "id": node.id,
        "name": node.name,
        "addr": node.addr,
        "zone": node.zone,
        "member": if node.state == NodeState::NonVoter { "non-voter" } else { "active" },
        "state": if answer.is_some() { "alive" } else { "down" },
        "reason": look.survey.reasons.get(&node.id),
        "role": answer.map(|answer| answer.role.name()),
        "lag": look.survey.lag(node.id),
        "version": answer.map(|answer| answer.version.clone()),
        "poisoned": answer.map(|answer| answer.poisoned),
        "meta_index": answer.map(|answer| answer.meta_index),
        "log_index": answer.map(|answer| answer.log_index),
        "applied_index": answer.map(|answer| answer.applied_index),
        "fresh_bytes": answer.map(|answer| answer.fresh_bytes),
        "journal_bytes": answer.map(|answer| answer.journal_bytes),
        "sync_interval_ms": answer.map(|answer| answer.sync_interval_ms),
        "certificate_expires_s": answer.map(|answer| answer.certificate_expires_s),
    })
}

fn shard(look: &Look, place: &ShardPlace<'_>) -> Value {
    let replica = |(node, health): (NodeId, Health)| {
        let behind = look.replicas.behind(node, place.shard.id);
        json!({
            "node": node,
            "name": look.survey.name(node),
            "state": health.word(),
            "behind": behind.is_behind(),
            "hints": behind.hints,
            "marks": behind.marks,
        })
    };
    let replicas: Vec<Value> = look.replicas.healths(place.shard).map(replica).collect();
    let (sound, quorum) = look.replicas.sound(place.shard);
    json!({
        "id": place.shard.id,
        "owners": place.shard.owners,
        "database": place.database.name,
        "policy": place.policy.name,
        "group": place.group.id,
        "start": place.group.start,
        "end": place.group.end,
        "sound": sound,
        "quorum": quorum,
        "replicas": replicas,
    })
}

fn queue(holder: NodeId, queue: &QueueStatus) -> Value {
    let mut object = accounting(queue);
    if let Some(object) = object.as_object_mut() {
        object.insert("holder".to_owned(), json!(holder));
        object.insert("target".to_owned(), json!(queue.target));
        object.insert("bytes".to_owned(), json!(queue.bytes));
        object.insert("oldest_ns".to_owned(), json!(queue.oldest_ns));
    }
    object
}
