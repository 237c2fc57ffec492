//! The first exchange of a session: certificate, `Hello`, `Welcome`.
//!
//! Invariants: a peer of another cluster, one that looks for another node, and one that claims a
//! node id without the certificate of that node are refused with a close code of their own; the stream
//! of `Hello` goes on as the peer's first lane. Called by [`crate::server`] under a time limit.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use quinn::ConnectionError;
use quorate_certs::PeerError;
use quorate_client::{
    connection::{alert, alert_text, close_code, peer_chain},
    lane::{
        Class,
        framed::{FrameReader, FrameWriter, StreamError},
    },
};
use quorate_protocol::{
    code::Close,
    frame::{Frame, FrameError, MAX_FRAME},
    hello::{Hello, Welcome},
    id::{ClusterId, NodeId},
};

use super::Peer;
use crate::{
    limits::Share,
    server::{Greeting, Shared},
};

/// A peer that may be served, and its first stream.
pub(crate) struct Greeted {
    pub(super) peer: Peer,
    pub(super) share: Arc<Share>,
    pub(super) writer: FrameWriter,
    pub(super) reader: FrameReader,
}

/// Why a peer is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Certificate(#[from] PeerError),
    #[error(
        "{who} belongs to cluster {theirs:032x}, this is {ours:032x}: it has the same name but was bootstrapped separately"
    )]
    Cluster { who: String, theirs: u128, ours: u128 },
    #[error(
        "{who} looks for node {expected}, this is node {ours}; its address book is out of date"
    )]
    Node { who: String, expected: NodeId, ours: NodeId },
    #[error("{0} has enough connections (peer_connections)")]
    Enough(String),
    #[error("{0} claims to be a node, which its certificate does not say")]
    Claim(String),
    #[error("{who} claims to be node {node}, which is '{name}'")]
    Name { who: String, node: NodeId, name: String },
    #[error("first message is not Hello: {0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Stream(#[from] StreamError),
}

impl Refused {
    fn code(&self) -> Close {
        match self {
            Self::Certificate(PeerError::OtherCluster { .. }) | Self::Cluster { .. } => {
                Close::WrongCluster
            }
            Self::Certificate(_) | Self::Claim(_) | Self::Name { .. } => Close::Unauthorised,
            Self::Node { .. } => Close::WrongNode,
            Self::Enough(_) => Close::Overloaded,
            Self::Frame(_) | Self::Stream(_) => Close::Protocol,
        }
    }

    /// For the metric.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(_) | Self::Claim(_) | Self::Name { .. } => "certificate",
            Self::Cluster { .. } | Self::Node { .. } => "stranger",
            Self::Enough(_) => "peer_connections",
            Self::Frame(_) | Self::Stream(_) => "protocol",
        }
    }

    /// Tells the peer.
    pub(crate) fn close(&self, quic: &quinn::Connection) {
        quic.close(close_code(self.code()), self.to_string().as_bytes());
    }
}

/// Checks the peer and welcomes it.
pub(crate) async fn greet(
    quic: &quinn::Connection,
    shared: &Shared,
    addr: SocketAddr,
    session: u64,
) -> Result<Greeted, Refused> {
    let credentials = Arc::clone(&shared.credentials.borrow());
    let identity = credentials.verify_peer(&peer_chain(quic))?;
    let share = shared.limits.share(&identity);
    let share = share.ok_or_else(|| Refused::Enough(identity.to_string()))?;
    let (send, recv) = quic.accept_bi().await.map_err(StreamError::from)?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
    let first = reader.next().await?.ok_or(StreamError::Ended)?;
    let hello: Hello = first.message()?;
    let ours = shared.service.greeting();
    let minor = hello.minor.min(ours.minor);
    let peer = Peer { identity, node: hello.node, addr, minor, session };
    check(&hello, &ours, &peer)?;
    if peer.node != NodeId(0)
        && let Some(name) = shared.service.name_of(peer.node)
        && name != peer.identity.name()
    {
        let who = peer.identity.to_string();
        return Err(Refused::Name { who, node: peer.node, name });
    }
    let welcome = Welcome {
        minor: peer.minor,
        features: 0,
        cluster: ours.cluster,
        node: ours.node,
        meta_index: ours.meta_index,
        highest_version: ours.highest_version,
        max_frame: MAX_FRAME,
        credit: shared.config.granted_credit().into(),
    };
    writer.set_priority(Class::Control.priority());
    writer.write(&[Frame::new(first.id, &welcome, Bytes::new())?]).await?;
    shared.service.seen(&peer);
    Ok(Greeted { peer, share, writer, reader })
}

fn check(hello: &Hello, ours: &Greeting, peer: &Peer) -> Result<(), Refused> {
    let who = || peer.identity.to_string();
    let unknown = ClusterId(0);
    if hello.cluster != ours.cluster && hello.cluster != unknown && ours.cluster != unknown {
        return Err(Refused::Cluster { who: who(), theirs: hello.cluster.0, ours: ours.cluster.0 });
    }
    if hello.expect != NodeId(0) && hello.expect != ours.node {
        return Err(Refused::Node { who: who(), expected: hello.expect, ours: ours.node });
    }
    if hello.node != NodeId(0) && !peer.identity.is_node() {
        return Err(Refused::Claim(who()));
    }
    Ok(())
}

/// What a failed handshake means to an operator.
pub(crate) fn refusal(error: &ConnectionError) -> String {
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    match error {
        ConnectionError::TransportError(error) => match alert(error.code.into()) {
            Some(NO_APPLICATION_PROTOCOL) => "it speaks no protocol version of ours".into(),
            Some(48 | 51) => "certificate of another CA".into(),
            Some(alert) => format!("bad certificate: {}", alert_text(alert)),
            None => error.to_string(),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
            Some(alert) => format!("it does not accept our certificate: {}", alert_text(alert)),
            None => close.to_string(),
        },
        ConnectionError::TimedOut => "it went silent during the handshake".into(),
        other => other.to_string(),
    }
}
