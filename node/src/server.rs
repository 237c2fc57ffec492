//! Accepts connections and runs a session for each.
//!
//! Invariants: connections and handshakes are bounded ([`crate::limits`]), what is over a bound is refused at
//! once or must prove its address first; every session belongs to the server's tracker, so that [`Server::shutdown`] leaves nothing
//! behind; a refused peer is logged with its address and a reason an operator understands. Started
//! once per node; hands requests to its [`Service`].

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
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
    hello::MINOR,
    id::{ClusterId, MetaIndex, NodeId, Version},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    endpoint,
    limits::{self, Handshake, Limits, LimitsConfig, Verdict},
    session::{self, Peer, ReplySink},
};

/// What a node says about itself in `Welcome`; asked anew for every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The highest minor version it speaks, [`MINOR`]. Another one is for tests of versions side by side.
    pub minor: u16,
    /// The cluster, 0 before the node has joined one.
    pub cluster: ClusterId,
    /// The node, 0 before it has joined.
    pub node: NodeId,
    /// Its metadata index.
    pub meta_index: MetaIndex,
    /// The highest version of a batch it has accepted.
    pub highest_version: Version,
}

impl Default for Greeting {
    /// Of this version, and a member of nothing yet.
    fn default() -> Self {
        Self {
            minor: MINOR,
            cluster: ClusterId(0),
            node: NodeId(0),
            meta_index: MetaIndex(0),
            highest_version: Version(0),
        }
    }
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
    pub(crate) limits: Arc<Limits>,
    last_session: AtomicU64,
}

/// A running server; dropping it stops it without waiting.
pub struct Server {
    endpoint: quinn::Endpoint,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Server {
    /// Starts accepting on an endpoint of [`endpoint::bind`], with the default limits of peers.
    #[must_use]
    pub fn start(
        endpoint: quinn::Endpoint,
        credentials: Credentials,
        config: TransportConfig,
        service: Arc<dyn Service>,
    ) -> Self {
        Self::start_with(endpoint, credentials, config, LimitsConfig::default(), service)
    }

    /// Starts accepting with these limits of peers.
    #[must_use]
    pub fn start_with(
        endpoint: quinn::Endpoint,
        credentials: Credentials,
        config: TransportConfig,
        limits: LimitsConfig,
        service: Arc<dyn Service>,
    ) -> Self {
        let limits = Limits::new(limits, config.max_connections, config.max_handshakes.max(1));
        let shared = Arc::new(Shared {
            service,
            config,
            credentials: watch::Sender::new(Arc::new(credentials)),
            stop: CancellationToken::new(),
            limits: Arc::new(limits),
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
        self.shared.limits.connections() as usize
    }

    /// What peers may take, and have taken.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.shared.limits)
    }

    /// Stops accepting, answers new requests with `ShuttingDown`, lets those in progress finish
    /// for up to `drain_timeout`, closes all sessions and waits for them. The endpoint stays open
    /// for what the node itself dials.
    pub async fn shutdown(&self) {
        self.endpoint.set_server_config(None);
        self.shared.stop.cancel();
        self.tasks.close();
        // A session bounds its own end; this bound only guards against a service that blocks.
        let bound = self.shared.config.drain_timeout + session::FAREWELL * 3;
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

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.endpoint.local_addr().ok())
            .field("sessions", &self.sessions())
            .finish_non_exhaustive()
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
        let (proven, may_retry) = (incoming.remote_address_validated(), incoming.may_retry());
        match shared.limits.knock(remote, proven, may_retry) {
            Verdict::Enter(handshake) => {
                tasks.spawn(serve(incoming, remote, Arc::clone(&shared), handshake));
            }
            // Fails only for those that may not be asked.
            Verdict::Retry => drop(incoming.retry()),
            Verdict::Refuse(limit) => {
                incoming.refuse();
                let line = format_args!("refused client from {remote}: at the limit ({limit})");
                shared.limits.log.warn(line);
            }
        }
    }
}

async fn serve(
    incoming: Incoming,
    remote: SocketAddr,
    shared: Arc<Shared>,
    mut handshake: Handshake,
) {
    let _place = handshake.place();
    let limit = shared.config.connect_timeout;
    // Seen from before the handshake, so that the session notices whatever comes in between.
    let credentials = shared.credentials.subscribe();
    let refuse = |reason: &'static str, why: fmt::Arguments<'_>| {
        limits::refused(reason);
        shared.limits.log.warn(format_args!("refused client from {remote}: {why}"));
    };
    let connecting = async { incoming.accept()?.await };
    let quic = match timeout(limit, connecting).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            return refuse("handshake", format_args!("{}", session::refusal(&error)));
        }
        Err(_) => return refuse("timeout", format_args!("handshake took over {limit:?}")),
    };
    let session = shared.last_session.fetch_add(1, Ordering::Relaxed) + 1;
    match timeout(limit, session::greet(&quic, &shared, remote, session)).await {
        Ok(Ok(greeted)) => {
            drop(handshake);
            session::run(quic, greeted, credentials, Arc::clone(&shared)).await;
        }
        Ok(Err(refused)) => {
            refuse(refused.reason(), format_args!("{refused}"));
            refused.close(&quic);
            // The endpoint sends the close; nothing is left to do here.
        }
        Err(_) => {
            refuse("timeout", format_args!("no Hello within {limit:?}"));
            quic.close(close_code(Close::Protocol), b"no Hello in time");
        }
    }
}
