//! Giving hints up at the age limit.
//!
//! Invariant: a hint is booked as expired only after a repair mark for it is durable; one that an
//! `any` acknowledgement rests on is quarantined instead. Hints in flight are left to the drain, but
//! not those that it has set aside.
//! Called by a timer of its own, so that no amount of draining can starve it.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_protocol::id::{NodeId, ShardId};
use serde::Serialize;

use super::log::Item;
use super::marks::{Mark, MarkReason, Marks};
use super::queue::HintRecord;
use super::reading::Want;
use super::terminal::{QuarantineReason, Terminal};
use super::{Handoff, HandoffError};

/// Hints handled in one step.
const STEP_RECORDS: usize = 256;
const STEP_BYTES: usize = 4 << 20;

/// What one pass gave up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expiry {
    /// Hints replaced by repair marks.
    pub expired: u64,
    /// Hints moved to quarantine.
    pub quarantined: u64,
}

impl Handoff {
    /// Gives up every hint older than the age limit and removes the files of empty queues.
    /// `range_of` tells the first and last point time of a batch; `None` marks all times.
    ///
    /// # Errors
    /// The first failure; hints not yet booked stay pending and are tried again next time.
    pub async fn expire(
        &self,
        now_ns: u64,
        marks: &Marks,
        range_of: impl Fn(&[u8]) -> Option<(i64, i64)>,
    ) -> Result<Expiry, HandoffError> {
        let age = u64::try_from(self.config.max_age().as_nanos()).unwrap_or(u64::MAX);
        let before = Some(now_ns.saturating_sub(age));
        let want = Want { max_records: STEP_RECORDS, max_bytes: STEP_BYTES, before };
        let mut expiry = Expiry::default();
        for queue in self.shared.all() {
            loop {
                let records = self.hand_out(Arc::clone(&queue), want).await?;
                if records.is_empty() {
                    break;
                }
                let mut ends = Vec::with_capacity(records.len());
                for record in &records {
                    let terminal = if record.any_ack {
                        Terminal::Quarantined(QuarantineReason::TooOld)
                    } else {
                        Terminal::Expired
                    };
                    ends.push((record.sequence, terminal));
                }
                let marked = mark_all(queue.target, &records, marks, &range_of).await;
                let booked = match marked {
                    Ok(()) => self.complete_all(queue.target, ends).await,
                    Err(error) => Err(error),
                };
                match booked {
                    // Some were dropped by an operator meanwhile.
                    Ok(()) | Err(HandoffError::NotPending { .. }) => {}
                    Err(error) => {
                        let all: Vec<_> = records.iter().map(|record| record.sequence).collect();
                        self.put_back(queue.target, &all);
                        return Err(error);
                    }
                }
                let kept = records.iter().filter(|record| record.any_ack).count() as u64;
                expiry.quarantined += kept;
                expiry.expired += records.len() as u64 - kept;
            }
        }
        self.submit(Item::Tidy, 0).await?;
        Ok(expiry)
    }
}

/// One mark per shard of the step: each costs a sync.
async fn mark_all(
    owner: NodeId,
    records: &[HintRecord],
    marks: &Marks,
    range_of: &impl Fn(&[u8]) -> Option<(i64, i64)>,
) -> Result<(), HandoffError> {
    let mut ranges: BTreeMap<ShardId, (i64, i64)> = BTreeMap::new();
    for record in records.iter().filter(|record| !record.any_ack) {
        let (from, to) = range_of(&record.bytes).unwrap_or((i64::MIN, i64::MAX));
        let range = ranges.entry(record.shard).or_insert((from, to));
        *range = (range.0.min(from), range.1.max(to));
    }
    for (shard, (from, to)) in ranges {
        let reason = MarkReason::HintExpired;
        marks.add(Mark { shard, owner, reason, from, to }).await?;
    }
    Ok(())
}
