//! What metadata says of hints before anybody is asked: for whom they are now.
//!
//! Invariant: only a map at or beyond the index that a batch was resolved at decides anything, so a
//! node that is behind never gives a hint up; a hint for somebody who does not own its shard any
//! more ends here only once every present owner's is durable, or in quarantine if this node is one of
//! them and can never take it. Called by [`super`].

use std::collections::BTreeSet;

use quorate_protocol::{
    batch::EncodedBatch,
    code::{Class, Code},
    id::{NodeId, ShardId},
};

use super::send::finish;
use crate::{
    core::Core,
    directory::Snapshot,
    handoff::{DiscardReason, HintRecord, QuarantineReason, Terminal},
};

fn is_member(snapshot: &Snapshot, node: NodeId) -> bool {
    snapshot.map.active_nodes().any(|member| member.id == node)
}

/// The live shards that a node owns: what there is to deliver to it.
pub(super) fn owned(snapshot: &Snapshot, node: NodeId) -> BTreeSet<ShardId> {
    if !is_member(snapshot, node) {
        return BTreeSet::new();
    }
    let owned = snapshot.map.shards().filter(|place| place.shard.owners.contains(&node));
    owned.map(|place| place.shard.id).collect()
}

/// What is to be done with a hint.
#[derive(Debug)]
enum Lot {
    /// It is for the target, or this node cannot tell.
    Deliver,
    /// Nobody needs it: its shard is gone.
    Gone,
    /// It is for the present owners of its shard.
    Retarget(EncodedBatch, Vec<NodeId>),
}

fn lot(snapshot: &Snapshot, target: NodeId, record: &HintRecord) -> Lot {
    let place = snapshot.shard(record.shard);
    if place.is_some_and(|place| place.owners.contains(&target)) && is_member(snapshot, target) {
        return Lot::Deliver;
    }
    match EncodedBatch::parse(record.bytes.clone()) {
        Ok(batch) if batch.header().part.meta_index <= snapshot.map.index => match place {
            Some(place) => Lot::Retarget(batch, place.owners.clone()),
            None => Lot::Gone,
        },
        // This node is behind, or the target will say what is wrong with it.
        _ => Lot::Deliver,
    }
}

/// What is left of some hints.
pub(super) struct Sorted {
    /// For the target.
    pub(super) left: Vec<HintRecord>,
    /// Shards of hints that ended here.
    pub(super) ended: BTreeSet<ShardId>,
}

/// Ends what is not for `target` any more, and gives back what is; none if that could not be done
/// now.
pub(super) async fn sort(core: &Core, target: NodeId, records: Vec<HintRecord>) -> Option<Sorted> {
    let snapshot = core.directory.current();
    let mut sorted = Sorted { left: Vec::with_capacity(records.len()), ended: BTreeSet::new() };
    let (mut ends, mut whole) = (Vec::new(), true);
    for record in records {
        let end = match lot(&snapshot, target, &record) {
            Lot::Deliver => {
                sorted.left.push(record);
                continue;
            }
            Lot::Gone => Terminal::Discarded(DiscardReason::ShardGone),
            Lot::Retarget(batch, owners) => {
                match retarget(core, &snapshot, &owners, &record, &batch).await {
                    Some(end) => end,
                    // Those behind it may be of a shard that is well.
                    None => {
                        whole = false;
                        continue;
                    }
                }
            }
        };
        sorted.ended.insert(record.shard);
        ends.push((record.sequence, end));
    }
    // What was done is booked even if the rest could not be done.
    (finish(core, target, ends).await && whole).then_some(sorted)
}

