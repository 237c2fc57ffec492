//! What peers may take of a node, and what they have taken.
//!
//! Invariants: a peer costs nothing that is not counted against it: its address until its certificate
//! is known, its certificate from then on; nodes of the cluster are never held up by what clients
//! take. One of these for each [`crate::server::Server`]; sessions ask it.

mod address;
mod config;
mod logging;
mod peer;
mod rate;
mod window;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use quorate_certs::Identity;
use quorate_protocol::{frame::Message, message};
use tokio::time::Instant;

use self::{
    address::{Addresses, Key, Over},
    peer::Shares,
    window::Windows,
};
pub use config::LimitsConfig;
pub(crate) use logging::Seldom;
pub(crate) use peer::{Held, Room, Share};
pub(crate) use window::{LEAST as LEAST_WINDOW, Window};

/// What becomes of somebody who knocks.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Go on with the handshake.
    Enter(Handshake),
    /// Let it prove its address.
    Retry,
    /// No, because of this limit.
    Refuse(&'static str),
}

/// All limits of a server and what is taken of them.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) config: LimitsConfig,
    /// Of connections and handshakes, from `[transport]`.
    max_connections: u32,
    max_handshakes: u32,
    connections: AtomicU32,
    handshakes: AtomicU32,
    addresses: Mutex<Addresses>,
    shares: Shares,
    received: Arc<Windows>,
    sent: Arc<Windows>,
    pub(crate) log: Seldom,
}

impl Limits {
    pub(crate) fn new(config: LimitsConfig, max_connections: u32, max_handshakes: u32) -> Self {
        let windows = || Arc::new(Windows::new(config.window_bytes.into()));
        Self {
            shares: Shares::new(&config),
            received: windows(),
            sent: windows(),
            max_connections,
            max_handshakes,
            connections: AtomicU32::new(0),
            handshakes: AtomicU32::new(0),
            addresses: Mutex::default(),
            log: Seldom::new(config.log_lines),
            config,
        }
    }

    /// Open connections, handshakes included.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Somebody wants to come in. `proven`: it receives what is sent to its address. `may_retry`: it can be
    /// asked to prove that.
    pub(crate) fn knock(
        self: &Arc<Self>,
        addr: SocketAddr,
        proven: bool,
        may_retry: bool,
    ) -> Verdict {
        let verdict = self.judge(addr, proven, may_retry);
        match &verdict {
            Verdict::Enter(_) => {}
            Verdict::Retry => metrics::counter!("quorate_session_retries_total").increment(1),
            Verdict::Refuse(limit) => refused(limit),
        }
        verdict
    }

    fn judge(self: &Arc<Self>, addr: SocketAddr, proven: bool, may_retry: bool) -> Verdict {
        if self.connections() >= self.max_connections {
            return Verdict::Refuse("max_connections");
        }
        let shaking = self.handshakes.load(Ordering::Relaxed);
        if may_retry && shaking >= self.config.retry_handshakes.min(self.max_handshakes) {
            return Verdict::Retry;
        }
        if shaking >= self.max_handshakes {
            return Verdict::Refuse("max_handshakes");
        }
        let key = Key::of(addr);
        let entered = self.addresses().enter(key, proven, &self.config, Instant::now());
        match entered {
            // One task accepts, so nobody else has counted since.
            Ok(()) => {
                self.connections.fetch_add(1, Ordering::Relaxed);
                self.handshakes.fetch_add(1, Ordering::Relaxed);
                Verdict::Enter(Handshake {
                    place: Some(Place { limits: Arc::clone(self), key }),
                    limits: Arc::clone(self),
                    key,
                    proven,
                })
            }
            // Whoever forges an address gets nothing that would count against its owner.
            Err(_) if may_retry => Verdict::Retry,
            Err(Over::Connections) => Verdict::Refuse("address_connections"),
            Err(Over::Handshakes) => Verdict::Refuse("address_handshakes"),
            Err(Over::Rate) => Verdict::Refuse("address_handshakes_per_s"),
            Err(Over::Addresses) => Verdict::Refuse("addresses"),
        }
    }

    /// What a peer shares with others of its name; None if there are enough of them.
    pub(crate) fn share(&self, identity: &Identity) -> Option<Arc<Share>> {
        let kind = if identity.is_node() { "node" } else { "client" };
        self.shares.enter(&format!("{kind}/{}", identity.name()))
    }

    /// Windows for what a client sends, up to `receive` bytes, and for what it is sent, up to `send`.
    pub(crate) fn windows(&self, receive: u64, send: u64) -> (Window, Window) {
        (self.received.open(receive), self.sent.open(send))
    }

    /// Sets the gauges.
    pub(crate) fn publish(&self) {
        let set = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
        let [requests, answers, queries] = self.shares.taken();
        set("quorate_session_answer_bytes", answers as f64);
        set("quorate_session_connections", self.connections().into());
        set("quorate_session_handshakes", self.handshakes.load(Ordering::Relaxed).into());
        set("quorate_session_queries", queries as f64);
        set("quorate_session_request_bytes", requests as f64);
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a connection that was refused, by limit or reason.
pub(crate) fn refused(reason: &'static str) {
    metrics::counter!("quorate_session_refused_total", "reason" => reason).increment(1);
}

/// Counts a connection that was closed.
pub(crate) fn closed(reason: &'static str) {
    metrics::counter!("quorate_session_closed_total", "reason" => reason).increment(1);
}

/// Counts a request that was answered "busy", or had to wait, by limit.
pub(crate) fn busy(limit: &'static str) {
    metrics::counter!("quorate_session_busy_total", "limit" => limit).increment(1);
}

/// Whether a request reads so much that only so many are worked on at once.
pub(crate) const fn is_query(op: u16) -> bool {
    use message::{Aggregate, Digest, HintsVerify, Scan, Verify};
    matches!(op, Scan::OP | Aggregate::OP | Digest::OP | Verify::OP | HintsVerify::OP)
}

/// A place among the connections, of all and of an address.
#[derive(Debug)]
pub(crate) struct Place {
    limits: Arc<Limits>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.connections.fetch_sub(1, Ordering::Relaxed);
        self.limits.addresses().leave(self.key);
    }
}

/// A handshake in progress; dropped when it is over.
#[derive(Debug)]
pub(crate) struct Handshake {
    limits: Arc<Limits>,
    key: Key,
    proven: bool,
    place: Option<Place>,
}

impl Handshake {
    /// The connection's place, which outlasts the handshake.
    pub(crate) fn place(&mut self) -> Option<Place> {
        self.place.take()
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.limits.handshakes.fetch_sub(1, Ordering::Relaxed);
        self.limits.addresses().shaken(self.key, self.proven);
    }
}
