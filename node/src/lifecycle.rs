//! What becomes of shard groups with time: those whose points are all over their retention are deleted,
//! and the next ones are there before they are needed. What is left of deleted ones goes later still.
//!
//! Each has a timer of its own, which nothing else can hold up. The leader deletes. Owners make groups
//! ahead, since only they know that a policy is being written to: the first owner of a shard that has
//! data asks first, the others if nobody did. Invariant: both only ask; which groups are over, and which
//! are missing, is decided where the command is applied.

use std::{collections::BTreeSet, sync::Arc};

use quorate_protocol::{
    change::Change,
    id::{NodeId, PolicyId, ShardId},
    map::{ClusterMap, Policy},
    message::{Propose, RaftRole},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::core::Core;

/// Time given to one command, in ms.
const TIMEOUT_MS: u32 = 10_000;

/// Has groups deleted that are over.
pub(crate) async fn expire(core: Arc<Core>) {
    let mut timer = interval(core.config.retention_check());
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let grace_ns = core.config.retention_grace_ns();
    loop {
        timer.tick().await;
        let now = core.env.clock.wall_ns();
        if core.meta.role() == RaftRole::Leader && is_due(&core.meta.map(), now, grace_ns) {
            ask(&core, Change::ExpireGroups { grace_ns }).await;
        }
        let keep_ns = core.config.tombstone_keep_ns();
        if core.meta.role() == RaftRole::Leader && has_old(&core.meta.map(), now, keep_ns) {
            ask(&core, Change::PruneTombstones { keep_ns }).await;
        }
    }
}

/// Has groups made that will be needed soon.
pub(crate) async fn precreate(core: Arc<Core>) {
    let mut timer = interval(core.config.precreate_check());
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let now = i64::try_from(core.env.clock.wall_ns()).unwrap_or(i64::MAX);
        let written: BTreeSet<ShardId> = core.shards.shards().into_iter().collect();
        let lead = core.config.precreate_lead_ns();
        let wanted = ahead(&core.meta.map(), core.node, &written, now, lead);
        if !wanted.is_empty() {
            ask(&core, Change::PrecreateGroups { wanted }).await;
        }
    }
}

/// Tried again at the next tick if it fails.
async fn ask(core: &Core, change: Change) {
    let after = core.directory.index();
    let request = Propose { deadline_ms: TIMEOUT_MS, forwarded: false, after };
    if let Err(failure) = core.propose(None, request, change).await {
        let (code, detail) = (failure.code, failure.detail);
        tracing::warn!(%code, detail, "shard groups were not made or deleted");
    }
}

/// Whether any tombstone is old.
fn has_old(map: &ClusterMap, now: u64, keep_ns: u64) -> bool {
    map.policies().any(|policy| policy.deleted.iter().any(|stone| stone.is_old(now, keep_ns)))
}

/// Whether any group is over.
fn is_due(map: &ClusterMap, now: u64, grace_ns: u64) -> bool {
    map.policies()
        .any(|policy| policy.groups.iter().any(|group| policy.is_over(group, now, grace_ns)))
}

/// Policies that are written to now, and the end of their present group if it comes soon and nothing
/// is behind it.
fn ahead(
    map: &ClusterMap,
    node: NodeId,
    written: &BTreeSet<ShardId>,
    now: i64,
    lead: u64,
) -> Vec<(PolicyId, i64)> {
    let next = |policy: &Policy| {
        let group = policy.group_at(now)?;
        if group.end == i64::MAX || policy.group_at(group.end).is_some() {
            return None;
        }
        let shards = group.shards.iter().filter(|shard| written.contains(&shard.id));
        let rank = |owners: &Vec<NodeId>| owners.iter().position(|owner| *owner == node);
        let rank = shards.filter_map(|shard| rank(&shard.owners)).min()? as u64;
        let half = group.end.abs_diff(group.start) / 2;
        (group.end.abs_diff(now) <= lead.min(half) / (rank + 1)).then_some((policy.id, group.end))
    };
    map.policies().filter_map(next).collect()
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{
        id::{DatabaseId, Epoch, GroupId},
        map::{Database, Group, Shard},
    };

    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn map(groups: &[(i64, i64)], duration: u64) -> ClusterMap {
        let groups = groups.iter().zip(1..).map(|((start, end), id)| Group {
            id: GroupId(id),
            start: *start,
            end: *end,
            shards: vec![Shard {
                id: ShardId(id),
                epoch: Epoch(1),
                owners: vec![NodeId(1), NodeId(2)],
            }],
            truncation: None,
        });
        let policy = Policy {
            id: PolicyId(7),
            name: "p".to_owned(),
            duration,
            group_duration: HOUR as u64,
            replication: 2,
            groups: groups.map(Into::into).collect(),
            deleted: Vec::new(),
        };
        let database = Database {
            id: DatabaseId(1),
            name: "d".to_owned(),
            default_policy: policy.id,
            policies: vec![policy.into()],
            measurements: Vec::new(),
        };
        ClusterMap { databases: vec![database.into()], ..ClusterMap::default() }
    }

    #[test]
    fn the_next_group_is_asked_for_in_time_by_one_owner_and_later_by_another() {
        let lead = HOUR as u64;
        let written = BTreeSet::from([ShardId(1)]);
        let at = |map: &ClusterMap, node, minute: i64| {
            ahead(map, NodeId(node), &written, minute * HOUR / 60, lead)
        };
        let one = map(&[(0, HOUR)], 0);
        // Not before half of the group is over, however long the lead.
        assert_eq!(at(&one, 1, 29), []);
        assert_eq!(at(&one, 1, 31), [(PolicyId(7), HOUR)]);
        assert_eq!(at(&one, 2, 31), []);
        assert_eq!(at(&one, 2, 46), [(PolicyId(7), HOUR)]);
        assert_eq!(at(&one, 3, 59), [], "it owns nothing of it");
        assert_eq!(at(&map(&[(0, HOUR), (HOUR, 2 * HOUR)], 0), 1, 59), [], "it is there");
        assert_eq!(at(&one, 1, 61), [], "nobody writes now");
        let unwritten = ahead(&one, NodeId(1), &BTreeSet::new(), HOUR - 1, lead);
        assert_eq!(unwritten, []);
    }

    #[test]
    fn nothing_is_asked_before_a_group_is_over_and_a_grace_has_passed() {
        let kept = map(&[(0, HOUR)], 2 * HOUR as u64);
        let (over, grace) = (3 * HOUR as u64, 60);
        assert!(!is_due(&kept, over + grace - 1, grace));
        assert!(is_due(&kept, over + grace, grace));
        assert!(!is_due(&map(&[(0, HOUR)], 0), u64::MAX, grace), "for ever");
    }
}
