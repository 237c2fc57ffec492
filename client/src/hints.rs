//! What one node keeps for others: its hints, its repair marks, whether they are sound; and what an
//! operator has done about them.
//!
//! Invariants: a list comes as the node sends it, in flat memory: one frame and one hint at a time; a
//! length that is claimed takes no memory before its bytes are there. Called through
//! [`crate::Client`]; the node that is asked answers for itself.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quorate_protocol::{
    code::Code,
    id::NodeId,
    message::{
        HintInfo, Hints, HintsDo, HintsDone, HintsVerified, HintsVerify, MarkInfo, MarkList, Marks,
        QueueVerified,
    },
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    connection::{ReplyStream, RequestError},
    core::Core,
    error::Error,
    shard::ask,
};

/// The largest piece of a list, in bytes: what the files can hold.
const MAX_ENTRY: usize = 1 << 30;

/// Hints of one node, as they come.
#[derive(Debug)]
pub struct HintStream {
    node: NodeId,
    reply: ReplyStream<Hints>,
    buffer: BytesMut,
    done: bool,
}

/// Why there is no entry at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// More has to come first.
    Rest,
    /// What stands there is none.
    Sense,
}

impl HintStream {
    /// The next hint, and its batch if that was asked for and can be read; none after the last.
    ///
    /// # Errors
    /// The node's refusal, or the loss of the connection to it. Nothing follows.
    pub async fn next(&mut self) -> Option<Result<(HintInfo, Bytes), Error>> {
        while !self.done {
            match take(&mut self.buffer) {
                Ok(entry) => return Some(Ok(entry)),
                Err(Missing::Sense) => return Some(Err(self.unreadable())),
                Err(Missing::Rest) => {}
            }
            match self.reply.next().await {
                Ok(Some((_, payload))) => self.buffer.extend_from_slice(&payload),
                Ok(None) if self.buffer.is_empty() => self.done = true,
                Ok(None) => return Some(Err(self.unreadable())),
                Err(error) => {
                    self.done = true;
                    return Some(Err(failed(self.node, error)));
                }
            }
        }
        None
    }

    fn unreadable(&mut self) -> Error {
        self.done = true;
        let detail = format!("node {} sent a list that cannot be read", self.node);
        Error::refused(Code::Malformed, detail)
    }
}

/// Takes an entry off the front, if all of it is there.
fn take(buffer: &mut BytesMut) -> Result<(HintInfo, Bytes), Missing> {
    let (info, rest) = piece(buffer)?;
    let (batch, _) = piece(rest)?;
    let decoded = postcard::from_bytes(info).map_err(|_| Missing::Sense)?;
    let (info, batch) = (info.len(), batch.len());
    buffer.advance(4 + info + 4);
    Ok((decoded, buffer.split_to(batch).freeze()))
}

/// A piece behind its length, and what follows.
fn piece(bytes: &[u8]) -> Result<(&[u8], &[u8]), Missing> {
    let (length, rest) = bytes.split_first_chunk().ok_or(Missing::Rest)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_ENTRY {
        return Err(Missing::Sense);
    }
    rest.split_at_checked(length).ok_or(Missing::Rest)
}

pub(crate) async fn list(
    core: &Core,
    node: NodeId,
    request: Hints,
    timeout: Duration,
) -> Result<HintStream, Error> {
    let deadline = Instant::now() + timeout;
    let connection = core.settled_connection(node, deadline).await;
    let connection = connection.ok_or_else(|| down(node, "down"))?;
    let reply = connection.open_stream(&request, Bytes::new(), deadline).await;
    let reply = reply.map_err(|error| failed(node, error))?;
    Ok(HintStream { node, reply, buffer: BytesMut::new(), done: false })
}

pub(crate) async fn act(
    core: &Core,
    node: NodeId,
    request: HintsDo,
    timeout: Duration,
) -> Result<HintsDone, Error> {
    ask(core, node, &request, timeout).await.map(|(done, _)| done)
}

pub(crate) async fn marks(
    core: &Core,
    node: NodeId,
    timeout: Duration,
) -> Result<Vec<MarkInfo>, Error> {
    let (MarkList {}, payload) = ask(core, node, &Marks {}, timeout).await?;
    decode(node, &payload)
}

pub(crate) async fn verify(
    core: &Core,
    node: NodeId,
    timeout: Duration,
) -> Result<Vec<QueueVerified>, Error> {
    let (HintsVerified {}, payload) = ask(core, node, &HintsVerify {}, timeout).await?;
    decode(node, &payload)
}

fn decode<T: DeserializeOwned>(node: NodeId, payload: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(payload).map_err(|error| {
        let detail = format!("node {node} sent a list that cannot be read: {error}");
        Error::refused(Code::Malformed, detail)
    })
}

fn failed(node: NodeId, error: RequestError) -> Error {
    match error {
        RequestError::Failure(failure) => {
            Error::refused(failure.code, format!("node {node}: {}", failure.detail))
        }
        other => down(node, &other.to_string()),
    }
}

fn down(node: NodeId, reason: &str) -> Error {
    Error::Unreachable { seeds: format!("node {node}"), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::id::{Sequence, ShardId};

    use super::*;

    fn entry(sequence: u64, batch: &[u8]) -> (HintInfo, Vec<u8>) {
        let info = HintInfo {
            sequence: Sequence(sequence),
            count: 1,
            shard: ShardId(7),
            appended_at: 5,
            any: false,
            reason: 0,
            bytes: batch.len() as u64,
            batch: None,
        };
        let head = postcard::to_stdvec(&info).unwrap();
        let mut bytes = Vec::new();
        for part in [&head[..], batch] {
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        (info, bytes)
    }

    #[test]
    fn entries_come_whole_however_their_bytes_are_cut() {
        let entries = [entry(1, b"one"), entry(2, b""), entry(300, &[9; 500])];
        let whole: Vec<u8> = entries.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        for step in [1, 2, 7, 100, whole.len()] {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for chunk in whole.chunks(step) {
                buffer.extend_from_slice(chunk);
                while let Ok((info, batch)) = take(&mut buffer) {
                    found.push((info, batch.len()));
                }
            }
            let expected: Vec<_> =
                entries.iter().map(|(info, _)| (info.clone(), info.bytes as usize)).collect();
            assert_eq!(found, expected, "{step}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn an_absurd_length_or_no_entry_at_all_is_refused() {
        let (_, mut bytes) = entry(1, b"one");
        let behind = bytes.len() - 3 - 4;
        bytes[behind..behind + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(take(&mut BytesMut::from(&bytes[..])), Err(Missing::Sense));
        let mut nothing = BytesMut::from(&[1, 0, 0, 0, 0xff, 0, 0, 0, 0][..]);
        assert_eq!(take(&mut nothing), Err(Missing::Sense));
        let mut head = BytesMut::from(&[0xff; 8][..]);
        assert_eq!(take(&mut head), Err(Missing::Sense));
    }
}
