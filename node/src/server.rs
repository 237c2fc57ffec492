//! Accepts connections and runs a session for each.
//!
//! Invariants: connections and handshakes are bounded, what is over the bound is refused at once;
//! every session belongs to the server's tracker, so that [`Server::shutdown`] leaves nothing
//! behind; a refused peer is logged with its address and a reason an operator understands. Started
//! once per node; hands requests to its [`Service`].

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use quinn::Incoming;
use quorate_certs::Credentials;
use quorate_client::{
    config::TransportConfig,
    connection::{canonical, close_code},
    env::BoxFuture,
};
use quorate_protocol::{
    code::Close,
    frame::Frame,
    id::{ClusterId, MetaIndex, NodeId, Version},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    endpoint,
    session::{self, Peer, ReplySink},
};

/// What a node says about itself in `Welcome`; asked anew for every connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The cluster, 0 before the node has joined one.
    pub cluster: ClusterId,
    /// The node, 0 before it has joined.
    pub node: NodeId,
    /// Its metadata index.
    pub meta_index: MetaIndex,
    /// The highest version of a batch it has accepted.
    pub highest_version: Version,
}

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// Who we are.
    fn greeting(&self) -> Greeting;

    /// The name that belongs to a node's id, if that is known. Must not wait for anything.
    fn name_of(&self, _node: NodeId) -> Option<String> {
        None
    }

    /// A peer has come that may be served. Must not wait for anything.
    fn seen(&self, _peer: &Peer) {}

    /// Answers one request, which `peer` is allowed to make: exactly one final answer through
    /// `reply`. The future is dropped when the peer cancels the request or is gone; if it ends
    /// without a final answer, the peer gets `Internal`. A request of several frames arrives
    /// joined.
    fn call(&self, peer: Arc<Peer>, request: Frame, reply: ReplySink) -> BoxFuture<'static, ()>;
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) config: TransportConfig,
    /// Sessions watch it, so that who is revoked leaves.
    pub(crate) credentials: watch::Sender<Arc<Credentials>>,
    /// Set when the node stops: no new requests.
    pub(crate) stop: CancellationToken,
    sessions: AtomicUsize,
    handshakes: AtomicUsize,
    last_session: AtomicU64,
}

/// A running server; dropping it stops it without waiting.
pub struct Server {
    endpoint: quinn::Endpoint,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Server {
    /// Starts accepting on an endpoint of [`endpoint::bind`].
    #[must_use]
    pub fn start(
        endpoint: quinn::Endpoint,
        credentials: Credentials,
        config: TransportConfig,
        service: Arc<dyn Service>,
    ) -> Self {
        let shared = Arc::new(Shared {
            service,
            config,
            credentials: watch::Sender::new(Arc::new(credentials)),
            stop: CancellationToken::new(),
            sessions: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            last_session: AtomicU64::new(0),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(endpoint.clone(), Arc::clone(&shared), tasks.clone()));
        Self { endpoint, shared, tasks }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Uses these credentials for connections from now on. Open ones stay, except those of peers that the
    /// new credentials refuse: these are closed and told why.
    ///
    /// # Errors
    /// If the TLS library cannot use them; the old ones stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), rustls::Error> {
        let server = endpoint::server_config(&credentials, &self.shared.config)?;
        self.endpoint.set_server_config(Some(server));
        self.shared.credentials.send_replace(Arc::new(credentials));
        Ok(())
    }

    /// Open sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    /// Stops accepting, answers new requests with `ShuttingDown`, lets those in progress finish
    /// for up to `drain_timeout`, closes all sessions and waits for them. The endpoint stays open
    /// for what the node itself dials.
    pub async fn shutdown(&self) {
        self.endpoint.set_server_config(None);
        self.shared.stop.cancel();
        self.tasks.close();
        // A session bounds its own end; this bound only guards against a service that blocks.
        let bound = self.shared.config.drain_timeout * 2 + session::FAREWELL * 2;
        if timeout(bound, self.tasks.wait()).await.is_err() {
            tracing::warn!("sessions did not end in time; leaving them");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.endpoint.local_addr().ok())
            .field("sessions", &self.sessions())
            .finish_non_exhaustive()
    }
}

/// One more of something that is counted; less when dropped.
struct Counted(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Counted {
    fn new(shared: &Arc<Shared>, which: fn(&Shared) -> &AtomicUsize) -> (Self, usize) {
        let now = which(shared).fetch_add(1, Ordering::Relaxed) + 1;
        (Self(Arc::clone(shared), which), now)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(endpoint: quinn::Endpoint, shared: Arc<Shared>, tasks: TaskTracker) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let remote = canonical(incoming.remote_address());
        let (session, open) = Counted::new(&shared, |shared| &shared.sessions);
        if open > shared.config.max_connections as usize {
            tracing::warn!(
                "refused client from {remote}: at the limit of {} connections (max_connections)",
                open - 1
            );
            incoming.refuse();
            continue;
        }
        let (handshake, busy) = Counted::new(&shared, |shared| &shared.handshakes);
        if busy * 2 > shared.config.max_handshakes as usize && incoming.may_retry() {
            // Under a flood only peers that prove their address cost a handshake.
            let _ = incoming.retry();
            continue;
        }
        if busy > shared.config.max_handshakes as usize {
            incoming.refuse();
            continue;
        }
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            serve(incoming, remote, shared, handshake).await;
            drop(session);
        });
    }
}

async fn serve(incoming: Incoming, remote: SocketAddr, shared: Arc<Shared>, handshake: Counted) {
    let limit = shared.config.connect_timeout;
    // Seen from before the handshake, so that the session notices whatever comes in between.
    let credentials = shared.credentials.subscribe();
    let connecting = async { incoming.accept()?.await };
    let quic = match timeout(limit, connecting).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            tracing::warn!("refused client from {remote}: {}", session::refusal(&error));
            return;
        }
        Err(_) => {
            tracing::warn!("refused client from {remote}: handshake took over {limit:?}");
            return;
        }
    };
    let session = shared.last_session.fetch_add(1, Ordering::Relaxed) + 1;
    match timeout(limit, session::greet(&quic, &shared, remote, session)).await {
        Ok(Ok(greeted)) => {
            drop(handshake);
            session::run(quic, greeted, credentials, shared).await;
        }
        Ok(Err(refused)) => {
            tracing::warn!("refused client from {remote}: {refused}");
            refused.close(&quic);
            // The endpoint sends the close; nothing is left to do here.
        }
        Err(_) => {
            tracing::warn!("refused client from {remote}: no Hello within {limit:?}");
            quic.close(close_code(Close::Protocol), b"no Hello in time");
        }
    }
}
