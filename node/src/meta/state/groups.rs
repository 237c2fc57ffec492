//! Shard groups, decided where they are applied.
//!
//! Invariant: the live groups of a policy never overlap, whatever the order of creators and however
//! the policy's group duration changes in between: a time inside a live group gets that group, any
//! other gets a new one clipped to the gap it falls into. Bounds change afterwards only by what is in
//! [`super::truncate`], which moves an end nearer. Groups that are deleted leave tombstones, for people.

use std::sync::Arc;

use quorate_protocol::{
    change::Outcome,
    code::Code,
    id::{Epoch, GroupId, NodeId, PolicyId, ShardId},
    map::{ClusterMap, DeleteReason, Group, NextIds, Node, Policy, Shard, Tombstone},
    placement,
};

use super::{Refusal, refuse, take_id};

/// New groups that one command may make.
const MAX_NEW_GROUPS: usize = 32;

/// Tombstones that one policy may have; the oldest go first. They travel with each change of their
/// policy.
pub(super) const MAX_TOMBSTONES: usize = 200;

/// Epoch of a shard whose owners have never changed.
const FIRST_EPOCH: Epoch = Epoch(1);

pub(super) fn create(
    map: &mut ClusterMap,
    index: u64,
    policy: PolicyId,
    times: &[i64],
) -> Result<Outcome, Refusal> {
    let unknown = || refuse(Code::PolicyNotFound, "no such retention policy");
    let known = map.policies().find(|known| known.id == policy).ok_or_else(unknown)?;
    let missing = missing(known, times)?;
    if missing.is_empty() {
        return Ok(Outcome::Done);
    }
    let placed = placed_owners(&map.nodes, known.replication, index);
    if placed.is_empty() {
        return Err(refuse(Code::NoNodes, "no data node can own a shard: add a node"));
    }
    // Ids are taken from a copy, so that a refusal half-way changes nothing.
    let mut ids = map.next;
    let groups = missing
        .into_iter()
        .map(|(start, end)| group(&mut ids, start, end, &placed).map(Arc::new))
        .collect::<Result<Vec<Arc<Group>>, Refusal>>()?;
    map.next = ids;
    let policy = map.policy_mut(policy).ok_or_else(unknown)?;
    policy.groups.extend(groups);
    policy.groups.sort_by_key(|group| group.start);
    Ok(Outcome::Done)
}

/// What cannot be made, or belongs to a policy that was dropped meanwhile, costs the others nothing.
pub(super) fn precreate(
    map: &mut ClusterMap,
    index: u64,
    wanted: &[(PolicyId, i64)],
) -> Result<Outcome, Refusal> {
    for (policy, time) in wanted {
        // A refusal changes nothing.
        let _ = create(map, index, *policy, &[*time]);
    }
    Ok(Outcome::Done)
}

pub(super) fn expire(map: &mut ClusterMap, now_ns: u64, grace_ns: u64) -> Result<Outcome, Refusal> {
    let is_over = |policy: &Policy, group: &Group| policy.is_over(group, now_ns, grace_ns);
    let any_over = |policy: &&Policy| policy.groups.iter().any(|group| is_over(policy, group));
    let due: Vec<PolicyId> = map.policies().filter(any_over).map(|policy| policy.id).collect();
    for policy in due {
        let Some(policy) = map.policy_mut(policy) else { continue };
        let over = |group: &&Arc<Group>| is_over(policy, group);
        let over: Vec<GroupId> = policy.groups.iter().filter(over).map(|group| group.id).collect();
        for group in over {
            bury(policy, group, now_ns, DeleteReason::Expired);
        }
    }
    Ok(Outcome::Done)
}

