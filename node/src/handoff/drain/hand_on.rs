//! Giving hints to other holders, before this node leaves.
//!
//! Invariant: a hint ends here only once another node has answered that it keeps it, synced, or that
//! its shard is gone; what nobody takes stays. Beside the drains, which go on meanwhile: whoever
//! books a hint first has ended it. Called by the service for operators.

use std::{sync::Arc, time::Duration};

use quorate_client::connection::Connection;
use quorate_protocol::{
    batch::EncodedBatch,
    code::Code,
    id::{NodeId, Sequence},
    message::{HandOn, HandedOn, Write},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{lot, send::finish};
use crate::{
    core::Core,
    handoff::{DiscardReason, HintRecord, QuarantineReason, Terminal},
};

/// Hints under way at once.
const RECORDS: usize = 256;
/// Their bytes.
const BYTES: usize = 4 << 20;
/// Pause while drains have all hints under way, or nobody takes any.
const PAUSE: Duration = Duration::from_millis(100);

impl Core {
    /// Gives this node's hints to other nodes until none is left or the time is over.
    pub(crate) async fn hand_on(self: &Arc<Self>, request: HandOn) -> HandedOn {
        let deadline = Instant::now() + Duration::from_millis(request.deadline_ms.into());
        let mut moved = 0;
        loop {
            let mut some = 0;
            for target in self.handoff.targets() {
                some += hand_on(self, target, deadline).await;
            }
            moved += some;
            let pending = self.handoff.totals().pending;
            if pending == 0 || Instant::now() >= deadline || self.cancel.is_cancelled() {
                return HandedOn { moved, pending };
            }
            if some == 0 {
                sleep(PAUSE).await;
            }
        }
    }
}

/// Gives some hints for one target away; how many.
async fn hand_on(core: &Arc<Core>, target: NodeId, deadline: Instant) -> u64 {
    let records = match core.handoff.peek(target, RECORDS, BYTES).await {
        Ok(records) => records,
        Err(error) => {
            tracing::warn!(%target, %error, "hints cannot be read");
            return 0;
        }
    };
    let all: Vec<Sequence> = records.iter().map(|record| record.sequence).collect();
    if all.is_empty() {
        return 0;
    }
    let mut moved = 0;
    if let Some(sorted) = lot::sort(core, target, records).await {
        let mut under_way = JoinSet::new();
        for record in sorted.left {
            let core = Arc::clone(core);
            under_way.spawn(async move { give(&core, target, record, deadline).await });
        }
        let ends: Vec<_> = under_way.join_all().await.into_iter().flatten().collect();
        let count = ends.len() as u64;
        if finish(core, target, ends).await {
            moved = count;
        }
    }
    // Those that ended are not there any more.
    core.handoff.put_back(target, &all);
    moved
}

/// Gives one hint to whoever takes it, and says how it ended here.
async fn give(
    core: &Core,
    target: NodeId,
    record: HintRecord,
    deadline: Instant,
) -> Option<(Sequence, Terminal)> {
    let batch = EncodedBatch::parse(record.bytes.clone()).ok()?;
    let part = batch.header().part;
    for holder in holders(core, target, &record) {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = Write {
            shard: record.shard,
            epoch: part.epoch,
            meta_index: core.directory.index().max(part.meta_index),
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            store: false,
            any: record.any_ack,
            hint_for: vec![target],
        };
        let Ok((written, _)) = holder.request(&request, record.bytes.clone(), deadline).await
        else {
            continue;
        };
        let end = match written.hints.first().map(|hint| hint.answer.error) {
            Some(None) => DiscardReason::Retargeted,
            Some(Some(Code::ShardGone)) => DiscardReason::ShardGone,
            // No owner will ever take it: kept for people to look at.
            Some(Some(code @ Code::OutOfGroup)) => {
                let end = Terminal::Quarantined(QuarantineReason::Refused(code.number()));
                return Some((record.sequence, end));
            }
            _ => continue,
        };
        return Some((record.sequence, Terminal::Discarded(end)));
    }
    None
}

/// Connections to the nodes that are up and may keep a hint: owners of its shard first, who have its
/// data.
fn holders(core: &Core, target: NodeId, record: &HintRecord) -> Vec<Arc<Connection>> {
    let snapshot = core.directory.current();
    let owners = snapshot.shard(record.shard).map(|place| place.owners.clone()).unwrap_or_default();
    let mut nodes: Vec<NodeId> = snapshot.map.active_nodes().map(|node| node.id).collect();
    nodes.retain(|node| *node != target && *node != core.node);
    nodes.sort_by_key(|node| (!owners.contains(node), *node));
    nodes.into_iter().filter_map(|node| core.pool.peer(node)?.connection()).collect()
}
