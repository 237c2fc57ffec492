//! The copies that slow owners keep waiting, and which of them must make room for others.
//!
//! Invariants: only a part whose level has been reached is let go, and only where each owner it still waits
//! for is slow: it has not answered for `patience`, for this copy or for an older one of the same shard. So an
//! owner that answers in time is waited for, however full the budget is, and one that does not is back-pressure
//! for that long first, which is also long enough to tell it from one that is mute. No more are let go than are
//! needed, oldest first; but of each slow owner and shard the oldest copy stays until it has had that time
//! itself, since its answer tells when the owner is well again. A part that was let go keeps its share of the
//! budget until its repair mark is durable, so that marks are bounded by the budget too.
//!
//! Bound: one entry per part under way, which the budget bounds, and one per owner and shard of these.
//! Parts enter and leave through [`crate::part`], copies wait in [`crate::copy`], writes ask for room in
//! [`crate::write`].

mod state;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quorate_protocol::id::{NodeId, ShardId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::state::State;
use crate::config::ClientConfig;

/// What a client's slow owners hold of its budget.
#[derive(Debug)]
pub(crate) struct Backlog {
    patience: Duration,
    state: Mutex<State>,
}

impl Backlog {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        // As long as it takes to know that an owner is mute, with some to spare: that one is hinted for.
        let patience = config.transport.mute_after * 2;
        let node_budget = config.node_budget_bytes.unwrap_or(config.budget_bytes / 2);
        let state = State::new(config.budget_bytes, node_budget, patience);
        Self { patience, state: Mutex::new(state) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // A panic while it was locked can only have been a failed allocation.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A part that begins, with its share of the budget.
    pub(crate) fn enter(self: &Arc<Self>, shard: ShardId, bytes: usize) -> Seat {
        let id = self.with(|state| state.enter(shard, bytes, Instant::now()));
        Seat { backlog: Arc::clone(self), id }
    }

    /// How often whoever waits for room should look again.
    pub(crate) fn pause(&self) -> Duration {
        (self.patience / 8).max(Duration::from_millis(1))
    }

    /// Says that a write wants so many bytes, until the answer is dropped, and lets go what it can for them.
    pub(crate) fn want(&self, bytes: usize) -> Wanted<'_> {
        self.with(|state| state.wanted += bytes);
        self.make_room();
        Wanted { backlog: self, bytes }
    }

    /// Lets go what is needed and may be.
    pub(crate) fn make_room(&self) {
        // Their tasks are woken outside the lock.
        for token in self.with(|state| state.let_go(Instant::now())) {
            token.cancel();
        }
    }
}

/// A part's place, as long as it has its share of the budget.
#[derive(Debug)]
pub(crate) struct Seat {
    backlog: Arc<Backlog>,
    id: u64,
}

impl Seat {
    /// Names the part for its copies.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// The part has its level: what it still waits for may be let go.
    pub(crate) fn reached(&self) {
        self.backlog.with(|state| state.reach(self.id));
        self.backlog.make_room();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.backlog.with(|state| state.leave(self.id));
    }
}

/// A copy that waits for its owner, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    backlog: &'a Backlog,
    part: u64,
    owner: NodeId,
    let_go: CancellationToken,
}

impl Backlog {
    /// A copy of this part waits for its owner.
    pub(crate) fn wait(&self, part: u64, owner: NodeId) -> Waiting<'_> {
        let let_go = self.with(|state| state.wait(part, owner));
        Waiting { backlog: self, part, owner, let_go }
    }
}

impl Waiting<'_> {
    /// Returns when the copy must make room.
    pub(crate) async fn let_go(&self) {
        self.let_go.cancelled().await;
    }

    /// The owner has answered for it.
    pub(crate) fn answered(self) {
        self.backlog.with(|state| state.answered(self.part, self.owner, Instant::now()));
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.backlog.with(|state| state.end(self.part, self.owner, Instant::now()));
    }
}

/// Bytes that a write waits for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    backlog: &'a Backlog,
    bytes: usize,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.backlog.with(|state| state.wanted -= self.bytes);
    }
}
