//! Hands out the hints of some shards from anywhere in a queue, past all others: for what metadata
//! ends without the target.
//!
//! Invariant: what is handed out is in flight like any other hint, and the cursor passes it later; the
//! others stay where they are, unread but for their headers, so that memory does not grow with the
//! queue. One segment at a time, so that a drain does not wait for long. Called by [`super::drain`].

use std::{collections::BTreeSet, sync::Arc};

use quorate_protocol::id::{NodeId, ShardId};

use super::{
    Handoff, HandoffError,
    queue::{ANY_ACK, Cursor, HintRecord, Place, Queue},
    reading::hint_of,
};
use crate::{
    disk::Disk,
    segment::{Found, Reader, RecordMeta, header},
};

/// Hints that are handed out at once, and their bytes; the last one may be larger.
const RECORDS: usize = 256;
const BYTES: usize = 4 << 20;

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Among those that were handed back, from this sequence on.
    Returned(u64),
    /// Ahead of the cursor.
    Ahead(Cursor),
}

/// Some hints, in flight.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    pub(crate) records: Vec<HintRecord>,
    /// Where to look for more; `None` at the end of the queue.
    pub(crate) next: Option<Next>,
}

impl Handoff {
    /// The next hints for `target` of shards that are not in `kept`, first those that were handed
    /// back. They are in flight until they are completed or put back.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) async fn pick(
        &self,
        target: NodeId,
        kept: Arc<BTreeSet<ShardId>>,
        next: Option<Next>,
    ) -> Result<Picked, HandoffError> {
        let Some(queue) = self.shared.queue(target) else {
            return Ok(Picked::default());
        };
        let disk = Arc::clone(&self.disk);
        let picked = self.executor.run(move || queue.pick(&*disk, &kept, next)).await;
        picked.map_err(std::io::Error::from)?
    }
}

impl Queue {
    fn pick(
        &self,
        disk: &dyn Disk,
        kept: &BTreeSet<ShardId>,
        next: Option<Next>,
    ) -> Result<Picked, HandoffError> {
        let _reading = self.reading();
        let mut picked = Picked::default();
        let at = match next.unwrap_or(Next::Returned(0)) {
            Next::Ahead(at) => at,
            Next::Returned(from) => {
                picked.next = self.pick_returned(disk, kept, from, &mut picked.records)?;
                if picked.next.is_some() {
                    return Ok(picked);
                }
                self.state().cursor
            }
        };
        picked.next = self.pick_ahead(disk, kept, at, &mut picked.records)?.map(Next::Ahead);
        Ok(picked)
    }

    /// Those that were handed back; where to go on if they are too many for one answer.
    fn pick_returned(
        &self,
        disk: &dyn Disk,
        kept: &BTreeSet<ShardId>,
        from: u64,
        picked: &mut Vec<HintRecord>,
    ) -> Result<Option<Next>, HandoffError> {
        let found: Vec<(u64, Place)> = {
            let state = self.state();
            let returned = state.returned.range(from..);
            let others = returned.filter(|(_, it)| !kept.contains(&ShardId(it.shard)));
            others.map(|(sequence, place)| (*sequence, *place)).collect()
        };
        let mut bytes = 0;
        for (sequence, place) in found {
            if picked.len() >= RECORDS || bytes >= BYTES {
                return Ok(Some(Next::Returned(sequence)));
            }
            // What is damaged is found so when it is handed out.
            let Some(record) = self.reread(disk, sequence, &place)? else { continue };
            let mut state = self.state();
            if state.returned.remove(&sequence).is_some() {
                state.in_flight.insert(sequence, place);
                bytes += record.payload.len();
                picked.push(hint_of(record));
            }
        }
        Ok(None)
    }

    /// Those in the next segment that has something left, from `at` on; where to go on.
    fn pick_ahead(
        &self,
        disk: &dyn Disk,
        kept: &BTreeSet<ShardId>,
        at: Cursor,
        picked: &mut Vec<HintRecord>,
    ) -> Result<Option<Cursor>, HandoffError> {
        let (segment, sequences_end) = {
            let state = self.state();
            let before = |number: u64| {
                state.segments.partition_point(|segment| segment.header.number < number)
            };
            let index = before(at.number.max(state.cursor.number));
            let Some(segment) = state.segments.get(index).cloned() else {
                return Ok(None);
            };
            (segment, state.sequences_end(index))
        };
        let number = segment.header.number;
        let start = {
            let state = self.state();
            let first = segment.header.first_sequence;
            let start = Cursor { number, offset: header::LENGTH, sequence: first };
            let ahead = [at, state.cursor].into_iter().filter(|cursor| cursor.number == number);
            ahead.max_by_key(|cursor| cursor.sequence).unwrap_or(start)
        };
        let behind = Cursor { number: number + 1, offset: header::LENGTH, sequence: sequences_end };
        let file = self.open(disk, &segment)?;
        let Cursor { offset, sequence, .. } = start;
        let mut reader = Reader::within(&*file, &segment.header, offset, segment.end, sequence);
        let mut bytes = 0;
        loop {
            if picked.len() >= RECORDS || bytes >= BYTES {
                let (offset, sequence) = (reader.position(), reader.next_sequence());
                return Ok(Some(Cursor { number, offset, sequence }));
            }
            let header = reader.header()?.filter(|it| it.meta.sequence < sequences_end);
            if header.is_some_and(|it| self.is_passed(kept, &it.meta)) && reader.skip()? {
                continue;
            }
            let offset = reader.position();
            match reader.next_found()? {
                Found::Record(record) if record.meta.sequence < sequences_end => {
                    if self.is_passed(kept, &record.meta) {
                        continue;
                    }
                    let place = Place {
                        number,
                        offset,
                        length: reader.position() - offset,
                        shard: record.meta.shard,
                        stamp: record.meta.stamp,
                        any_ack: record.meta.flags & ANY_ACK != 0,
                    };
                    self.state().in_flight.insert(record.meta.sequence, place);
                    bytes += record.payload.len();
                    picked.push(hint_of(record));
                }
                // Told and quarantined when the cursor gets there.
                Found::Damaged(_) => {}
                // The end, or what a failed append left behind it.
                Found::Record(_) | Found::End { .. } => return Ok(Some(behind)),
            }
        }
    }

