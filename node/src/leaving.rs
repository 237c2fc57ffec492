//! What a node does that is no member any more: it gives its hints to others and then stays down.
//!
//! Whoever leaves need not hear of it through Raft: the leader drops it, and its connections, as soon
//! as the rest has agreed. So a node that sees no leader asks its peers for a newer map, which they
//! give it whatever it is. Invariant: only a map that says so makes a node leave, and it is written
//! down only when no hint is pending here. Started by [`crate::background`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_protocol::{
    id::NodeId,
    map::{ClusterMap, apply_updates},
    message::{HandOn, MetaGet, RaftRole},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{background, core::Core};

/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(100);
/// What can be set about leaving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeavingConfig {
    /// How often a node without a leader asks whether it is still a member, in milliseconds. Default
    /// 2,000. Less lets a node that was removed while it was down know sooner.
    pub ask_ms: u64,
    /// How long one peer may take to say so, in milliseconds. Default 5,000. The map must come in
    /// this time.
    pub answer_ms: u64,
    /// How long a node that has left stays for the group to agree without it, in milliseconds. Default
    /// 10,000. It may be needed for the last majority that counts it.
    pub dropped_ms: u64,
    /// Time of one attempt to hand the hints on, in milliseconds. Default 30,000. After it the node says
    /// how many are still there, and tries again.
    pub hand_on_ms: u32,
}

impl Default for LeavingConfig {
    fn default() -> Self {
        Self { ask_ms: 2_000, answer_ms: 5_000, dropped_ms: 10_000, hand_on_ms: 30_000 }
    }
}

/// Runs until the node has left, or as long as it lives.
pub(crate) async fn watch(core: Arc<Core>) {
    let config = core.config.leaving.clone();
    let mut timer = interval(Duration::from_millis(config.ask_ms.max(1)));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut maps = core.directory.changes();
    while !is_removed(&core.directory.current().map, core.node) {
        tokio::select! {
            _ = timer.tick() => {
                if matches!(core.meta.role(), RaftRole::Candidate | RaftRole::Learner) {
                    ask(&core).await;
                }
            }
            changed = maps.changed() => if changed.is_err() { return },
        }
    }
    tracing::warn!("this node is no member of the cluster any more; its hints go to others");
    let until = Instant::now() + Duration::from_millis(config.dropped_ms);
    while counts(&core) && Instant::now() < until {
        sleep(LOOK).await;
    }
    loop {
        let handed = core.hand_on(HandOn { deadline_ms: config.hand_on_ms }).await;
        if handed.pending == 0 {
            break;
        }
        tracing::warn!(handed.pending, "hints are still here: no other node that is up takes them");
    }
    match core.data.save_left() {
        Ok(()) => tracing::warn!("this node has left the cluster; it will not start again"),
        // It would find out again.
        Err(error) => {
            tracing::error!(%error, "it could not be written down that this node has left")
        }
    }
    core.left.send_replace(true);
}

/// Whether the map knows this node as one that is no member any more.
fn is_removed(map: &ClusterMap, node: NodeId) -> bool {
    map.node(node).is_some_and(|node| !node.is_member())
}

/// Whether the rest may still need this node's answer to agree on anything.
fn counts(core: &Core) -> bool {
    let role = core.meta.role();
    let votes = matches!(role, RaftRole::Leader | RaftRole::Follower);
    votes && core.meta.members().contains(&core.node)
}

/// Takes a peer's map if it says that this node has left; otherwise Raft brings it.
async fn ask(core: &Core) {
    for connection in core.pool.up() {
        let request = MetaGet { after: core.directory.index() };
        let deadline = Instant::now() + Duration::from_millis(core.config.leaving.answer_ms);
        let most = core.config.transport.max_message as usize;
        let answer = connection.exchange(&request, Bytes::new(), deadline, most).await;
        let Ok((_, payload)) = answer else { continue };
        let known = &core.directory.current().map;
        let Ok(Some(mut map)) = apply_updates(known, &payload) else { continue };
        // What is told has no grants; those that are known must go on to hold.
        Arc::make_mut(&mut map).grants.clone_from(&known.grants);
        if map.cluster == core.cluster && is_removed(&map, core.node) {
            background::install(core, map);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::map::{Node, NodeState};

    use super::*;

    #[test]
    fn only_a_map_that_knows_a_node_can_say_that_it_has_left() {
        let node = |state| Node {
            id: NodeId(2),
            name: "n2".to_owned(),
            addr: "h:1".to_owned(),
            zone: None,
            state,
            instance: 1,
        };
        let map = |nodes| ClusterMap { nodes, ..ClusterMap::default() };
        assert!(!is_removed(&map(vec![]), NodeId(2)), "a map from before it joined");
        assert!(!is_removed(&map(vec![node(NodeState::Active)]), NodeId(2)));
        assert!(!is_removed(&map(vec![node(NodeState::NonVoter)]), NodeId(2)));
        assert!(is_removed(&map(vec![node(NodeState::Removed)]), NodeId(2)));
    }
}
