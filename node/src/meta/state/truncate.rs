//! Groups that get an end nearer than the one they were made with, by consent of all members.
//!
//! Invariant: an end never moves before a point that some member has accepted. From [`begin`] on, members
//! that have the map refuse points at or behind the wanted end; each then says what it had accepted
//! before, in what it stores and in hints it keeps. Only when every member has answered is the end
//! known, and whoever answered takes nothing behind its answer until the map says how it ended. One
//! that leaves without an answer may have hints on their way to others, so the truncation is given up.
//! Answers carry the index of the command that they answer: a late one must not count for a later
//! truncation, before which more was accepted.

use std::sync::Arc;

use quorate_protocol::{
    change::{Consent, Outcome},
    id::{GroupId, MetaIndex, NodeId, PolicyId},
    map::{ClusterMap, DeleteReason, Group, Policy, Truncation, TruncationState},
};

use super::{Refusal, groups, policies};

/// Begins it for the live groups that reach behind `at`. Those that are closing already have answers,
/// and go on as they are.
pub(super) fn begin(
    map: &mut ClusterMap,
    index: u64,
    now_ns: u64,
    (database, name): (&str, &str),
    at: i64,
) -> Result<Outcome, Refusal> {
    let database = policies::find(map, database)?;
    let id = policies::policy(database, name)?.id;
    let policy = database.policy_mut(id).ok_or_else(policies::no_policy)?;
    let wanted = |group: &&mut Arc<Group>| group.end > at && group.closing().is_none();
    for group in policy.groups.iter_mut().filter(wanted) {
        let group = Arc::make_mut(group);
        group.truncation = Some(Truncation {
            index: MetaIndex(index),
            at: at.max(group.start),
            since_ns: now_ns,
            highest: None,
            consents: Vec::new(),
            state: TruncationState::Closing,
        });
    }
    Ok(Outcome::Done)
}

/// A member's answers. Those for truncations that are not under way say nothing any more.
pub(super) fn consent(
    map: &mut ClusterMap,
    now_ns: u64,
    node: NodeId,
    answers: &[Consent],
) -> Result<Outcome, Refusal> {
    let members: Vec<NodeId> = map.active_nodes().map(|node| node.id).collect();
    if !members.contains(&node) {
        return Ok(Outcome::Done);
    }
    let answered = |policy: &Policy, group: &Group| {
        let answer = answers.iter().find(|answer| answer.group == group.id)?;
        let open = group.closing().is_some_and(|it| it.index == answer.truncation);
        open.then_some((policy.id, answer))
    };
    let of = |policy: &'_ Policy| -> Vec<(PolicyId, Consent)> {
        let groups = policy.groups.iter().filter(|group| group.closing().is_some());
        groups.filter_map(|group| answered(policy, group)).map(|(id, it)| (id, *it)).collect()
    };
    let due: Vec<(PolicyId, Consent)> = map.policies().flat_map(of).collect();
    for (id, answer) in due {
        if let Some(policy) = map.policy_mut(id) {
            take(policy, node, &answer, &members, now_ns);
        }
    }
    Ok(Outcome::Done)
}

/// Takes one answer; the last one decides.
fn take(policy: &mut Policy, node: NodeId, answer: &Consent, members: &[NodeId], now_ns: u64) {
    let Some(group) = policy.groups.iter_mut().find(|group| group.id == answer.group) else {
        return;
    };
    let group = Arc::make_mut(group);
    let Some(truncation) = &mut group.truncation else { return };
    if let Err(place) = truncation.consents.binary_search(&node) {
        truncation.consents.insert(place, node);
        truncation.highest = truncation.highest.max(answer.highest);
    }
    if !members.iter().all(|member| truncation.consents.contains(member)) {
        return;
    }
    let behind = truncation.highest.map_or(i64::MIN, |highest| highest.saturating_add(1));
    let cut = truncation.at.max(behind);
    if cut <= group.start {
        let id = group.id;
        groups::bury(policy, id, now_ns, DeleteReason::Emptied);
    } else if cut < group.end {
        group.end = cut;
        group.truncation = None;
    } else {
        truncation.state = TruncationState::Kept;
        truncation.consents.clear();
    }
}

/// Gives up what has been under way for so long.
pub(super) fn reopen(map: &mut ClusterMap, now_ns: u64, older_ns: u64) -> Result<Outcome, Refusal> {
    give_up(map, |it| it.since_ns.saturating_add(older_ns) <= now_ns);
    Ok(Outcome::Done)
}

/// A node is no member any more: what it has not answered for is given up.
pub(super) fn gone(map: &mut ClusterMap, node: NodeId) {
    give_up(map, |it| !it.consents.contains(&node));
}

fn give_up(map: &mut ClusterMap, is_over: impl Fn(&Truncation) -> bool) {
    let due = |group: &Group| group.closing().is_some_and(&is_over);
    let has_due = |policy: &Policy| policy.groups.iter().any(|group| due(group));
    let due: Vec<(PolicyId, Vec<GroupId>)> = map
        .policies()
        .filter(|policy| has_due(policy))
        .map(|policy| {
            let groups = policy.groups.iter().filter(|group| due(group));
            (policy.id, groups.map(|group| group.id).collect())
        })
        .collect();
    for (policy, groups) in due {
        let Some(policy) = map.policy_mut(policy) else { continue };
        for group in policy.groups.iter_mut().filter(|group| groups.contains(&group.id)) {
            if let Some(truncation) = &mut Arc::make_mut(group).truncation {
                truncation.state = TruncationState::Reopened;
            }
        }
    }
}
