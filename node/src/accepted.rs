//! The latest time that may have been accepted for each shard since this node started.
//!
//! Invariant: a batch or hint is noted here before the newest map is looked at for the last time, and
//! whoever answers for a shard installs the map first and reads this afterwards. The two meet at one
//! lock: either the note is seen, or the look that follows it sees the map. So nothing is accepted by an
//! old map behind the back of an answer, also if its caller is gone. What is noted and then refused makes
//! an answer later than needed, which is never wrong. Noted by [`crate::write`], read by
//! [`crate::truncate`].

use std::hash::{BuildHasherDefault, DefaultHasher};

use dashmap::DashMap;
use quorate_protocol::id::ShardId;

/// Times by shard. The hasher is fixed: nothing may depend on a random order.
#[derive(Debug, Default)]
pub(crate) struct Accepted(DashMap<ShardId, i64, BuildHasherDefault<DefaultHasher>>);

impl Accepted {
    /// Something up to this time is about to be accepted, unless the newest map says no.
    pub(crate) fn note(&self, shard: ShardId, time: i64) {
        let mut latest = self.0.entry(shard).or_insert(time);
        *latest = time.max(*latest);
    }

    /// The latest time that was noted.
    pub(crate) fn latest(&self, shard: ShardId) -> Option<i64> {
        self.0.get(&shard).map(|latest| *latest)
    }

    /// Forgets shards that are gone; their ids do not come back.
    pub(crate) fn forget(&self, is_gone: impl Fn(ShardId) -> bool) {
        self.0.retain(|shard, _| !is_gone(*shard));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use arc_swap::ArcSwap;

    use super::*;

    /// As [`crate::write`] and [`crate::truncate`] do it, with a map that says only whether the group is
    /// closing.
    #[test]
    fn nothing_is_accepted_behind_the_back_of_an_answer() {
        const SHARD: ShardId = ShardId(1);
        for _ in 0..300 {
            let (accepted, closing) = (Accepted::default(), ArcSwap::from_pointee(false));
            let (stored, both) = (AtomicBool::new(false), Barrier::new(2));
            let answer = thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    if **closing.load() {
                        return;
                    }
                    accepted.note(SHARD, 9);
                    if !**closing.load() {
                        stored.store(true, Ordering::SeqCst);
                    }
                });
                both.wait();
                closing.store(true.into());
                accepted.latest(SHARD)
            });
            assert!(!stored.into_inner() || answer == Some(9));
        }
    }

    #[test]
    fn the_latest_time_stays_until_its_shard_is_gone() {
        let accepted = Accepted::default();
        assert_eq!(accepted.latest(ShardId(1)), None);
        for time in [-5, 7, 3] {
            accepted.note(ShardId(1), time);
        }
        accepted.note(ShardId(2), -1);
        assert_eq!(accepted.latest(ShardId(1)), Some(7));
        accepted.forget(|shard| shard == ShardId(1));
        assert_eq!((accepted.latest(ShardId(1)), accepted.latest(ShardId(2))), (None, Some(-1)));
    }
}
