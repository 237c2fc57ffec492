//! Dropping pending hints because an operator says so.
//!
//! Invariant: a hint that is reported as dropped has durably ended so; one that an `any`
//! acknowledgement rests on is dropped only if that was asked for in so many words. What is under way
//! to its target is dropped too: it may still arrive, which is no harm, and is booked once. Called by
//! sessions.

use quorate_protocol::id::{NodeId, Sequence, ShardId};

use super::log::Item;
use super::retry::{Choice, Taken};
use super::{Handoff, HandoffError};

impl Handoff {
    /// Drops the hints for `target` that are pending now and chosen. Those that cannot be read stay
    /// for the drain, which quarantines them.
    ///
    /// # Errors
    /// The first failure; what was dropped before stays dropped.
    pub async fn discard(&self, target: NodeId, choice: Choice) -> Result<Taken, HandoffError> {
        let mut taken = Taken::default();
        let Some(mut look) = self.look(target, false) else {
            return Ok(taken);
        };
        loop {
            let brief = |seen: super::Seen| {
                (seen.sequence, seen.shard, seen.count, seen.any_ack, seen.damaged)
            };
            let page = look.next(brief).await?;
            if page.is_empty() {
                return Ok(taken);
            }
            let mut hints: Vec<(Sequence, ShardId)> = Vec::with_capacity(page.len());
            for (sequence, shard, count, any_ack, damaged) in page {
                if !choice.takes(shard) {
                    continue;
                }
                if damaged {
                    taken.damaged += count;
                } else if any_ack && !choice.force_any {
                    taken.any += count;
                } else {
                    hints.push((sequence, shard));
                }
            }
            if !hints.is_empty() {
                let outcome = self.submit(Item::Discard { target, hints }, 0).await?;
                taken.done += outcome.taken.done;
            }
        }
    }
}
