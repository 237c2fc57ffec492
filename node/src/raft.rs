//! Raft's messages over this node's own connections to its peers.
//!
//! Control lanes carry appends and votes ahead of all data; a snapshot gets a stream of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_client::{connection::RequestError, pool::Pool};
use quorate_protocol::message::{RaftAppend, RaftSnapshot, RaftVote};
use tokio::time::Instant;

use crate::meta::{Peer, RaftOp, RaftTransport, TransportError, TransportFuture};

/// Largest answer to a snapshot, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The way to all members.
pub(crate) struct Lanes {
    pool: Arc<Pool>,
}

impl Lanes {
    pub(crate) fn new(pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { pool })
    }
}

impl RaftTransport for Lanes {
    fn call(&self, op: RaftOp, peer: Peer, payload: Bytes, ttl: Duration) -> TransportFuture<'_> {
        Box::pin(async move {
            let handle = self.pool.peer(peer.id);
            let connection = handle.and_then(|handle| handle.connection()).ok_or_else(|| {
                TransportError::Unreachable(format!("node {} at {} is down", peer.id, peer.addr))
            })?;
            let deadline = Instant::now() + ttl;
            let answer = match op {
                RaftOp::Append => {
                    connection.request(&RaftAppend {}, payload, deadline).await.map(|(_, b)| b)
                }
                RaftOp::Vote => {
                    connection.request(&RaftVote {}, payload, deadline).await.map(|(_, b)| b)
                }
                RaftOp::Snapshot => connection
                    .exchange(&RaftSnapshot {}, payload, deadline, MAX_ANSWER)
                    .await
                    .map(|(_, b)| b),
            };
            answer.map_err(|error| match error {
                RequestError::NotSent(reason) => TransportError::Unreachable(reason.to_string()),
                other => TransportError::Network(other.to_string()),
            })
        })
    }
}
