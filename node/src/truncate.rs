//! This node's part in truncating shard groups: it says what it has accepted for them.
//!
//! Invariant: an answer is computed after the map with the truncation is installed, from all that this
//! node stores, keeps hints of, or may just be accepting by an older map; from then on [`crate::write`]
//! refuses what lies behind. What cannot be told counts up to the group's end. An answer is asked for
//! again until the map has it; one that comes twice, or too late, changes nothing. The leader gives
//! up what somebody does not answer. Format and rules: `SPEC.md`, section 14.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use quorate_protocol::{
    batch::EncodedBatch,
    change::{Change, Consent},
    id::{MetaIndex, NodeId, ShardId},
    map::{ClusterMap, Group},
    message::{Propose, RaftRole},
};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    core::Core,
    handoff::{HandoffError, Seen},
};

/// Time given to one command, in ms.
const TIMEOUT_MS: u32 = 5_000;
/// Pause before an answer that the map does not have yet is given again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often the leader looks for truncations that nobody answers.
const LOOK: Duration = Duration::from_secs(1);
/// Groups in one command.
const GROUPS: usize = 1_000;

/// Answers for every group that is being truncated.
pub(crate) async fn answer(core: Arc<Core>) {
    let mut maps = core.directory.changes();
    loop {
        maps.borrow_and_update();
        // The newest map that writes are held against, not the newest there is.
        let map = Arc::clone(&core.directory.current().map);
        let due = unanswered(&map, core.node);
        if due.is_empty() {
            if maps.changed().await.is_err() {
                return;
            }
            continue;
        }
        let groups = consents(&core, &due).await;
        for some in groups.chunks(GROUPS) {
            let change = Change::ConsentGroups { node: core.node, groups: some.to_vec() };
            match propose(&core, change, "shard groups wait for this node to be truncated").await {
                // Until this node has it too, it would only be proposed again.
                Some(index) => drop(core.directory.reach(index, AGAIN).await),
                None => sleep(AGAIN).await,
            }
        }
    }
}

/// Gives truncations up that some member does not answer.
pub(crate) async fn reopen(core: Arc<Core>) {
    let mut timer = interval(LOOK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let older_ns = core.config.truncate_patience_ns();
    loop {
        timer.tick().await;
        if core.meta.role() != RaftRole::Leader {
            continue;
        }
        let (map, now) = (core.meta.map(), core.env.clock.wall_ns());
        let is_old = |group: &&Arc<Group>| {
            group.closing().is_some_and(|it| it.since_ns.saturating_add(older_ns) <= now)
        };
        let mut silent: BTreeSet<NodeId> = BTreeSet::new();
        let mut groups = 0;
        for group in map.policies().flat_map(|policy| &policy.groups).filter(is_old) {
            groups += 1;
            silent.extend(group.unanswered(&map));
        }
        if groups > 0 {
            let what = "shard groups could not be opened again";
            if propose(&core, Change::ReopenGroups { older_ns }, what).await.is_some() {
                tracing::warn!(groups, nodes = ?silent, "not truncated: nodes did not answer");
            }
        }
    }
}

/// The index of the command, if it was done.
async fn propose(core: &Core, change: Change, what: &'static str) -> Option<MetaIndex> {
    let after = core.directory.index();
    let request = Propose { deadline_ms: TIMEOUT_MS, forwarded: false, after };
    match core.propose(None, request, change).await {
        Ok((proposed, _)) => Some(proposed.index),
        Err(failure) => {
            let (code, detail) = (failure.code, failure.detail);
            tracing::warn!(%code, detail, what);
            None
        }
    }
}

/// The groups that wait for this node's answer.
fn unanswered(map: &ClusterMap, node: NodeId) -> Vec<Arc<Group>> {
    if !map.node(node).is_some_and(|node| node.is_member()) {
        return Vec::new();
    }
    let groups = map.policies().flat_map(|policy| &policy.groups);
    let open =
        groups.filter(|group| group.closing().is_some_and(|it| !it.consents.contains(&node)));
    open.map(Arc::clone).collect()
}

/// What this node has accepted for these groups.
async fn consents(core: &Core, groups: &[Arc<Group>]) -> Vec<Consent> {
    let shards = groups.iter().flat_map(|group| group.shards.iter().map(|shard| shard.id));
    let shards: BTreeSet<ShardId> = shards.collect();
    let hinted = match hinted(core, &shards).await {
        Ok(hinted) => Some(hinted),
        Err(error) => {
            tracing::warn!(%error, "hints cannot be read: shard groups keep their ends");
            None
        }
    };
    let mut consents = Vec::with_capacity(groups.len());
    for group in groups {
        let Some(closing) = group.closing() else { continue };
        let end = group.end.saturating_sub(1);
        let mut highest = hinted.is_none().then_some(end);
        for shard in &group.shards {
            let stored = core.shards.latest(shard.id).await.unwrap_or_else(|error| {
                tracing::warn!(shard = %shard.id, %error, "cannot tell what the shard has");
                Some(end)
            });
            let hint = hinted.as_ref().and_then(|hinted| hinted.get(&shard.id).copied());
            // What is outside of the group already will never be in it.
            let hint = hint.filter(|time| *time <= end);
            // Last: what leaves a queue for a journal, or another queue, is noted in between.
            let noted = core.accepted.latest(shard.id);
            highest = highest.max(stored).max(hint).max(noted);
        }
        let highest = highest.map(|time| time.min(end)).filter(|time| *time >= closing.at);
        consents.push(Consent { group: group.id, truncation: closing.index, highest });
    }
    consents
}

/// The latest times of the hints that this node keeps for these shards. What an operator retries moves
/// from quarantine into the queue, what is refused the other way: so quarantines are looked at twice.
async fn hinted(
    core: &Core,
    shards: &BTreeSet<ShardId>,
) -> Result<BTreeMap<ShardId, i64>, HandoffError> {
    let wanted = Arc::new(shards.clone());
    let mut latest: BTreeMap<ShardId, i64> = BTreeMap::new();
    for quarantined in [true, false, true] {
        for target in core.handoff.targets() {
            let Some(mut look) = core.handoff.look(target, quarantined) else { continue };
            loop {
                let wanted = Arc::clone(&wanted);
                let page = look.next(move |seen| time(seen, &wanted)).await?;
                if page.is_empty() {
                    break;
                }
                for (shard, time) in page.into_iter().flatten() {
                    let known = latest.entry(shard).or_insert(time);
                    *known = time.max(*known);
                }
            }
        }
    }
    Ok(latest)
}

/// The shard and the latest time of a hint that matters. One that is damaged is never delivered: it is
/// kept for people to look at.
fn time(seen: Seen, wanted: &BTreeSet<ShardId>) -> Option<(ShardId, i64)> {
    if seen.damaged || !wanted.contains(&seen.shard) {
        return None;
    }
    let batch = EncodedBatch::parse(seen.bytes).ok()?;
    Some((seen.shard, batch.header().max_time))
}
