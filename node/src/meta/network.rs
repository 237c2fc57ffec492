//! Raft's messages to peers, over whatever carries bytes.
//!
//! Invariant: this is the client half; one call is one request and one answer, both postcard, and a
//! call never outlives the library's time to live. A peer that cannot be reached at all is
//! `Unreachable` (the library backs off), anything else `Network` (it tries again soon). The node
//! implements [`RaftTransport`] over its connections; [`super::serve`] is the other half.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    BasicNode, OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot,
    error::{
        Fatal, NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError,
        Unreachable,
    },
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use quorate_protocol::{id::NodeId, map::ClusterMap};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::command::{SnapshotMeta, Types, Vote};

/// A member and where to dial it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// `HOST:PORT`.
    pub addr: String,
}

/// Which of Raft's messages; ops `0x0040` to `0x0042` of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftOp {
    /// Log entries or a heartbeat; small, often, and late is useless.
    Append,
    /// A candidate's question.
    Vote,
    /// A whole snapshot; may be large.
    Snapshot,
}

/// Why a message brought no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// There is no connection and none could be made.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The connection failed, the peer answered with a failure, or the time was up.
    #[error("{0}")]
    Network(String),
}

/// The answer to come of [`RaftTransport::call`].
pub type TransportFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send + 'a>>;

/// Carries Raft's messages. Dropping the future gives up on the call.
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends `payload` to `peer`, whose node hands it to [`super::Meta::serve`], and returns the
    /// answer's payload. It should give up after `ttl`, a dial included.
    fn call(&self, op: RaftOp, peer: Peer, payload: Bytes, ttl: Duration) -> TransportFuture<'_>;
}

/// A snapshot on the wire.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotMessage {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) data: Bytes,
}

/// Makes the library's connections to peers.
pub(super) struct Network {
    transport: Arc<dyn RaftTransport>,
    map: watch::Receiver<Arc<ClusterMap>>,
}

impl Network {
    pub(super) fn new(
        transport: Arc<dyn RaftTransport>,
        map: watch::Receiver<Arc<ClusterMap>>,
    ) -> Self {
        Self { transport, map }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        Connection {
            transport: Arc::clone(&self.transport),
            map: self.map.clone(),
            target: NodeId(target),
            known_addr: node.addr.clone(),
        }
    }
}

/// The library's way to one peer.
pub(super) struct Connection {
    transport: Arc<dyn RaftTransport>,
    map: watch::Receiver<Arc<ClusterMap>>,
    target: NodeId,
    /// Its address when it became a member; the map knows better once it has the node.
    known_addr: String,
}

type RpcError = RPCError<u64, BasicNode, RaftError<u64>>;

impl Connection {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        op: RaftOp,
        request: &Q,
        ttl: Duration,
    ) -> Result<A, CallError> {
        let payload = postcard::to_allocvec(request).map_err(CallError::Codec)?;
        let peer = Peer {
            id: self.target,
            addr: match self.map.borrow().node(self.target) {
                Some(node) => node.addr.clone(),
                None => self.known_addr.clone(),
            },
        };
        let call = self.transport.call(op, peer, payload.into(), ttl);
        let answer = tokio::time::timeout(ttl, call)
            .await
            .map_err(|_| CallError::TimedOut)?
            .map_err(CallError::Transport)?;
        postcard::from_bytes(&answer).map_err(CallError::Codec)
    }

    fn remote<T, E: std::error::Error>(
        &self,
        answer: Result<T, E>,
    ) -> Result<T, RemoteError<u64, BasicNode, E>> {
        answer.map_err(|error| RemoteError::new(self.target.0, error))
    }
}

/// Why a call brought no answer of the peer's Raft.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Transport(TransportError),
    #[error("no answer in time")]
    TimedOut,
    #[error("malformed: {0}")]
    Codec(postcard::Error),
}

impl From<CallError> for RpcError {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::Transport(TransportError::Unreachable(_)) => {
                Self::Unreachable(Unreachable::new(&error))
            }
            _ => Self::Network(NetworkError::new(&error)),
        }
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let answer = self.call(RaftOp::Append, &rpc, option.hard_ttl()).await?;
        Ok(self.remote(answer)?)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        let answer = self.call(RaftOp::Vote, &rpc, option.hard_ttl()).await?;
        Ok(self.remote(answer)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let message =
            SnapshotMessage { vote, meta: snapshot.meta, data: Bytes::from(*snapshot.snapshot) };
        let call = self.call(RaftOp::Snapshot, &message, option.hard_ttl());
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            answer = call => answer,
        };
        let answer = answer.map_err(|error| match &error {
            CallError::Transport(TransportError::Unreachable(_)) => {
                StreamingError::Unreachable(Unreachable::new(&error))
            }
            _ => StreamingError::Network(NetworkError::new(&error)),
        })?;
        Ok(self.remote(answer)?)
    }

    /// 200 ms doubling to 2 s: an unreachable peer costs little, a restarted one is found soon.
    fn backoff(&self) -> Backoff {
        let steps = (0..4).map(|step| Duration::from_millis(200 << step));
        Backoff::new(steps.chain(std::iter::repeat(Duration::from_secs(2))))
    }
}
