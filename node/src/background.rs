//! What a node does on its own: follow the map, give the journal back, say where it is.
//!
//! Every task belongs to the core's tracker and ends with its token; none of them can starve
//! another, since each has its own timer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_protocol::{
    batch::EncodedBatch,
    change::Change,
    id::NodeId,
    map::{ClusterMap, Node},
    message::Propose,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{
    cardinality::SeriesWatch,
    core::Core,
    handoff::drain,
    leaving, lifecycle,
    shard::retention::{self, LiveShards},
    truncate,
};

/// Pause between attempts to tell the cluster this node's address.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(500);
/// How long a node waits for its own map after it has announced itself.
const ANNOUNCE_PATIENCE: Duration = Duration::from_secs(5);
/// How soon it is looked again whether Raft's group still has a node that has left.
const LINGER: Duration = Duration::from_millis(500);
/// Time given to one such attempt, in milliseconds.
const ANNOUNCE_TIMEOUT_MS: u32 = 5_000;

/// Starts everything that runs for as long as the node does.
pub(crate) fn start(core: &Arc<Core>) {
    spawn(core, follow_map(Arc::clone(core)));
    spawn(core, housekeeping(Arc::clone(core)));
    spawn(core, expiry(Arc::clone(core)));
    spawn(core, keep_synced(Arc::clone(core)));
    spawn(core, drain::run(Arc::clone(core)));
    spawn(core, leaving::watch(Arc::clone(core)));
    spawn(core, lifecycle::expire(Arc::clone(core)));
    spawn(core, lifecycle::precreate(Arc::clone(core)));
    spawn(core, truncate::answer(Arc::clone(core)));
    spawn(core, truncate::reopen(Arc::clone(core)));
    core.shards.start();
}

pub(crate) fn spawn(core: &Arc<Core>, work: impl Future<Output = ()> + Send + 'static) {
    let cancel = core.cancel.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = work => {}
        }
    });
}

/// Takes every new map: for requests, for connections, and for shards that are gone.
async fn follow_map(core: Arc<Core>) {
    let mut watch = core.meta.watch();
    loop {
        let map = Arc::clone(&watch.borrow_and_update());
        let lingering = install(&core, map);
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return },
            () = sleep(LINGER), if lingering => {}
        }
    }
}

/// Takes a map, unless a newer one came past Raft. Returns whether there are connections to nodes that
/// have left: Raft's group needs them until it has agreed to go on without.
pub(crate) fn install(core: &Core, map: Arc<ClusterMap>) -> bool {
    if map.index.0 == 0 || map.index < core.directory.index() {
        return false;
    }
    let members = core.meta.members();
    let lingers = |node: &Node| !node.is_member() && members.contains(&node.id);
    let others = map.nodes.iter().filter(|node| node.id != core.node);
    let dialled = others.filter(|node| node.is_member() || lingers(node));
    core.pool.update(dialled);
    let lingering = map.nodes.iter().any(lingers);
    core.directory.install(map);
    lingering
}

/// Syncs what the journal has answered before its sync, where it does so.
async fn keep_synced(core: Arc<Core>) {
    core.journal.keep_synced().await;
}

/// Tells the store which shards are over, by this node's clock.
fn tell_over(core: &Core) {
    let after = i64::try_from(core.config.shard.dense_after_ms).unwrap_or(i64::MAX);
    let now = i64::try_from(core.env.clock.wall_ns()).unwrap_or(i64::MAX);
    let over = now.saturating_sub(after.saturating_mul(1_000_000));
    for place in core.directory.current().map.shards().filter(|place| place.group.end <= over) {
        core.shards.set_over(place.shard.id);
    }
}

