//! Hints of shards that cannot take them now: set aside, so that those of other shards pass.
//!
//! Invariant: what is set aside is in flight in the queue and stands here once; of a shard that was
//! refused, a few hints are tried after a while, and all of them only when one of these was taken.
//! Pure but for the time that is given. Used by [`super`].

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use quorate_protocol::id::{Sequence, ShardId};
use tokio::time::Instant;

/// The shortest wait for a shard, and the longest but for what its node asks for.
const WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

#[derive(Debug)]
struct Waiting {
    until: Instant,
    /// Some of its hints are under way.
    trying: bool,
    /// Refusals in a row.
    refusals: u32,
    sequences: VecDeque<Sequence>,
}

/// Hints of a shard that cannot be taken now.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) sequences: Vec<Sequence>,
    /// How long the node asks to be left alone with them.
    pub(super) retry_after: Duration,
    /// The node is busy, whatever the shard.
    pub(super) busy: bool,
}

/// What a drain has set aside.
#[derive(Debug, Default)]
pub(super) struct Aside {
    shards: BTreeMap<ShardId, Waiting>,
    /// Hints of all of them.
    count: usize,
}

impl Aside {
    /// Hints that are set aside.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Whether hints of the shard go straight here. Those that are tried do not.
    pub(super) fn holds(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(|waiting| !waiting.trying)
    }

    /// Takes hints of a shard that is waited for anyway.
    pub(super) fn add(&mut self, shard: ShardId, sequence: Sequence) {
        if let Some(waiting) = self.shards.get_mut(&shard) {
            waiting.sequences.push_back(sequence);
            self.count += 1;
        }
    }

    /// Takes hints that were refused; the shard is waited for as long as its node asks for, and
    /// longer if it goes on for a reason of the shard's own.
    pub(super) fn refused(&mut self, shard: ShardId, refused: Refused, now: Instant) {
        let waiting = self.shards.entry(shard).or_insert_with(|| Waiting {
            until: now,
            trying: true,
            refusals: 0,
            sequences: VecDeque::new(),
        });
        // Answers to what was on its way before the first refusal count as that one.
        if waiting.trying {
            waiting.trying = false;
            let (least, most) = WAIT;
            let wait = least.saturating_mul(1 << waiting.refusals.min(10)).min(most);
            // A busy node is spared by the pace of the whole drain.
            waiting.refusals += u32::from(!refused.busy);
            waiting.until = now + wait.max(refused.retry_after);
        }
        for sequence in refused.sequences {
            // In order: they are the oldest of the shard.
            waiting.sequences.push_front(sequence);
            self.count += 1;
        }
        waiting.sequences.make_contiguous().sort_unstable();
    }

    /// The shard has taken a hint: gives back all of its others.
    pub(super) fn taken(&mut self, shard: ShardId) -> Vec<Sequence> {
        let sequences = self.shards.remove(&shard).map(|waiting| waiting.sequences);
        let sequences = sequences.unwrap_or_default();
        self.count -= sequences.len();
        sequences.into()
    }

    /// Gives back the first few of each shard that was waited for long enough.
    pub(super) fn due(&mut self, now: Instant, few: usize) -> Vec<Sequence> {
        let mut due = Vec::new();
        for waiting in self.shards.values_mut().filter(|it| !it.trying && it.until <= now) {
            waiting.trying = true;
            let count = waiting.sequences.len().min(few.max(1));
            due.extend(waiting.sequences.drain(..count));
        }
        self.count -= due.len();
        due
    }

    /// When there will be something due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.shards.values().filter(|waiting| !waiting.trying).map(|waiting| waiting.until).min()
    }

    /// Everything was given back in another way.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);

    fn sequences(range: std::ops::Range<u64>) -> Vec<Sequence> {
        range.map(Sequence).collect()
    }

    fn refused(range: std::ops::Range<u64>, retry_after: Duration) -> Refused {
        Refused { sequences: sequences(range), retry_after, busy: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_shard_is_tried_with_a_few_and_freed_when_one_was_taken() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        assert!(!aside.holds(A));
        aside.refused(A, refused(3..5, Duration::ZERO), now);
        // A second message was on its way already.
        aside.refused(A, refused(1..3, Duration::ZERO), now);
        assert!(aside.holds(A) && !aside.holds(B));
        for sequence in sequences(5..10) {
            aside.add(A, sequence);
        }
        assert_eq!(aside.count(), 9);
        let due = aside.next_due().unwrap();
        assert_eq!(due, now + WAIT.0);
        assert!(aside.due(now, 2).is_empty());
        assert_eq!(aside.due(due, 2), sequences(1..3), "the oldest are tried first");
        assert!(!aside.holds(A), "those that are tried must pass");
        assert_eq!(aside.next_due(), None);
        // Refused again: twice as long, or as long as the node asks for.
        aside.refused(A, refused(1..3, Duration::ZERO), due);
        assert_eq!(aside.next_due(), Some(due + 2 * WAIT.0));
        let due = aside.next_due().unwrap();
        assert_eq!(aside.due(due, 1), sequences(1..2));
        aside.refused(A, refused(1..2, Duration::from_secs(60)), due);
        let due = due + Duration::from_secs(60);
        assert_eq!(aside.next_due(), Some(due));
        assert_eq!(aside.due(due, 1), sequences(1..2));
        assert_eq!(aside.taken(A), sequences(2..10));
        assert_eq!((aside.count(), aside.holds(A)), (0, false));
        assert!(aside.taken(A).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn shards_are_waited_for_apart() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        aside.refused(A, refused(1..2, Duration::from_secs(9)), now);
        aside.refused(B, refused(2..3, Duration::from_secs(1)), now);
        assert_eq!(aside.due(now + Duration::from_secs(1), 9), sequences(2..3));
        assert_eq!(aside.next_due(), Some(now + Duration::from_secs(9)));
        aside.clear();
        assert_eq!((aside.count(), aside.next_due()), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_node_is_waited_for_as_long_as_it_asks_for_and_no_longer() {
        let (mut aside, mut now) = (Aside::default(), Instant::now());
        for _ in 0..9 {
            let busy = Refused { busy: true, ..refused(1..2, Duration::from_millis(70)) };
            aside.refused(A, busy, now);
            let due = aside.next_due().unwrap();
            assert_eq!(due, now + Duration::from_millis(70));
            assert_eq!(aside.due(due, 1), sequences(1..2));
            now = due;
        }
    }
}
