//! Keeps the Raft group's members equal to the map's active nodes.
//!
//! Invariants: only the leader acts, one change at a time; a node becomes a voter only after it has
//! followed the log since it was added, while there are fewer than `max_voters` and the map lets it
//! vote; a node the map does not know (a bootstrap half done) is left alone. [`next_step`] decides and is pure;
//! [`reconcile`] is the task that carries it out, for as long as the node lives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{BasicNode, ChangeMembers, RaftMetrics, error::RaftError};
use quorate_protocol::map::{ClusterMap, NodeState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    MetaConfig,
    command::{Membership, Raft},
};

/// Entries a learner may be behind and still count as caught up.
const SLACK: u64 = 64;

/// Longest time for one change of members; it needs a quorum's answers.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the leader should do next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Leave a joint configuration that an earlier leader did not finish.
    Finish,
    /// Take the vote from a node that has left, and drop it.
    RemoveVoter(u64),
    /// Take the vote from a node that goes on as a learner.
    Demote(u64),
    /// Drop a follower that has left.
    RemoveLearner(u64),
    /// Let a new node follow.
    AddLearner(u64, String),
    /// Give a node that has caught up a vote.
    Promote(u64),
    /// Look again soon: a node that should vote has not caught up.
    Wait,
}

/// How far each follower is, as the leader knows.
struct Progress {
    last_index: u64,
    matched: BTreeMap<u64, u64>,
}

fn next_step(
    map: &ClusterMap,
    membership: &Membership,
    progress: &Progress,
    max_voters: u32,
) -> Option<Step> {
    let configs = membership.membership().get_joint_config();
    if configs.len() > 1 {
        return Some(Step::Finish);
    }
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let members: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
    let removed = map
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Removed && members.contains(&node.id.0))
        .map(|node| node.id.0);
    for id in removed {
        if !voters.contains(&id) {
            return Some(Step::RemoveLearner(id));
        }
        if voters.len() > 1 {
            return Some(Step::RemoveVoter(id));
        }
    }
    let demoted = map.nodes.iter().filter(|node| node.state == NodeState::NonVoter);
    if let Some(node) = demoted.map(|node| node.id.0).find(|id| voters.contains(id))
        && voters.len() > 1
    {
        return Some(Step::Demote(node));
    }
    if let Some(node) = map.active_nodes().find(|n| !members.contains(&n.id.0)) {
        return Some(Step::AddLearner(node.id.0, node.addr.clone()));
    }
    if voters.len() as u64 >= u64::from(max_voters) {
        return None;
    }
    // The entry of the latest change of members lies behind the one that added the learner: having
    // it, a learner has been following since.
    let added = membership.log_id().map_or(0, |id| id.index);
    let may_vote = map.nodes.iter().filter(|node| node.state == NodeState::Active);
    let mut learners = may_vote.map(|node| node.id.0).filter(|id| !voters.contains(id)).peekable();
    learners.peek()?;
    let caught_up = learners.find(|id| {
        progress.matched.get(id).is_some_and(|matched| {
            *matched >= added && matched.saturating_add(SLACK) >= progress.last_index
        })
    });
    Some(caught_up.map_or(Step::Wait, Step::Promote))
}

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("no quorum answered in time")]
    TimedOut,
    #[error("{0}")]
    Raft(String),
}

async fn carry_out(raft: &Raft, step: Step) -> Result<(), StepError> {
    let set = |id: u64| BTreeSet::from([id]);
    let retain = matches!(step, Step::Demote(_));
    let change = match step {
        Step::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
        Step::RemoveVoter(id) | Step::Demote(id) => ChangeMembers::RemoveVoters(set(id)),
        Step::RemoveLearner(id) => ChangeMembers::RemoveNodes(set(id)),
        Step::AddLearner(id, addr) => {
            ChangeMembers::AddNodes(BTreeMap::from([(id, BasicNode { addr })]))
        }
        Step::Promote(id) => ChangeMembers::AddVoterIds(set(id)),
        Step::Wait => return Ok(()),
    };
    // Voters that leave are dropped; learners stay in any case.
    let changed = tokio::time::timeout(STEP_TIMEOUT, raft.change_membership(change, retain));
    match changed.await {
        Err(_) => Err(StepError::TimedOut),
        // Somebody else leads now: that node's task goes on.
        Ok(Err(RaftError::APIError(error))) if forwards(&error) => Ok(()),
        Ok(Err(error)) => Err(StepError::Raft(error.to_string())),
        Ok(Ok(_)) => Ok(()),
    }
}

fn forwards(error: &openraft::error::ClientWriteError<u64, BasicNode>) -> bool {
    matches!(error, openraft::error::ClientWriteError::ForwardToLeader(_))
}

fn progress(metrics: &RaftMetrics<u64, BasicNode>) -> Progress {
    let replication = metrics.replication.iter().flatten();
    Progress {
        last_index: metrics.last_log_index.unwrap_or(0),
        matched: replication
            .filter_map(|(id, matched)| Some((*id, matched.as_ref()?.index)))
            .collect(),
    }
}

