//! One peer of a pool: its worker, which dials, and its handle, which callers look at.
//!
//! Invariants: only the worker changes the state, and at most one dial is in progress; a connection
//! is evicted only by its own id, so that a late failure cannot evict its successor; waits between
//! dials grow with failures and start over once a connection has held. Used by [`super::Pool`].

use std::{fmt, sync::Arc};

use quorate_protocol::{code::Close, id::NodeId};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    connection::{ConnectError, Connection, Dialer, Lost},
};

/// Whether a peer can be talked to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerState {
    /// The first dial is in progress; it ends within `connect_timeout`.
    Connecting,
    /// There is a connection.
    Up(Arc<Connection>),
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
struct Shared {
    node: NodeId,
    addr: watch::Sender<String>,
    state: watch::Sender<PeerState>,
    nudge: Notify,
    stop: CancellationToken,
}

/// A peer, up or down; cheap to clone.
#[derive(Clone)]
pub struct PeerHandle(Arc<Shared>);

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
        match self.state() {
            PeerState::Up(connection) if connection.lost().is_none() => Some(connection),
            _ => None,
        }
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
            match self.state() {
                PeerState::Up(connection) if connection.lost().is_none() => {
                    return Some(connection);
                }
                PeerState::Removed => return None,
                _ => {}
            }
            state.changed().await.ok()?;
        }
    }

    /// Gives up a connection that has failed its user, unless it has been replaced already.
    pub fn evict(&self, failed: &Connection) {
        if let PeerState::Up(current) = self.state()
            && current.stable_id() == failed.stable_id()
        {
            current.close(Close::Done, "evicted");
        }
    }

    /// Dials now if it is down.
    pub fn nudge(&self) {
        self.0.nudge.notify_one();
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

/// The task that keeps one peer connected.
pub(super) struct Worker {
    dialer: Arc<Dialer>,
    shared: Arc<Shared>,
    addr: watch::Receiver<String>,
    changes: watch::Sender<u64>,
    backoff: Backoff,
}

impl Worker {
    pub(super) fn spawn(
        dialer: Arc<Dialer>,
        addr: String,
        node: NodeId,
        first: Option<Arc<Connection>>,
        changes: watch::Sender<u64>,
        stop: CancellationToken,
    ) -> PeerHandle {
        let (addr, watched) = watch::channel(addr);
        let state = first.clone().map_or(PeerState::Connecting, PeerState::Up);
        let shared = Arc::new(Shared {
            node,
            addr,
            state: watch::Sender::new(state),
            nudge: Notify::new(),
            stop,
        });
        let config = dialer.config();
        let worker = Self {
            backoff: Backoff::new(config.backoff_min, config.backoff_max),
            shared: Arc::clone(&shared),
            addr: watched,
            changes,
            dialer: Arc::clone(&dialer),
        };
        dialer.tasks().spawn(worker.run(first));
        PeerHandle(shared)
    }

    async fn run(mut self, first: Option<Arc<Connection>>) {
        let stop = self.shared.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.keep(first) => {}
        }
        // The connection closes when its last user lets go of it.
        self.set(PeerState::Removed);
    }

    async fn keep(&mut self, mut first: Option<Arc<Connection>>) {
        loop {
            let connection = match first.take() {
                Some(connection) => connection,
                None => self.connect().await,
            };
            self.set(PeerState::Up(Arc::clone(&connection)));
            let since = Instant::now();
            let lost = tokio::select! {
                biased;
                lost = connection.closed() => lost,
                () = self.moved() => {
                    connection.close(Close::Done, "the address has changed");
                    Lost::Local
                }
            };
            // A peer that accepts and drops us at once must not be dialled in a tight loop.
            if since.elapsed() >= self.dialer.config().mute_after {
                self.backoff.reset();
            }
            tracing::info!(node = %self.shared.node, addr = %self.shared.addr.borrow().as_str(), "connection lost: {lost}");
            self.down(DownReason::Lost(lost));
            self.pause().await;
        }
    }

    /// Dials until it works.
    async fn connect(&mut self) -> Arc<Connection> {
        loop {
            let addr = self.addr.borrow_and_update().clone();
            match self.dialer.dial(&addr, self.shared.node).await {
                Ok(connection) => return connection,
                Err(error) => {
                    if error.retryable() {
                        tracing::debug!(node = %self.shared.node, "{error}");
                    } else {
                        tracing::warn!(node = %self.shared.node, "{error}");
                    }
                    self.down(DownReason::Connect(Arc::new(error)));
                }
            }
            self.pause().await;
        }
    }

    /// Waits before the next dial: the backoff, a nudge or a new address.
    async fn pause(&mut self) {
        let wait = self.backoff.failed(&*self.dialer.env().entropy);
        tokio::select! {
            biased;
            () = self.shared.nudge.notified() => {}
            // The sender is in `shared`, so it cannot be gone.
            _ = self.addr.changed() => {}
            () = sleep(wait) => {}
        }
    }

    /// Returns when the peer's address is no longer the one that was dialled.
    async fn moved(&mut self) {
        if self.addr.changed().await.is_err() {
            std::future::pending().await
        }
    }

    fn down(&self, reason: DownReason) {
        let since = match &*self.shared.state.borrow() {
            PeerState::Down { since, .. } => *since,
            _ => Instant::now(),
        };
        self.set(PeerState::Down { reason, since });
    }

    fn set(&self, state: PeerState) {
        self.shared.state.send_replace(state);
        self.changes.send_modify(|count| *count += 1);
    }
}
