//! Decides who is followed for what, whenever the map, a connection or a node's answers change.
//!
//! Invariant: one stream per node; it is asked anew only when something else is wanted of it. Runs for as
//! long as the subscription does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use quorate_protocol::{code::Code, id::NodeId, map::ClusterMap};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Shared, shards::Wanted, stream};
use crate::error::Error;

/// How often it is looked for batches that do not come, at most, times four.
const MIN_LOOK: Duration = Duration::from_millis(40);

/// Ends when the policy is gone.
pub(super) async fn run(shared: &Arc<Shared>, stop: &CancellationToken) {
    let core = &shared.core;
    let (mut maps, mut peers) = (core.topology.watch(), core.pool.changes());
    let mut nodes: BTreeMap<NodeId, watch::Sender<Wanted>> = BTreeMap::new();
    loop {
        maps.mark_unchanged();
        peers.mark_unchanged();
        let map = core.topology.map();
        let (mut wanted, again) = match plan(shared, &map) {
            Ok(plan) => plan,
            Err(gone) => return shared.end(Some(gone)),
        };
        for (node, sender) in &nodes {
            let wanted = wanted.remove(node).unwrap_or_default();
            sender.send_if_modified(|last| {
                let other = *last != wanted;
                if other {
                    *last = wanted;
                }
                other
            });
        }
        for (node, wanted) in wanted {
            let (sender, receiver) = watch::channel(wanted);
            nodes.insert(node, sender);
            let follow = stream::run(Arc::clone(shared), node, receiver);
            let stop = stop.clone();
            core.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = follow => {}
                }
            });
        }
        // Whoever has no stream may be who tells this client of the map, and fall silent.
        let unasked = |node: &NodeId| nodes.get(node).is_none_or(|it| it.borrow().is_empty());
        for node in core.live().into_iter().filter(unasked) {
            if let Some(connection) = core.connection(node) {
                stream::probe(shared, &connection);
            }
        }
        shared.progress.notify_one();
        tokio::select! {
            Ok(()) = maps.changed() => {}
            Ok(()) = peers.changed() => {}
            () = shared.changed.notified() => {}
            () = sleep_until(again) => {}
        }
    }
}

type Plan = (BTreeMap<NodeId, Wanted>, Instant);

fn plan(shared: &Shared, map: &ClusterMap) -> Result<Plan, Error> {
    let database = map.database(shared.database);
    let database =
        database.ok_or_else(|| Error::refused(Code::DatabaseNotFound, "it was dropped"))?;
    let mut policies = database.policies.iter();
    let policy = policies.find(|policy| policy.id == shared.policy);
    let policy = policy.ok_or_else(|| Error::refused(Code::PolicyNotFound, "it was dropped"))?;
    let shards = policy.groups.iter().flat_map(|group| &group.shards);
    let shards = shards.map(|shard| (shard.id, &shard.owners[..]));
    let up = |node| shared.core.is_live(node);
    let now = Instant::now();
    let (wanted, again) = shared.shards().plan(shards, up, now);
    // Names that wait for too long make no noise.
    let look = now + shared.options.patience.max(MIN_LOOK) / 4;
    Ok((wanted, again.map_or(look, |again| again.min(look))))
}
