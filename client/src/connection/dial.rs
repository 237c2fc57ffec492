//! Opens a connection: name, QUIC and TLS, certificates, `Hello`, `Welcome`.
//!
//! Invariants: nothing is handed out before `Welcome` has arrived, because a node that refuses our
//! certificate says so only after TLS looks finished to us; a dial ends within `connect_timeout`
//! whatever the network does; its error says who has to do what. Called by the pool's workers, and
//! by whoever needs one connection without a pool.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quorate_certs::{Credentials, Identity, PeerError, SERVER_NAME};
use quorate_protocol::{
    code::Close,
    frame::{Frame, Message},
    hello::{ALPN, Hello, MINOR, Welcome},
    id::{ClusterId, NodeId},
    message::Failure,
};
use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ConnectError, Connection, close_code};
use crate::{
    config::TransportConfig,
    env::Env,
    lane::{
        LANES,
        framed::{FrameReader, FrameWriter, StreamError},
    },
};

/// What this side says about itself in `Hello`; changes when a node joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The highest minor version it speaks, [`MINOR`]. Another one is for tests of versions side by side.
    pub minor: u16,
    /// The cluster, 0 while unknown.
    pub cluster: ClusterId,
    /// The node, 0 for clients.
    pub node: NodeId,
}

impl Default for Local {
    /// Of this version, and nobody in particular.
    fn default() -> Self {
        Self { minor: MINOR, cluster: ClusterId(0), node: NodeId(0) }
    }
}

/// What handshakes are begun with from some moment on.
pub(crate) struct Tls {
    pub(super) credentials: Credentials,
    quic: quinn::ClientConfig,
}

/// Everything that dialling needs; one per process and endpoint.
pub struct Dialer {
    env: Env,
    endpoint: quinn::Endpoint,
    config: TransportConfig,
    tls: watch::Sender<Arc<Tls>>,
    local: ArcSwap<Local>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Dialer {
    /// Dials from `endpoint`, which a node also listens on.
    ///
    /// # Errors
    /// If the TLS library cannot use the credentials.
    pub fn new(
        env: Env,
        endpoint: quinn::Endpoint,
        credentials: Credentials,
        config: TransportConfig,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: watch::Sender::new(Arc::new(Tls::new(credentials, &config)?)),
            env,
            endpoint,
            config,
            local: ArcSwap::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Uses these credentials from the next dial on. Open connections to peers that they refuse are closed;
    /// the pool replaces those that presented another certificate.
    ///
    /// # Errors
    /// If the TLS library cannot use them; the old ones stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), rustls::Error> {
        self.tls.send_replace(Arc::new(Tls::new(credentials, &self.config)?));
        Ok(())
    }

    /// Says this about ourselves from the next dial on.
    pub fn set_local(&self, local: Local) {
        self.local.store(Arc::new(local));
    }

    /// What is said about ourselves.
    #[must_use]
    pub fn local(&self) -> Local {
        **self.local.load()
    }

    /// Who our certificate says we are.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.tls.borrow().credentials.identity().clone()
    }

