//! One peer's connection: greeting, streams, requests, end.
//!
//! Invariants: nothing is served before `Hello` was checked; every stream, lane or single request,
//! is handled alike; requests and their unanswered bytes are bounded per connection and per
//! certificate ([`crate::limits`]); whoever breaks
//! the protocol is closed with a reason, and only they. Run by [`crate::server`], one task per
//! session and two per stream.

mod access;
mod greet;
mod open;
mod reply;
mod stream;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quorate_certs::{Credentials, Identity};
use quorate_client::connection::{close_code, peer_chain};
use quorate_protocol::{code::Close, id::NodeId};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use access::{CHANGES, Denied, Grant, OPS, Rule, Who, allowed, rule};
pub(crate) use greet::{Greeted, greet, refusal};
pub use reply::{Gone, ReplySink, failure};

use crate::{
    limits::{self, LEAST_WINDOW, Share, Window},
    server::Shared,
};

/// Counts a request that was refused for what the peer's certificate (`role`) or its grants (`grant`) do
/// not allow.
pub(crate) fn count_denied(why: &'static str) {
    metrics::counter!("quorate_session_denied_total", "why" => why).increment(1);
}

/// How long a closing session waits for its peer to take the last answers.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// Who is on the other side of a session.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What its certificate says.
    pub identity: Identity,
    /// What it says it is; 0 for clients and for nodes that have not joined. Only a node's
    /// certificate can say anything else.
    pub node: NodeId,
    /// Where it is.
    pub addr: SocketAddr,
    /// The minor version both speak.
    pub minor: u16,
    /// Tells sessions of this process apart.
    pub session: u64,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.identity, self.addr)
    }
}

/// What the streams of a session share.
struct Session {
    quic: quinn::Connection,
    peer: Arc<Peer>,
    shared: Arc<Shared>,
    /// What it shares with other connections of the same certificate.
    share: Arc<Share>,
    /// Windows of a client.
    _windows: Option<(Window, Window)>,
    /// When anything was asked last, in milliseconds since `begun`.
    asked_ms: AtomicU64,
    begun: Instant,
    /// Open requests.
    open: AtomicUsize,
    /// Their payload bytes, those that count against the credit.
    bytes: AtomicU64,
    /// Payload bytes of open requests that no credit is granted for.
    others: AtomicU64,
    /// The tasks that answer requests.
    requests: TaskTracker,
    /// The readers and writers of streams.
    streams: TaskTracker,
    /// Set when streams shall end: after the requests.
    end: CancellationToken,
}

impl Session {
    /// Closes the connection because its peer broke the rules.
    fn violated(&self, code: Close, why: &'static str, reason: &str) {
        if self.quic.close_reason().is_none() {
            limits::closed(why);
            let line = format_args!("closed connection of {}: {reason}", self.peer);
            self.shared.limits.log.warn(line);
            self.quic.close(close_code(code), reason.as_bytes());
        }
    }

    /// Whether what it takes counts: nodes of the cluster are not to be held up by limits.
    fn is_counted(&self) -> bool {
        !self.peer.identity.is_node()
    }

    /// Something was asked.
    fn asked(&self) {
        let now = self.begun.elapsed().as_millis();
        self.asked_ms.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits until a client has asked nothing for too long.
    async fn idle(&self) {
        let limit = self.shared.limits.config.idle().filter(|_| !self.peer.identity.is_node());
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let asked = Duration::from_millis(self.asked_ms.load(Ordering::Relaxed));
            let quiet = self.begun.elapsed().saturating_sub(asked);
            if self.open.load(Ordering::Relaxed) > 0 {
                self.asked();
                sleep(limit).await;
            } else if quiet >= limit {
                return;
            } else {
                sleep(limit - quiet).await;
            }
        }
    }
}

