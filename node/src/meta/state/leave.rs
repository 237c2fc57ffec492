//! A member leaves, and what it owned goes on with its other owners.
//!
//! Invariant: owners and membership change in one command, so no map ever has an owner that is no
//! member, and no shard is ever left without an owner. An epoch does not move: of `n` owners a
//! quorum without the one that leaves is still met by every quorum of the `n - 1` that stay.

use std::sync::Arc;

use quorate_protocol::{
    change::Outcome,
    code::Code,
    id::{NodeId, PolicyId},
    map::{ClusterMap, Group, NodeState, Policy, ShardPlace},
};

use super::{
    Refusal,
    nodes::{active, keep_a_voter, not_found},
    refuse, truncate,
};

/// Shards that a refusal names.
const NAMED: usize = 8;

pub(super) fn leave(map: &mut ClusterMap, id: NodeId) -> Result<Outcome, Refusal> {
    match map.node(id) {
        None => return Err(not_found(id)),
        Some(node) if !node.is_member() => return Ok(Outcome::Done),
        Some(_) => {}
    }
    if map.active_nodes().count() == 1 {
        return Err(refuse(Code::Invalid, "the last node cannot leave"));
    }
    let only: Vec<String> = map.sole_shards(id).map(|place| name(&place)).collect();
    if !only.is_empty() {
        return Err(refuse(Code::Invalid, sole_owner(id, &only)));
    }
    keep_a_voter(map, id)?;
    active(map, id)?.state = NodeState::Removed;
    let owns = |group: &Group| group.shards.iter().any(|shard| shard.owners.contains(&id));
    let any_owned = |policy: &&Policy| policy.groups.iter().any(|group| owns(group));
    let touched: Vec<PolicyId> = map.policies().filter(any_owned).map(|policy| policy.id).collect();
    for policy in touched {
        let Some(policy) = map.policy_mut(policy) else { continue };
        for group in policy.groups.iter_mut().filter(|group| owns(group)) {
            for shard in &mut Arc::make_mut(group).shards {
                shard.owners.retain(|owner| *owner != id);
            }
        }
    }
    truncate::gone(map, id);
    Ok(Outcome::Done)
}

fn name(place: &ShardPlace<'_>) -> String {
    format!("{}.{} shard {}", place.database.name, place.policy.name, place.shard.id)
}

fn sole_owner(id: NodeId, only: &[String]) -> String {
    let more = only.len().saturating_sub(NAMED);
    let named: Vec<&str> = only.iter().take(NAMED).map(String::as_str).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "node {id} is the only owner of {} shards: {}{more}; move or drop them first",
        only.len(),
        named.join(", ")
    )
}
