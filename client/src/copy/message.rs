//! The messages of a copy: the write itself, the hints that travel in it, and marks.
//!
//! Invariant: a hint whose answer was lost, or which may be on a disk all the same, is told to the part's gate
//! before anybody hears of it. Called by the copies and the part beside it.

use std::{sync::Arc, time::Duration};

use quorate_protocol::{
    code::Code,
    id::{MetaIndex, NodeId},
    message::{HintAnswer, Mark, Write, Written},
};
use tokio::time::Instant;

use super::Carry;
use crate::{
    connection::{NotSent, RequestError},
    core::Core,
    history::Step,
    part::{Goal, Part},
    pool::PeerHandle,
};

/// Time for one node to write a mark down.
const MARK_TIMEOUT: Duration = Duration::from_secs(5);
const MARKS: &str = "quorate_client_marks_total";
const HINTS: &str = "quorate_client_hints_total";

/// What to do about a refusal, for people.
pub(super) const fn advice(code: Option<Code>) -> &'static str {
    match code {
        Some(Code::SeriesLimit) => {
            ": use fewer tag values, or raise max_series_per_database on its nodes"
        }
        _ => "",
    }
}

/// Has the first of `holders` that can remember that `owner` lacks the part; which one does.
pub(crate) async fn mark(
    core: &Core,
    part: &Part,
    owner: NodeId,
    holders: &[NodeId],
) -> Option<NodeId> {
    part.notes.of(owner, || Step::MarkAsked);
    let request = Mark { shard: part.shard, owner, from: part.from, to: part.to };
    for holder in holders {
        let Some(connection) = core.connection(*holder) else { continue };
        let deadline = Instant::now() + MARK_TIMEOUT;
        let reply = connection.request(&request, bytes::Bytes::new(), deadline).await;
        if reply.is_ok_and(|(marked, _)| marked.answer.error.is_none()) {
            metrics::counter!(MARKS, "outcome" => "kept").increment(1);
            return Some(*holder);
        }
    }
    metrics::counter!(MARKS, "outcome" => "refused").increment(1);
    None
}

/// Sends hints that travel alone, to a node that is no owner.
pub(crate) async fn carry(
    core: Arc<Core>,
    part: Arc<Part>,
    goal: Goal,
    node: NodeId,
    mut carry: Vec<Carry>,
) {
    let _ = write(&core, &part, goal, node, false, &mut carry).await;
}

/// Why a write message did not come to a reply.
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) retry_after: Duration,
    pub(super) sent: bool,
    /// Of the node's map, where it has looked at it.
    pub(super) index: MetaIndex,
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn internal(node: NodeId) -> Self {
        let detail = format!("node {node} answered without saying what became of the copy");
        let (code, index) = (Code::Internal, MetaIndex(0));
        Self { code, retry_after: Duration::ZERO, sent: true, index, detail }
    }

    fn from_request(node: NodeId, error: RequestError) -> Self {
        let detail = format!("node {node}: {error}");
        let (code, retry_after_ms) = match &error {
            RequestError::Failure(failure) => (failure.code, failure.retry_after_ms),
            // Down, whatever the reason: an error of the owner's disk says so in an answer.
            RequestError::NotSent(NotSent::Disconnected(_)) | RequestError::Lost(_) => {
                (Code::Unavailable, 0)
            }
            other => (other.code(), 0),
        };
        let sent = error.may_have_effect();
        let retry_after = Duration::from_millis(retry_after_ms.into());
        Self { code, retry_after, sent, index: MetaIndex(0), detail }
    }
}

/// One write message. Answers of hints go to whoever waits for them and leave `carry`.
pub(super) async fn write(
    core: &Core,
    part: &Part,
    goal: Goal,
    node: NodeId,
    store: bool,
    carry: &mut Vec<Carry>,
) -> Result<Written, Refusal> {
    let peer = core.pool.peer(node);
    let Some(connection) = peer.as_ref().and_then(PeerHandle::connection) else {
        let detail = format!("node {node} is down");
        let retry_after = Duration::ZERO;
        let (code, index) = (Code::Unavailable, MetaIndex(0));
        carry.iter().for_each(|carry| hint_refused(part, carry.target, node, code));
        return Err(Refusal { code, retry_after, sent: false, index, detail });
    };
    if store {
        part.notes.of(node, || Step::Sent { hints: carry.len() });
    }
    for Carry { target, why, .. } in carry.iter() {
        part.notes.of(*target, || Step::HintAsked { holder: node, why: *why, with_copy: store });
    }
    let left = goal.deadline.saturating_duration_since(Instant::now());
    let request = Write {
        shard: part.shard,
        epoch: part.epoch,
        meta_index: part.meta_index,
        deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        store,
        any: goal.level == quorate_protocol::consistency::Level::Any,
        hint_for: carry.iter().map(|carry| carry.target).collect(),
    };
    let reply = connection.request(&request, part.bytes.clone(), goal.deadline).await;
    let (written, _) = reply.map_err(|error| {
        if let (RequestError::Protocol(_), Some(peer)) = (&error, &peer) {
            // Whoever answers what cannot be read is not what was dialled, or not any more.
            peer.evict(&connection);
        }
        let refusal = Refusal::from_request(node, error);
        for carry in carry.iter() {
            hint_refused(part, carry.target, node, refusal.code);
            if refusal.sent {
                carry.under_way.uncertain();
            }
        }
        refusal
    })?;
    core.observe(written.highest_version, written.meta_index);
    for HintAnswer { target, answer } in &written.hints {
        let Some(at) = carry.iter().position(|carry| carry.target == *target) else { continue };
        match answer.error {
            Some(code) => hint_refused(part, *target, node, code),
            None => metrics::counter!(HINTS, "outcome" => "kept").increment(1),
        }
        match answer.error {
            None => {
                let _ = carry.swap_remove(at).done.send(Ok((node, answer.sequence)));
            }
            Some(
                code
                @ (Code::ShardGone | Code::SeriesLimit | Code::OutOfGroup | Code::GroupClosing),
            ) => {
                let _ = carry.swap_remove(at).done.send(Err((code, written.meta_index)));
            }
            // After a failed sync the hint may be on the disk all the same.
            Some(Code::Io | Code::Internal | Code::Unknown(_)) => carry[at].under_way.uncertain(),
            Some(_) => {}
        }
    }
    Ok(written)
}

fn hint_refused(part: &Part, target: NodeId, holder: NodeId, code: Code) {
    metrics::counter!(HINTS, "outcome" => "refused").increment(1);
    part.notes.of(target, || Step::HintRefused { holder, code });
}