    /// Whether a record stays where it is: of a shard that is kept, ended, or in somebody's hands.
    fn is_passed(&self, kept: &BTreeSet<ShardId>, meta: &RecordMeta) -> bool {
        let state = self.state();
        kept.contains(&ShardId(meta.shard))
            || !state.accounts.is_pending(meta.sequence)
            || state.place(meta.sequence).is_some()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{disk::MemoryDisk, executor::Executor, handoff::HandoffConfig};
    use quorate_protocol::id::Sequence;

    const TARGET: NodeId = NodeId(3);

    fn open(disk: &MemoryDisk) -> Handoff {
        let config = HandoffConfig { segment_bytes: 1 << 10, ..HandoffConfig::default() };
        let disk = Arc::new(disk.clone());
        Handoff::open(config, "/handoff".into(), 7, disk, Executor::Inline).unwrap().0
    }

    async fn fill(handoff: &Handoff, hints: u64) {
        for n in 0..hints {
            let batch = Bytes::from(vec![n as u8; 100]);
            handoff.append(TARGET, ShardId(n % 3), batch, false, n).await.unwrap();
        }
    }

    async fn pick_all(handoff: &Handoff, kept: &[u64]) -> Vec<u64> {
        let kept = Arc::new(kept.iter().copied().map(ShardId).collect());
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let picked = handoff.pick(TARGET, Arc::clone(&kept), next).await.unwrap();
            found.extend(picked.records.iter().map(|record| record.sequence.0));
            next = picked.next;
            if next.is_none() {
                return found;
            }
        }
    }

    async fn peek_all(handoff: &Handoff) -> Vec<u64> {
        let records = handoff.peek(TARGET, usize::MAX, usize::MAX).await.unwrap();
        records.iter().map(|record| record.sequence.0).collect()
    }

    #[tokio::test]
    async fn hints_of_some_shards_are_picked_and_the_others_keep_their_order() {
        let disk = MemoryDisk::new();
        let handoff = open(&disk);
        fill(&handoff, 90).await;
        // Some were handed out, and some of these handed back.
        assert_eq!(handoff.peek(TARGET, 9, 1 << 20).await.unwrap().len(), 9);
        handoff.put_back(TARGET, &[Sequence(4), Sequence(5), Sequence(6)]);
        let picked = pick_all(&handoff, &[0, 2]).await;
        // Shard 1 has sequences 2, 5, 8, ...; 2 and 8 are in flight.
        let wanted: Vec<u64> = (2..=90).step_by(3).filter(|it| *it != 2 && *it != 8).collect();
        assert_eq!(picked, wanted);
        assert!(pick_all(&handoff, &[0, 2]).await.is_empty(), "picked twice");
        assert_eq!(handoff.pending(TARGET), 90);

        // One is put back and is handed out again, in its place; the rest is not.
        handoff.put_back(TARGET, &[Sequence(50)]);
        let others = |it: &u64| it % 3 != 2 || *it == 50;
        let mut rest: Vec<u64> = [4, 6].into_iter().chain((10..=90).filter(others)).collect();
        let found = peek_all(&handoff).await;
        rest.sort_unstable();
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, rest);
        // Picked ones can end; a restart finds the others in order.
        let ends = wanted.iter().map(|it| (Sequence(*it), crate::handoff::Terminal::Delivered));
        handoff.complete_all(TARGET, ends.collect()).await.unwrap();
        handoff.close().await;
        let handoff = open(&disk);
        let left: Vec<u64> = (1..=90).filter(|it| !wanted.contains(it)).collect();
        assert_eq!(peek_all(&handoff).await, left);
    }

    #[tokio::test]
    async fn picking_one_of_many_thousand_hints_takes_no_memory_for_the_others() {
        let disk = MemoryDisk::new();
        let handoff = open(&disk);
        fill(&handoff, 3_000).await;
        assert_eq!(pick_all(&handoff, &[0, 1]).await.len(), 1_000);
        let queue = handoff.shared.queue(TARGET).unwrap();
        assert_eq!(queue.state().in_flight.len(), 1_000);
        assert!(pick_all(&handoff, &[0, 1, 2]).await.is_empty());
        assert_eq!(queue.state().in_flight.len(), 1_000);
    }
}