    /// What is presented from now on.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.tls.borrow().credentials.clone()
    }

    /// Returns once this is not what is presented any more.
    pub(crate) async fn replaced(&self, own: &CertificateDer<'static>) {
        let mut tls = self.tls.subscribe();
        let other = |tls: &Arc<Tls>| tls.credentials.chain().first() != Some(own);
        if tls.wait_for(other).await.is_err() {
            std::future::pending().await
        }
    }

    /// The seams this dialler uses.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The settings of its connections.
    #[must_use]
    pub fn config(&self) -> &TransportConfig {
        &self.config
    }

    /// The endpoint it dials from.
    #[must_use]
    pub fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// The tasks of its connections.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Set when they shall end.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Closes every connection that was dialled, and waits until their tasks have ended. Dials
    /// nothing any more.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Connects to `HOST:PORT` and waits for `Welcome`. `expect` is the node that must answer, 0
    /// for any node of our cluster.
    ///
    /// # Errors
    /// See [`ConnectError`]. Takes at most `connect_timeout`.
    pub async fn dial(&self, addr: &str, expect: NodeId) -> Result<Arc<Connection>, ConnectError> {
        self.dial_named(addr, expect, None).await
    }

    /// As [`Self::dial`], and the node's certificate must have this name: what a node says of itself
    /// in `Welcome` is its word alone.
    ///
    /// # Errors
    /// As there; [`ConnectError::WrongNode`] if it has another one.
    pub async fn dial_named(
        &self,
        addr: &str,
        expect: NodeId,
        name: Option<&str>,
    ) -> Result<Arc<Connection>, ConnectError> {
        if self.stop.is_cancelled() {
            return Err(ConnectError::Local {
                addr: addr.into(),
                detail: "this side is shutting down".into(),
            });
        }
        let limit = self.config.connect_timeout;
        match timeout(limit, self.try_addresses(addr, expect, name)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Unreachable { addr: addr.into(), after: limit }),
        }
    }

    async fn try_addresses(
        &self,
        addr: &str,
        expect: NodeId,
        name: Option<&str>,
    ) -> Result<Arc<Connection>, ConnectError> {
        let resolved = self.env.sockets.resolve(addr).await;
        let mut found =
            resolved.map_err(|source| ConnectError::Resolve { addr: addr.into(), source })?;
        if self.endpoint.local_addr().is_ok_and(|local| local.is_ipv4()) {
            found.retain(std::net::SocketAddr::is_ipv4);
        }
        let share = self.config.connect_timeout / u32::try_from(found.len().max(1)).unwrap_or(1);
        let mut failed = ConnectError::Local {
            addr: addr.into(),
            detail: "the name has no address that this endpoint can reach".into(),
        };
        for remote in found {
            match timeout(share, self.handshake(addr, remote, (expect, name))).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = ConnectError::Unreachable { addr: addr.into(), after: share },
            }
        }
        Err(failed)
    }

    async fn handshake(
        &self,
        addr: &str,
        remote: std::net::SocketAddr,
        (expect, name): (NodeId, Option<&str>),
    ) -> Result<Arc<Connection>, ConnectError> {
        let mut watch = self.tls.subscribe();
        let tls = Arc::clone(&watch.borrow_and_update());
        let local = self.local();
        let broken = |error: &quinn::ConnectionError| ConnectError::from_quic(addr, expect, error);
        let connecting =
            self.endpoint.connect_with(tls.quic.clone(), remote, SERVER_NAME).map_err(|error| {
                ConnectError::Local { addr: addr.into(), detail: error.to_string() }
            })?;
        let quic = connecting.await.map_err(|error| broken(&error))?;
        // From here on the peer learns why it is left.
        let refuse = |code: Close, error: ConnectError| {
            quic.close(close_code(code), error.to_string().as_bytes());
            error
        };
        let identity = verify(&tls.credentials, &quic, addr, (expect, name))
            .map_err(|(code, error)| refuse(code, error))?;

        // Streams cost nothing until they are written to; the first one carries `Hello` and stays
        // open as the control lane.
        let mut lanes = Vec::with_capacity(LANES.len());
        for _ in LANES {
            let (send, recv) = quic.open_bi().await.map_err(|error| broken(&error))?;
            lanes.push((FrameWriter::new(send), FrameReader::new(recv)));
        }
        let Local { minor, cluster, node } = local;
        let hello = Hello { minor, features: 0, cluster, node, expect };
        let answer = match lanes.first_mut() {
            Some((writer, reader)) => ask(writer, reader, &hello).await,
            None => Err(StreamError::Ended),
        };
        let garbled = |detail: String| ConnectError::Garbled { addr: addr.into(), detail };
        let answer = match answer {
            Ok(answer) => answer,
            Err(StreamError::Connection(error)) => return Err(broken(&error)),
            Err(error) => return Err(refuse(Close::Protocol, garbled(error.to_string()))),
        };
        let welcome: Welcome = answer
            .message()
            .map_err(|error| refuse(Close::Protocol, garbled(error.to_string())))?;
        check(&welcome, local, expect, addr).map_err(|(code, error)| refuse(code, error))?;
        let own = tls.credentials.chain().first().cloned();
        let own = own.unwrap_or_else(|| CertificateDer::from(Vec::new()));
        let own = (own, tls.credentials.identity().clone());
        Ok(Connection::start(quic, welcome, identity, lanes, watch, own, self))
    }
}

