//! Sees to it that a follower campaigns in time after its leader has fallen silent.
//!
//! The library makes a node wait two timeouts longer once a peer had a newer log than its own, until
//! it has campaigned again; by then it may long have caught up. Invariants: only a voter that has
//! followed a leader, and has not heard of one for its lease and timeout, is made to campaign, a
//! tick later than it would by itself; who has lost an election is left to the library.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{MetaConfig, command::Raft};

/// When a leader was last heard of.
pub(super) struct Heard(Mutex<Instant>);

impl Heard {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long nothing has been heard of one.
    pub(super) fn silence(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Runs until `cancel`.
pub(super) async fn watch(
    raft: Raft,
    heard: Arc<Heard>,
    node: u64,
    config: Arc<MetaConfig>,
    cancel: CancellationToken,
) {
    let timeout = config.raft(node).election_timeout_max;
    // The library looks every one and a half heartbeats.
    let limit = Duration::from_millis(2 * timeout + config.heartbeat_ms * 3 / 2);
    let mut timer = interval(Duration::from_millis(config.heartbeat_ms));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let metrics = raft.metrics();
    let mut vote = None;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = timer.tick() => {}
        }
        let now = metrics.borrow().clone();
        if vote != Some(now.vote) {
            vote = Some(now.vote);
            heard.note();
        }
        let follows = now.vote.is_committed() && !now.state.is_leader();
        let votes = now.membership_config.voter_ids().any(|voter| voter == node);
        if follows && votes && heard.silence() > limit {
            heard.note();
            tracing::info!("no leader for {limit:?}: campaigning");
            if raft.trigger().elect().await.is_err() {
                return;
            }
        }
    }
}
