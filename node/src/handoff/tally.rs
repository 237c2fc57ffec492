//! For which shards a queue's pending hints are.
//!
//! Invariants: nothing is handed out, moved or written; only headers of records are looked at, and
//! segments of so many bytes at most; a hint whose shard was not seen counts for shard 0, so that the
//! sum is never less than what was pending. Called for `quorate status`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use quorate_protocol::id::{NodeId, ShardId};

use super::Handoff;
use super::queue::{Queue, Segment};
use crate::disk::Disk;
use crate::segment::{Reader, header};

/// Pending hints by target and shard; of shard 0 are those whose shard is not known.
pub(crate) type Tally = BTreeMap<(NodeId, ShardId), u64>;

impl Handoff {
    /// Counts the pending hints of all queues by shard. What cannot be read is not known.
    pub(crate) async fn tally(&self) -> Tally {
        let (queues, disk) = (self.shared.all(), Arc::clone(&self.disk));
        let mut left = self.config.tally_bytes;
        let work = move || {
            let mut all = Tally::new();
            for queue in queues {
                let counts = queue.tally(&*disk, &mut left);
                all.extend(counts.into_iter().map(|(shard, count)| ((queue.target, shard), count)));
            }
            all
        };
        self.executor.run(work).await.unwrap_or_default()
    }
}

impl Queue {
    fn tally(&self, disk: &dyn Disk, left: &mut u64) -> BTreeMap<ShardId, u64> {
        let (pending, segments) = self.with_pending();
        let mut counts = BTreeMap::new();
        for segment in segments {
            let bytes = segment.end.saturating_sub(header::LENGTH);
            if bytes > *left {
                break;
            }
            *left -= bytes;
            // What it had counted stands; the rest of the segment is not known.
            if let Err(error) = self.count(disk, &segment, &mut counts) {
                tracing::debug!(%error, target_node = %self.target, "hints were not counted");
            }
        }
        let known: u64 = counts.values().sum();
        if known < pending {
            counts.insert(ShardId(0), pending - known);
        }
        counts
    }

    /// How many hints are pending, and the segments that have some.
    fn with_pending(&self) -> (u64, Vec<Segment>) {
        let state = self.state();
        let has_pending = |(index, segment): &(usize, &Segment)| {
            let range = segment.header.first_sequence..state.sequences_end(*index);
            !state.accounts.pending_in(range).is_empty()
        };
        let segments = state.segments.iter().enumerate().filter(has_pending);
        let segments = segments.map(|(_, segment)| segment.clone()).collect();
        (state.accounts.pending(), segments)
    }

    fn count(
        &self,
        disk: &dyn Disk,
        segment: &Segment,
        counts: &mut BTreeMap<ShardId, u64>,
    ) -> io::Result<()> {
        let file = self.open_to_read(disk, segment)?;
        let first = segment.header.first_sequence;
        let mut reader =
            Reader::within(&*file, &segment.header, header::LENGTH, segment.end, first);
        while let Some(found) = reader.header()? {
            if !reader.skip()? {
                break;
            }
            if self.state().accounts.is_pending(found.meta.sequence) {
                *counts.entry(ShardId(found.meta.shard)).or_default() += 1;
            }
        }
        Ok(())
    }
}
