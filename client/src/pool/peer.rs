//! One peer of a pool as callers see it: its state and its connection.
//!
//! Invariants: only the worker changes the state; a connection is evicted only by its own id, so that a
//! late failure cannot evict its successor. Used by [`super::Pool`] and whoever calls a node.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use quorate_protocol::{code::Close, id::NodeId};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Member,
    breaker::{Breaker, Outcome, Ticket, Trust},
    pass::Pass,
};
use crate::connection::{ConnectError, Connection, Lost};

/// Whether a peer can be talked to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerState {
    /// The first dial is in progress; it ends within `connect_timeout`.
    Connecting,
    /// There is a connection.
    Up(Arc<Connection>),
    /// There is one, to a node that has failed lately: it gets a few writes at a time, until these
    /// have gone well or it has held for `breaker_hold`.
    Trial(Arc<Connection>),
    /// There is none. The worker goes on trying.
    Down {
        /// Why.
        reason: DownReason,
        /// Since when: unchanged by further failed dials.
        since: Instant,
    },
    /// The pool has let go of the peer.
    Removed,
}

impl PeerState {
    /// The name of the state, as metrics and people are told.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up(_) => "up",
            Self::Trial(_) => "trial",
            Self::Down { .. } => "down",
            Self::Removed => "removed",
        }
    }

    fn connection(self) -> Option<Arc<Connection>> {
        match self {
            Self::Up(connection) | Self::Trial(connection) => Some(connection),
            _ => None,
        }
    }
}

/// Why a peer is down.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DownReason {
    /// No connection came up.
    Connect(Arc<ConnectError>),
    /// The last one was lost.
    Lost(Lost),
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Lost(lost) => lost.fmt(f),
        }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: NodeId,
    /// What its certificate must say, if that is known. A node keeps its name for ever.
    pub(super) name: Option<String>,
    pub(super) addr: watch::Sender<String>,
    pub(super) state: watch::Sender<PeerState>,
    pub(super) nudge: Notify,
    breaker: Mutex<Breaker>,
    /// The trust in the node is another one.
    pub(super) turned: Notify,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(
        peer: Member,
        state: PeerState,
        breaker: Breaker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            node: peer.node,
            name: peer.name,
            addr: watch::Sender::new(peer.addr),
            state: watch::Sender::new(state),
            nudge: Notify::new(),
            breaker: Mutex::new(breaker),
            turned: Notify::new(),
            stop,
        }
    }

    /// Asks or tells the breaker something, and wakes the worker if the trust has changed.
    pub(super) fn breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        // A panic while it was locked would have been a defect of the breaker alone.
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = breaker.trust();
        let result = act(&mut breaker);
        let now = breaker.trust();
        drop(breaker);
        if now != before {
            if now == Trust::Nothing {
                metrics::counter!("quorate_client_breakers_opened_total").increment(1);
            }
            self.turned.notify_one();
        }
        result
    }
}

/// A peer, up or down; cheap to clone.
#[derive(Clone)]
pub struct PeerHandle(pub(super) Arc<Shared>);

impl PeerHandle {
    /// The node; 0 for a seed.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Where it is dialled.
    #[must_use]
    pub fn addr(&self) -> String {
        self.0.addr.borrow().clone()
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> PeerState {
        // The worker has not noticed yet.
        if self.0.stop.is_cancelled() {
            return PeerState::Removed;
        }
        self.0.state.borrow().clone()
    }

    /// Its connection, if it is up and not lost in this instant.
    #[must_use]
    pub fn connection(&self) -> Option<Arc<Connection>> {
        self.state().connection().filter(|connection| connection.lost().is_none())
    }

    /// How much of the writes it gets while it is up.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.0.breaker(|breaker| breaker.trust())
    }

    /// Leave to send it a write, if it is trusted with one more.
    #[must_use]
    pub fn admit(&self) -> Option<Pass> {
        let ticket = self.0.breaker(Breaker::admit)?;
        Some(Pass::new(self.clone(), ticket))
    }

    /// Leave to send it a write that nobody else can take.
    #[must_use]
    pub fn insist(&self) -> Pass {
        Pass::new(self.clone(), self.0.breaker(Breaker::insist))
    }

    pub(super) fn ended(&self, ticket: Ticket, outcome: Outcome) {
        self.0.breaker(|breaker| breaker.ended(ticket, outcome));
    }

    /// Its state now and from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<PeerState> {
        self.0.state.subscribe()
    }

    /// Waits until the peer is up, or no longer in the pool (None).
    pub async fn wait_up(&self) -> Option<Arc<Connection>> {
        let mut state = self.watch();
        loop {
            state.mark_unchanged();
            if let Some(connection) = self.connection() {
                return Some(connection);
            }
            if matches!(self.state(), PeerState::Removed) {
                return None;
            }
            state.changed().await.ok()?;
        }
    }

    /// Gives up a connection that has failed its user, unless it has been replaced already.
    pub fn evict(&self, failed: &Connection) {
        if let Some(current) = self.state().connection()
            && current.stable_id() == failed.stable_id()
        {
            current.close(Close::Done, "evicted");
        }
    }

    /// Dials now if it is down: somebody has seen it alive. One dial per call at most.
    pub fn nudge(&self) {
        // A nudge that is kept until the connection is lost would say nothing about the node then.
        if self.connection().is_none() {
            self.0.nudge.notify_one();
        }
    }

    pub(super) fn set_addr(&self, addr: &str) {
        self.0.addr.send_if_modified(|current| {
            let moved = current != addr;
            if moved {
                addr.clone_into(current);
            }
            moved
        });
    }

    pub(super) fn stop(&self) {
        self.0.stop.cancel();
    }
}

impl fmt::Debug for PeerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerHandle")
            .field("node", &self.0.node)
            .field("state", &*self.0.state.borrow())
            .finish_non_exhaustive()
    }
}