/// Gives folded journal segments back, all of its room when idle, and drops the shards that the map
/// no longer has.
async fn housekeeping(core: Arc<Core>) {
    let mut timer = interval(core.config.housekeeping());
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle = (core.journal.stats().last_sequence, Instant::now());
    let mut series = SeriesWatch::default();
    loop {
        timer.tick().await;
        tell_over(&core);
        core.feeds.tidy();
        if let Some(failure) = core.meta.failure() {
            tracing::error!(
                failure,
                "metadata has stopped on this node; check its disk and restart it"
            );
        }
        drop_dead_shards(&core).await;
        series.note(&core);
        let folded = core.shards.applied_through();
        // The versions of what is given up must outlive it.
        if let Err(error) = core.data.save_highest_version(core.highest_version()) {
            tracing::warn!(%error, "the highest version could not be saved");
            continue;
        }
        if let Err(error) = core.journal.release(folded).await {
            tracing::warn!(%error, "journal segments could not be released");
        }
        let last = core.journal.stats().last_sequence;
        if last != idle.0 {
            idle = (last, Instant::now());
        } else if last <= folded && idle.1.elapsed() >= core.config.idle_trim() {
            // What has nothing to give back does nothing; an error is said above already.
            let _ = core.journal.trim(folded).await;
        }
    }
}

/// Gives up hints that are too old, by a timer of its own: no drain can hold it back.
async fn expiry(core: Arc<Core>) {
    let mut timer = interval(core.config.expiry());
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let range_of = |bytes: &[u8]| {
        let batch = EncodedBatch::parse(Bytes::copy_from_slice(bytes)).ok()?;
        Some((batch.header().min_time, batch.header().max_time))
    };
    loop {
        timer.tick().await;
        match core.handoff.expire(core.env.clock.wall_ns(), &core.marks, range_of).await {
            Ok(given_up) if given_up.expired + given_up.quarantined > 0 => {
                tracing::warn!(given_up.expired, given_up.quarantined, "hints were too old");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "old hints could not be given up"),
        }
    }
}

/// Drops the shards that the map has known and no longer has.
async fn drop_dead_shards(core: &Core) {
    let snapshot = core.directory.current();
    if snapshot.map.index.0 == 0 {
        return;
    }
    let live = LiveShards::of(&snapshot.map);
    core.accepted.forget(|shard| live.has_dropped(shard));
    for (shard, result) in retention::sweep(&core.shards, &live).await {
        if result.is_ok() {
            tracing::info!(%shard, "removed a dropped shard");
        }
    }
}

/// Tells the cluster where this node is, if the map says something else.
pub(crate) fn announce(core: &Arc<Core>, addr: String) {
    let task = Arc::clone(core);
    spawn(core, async move {
        let core = task;
        let mut watch = core.meta.watch();
        let known = |map: &Arc<ClusterMap>| map.node(core.node).is_some();
        if watch.wait_for(known).await.is_err() {
            return;
        }
        while !says(&core, core.node, &addr) {
            let known = core.meta.map().node(core.node).and_then(|node| node.zone.clone());
            let change = Change::UpdateNode {
                node: core.node,
                addr: addr.clone(),
                // What an operator has set stays, unless this node is started with another.
                zone: core.config.zone.clone().or(known),
            };
            let (deadline_ms, after) = (ANNOUNCE_TIMEOUT_MS, core.directory.index());
            match core.propose(None, Propose { deadline_ms, forwarded: false, after }, change).await
            {
                Ok((proposed, _)) => {
                    // Until this node has it too, it would only be proposed again.
                    let _ = core.directory.reach(proposed.index, ANNOUNCE_PATIENCE).await;
                }
                Err(failure) => {
                    let (code, detail) = (failure.code, failure.detail);
                    tracing::debug!(%code, detail, "address not announced yet");
                    sleep(ANNOUNCE_PAUSE).await;
                }
            }
        }
    });
}

fn says(core: &Core, node: NodeId, addr: &str) -> bool {
    let map = core.meta.map();
    let zone = core.config.zone.as_ref();
    map.node(node)
        .is_some_and(|known| known.addr == addr && (zone.is_none() || known.zone.as_ref() == zone))
}