impl Tls {
    fn new(credentials: Credentials, config: &TransportConfig) -> Result<Self, rustls::Error> {
        let quic = client_config(&credentials, config)?;
        Ok(Self { credentials, quic })
    }
}

/// What a handshake is begun with.
///
/// # Errors
/// If the TLS library cannot use the credentials.
pub fn client_config(
    credentials: &Credentials,
    config: &TransportConfig,
) -> Result<quinn::ClientConfig, rustls::Error> {
    let tls = credentials.client_config(ALPN)?;
    let tls = QuicClientConfig::try_from(tls)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut quic = quinn::ClientConfig::new(Arc::new(tls));
    quic.transport_config(config.quic());
    Ok(quic)
}

async fn ask(
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    hello: &Hello,
) -> Result<Frame, StreamError> {
    writer.write(&[Frame::new(0, hello, Bytes::new())?]).await?;
    let answer = reader.next().await?.ok_or(StreamError::Ended)?;
    if answer.op == Failure::OP {
        return Err(StreamError::UnexpectedId(answer.id));
    }
    Ok(answer)
}

/// The chain the peer of a connection presented, leaf first; empty if it presented none.
#[must_use]
pub fn peer_chain(quic: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    quic.peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map_or_else(Vec::new, |chain| *chain)
}

fn verify(
    credentials: &Credentials,
    quic: &quinn::Connection,
    addr: &str,
    (expected, name): (NodeId, Option<&str>),
) -> Result<Identity, (Close, ConnectError)> {
    let addr = addr.to_owned();
    match credentials.verify_node(&peer_chain(quic), name) {
        Ok(identity) => Ok(identity),
        Err(error @ PeerError::OtherNode { .. }) => {
            let detail = error.to_string();
            Err((Close::WrongNode, ConnectError::WrongNode { addr, expected, detail }))
        }
        Err(error @ PeerError::OtherCluster { .. }) => Err((
            Close::WrongCluster,
            ConnectError::WrongCluster { addr, detail: error.to_string() },
        )),
        Err(error) => Err((
            Close::Unauthorised,
            ConnectError::Unauthorised { addr, detail: error.to_string() },
        )),
    }
}

fn check(
    welcome: &Welcome,
    local: Local,
    expect: NodeId,
    addr: &str,
) -> Result<(), (Close, ConnectError)> {
    let addr = addr.to_owned();
    // What is above our own we could not read.
    if welcome.minor > local.minor {
        let detail =
            format!("it chose minor version {}, we speak up to {}", welcome.minor, local.minor);
        return Err((Close::Protocol, ConnectError::Garbled { addr, detail }));
    }
    let unknown = ClusterId(0);
    if welcome.cluster != local.cluster && welcome.cluster != unknown && local.cluster != unknown {
        let detail = "it has the same name but was bootstrapped separately".into();
        return Err((Close::WrongCluster, ConnectError::WrongCluster { addr, detail }));
    }
    if expect != NodeId(0) && welcome.node != expect {
        let (expected, detail) = (expect, format!("it says that it is node {}", welcome.node));
        return Err((Close::WrongNode, ConnectError::WrongNode { addr, expected, detail }));
    }
    Ok(())
}
