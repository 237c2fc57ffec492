//! Raft's messages from peers: the server half of [`super::network`].
//!
//! Invariant: a payload that cannot be read, a damaged snapshot included, is refused here, before
//! Raft sees it: its state machine would take the damage for its own disk's and stop.

use bytes::Bytes;
use openraft::{Snapshot, raft::AppendEntriesResponse};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    MetaError,
    command::Raft,
    election::Heard,
    machine::decode_snapshot,
    network::{RaftOp, SnapshotMessage},
};

/// Hands a peer's message to Raft and returns the payload of the answer.
pub(super) async fn serve(
    raft: &Raft,
    heard: &Heard,
    op: RaftOp,
    payload: &[u8],
) -> Result<Bytes, MetaError> {
    match op {
        RaftOp::Append => {
            let answer = raft.append_entries(decode("append", payload)?).await;
            if !matches!(answer, Err(_) | Ok(AppendEntriesResponse::HigherVote(_))) {
                heard.note();
            }
            encode(&answer)
        }
        RaftOp::Vote => encode(&raft.vote(decode("vote", payload)?).await),
        RaftOp::Snapshot => {
            let message: SnapshotMessage = decode("snapshot", payload)?;
            if decode_snapshot(&message.data).is_err() {
                return Err(MetaError::Malformed { what: "snapshot content" });
            }
            let snapshot =
                Snapshot { meta: message.meta, snapshot: Box::new(Vec::from(message.data)) };
            // A large one takes a while to install, and its sender is no less alive for that.
            heard.note();
            let answer = raft.install_full_snapshot(message.vote, snapshot).await;
            heard.note();
            encode(&answer)
        }
    }
}

fn decode<T: DeserializeOwned>(what: &'static str, payload: &[u8]) -> Result<T, MetaError> {
    postcard::from_bytes(payload).map_err(|_| MetaError::Malformed { what })
}

fn encode<T: Serialize>(answer: &T) -> Result<Bytes, MetaError> {
    match postcard::to_allocvec(answer) {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => Err(MetaError::Malformed { what: "answer" }),
    }
}