/// Makes a hint durable for every present owner of its shard, and says how it has ended; none if one of
/// them cannot be served now. This node comes first: what it refuses for good, so would the others.
async fn retarget(
    core: &Core,
    snapshot: &Snapshot,
    owners: &[NodeId],
    record: &HintRecord,
    batch: &EncodedBatch,
) -> Option<Terminal> {
    let shard = record.shard;
    let failed = |owner: NodeId, error: &dyn std::fmt::Display| {
        tracing::warn!(%shard, %owner, %error, "a hint could not be passed to a new owner");
    };
    if owners.contains(&core.node) {
        match core.take_hint(snapshot, batch.clone()).await {
            Ok(()) => {}
            Err(Code::ShardGone) => return Some(Terminal::Discarded(DiscardReason::ShardGone)),
            Err(code) if code.class() == Class::Never => {
                return Some(Terminal::Quarantined(QuarantineReason::Refused(code.number())));
            }
            Err(code) => {
                failed(core.node, &code);
                return None;
            }
        }
    }
    // It leaves one queue for others, which somebody may be looking at.
    core.accepted.note(shard, batch.header().max_time);
    for owner in owners.iter().filter(|owner| **owner != core.node) {
        let bytes = record.bytes.clone();
        // As old as it is.
        let kept = core.handoff.append(*owner, shard, bytes, record.any_ack, record.appended_at);
        if let Err(error) = kept.await {
            failed(*owner, &error);
            return None;
        }
    }
    Some(Terminal::Discarded(DiscardReason::Retargeted))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use quorate_protocol::{
        batch::{Batch, PartHeader, Selection, encode_part},
        id::{FieldId, MetaIndex, Sequence},
        map::{ClusterMap, Database, Group, Node, NodeState, Policy, Shard},
        point::Point,
    };

    use super::*;
    use crate::directory::Directory;

    const SHARD: ShardId = ShardId(4);
    const TARGET: NodeId = NodeId(3);

    /// A hint whose batch was resolved at this index.
    fn record(index: u64) -> HintRecord {
        let mut batch = Batch::new();
        batch.push(&Point::builder("m").field("f", 1.0).at(0).unwrap());
        let header =
            PartHeader { shard: SHARD, meta_index: MetaIndex(index), ..PartHeader::default() };
        let id = |_: &[u8], _: &[u8], _| Some(FieldId(1));
        let bytes = encode_part(&batch, &header, Selection::All, &id).unwrap();
        let (sequence, appended_at) = (Sequence(1), 7);
        HintRecord { sequence, shard: SHARD, appended_at, any_ack: false, bytes }
    }

    /// What a map at index 5 says that has the shard with these owners, or not at all.
    fn verdict(owners: Option<&[u64]>, state: NodeState, record: &HintRecord) -> String {
        let owners = owners.map(|owners| owners.iter().copied().map(NodeId).collect());
        let shard = owners.map(|owners| Shard { id: SHARD, epoch: Default::default(), owners });
        let (start, end) = (0, 10);
        let shards = shard.into_iter().collect();
        let group = Group { id: Default::default(), start, end, shards, truncation: None };
        let policy = Policy {
            id: Default::default(),
            name: "p".to_owned(),
            duration: 0,
            group_duration: 10,
            replication: 2,
            groups: vec![group.into()],
            deleted: Vec::new(),
        };
        let database = Database {
            id: Default::default(),
            name: "d".to_owned(),
            default_policy: policy.id,
            policies: vec![policy.into()],
            measurements: Vec::new(),
        };
        let (name, addr) = ("n3".to_owned(), String::new());
        let node = Node { id: TARGET, name, addr, zone: None, state, instance: 1 };
        let map = ClusterMap {
            index: MetaIndex(5),
            nodes: vec![node],
            databases: vec![database.into()],
            ..ClusterMap::default()
        };
        let directory = Directory::new(NodeId(1));
        directory.install(Arc::new(map));
        match lot(&directory.current(), TARGET, record) {
            Lot::Deliver => "deliver".to_owned(),
            Lot::Gone => "gone".to_owned(),
            Lot::Retarget(_, owners) => format!("{owners:?}"),
        }
    }

    #[test]
    fn a_hint_goes_to_who_owns_its_shard_now() {
        use NodeState::{Active, Removed};
        let known = record(5);
        assert_eq!(verdict(Some(&[2, 3]), Active, &known), "deliver");
        let owners = |owners: &[u64]| {
            format!("{:?}", owners.iter().copied().map(NodeId).collect::<Vec<_>>())
        };
        assert_eq!(verdict(Some(&[1, 2]), Active, &known), owners(&[1, 2]));
        assert_eq!(verdict(Some(&[2, 3]), Removed, &known), owners(&[2, 3]));
        assert_eq!(verdict(None, Active, &known), "gone");
    }

    #[test]
    fn a_node_that_is_behind_gives_no_hint_up() {
        let ahead = record(6);
        for owners in [None, Some(&[1, 2][..])] {
            assert_eq!(verdict(owners, NodeState::Active, &ahead), "deliver");
        }
        // What cannot be read is for the target to refuse.
        let broken = HintRecord { bytes: Bytes::from_static(b"?"), ..ahead };
        assert_eq!(verdict(None, NodeState::Active, &broken), "deliver");
    }
}
