//! Which batch of a shard goes when: the part of a writer without clock or tasks.
//!
//! Invariants: batches leave in the order in which their first points came; no more than the allowed
//! number is under way; a lane with points and nothing under way always has something to send, so no
//! point waits for an event that may not come. [`super::Writer`] tells it what happens.

use std::collections::VecDeque;

/// A batch that is being filled, or was.
#[derive(Debug)]
struct Filling<B> {
    /// Tells the batches of a lane apart.
    number: u64,
    batch: B,
    rows: usize,
    /// Whether it has waited long enough.
    due: bool,
}

/// The batches of one shard.
#[derive(Debug)]
pub(super) struct Lane<B> {
    full: VecDeque<Filling<B>>,
    filling: Option<Filling<B>>,
    under_way: usize,
    last: u64,
}

impl<B> Default for Lane<B> {
    fn default() -> Self {
        Self { full: VecDeque::new(), filling: None, under_way: 0, last: 0 }
    }
}

impl<B> Lane<B> {
    /// The batch that takes the next row, and its number if it is a new one.
    pub(super) fn fill(&mut self, new: impl FnOnce() -> B) -> (&mut B, Option<u64>) {
        let begun = self.filling.is_none().then(|| {
            self.last += 1;
            self.last
        });
        let number = self.last;
        let filling = self.filling.get_or_insert_with(|| Filling {
            number,
            batch: new(),
            rows: 0,
            due: false,
        });
        filling.rows += 1;
        (&mut filling.batch, begun)
    }

    /// A row was added: the batch is full at `max_rows`.
    pub(super) fn filled(&mut self, max_rows: usize) {
        if self.filling.as_ref().is_some_and(|filling| filling.rows >= max_rows.max(1)) {
            self.full.extend(self.filling.take());
        }
    }

    /// The batch with this number has waited long enough, or all have if none is named.
    pub(super) fn due(&mut self, number: Option<u64>) {
        if let Some(filling) = &mut self.filling
            && number.is_none_or(|number| filling.number == number)
        {
            filling.due = true;
        }
    }

    /// No batch that has begun grows any more.
    pub(super) fn freeze(&mut self) {
        self.full.extend(self.filling.take());
    }

    /// The next batch to be sent, if there is one and it may go. Asked for after every event, until there
    /// is none.
    pub(super) fn send(&mut self, in_flight: usize) -> Option<(u64, B)> {
        if self.under_way >= in_flight.max(1) {
            return None;
        }
        let idle = self.under_way == 0;
        let next = self
            .full
            .pop_front()
            .or_else(|| self.filling.take_if(|filling| filling.due || idle))?;
        self.under_way += 1;
        Some((next.number, next.batch))
    }

    /// A batch that was sent has come to its end.
    pub(super) fn sent(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Whether the batch with this number, or any if none is named, may still grow.
    pub(super) fn is_filling(&self, number: Option<u64>) -> bool {
        let named = |filling: &Filling<B>| number.is_none_or(|number| filling.number == number);
        self.filling.as_ref().is_some_and(named)
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way == 0 && self.filling.is_none() && self.full.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lane: &mut Lane<Vec<u32>>, row: u32, max_rows: usize) -> Option<u64> {
        let (batch, begun) = lane.fill(Vec::new);
        batch.push(row);
        lane.filled(max_rows);
        begun
    }

    #[test]
    fn an_idle_lane_sends_at_once_and_a_busy_one_gathers() {
        let mut lane = Lane::default();
        assert_eq!(push(&mut lane, 1, 10), Some(1));
        assert_eq!(lane.send(2), Some((1, vec![1])));
        assert_eq!(push(&mut lane, 2, 10), Some(2));
        assert_eq!(push(&mut lane, 3, 10), None);
        assert_eq!(lane.send(2), None, "it may still wait for others");
        lane.due(Some(1));
        assert_eq!(lane.send(2), None, "another one was meant");
        lane.due(Some(2));
        assert_eq!(lane.send(2), Some((2, vec![2, 3])));
        push(&mut lane, 4, 10);
        lane.due(None);
        assert_eq!(lane.send(2), None, "two are under way");
        lane.sent();
        assert_eq!(lane.send(2), Some((3, vec![4])));
        lane.sent();
        lane.sent();
        assert!(lane.is_empty());
    }

    #[test]
    fn a_frozen_batch_goes_as_it_is() {
        let mut lane = Lane::default();
        for row in 0..3 {
            push(&mut lane, row, 2);
        }
        lane.freeze();
        push(&mut lane, 3, 2);
        assert_eq!(lane.send(3), Some((1, vec![0, 1])));
        assert_eq!(lane.send(3), Some((2, vec![2])));
        assert_eq!(lane.send(3), None, "it may still wait for others");
    }

    #[test]
    fn full_batches_go_in_order_and_the_rest_when_nothing_is_under_way() {
        let mut lane = Lane::default();
        for row in 0..5 {
            push(&mut lane, row, 2);
        }
        assert_eq!(lane.send(1), Some((1, vec![0, 1])));
        assert_eq!(lane.send(1), None);
        lane.sent();
        assert_eq!(lane.send(1), Some((2, vec![2, 3])));
        lane.sent();
        assert_eq!(lane.send(1), Some((3, vec![4])), "no timer is needed");
        assert!(!lane.is_empty());
    }
}