/// Runs until `cancel`.
pub(super) async fn reconcile(
    raft: Raft,
    mut map: watch::Receiver<Arc<ClusterMap>>,
    config: Arc<MetaConfig>,
    cancel: CancellationToken,
) {
    let first_retry = Duration::from_millis(config.heartbeat_ms);
    let mut retry = first_retry;
    let metrics = raft.metrics();
    let mut server = raft.server_metrics();
    loop {
        let mut pause = Duration::from_millis(config.reconcile_ms);
        let now_map = Arc::clone(&map.borrow_and_update());
        server.borrow_and_update();
        let now = metrics.borrow().clone();
        let voted_out =
            now.state.is_leader() && now.membership_config.voter_ids().all(|voter| voter != now.id);
        // The library lets a leader without a vote go on: this one falls silent, so that a voter takes
        // over.
        raft.runtime_config().heartbeat(!voted_out);
        let step = if now.state.is_leader() && !voted_out {
            let members = &now.membership_config;
            next_step(&now_map, members, &progress(&now), config.max_voters)
        } else {
            None
        };
        match step {
            None => retry = first_retry,
            Some(Step::Wait) => pause = first_retry,
            Some(step) => {
                let what = format!("{step:?}");
                let result = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    result = carry_out(&raft, step) => result,
                };
                match result {
                    Ok(()) => {
                        tracing::info!(step = what, "changed the metadata group's members");
                        retry = first_retry;
                        // The metrics may lag behind the answer; their change ends the pause.
                        pause = first_retry;
                    }
                    Err(error) => {
                        tracing::warn!(step = what, %error, "changing members failed; will retry");
                        pause = retry;
                        retry = (retry * 2).min(Duration::from_millis(config.retry_max_ms));
                    }
                }
            }
        }
        let failed = retry != first_retry;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // After a failure only time counts: the map changes much more often than the reason.
            changed = map.changed(), if !failed => if changed.is_err() { return },
            changed = server.changed(), if !failed => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, LogId};
    use quorate_protocol::{id::NodeId, map::Node};

    use super::*;

    fn map(states: &[NodeState]) -> ClusterMap {
        let nodes = states.iter().zip(1..).map(|(state, id)| Node {
            id: NodeId(id),
            name: format!("n{id}"),
            addr: format!("host:{id}"),
            zone: None,
            state: *state,
            instance: u128::from(id),
        });
        ClusterMap { nodes: nodes.collect(), ..ClusterMap::default() }
    }

    fn members(voters: &[&[u64]], all: &[u64]) -> Membership {
        let configs = voters.iter().map(|ids| ids.iter().copied().collect());
        let nodes: BTreeMap<u64, BasicNode> =
            all.iter().map(|id| (*id, BasicNode::default())).collect();
        let at = LogId::new(CommittedLeaderId::new(1, 1), 10);
        Membership::new(Some(at), openraft::Membership::new(configs.collect(), nodes))
    }

    fn step(states: &[NodeState], members: &Membership, matched: &[(u64, u64)]) -> Option<Step> {
        let progress = Progress { last_index: 20, matched: matched.iter().copied().collect() };
        next_step(&map(states), members, &progress, 3)
    }

    const A: NodeState = NodeState::Active;
    const R: NodeState = NodeState::Removed;

    #[test]
    fn a_new_node_follows_first_and_votes_when_it_has_caught_up() {
        let one = members(&[&[1]], &[1]);
        assert_eq!(step(&[A, A], &one, &[]), Some(Step::AddLearner(2, "host:2".to_owned())));
        let following = members(&[&[1]], &[1, 2]);
        assert_eq!(step(&[A, A], &following, &[]), Some(Step::Wait));
        assert_eq!(step(&[A, A], &following, &[(2, 9)]), Some(Step::Wait));
        assert_eq!(step(&[A, A], &following, &[(2, 10)]), Some(Step::Promote(2)));
    }

    #[test]
    fn a_silent_learner_does_not_hold_up_the_next() {
        let following = members(&[&[1]], &[1, 2, 3]);
        assert_eq!(step(&[A, A, A], &following, &[(3, 20)]), Some(Step::Promote(3)));
    }

    #[test]
    fn voters_are_limited() {
        let full = members(&[&[1, 2, 3]], &[1, 2, 3, 4]);
        assert_eq!(step(&[A, A, A, A], &full, &[(4, 20)]), None);
    }

    #[test]
    fn who_has_left_is_dropped_but_never_the_last_voter() {
        let three = members(&[&[1, 2]], &[1, 2, 3]);
        assert_eq!(step(&[A, R, A], &three, &[(3, 20)]), Some(Step::RemoveVoter(2)));
        assert_eq!(step(&[A, A, R], &three, &[]), Some(Step::RemoveLearner(3)));
        assert_eq!(step(&[R], &members(&[&[1]], &[1]), &[]), None);
    }

    #[test]
    fn a_demoted_node_follows_without_a_vote_until_it_is_promoted() {
        const N: NodeState = NodeState::NonVoter;
        let two = members(&[&[1, 2]], &[1, 2]);
        assert_eq!(step(&[A, N], &two, &[(2, 20)]), Some(Step::Demote(2)));
        let one = members(&[&[1]], &[1, 2]);
        assert_eq!(step(&[A, N], &one, &[(2, 20)]), None);
        assert_eq!(step(&[A, A], &one, &[(2, 20)]), Some(Step::Promote(2)));
        assert_eq!(step(&[N, N], &one, &[(2, 20)]), None, "never the last voter");
        let alone = members(&[&[1]], &[1]);
        assert_eq!(step(&[A, N], &alone, &[]), Some(Step::AddLearner(2, "host:2".to_owned())));
    }

    #[test]
    fn an_unfinished_change_is_finished_and_strangers_are_left_alone() {
        let joint = members(&[&[1], &[1, 2]], &[1, 2]);
        assert_eq!(step(&[A, A], &joint, &[]), Some(Step::Finish));
        assert_eq!(step(&[], &members(&[&[1]], &[1]), &[]), None);
    }
}