/// One that is gone already is no error.
pub(super) fn delete(
    map: &mut ClusterMap,
    group: GroupId,
    now_ns: u64,
) -> Result<Outcome, Refusal> {
    if group == GroupId(0) || group.0 >= map.next.group {
        return Err(refuse(Code::Invalid, format!("there was never a shard group {group}")));
    }
    let policy = map.group(group).map(|(policy, _)| policy.id);
    if let Some(policy) = policy.and_then(|id| map.policy_mut(id)) {
        bury(policy, group, now_ns, DeleteReason::Asked);
    }
    Ok(Outcome::Done)
}

/// Takes a live group out of its policy and leaves a tombstone.
pub(super) fn bury(policy: &mut Policy, group: GroupId, now_ns: u64, reason: DeleteReason) {
    let Some(at) = policy.groups.iter().position(|live| live.id == group) else { return };
    let gone = policy.groups.remove(at);
    policy.deleted.push(Tombstone {
        group,
        start: gone.start,
        end: gone.end,
        shards: gone.shards.iter().map(|shard| shard.id).collect(),
        at_ns: now_ns,
        reason,
    });
    let surplus = policy.deleted.len().saturating_sub(MAX_TOMBSTONES);
    policy.deleted.drain(..surplus);
}

pub(super) fn prune(map: &mut ClusterMap, now_ns: u64, keep_ns: u64) -> Result<Outcome, Refusal> {
    let any_old =
        |policy: &&Policy| policy.deleted.iter().any(|stone| stone.is_old(now_ns, keep_ns));
    let due: Vec<PolicyId> = map.policies().filter(any_old).map(|policy| policy.id).collect();
    for policy in due {
        let Some(policy) = map.policy_mut(policy) else { continue };
        policy.deleted.retain(|stone| !stone.is_old(now_ns, keep_ns));
    }
    Ok(Outcome::Done)
}

/// Bounds of the groups that are needed so that each time has one, in the order of `times`.
fn missing(policy: &Policy, times: &[i64]) -> Result<Vec<(i64, i64)>, Refusal> {
    let mut wanted: Vec<(i64, i64)> = Vec::new();
    for time in times {
        let inside = |(start, end): &(i64, i64)| start <= time && time < end;
        if policy.group_at(*time).is_some() || wanted.iter().any(inside) {
            continue;
        }
        let bounds = clip(policy, &wanted, *time);
        if !inside(&bounds) {
            return Err(refuse(
                Code::Invalid,
                format!("time {time} is outside the range of times"),
            ));
        }
        if wanted.len() == MAX_NEW_GROUPS {
            return Err(refuse(
                Code::LimitExceeded,
                format!("more than {MAX_NEW_GROUPS} new shard groups at once: split the write"),
            ));
        }
        wanted.push(bounds);
    }
    Ok(wanted)
}

/// The policy's bounds around `time`, clipped to the gap between existing and wanted groups.
fn clip(policy: &Policy, wanted: &[(i64, i64)], time: i64) -> (i64, i64) {
    let bounds = placement::group_bounds(time, policy.group_duration);
    let live = policy.groups.iter().map(|group| (group.start, group.end));
    live.chain(wanted.iter().copied()).fold(bounds, |(start, end), (other_start, other_end)| {
        if other_start > time { (start, end.min(other_start)) } else { (start.max(other_end), end) }
    })
}

fn placed_owners(nodes: &[Node], replication: u32, index: u64) -> Vec<Vec<NodeId>> {
    let active: Vec<(NodeId, Option<&str>)> = nodes
        .iter()
        .filter(|node| node.is_member())
        .map(|node| (node.id, node.zone.as_deref()))
        .collect();
    placement::owners(&active, replication, index)
}

fn group(
    next: &mut NextIds,
    start: i64,
    end: i64,
    placed: &[Vec<NodeId>],
) -> Result<Group, Refusal> {
    let id = GroupId(take_id!(next.group)?);
    let shards = placed.iter().map(|owners| {
        Ok(Shard { id: ShardId(take_id!(next.shard)?), epoch: FIRST_EPOCH, owners: owners.clone() })
    });
    let shards = shards.collect::<Result<_, Refusal>>()?;
    Ok(Group { id, start, end, shards, truncation: None })
}
