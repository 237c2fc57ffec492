//! What the connections with one certificate share, and all of them together.
//!
//! Invariants: room is taken before memory is, for a whole frame at once, so that what has begun to
//! arrive can always end; whoever uses up its own share leaves the others theirs. Taken by sessions,
//! given back when a [`Held`] is dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rate::Rate;

/// Room that was taken, of the peer and of all.
pub(crate) type Held = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Room of one kind: of one peer within that of all.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    /// The most that can be taken at once.
    most: u32,
}

impl Room {
    fn new(own: u32, all: &Arc<Semaphore>, total: u32) -> Self {
        let own = own.min(total);
        Self { own: Arc::new(Semaphore::new(own as usize)), all: Arc::clone(all), most: own }
    }

    /// Waits for room. May be dropped.
    pub(crate) async fn take(&self, amount: usize) -> Option<Held> {
        let amount = self.amount(amount);
        // Closed never.
        let own = Arc::clone(&self.own).acquire_many_owned(amount).await.ok()?;
        let all = Arc::clone(&self.all).acquire_many_owned(amount).await.ok()?;
        Some((own, all))
    }

    /// Takes room if there is some.
    pub(crate) fn try_take(&self, amount: usize) -> Option<Held> {
        let amount = self.amount(amount);
        let own = Arc::clone(&self.own).try_acquire_many_owned(amount).ok()?;
        let all = Arc::clone(&self.all).try_acquire_many_owned(amount).ok()?;
        Some((own, all))
    }

    fn amount(&self, amount: usize) -> u32 {
        u32::try_from(amount).unwrap_or(u32::MAX).min(self.most)
    }
}

/// What one certificate's connections share.
#[derive(Debug)]
pub(crate) struct Share {
    /// Requests that are not answered.
    pub(crate) open: Room,
    /// Requests that arrive or are not answered, in bytes.
    pub(crate) requests: Room,
    /// Answers that wait, in bytes.
    pub(crate) answers: Room,
    /// Queries that are worked on.
    pub(crate) queries: Room,
    /// Streams that are opened.
    pub(crate) streams: Rate,
    /// Requests that are made.
    pub(crate) asked: Rate,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Shares {
    by_name: Mutex<HashMap<String, Weak<Share>>>,
    open: (Arc<Semaphore>, u32),
    requests: (Arc<Semaphore>, u32),
    answers: (Arc<Semaphore>, u32),
    queries: (Arc<Semaphore>, u32),
    limits: super::LimitsConfig,
}

impl Shares {
    pub(super) fn new(limits: &super::LimitsConfig) -> Self {
        let frame = quorate_protocol::frame::MAX_FRAME + 4;
        let pool = |amount: u32| (Arc::new(Semaphore::new(amount as usize)), amount);
        let mut limits = limits.clone();
        limits.peer_request_bytes = limits.peer_request_bytes.max(frame);
        limits.peer_answer_bytes = limits.peer_answer_bytes.max(frame);
        limits.peer_requests = limits.peer_requests.max(1);
        limits.peer_queries = limits.peer_queries.max(1);
        Self {
            by_name: Mutex::default(),
            open: pool(limits.requests.max(limits.peer_requests)),
            requests: pool(limits.request_bytes.max(limits.peer_request_bytes)),
            answers: pool(limits.answer_bytes.max(limits.peer_answer_bytes)),
            queries: pool(limits.queries.max(limits.peer_queries)),
            limits,
        }
    }

    /// One more connection with this certificate's name; None if it has enough.
    pub(super) fn enter(&self, name: &str) -> Option<Arc<Share>> {
        let mut shares = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(name).and_then(Weak::upgrade) {
            // This one and those of sessions.
            let connections = Arc::strong_count(&share) - 1;
            return (connections < self.limits.peer_connections as usize).then_some(share);
        }
        // Bounded by the connections that there are.
        shares.retain(|_, share| share.strong_count() > 0);
        let room = |own, (all, total): &(Arc<Semaphore>, u32)| Room::new(own, all, *total);
        let share = Arc::new(Share {
            open: room(self.limits.peer_requests, &self.open),
            requests: room(self.limits.peer_request_bytes, &self.requests),
            answers: room(self.limits.peer_answer_bytes, &self.answers),
            queries: room(self.limits.peer_queries, &self.queries),
            streams: Rate::per_second(self.limits.peer_streams_per_s),
            asked: Rate::per_second(self.limits.peer_requests_per_s),
        });
        shares.insert(name.to_owned(), Arc::downgrade(&share));
        Some(share)
    }

    /// What is taken of requests and answers, in bytes, and of queries.
    pub(super) fn taken(&self) -> [u64; 3] {
        [&self.requests, &self.answers, &self.queries]
            .map(|(room, total)| u64::from(*total) - room.available_permits() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LimitsConfig;

    #[tokio::test]
    async fn one_peer_leaves_the_others_their_room() {
        let limits = LimitsConfig {
            peer_connections: 2,
            request_bytes: 20 << 20,
            peer_request_bytes: 8 << 20,
            ..LimitsConfig::default()
        };
        let shares = Shares::new(&limits);
        let (greedy, again) = (shares.enter("greedy").unwrap(), shares.enter("greedy").unwrap());
        assert!(shares.enter("greedy").is_none());
        let held = greedy.requests.take(8 << 20).await.unwrap();
        assert!(again.requests.try_take(1).is_none(), "one certificate, one share");
        let other = shares.enter("other").unwrap();
        let others = other.requests.try_take(8 << 20).unwrap();
        assert_eq!(shares.taken()[0], 16 << 20);
        drop((held, others));
        assert_eq!(shares.taken(), [0; 3]);
        drop(again);
        let again = shares.enter("greedy").unwrap();
        drop((again, greedy, other));
        assert!(shares.enter("third").is_some());
        assert_eq!(shares.by_name.lock().unwrap().len(), 1);
    }
}
