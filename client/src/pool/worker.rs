//! The task that keeps one peer connected.
//!
//! Invariants: at most one dial is in progress; waits between dials grow with failures and start over
//! once a connection has held, or at once when the node was seen alive; a connection to a node that has
//! failed lately is shown to nobody before it has answered a ping; when this side's certificate is renewed, the
//! new connection is up before the old one is let go, which ends when its last user is done. Started by [`super::Pool`], one per
//! peer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_protocol::{code::Close, message::Ping};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Member,
    breaker::{Breaker, Trust},
    peer::{DownReason, PeerHandle, PeerState, Shared},
};
use crate::{
    backoff::Backoff,
    connection::{Connection, Dialer, Lost},
};

/// The task that keeps one peer connected.
pub(super) struct Worker {
    dialer: Arc<Dialer>,
    shared: Arc<Shared>,
    addr: watch::Receiver<String>,
    changes: watch::Sender<u64>,
    backoff: Backoff,
    /// How many connections in a row did not live for `breaker_hold`.
    short_lived: u32,
    shown: Shown,
}

impl Worker {
    pub(super) fn spawn(
        dialer: Arc<Dialer>,
        peer: Member,
        first: Option<Arc<Connection>>,
        changes: watch::Sender<u64>,
        stop: CancellationToken,
    ) -> PeerHandle {
        let config = dialer.config();
        let state = first.clone().map_or(PeerState::Connecting, PeerState::Up);
        let shown = Shown::new(&state);
        let breaker = Breaker::new(config.breaker_failures, config.breaker_trials);
        let shared = Arc::new(Shared::new(peer, state, breaker, stop));
        let worker = Self {
            backoff: Backoff::new(config.backoff_min, config.backoff_max),
            addr: shared.addr.subscribe(),
            shared: Arc::clone(&shared),
            changes,
            dialer: Arc::clone(&dialer),
            short_lived: 0,
            shown,
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
            let since = Instant::now();
            let lost = self.hold(connection).await;
            let config = self.dialer.config();
            // A peer that accepts and drops us at once must not be dialled in a tight loop.
            if since.elapsed() >= config.mute_after {
                self.backoff.reset();
            }
            let short = since.elapsed() < config.breaker_hold;
            self.short_lived = if short { self.short_lived.saturating_add(1) } else { 0 };
            let doubtful = doubtful(&lost, self.short_lived);
            self.shared.breaker(|breaker| breaker.lost(doubtful));
            tracing::info!(node = %self.shared.node, addr = %self.shared.addr.borrow().as_str(), "connection lost: {lost}");
            self.down(DownReason::Lost(lost));
            self.pause().await;
        }
    }

    /// Shows a connection for as long as it lives, and brings a node that has failed back to full trust.
    async fn hold(&mut self, mut connection: Arc<Connection>) -> Lost {
        loop {
            let trust = self.shared.breaker(|breaker| breaker.trust());
            self.set(match trust {
                Trust::Full => PeerState::Up(Arc::clone(&connection)),
                Trust::Trial | Trust::Nothing => PeerState::Trial(Arc::clone(&connection)),
            });
            let (shared, dialer) = (Arc::clone(&self.shared), Arc::clone(&self.dialer));
            let renewed = tokio::select! {
                biased;
                lost = connection.closed() => return lost,
                () = moved(&mut self.addr) => {
                    connection.close(Close::Done, "the address has changed");
                    return Lost::Local;
                }
                () = shared.turned.notified() => None,
                () = regain(&dialer, &shared, &mut self.backoff, trust, &connection) => None,
                new = renew(&dialer, &shared, &connection) => Some(new),
            };
            if let Some(new) = renewed {
                connection = new;
            }
        }
    }