/// Serves a greeted peer until it leaves, is revoked, or the node stops. `credentials` is as it was seen
/// before the handshake.
pub(crate) async fn run(
    quic: quinn::Connection,
    greeted: Greeted,
    credentials: watch::Receiver<Arc<Credentials>>,
    shared: Arc<Shared>,
) {
    let windows = widen(&quic, &greeted.peer, &shared);
    let session = Arc::new(Session {
        quic,
        share: greeted.share,
        _windows: windows,
        asked_ms: AtomicU64::new(0),
        begun: Instant::now(),
        peer: Arc::new(greeted.peer),
        open: AtomicUsize::new(0),
        bytes: AtomicU64::new(0),
        others: AtomicU64::new(0),
        requests: TaskTracker::new(),
        streams: TaskTracker::new(),
        end: CancellationToken::new(),
        shared,
    });
    tracing::debug!("session with {}", session.peer);
    stream::spawn(&session, greeted.writer, greeted.reader);
    let stopping = tokio::select! {
        biased;
        () = session.shared.stop.cancelled() => true,
        () = session.idle() => {
            limits::closed("idle");
            session.quic.close(close_code(Close::Done), b"idle (idle_s)");
            false
        }
        error = accept(&session) => {
            tracing::debug!("session with {} ended: {error}", session.peer);
            false
        }
        why = refused(&session, credentials) => {
            metrics::counter!("quorate_tls_sessions_revoked_total").increment(1);
            session.violated(Close::Unauthorised, "certificate", &why);
            false
        }
    };
    session.requests.close();
    session.streams.close();
    if stopping {
        // New requests are refused meanwhile; see `stream`.
        let limit = session.shared.config.drain_timeout;
        if timeout(limit, session.requests.wait()).await.is_err() {
            tracing::warn!("requests of {} did not finish in {limit:?}", session.peer);
        }
        session.end.cancel();
        // Closing discards what the peer has not acknowledged, so its streams end first.
        let _ = timeout(FAREWELL, session.streams.wait()).await;
        let code = close_code(Close::Shutdown);
        session.quic.close(code, b"the node is shutting down");
    }
    session.end.cancel();
    // Both end by themselves now: requests are cancelled with their streams.
    let all = async {
        session.streams.wait().await;
        session.requests.wait().await;
    };
    if timeout(FAREWELL, all).await.is_err() {
        tracing::warn!("requests of {} cannot be stopped; leaving them", session.peer);
    }
}

/// Returns when the node's credentials refuse the peer that others let in, with the reason.
async fn refused(session: &Session, mut credentials: watch::Receiver<Arc<Credentials>>) -> String {
    let chain = peer_chain(&session.quic);
    loop {
        if credentials.changed().await.is_err() {
            return std::future::pending().await;
        }
        let now = Arc::clone(&credentials.borrow_and_update());
        if let Err(why) = now.still_accepts(&chain) {
            return why.to_string();
        }
    }
}

/// Gives a peer that is known its windows: nodes all that they may have, clients what there is.
fn widen(quic: &quinn::Connection, peer: &Peer, shared: &Shared) -> Option<(Window, Window)> {
    let config = &shared.config;
    let (receive, send) = (config.receive_window(), u64::from(config.send_window));
    let windows = (!peer.identity.is_node()).then(|| shared.limits.windows(receive, send));
    let (receive, send) = match &windows {
        Some((received, sent)) => (received.bytes(), sent.bytes()),
        None => (receive, send),
    };
    let receive = quinn::VarInt::from_u64(receive.max(LEAST_WINDOW));
    quic.set_receive_window(receive.unwrap_or(quinn::VarInt::MAX));
    quic.set_send_window(send);
    windows
}

/// Takes streams until the connection is gone.
async fn accept(session: &Arc<Session>) -> quinn::ConnectionError {
    use quorate_client::lane::framed::{FrameReader, FrameWriter};
    loop {
        match session.quic.accept_bi().await {
            Ok((send, recv)) => {
                if session.is_counted() && session.share.streams.turn().await {
                    limits::busy("peer_streams_per_s");
                }
                stream::spawn(session, FrameWriter::new(send), FrameReader::new(recv));
            }
            Err(error) => return error,
        }
    }
}
