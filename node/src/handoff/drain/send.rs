//! One message of hints: sent, and each record settled by its own answer.
//!
//! Invariant: a record ends only by its answer, and is booked before anybody hears of it; a record
//! that is refused for good goes to quarantine and holds nothing up. Called by [`super`], several at
//! once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use quorate_client::connection::Connection;
use quorate_protocol::{
    code::{Class, Code},
    id::{NodeId, Sequence, ShardId},
    message::{Answer, Deliver, HintItem},
};
use tokio::time::Instant;

use super::aside::Refused;
use crate::{
    core::Core,
    handoff::{DiscardReason, HandoffError, HintRecord, QuarantineReason, Terminal},
};

/// What came of a message.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Bytes of the hints that ended.
    pub(super) bytes: usize,
    /// Shards with a hint that ended.
    pub(super) taken: BTreeSet<ShardId>,
    /// Hints of shards that the target cannot take now.
    pub(super) refused: BTreeMap<ShardId, Refused>,
    /// The target takes nothing now, of any shard.
    pub(super) stop: bool,
}

impl Sent {
    /// Nobody knows what became of them.
    fn lost() -> Self {
        Self { stop: true, ..Self::default() }
    }
}

/// What an answer says of its hint.
enum Verdict {
    Ended(Terminal),
    /// The shard cannot take it now.
    Later {
        after: Duration,
        busy: bool,
    },
    /// The node takes nothing now.
    Stop,
}

/// Sends records and books how those ended that did.
pub(super) async fn send(
    core: Arc<Core>,
    connection: Arc<Connection>,
    target: NodeId,
    records: Vec<HintRecord>,
    timeout_ms: u32,
) -> Sent {
    let request = Deliver {
        meta_index: core.directory.index(),
        deadline_ms: timeout_ms,
        items: records
            .iter()
            // A record is below the size of a frame.
            .map(|record| HintItem { shard: record.shard, length: record.bytes.len() as u32 })
            .collect(),
    };
    let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
    let answers = match connection.request(&request, join(&records), deadline).await {
        Ok((delivered, _)) if delivered.answers.len() == records.len() => delivered.answers,
        Ok(_) => return Sent::lost(),
        Err(error) => {
            tracing::debug!(%target, %error, "hints not delivered");
            return Sent::lost();
        }
    };
    let (mut sent, mut ends) = (Sent::default(), Vec::with_capacity(records.len()));
    for (record, answer) in records.iter().zip(answers) {
        match verdict(answer) {
            Verdict::Ended(terminal) => {
                ends.push((record.sequence, terminal));
                sent.taken.insert(record.shard);
                sent.bytes += record.bytes.len();
            }
            Verdict::Later { after, busy } => {
                let refused = sent.refused.entry(record.shard).or_default();
                refused.sequences.push(record.sequence);
                refused.retry_after = refused.retry_after.max(after);
                refused.busy |= busy;
            }
            Verdict::Stop => sent.stop = true,
        }
    }
    if !finish(&core, target, ends).await {
        sent.stop = true;
    }
    sent
}

fn verdict(answer: Answer) -> Verdict {
    let after = Duration::from_millis(answer.retry_after_ms.into());
    match answer.error {
        None => Verdict::Ended(Terminal::Delivered),
        Some(Code::ShardGone) => Verdict::Ended(Terminal::Discarded(DiscardReason::ShardGone)),
        // A node that is not the owner any more, or not yet: the maps will agree.
        Some(Code::NotOwner) => Verdict::Later { after, busy: false },
        Some(code) if code.class() == Class::Never => {
            Verdict::Ended(Terminal::Quarantined(QuarantineReason::Refused(code.number())))
        }
        Some(Code::DiskFull | Code::ShuttingDown) => Verdict::Stop,
        Some(code) => Verdict::Later { after, busy: code == Code::Busy },
    }
}

/// Books ends; false if they could not be booked.
pub(super) async fn finish(core: &Core, target: NodeId, ends: Vec<(Sequence, Terminal)>) -> bool {
    let refused = ends.iter().filter(|(_, end)| matches!(end, Terminal::Quarantined(_))).count();
    if refused > 0 {
        tracing::warn!(%target, refused, "hints refused for good; see 'quorate hints ls'");
    }
    match core.handoff.complete_all(target, ends).await {
        // Booked before: by the age limit, or by an earlier delivery.
        Ok(()) | Err(HandoffError::NotPending { .. }) => true,
        Err(error) => {
            // They stay pending and are delivered again, which changes nothing.
            tracing::warn!(%target, %error, "delivered hints could not be booked");
            false
        }
    }
}

fn join(records: &[HintRecord]) -> Bytes {
    if let [only] = records {
        return only.bytes.clone();
    }
    let mut joined = BytesMut::with_capacity(records.iter().map(|r| r.bytes.len()).sum());
    records.iter().for_each(|record| joined.extend_from_slice(&record.bytes));
    joined.freeze()
}