    /// Dials until it works.
    async fn connect(&mut self) -> Arc<Connection> {
        loop {
            let addr = self.addr.borrow_and_update().clone();
            let name = self.shared.name.as_deref();
            match self.dialer.dial_named(&addr, self.shared.node, name).await {
                Ok(connection) => {
                    let trusted = self.shared.breaker(|breaker| breaker.trust()) != Trust::Nothing;
                    if trusted || ping(&self.dialer, &self.shared, &connection).await {
                        return connection;
                    }
                    let lost = connection.lost().unwrap_or(Lost::Mute);
                    tracing::debug!(node = %self.shared.node, "it came up and answered no ping: {lost}");
                    self.down(DownReason::Lost(lost));
                }
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

    fn down(&mut self, reason: DownReason) {
        let since = match &*self.shared.state.borrow() {
            PeerState::Down { since, .. } => *since,
            _ => Instant::now(),
        };
        self.set(PeerState::Down { reason, since });
    }

    fn set(&mut self, state: PeerState) {
        self.shown.change(&state);
        self.shared.state.send_replace(state);
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Returns when the peer's address is no longer the one that was dialled.
async fn moved(addr: &mut watch::Receiver<String>) {
    if addr.changed().await.is_err() {
        std::future::pending().await
    }
}

/// A connection with this side's new certificate, once it has another than it presented on this one.
async fn renew(dialer: &Dialer, shared: &Shared, connection: &Connection) -> Arc<Connection> {
    dialer.replaced(connection.own()).await;
    let config = dialer.config();
    loop {
        let spread = u64::try_from(config.renew_spread.as_nanos()).unwrap_or(u64::MAX);
        let wait = dialer.env().entropy.next_u64() % spread.max(1);
        sleep(Duration::from_nanos(wait)).await;
        let addr = shared.addr.borrow().clone();
        match dialer.dial_named(&addr, shared.node, shared.name.as_deref()).await {
            Ok(new) => return new,
            // The old one is as good as ever, unless the peer closes it.
            Err(error) => {
                tracing::debug!(node = %shared.node, "not connected anew yet: {error}");
                sleep(config.backoff_max).await;
            }
        }
    }
}

/// What brings a connected node one step nearer to full trust.
async fn regain(
    dialer: &Dialer,
    shared: &Shared,
    backoff: &mut Backoff,
    trust: Trust,
    connection: &Connection,
) {
    match trust {
        Trust::Full | Trust::Trial => {
            sleep(dialer.config().breaker_hold).await;
            shared.breaker(Breaker::held);
            if trust == Trust::Full {
                std::future::pending().await
            }
        }
        Trust::Nothing => {
            sleep(backoff.failed(&*dialer.env().entropy)).await;
            ping(dialer, shared, connection).await;
        }
    }
}

/// Whether the node answers a ping, which puts it on trial.
async fn ping(dialer: &Dialer, shared: &Shared, connection: &Connection) -> bool {
    let deadline = Instant::now() + dialer.config().mute_after;
    let answered = connection.request(&Ping {}, Bytes::new(), deadline).await.is_ok();
    if answered {
        shared.breaker(Breaker::answered);
    }
    answered
}

/// Whether a node whose connection was lost like this may be expected to fail again at once, by how many
/// connections in a row have lived briefly. Nodes are restarted, also twice; one that leaves again and
/// again is not well.
const fn doubtful(lost: &Lost, short_lived: u32) -> bool {
    match lost {
        Lost::Local => false,
        Lost::Closed { .. } | Lost::Reset => short_lived > 2,
        Lost::Mute | Lost::TimedOut | Lost::Protocol(_) | Lost::Transport(_) => true,
    }
}

/// The peer's place in the gauge of states, until it is dropped.
struct Shown(&'static str);

impl Shown {
    fn new(state: &PeerState) -> Self {
        metrics::gauge!("quorate_client_peers", "state" => state.name()).increment(1);
        Self(state.name())
    }

    fn change(&mut self, state: &PeerState) {
        if state.name() != self.0 {
            *self = Self::new(state);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        metrics::gauge!("quorate_client_peers", "state" => self.0).decrement(1);
    }
}
