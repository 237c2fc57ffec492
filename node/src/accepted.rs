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
    /// Something up to this time is kept here, or about to be.
    pub(crate) fn note(&self, shard: ShardId, time: i64) {
        let mut latest = self.0.entry(shard).or_insert(time);
        *latest = time.max(*latest);
    }

    /// Accepts something up to this time if the newest map, which `look` looks at, still says yes.
    pub(crate) fn accept<E>(
        &self,
        shard: ShardId,
        time: i64,
        look: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.note(shard, time);
        look()
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
    use super::*;

    /// An answer that is given at any moment counts what is accepted, or makes it be refused.
    #[test]
    fn nothing_is_accepted_behind_the_back_of_an_answer() {
        const SHARD: ShardId = ShardId(1);
        let accepted = Accepted::default();
        let mut answer = None;
        let taken = accepted.accept(SHARD, 9, || {
            // The map that is looked at is still the old one, and the answer comes right behind it.
            answer = accepted.latest(SHARD);
            Ok::<_, ()>(())
        });
        assert_eq!((taken, answer), (Ok(()), Some(9)));
        assert_eq!(accepted.accept(SHARD, 10, || Err("the map says no")), Err("the map says no"));
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
