//! What one node says of one shard on its disk: digests, and whether it is sound.
//!
//! For operators and repair: the node that is asked answers, and no other in its place. Called
//! through [`crate::Client`].

use std::time::Duration;

use bytes::{Buf, Bytes};
use quorate_protocol::{
    code::Code,
    id::{NodeId, ShardId, Version},
    message::{Digest, Digested, Request, ShardList, ShardState, Shards, Verified, Verify},
};
use tokio::time::Instant;

use crate::{
    connection::{Reply, RequestError},
    core::Core,
    error::Error,
};

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 64 << 20;
/// Bytes of a bucket in an answer.
const BUCKET_BYTES: usize = 32;

/// What to digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestRange {
    /// The first time, in ns.
    pub from: i64,
    /// The time behind the last, in ns.
    pub to: i64,
    /// Length of the buckets, in ns, aligned as shard groups are; 0 for a single one.
    pub bucket: u64,
    /// Values that win with a later version are left out: what is still on its way to some replica
    /// must not make them look different.
    pub up_to: Version,
}

impl Default for DigestRange {
    /// All of a shard as one bucket.
    fn default() -> Self {
        Self { from: i64::MIN, to: i64::MAX, bucket: 0, up_to: Version(u64::MAX) }
    }
}

/// The content of a bucket. Replicas that hold the same values give the same digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketDigest {
    /// The bucket's first time, in ns.
    pub start: i64,
    /// How many values there are.
    pub values: u64,
    /// Of all of them together.
    pub digest: u128,
}

pub(crate) async fn digest(
    core: &Core,
    shard: ShardId,
    node: NodeId,
    range: DigestRange,
    timeout: Duration,
) -> Result<Vec<BucketDigest>, Error> {
    let DigestRange { from, to, bucket, up_to } = range;
    let meta_index = core.topology.map().index;
    let request = Digest { shard, meta_index, from, to, bucket, up_to };
    let (Digested { buckets }, payload) = ask(core, node, &request, timeout).await?;
    split(payload, buckets as usize).ok_or_else(|| {
        Error::refused(Code::Malformed, format!("node {node} sent a digest that cannot be read"))
    })
}

fn split(mut payload: Bytes, count: usize) -> Option<Vec<BucketDigest>> {
    if payload.len() != count.checked_mul(BUCKET_BYTES)? {
        return None;
    }
    let mut buckets = Vec::with_capacity(count);
    while payload.has_remaining() {
        buckets.push(BucketDigest {
            start: payload.get_i64_le(),
            values: payload.get_u64_le(),
            digest: payload.get_u128_le(),
        });
    }
    Some(buckets)
}

pub(crate) async fn verify(
    core: &Core,
    shard: ShardId,
    node: NodeId,
    timeout: Duration,
) -> Result<Verified, Error> {
    let request = Verify { shard, meta_index: core.topology.map().index };
    ask(core, node, &request, timeout).await.map(|(verified, _)| verified)
}

pub(crate) async fn states(
    core: &Core,
    node: NodeId,
    timeout: Duration,
) -> Result<Vec<ShardState>, Error> {
    let (ShardList {}, payload) = ask(core, node, &Shards {}, timeout).await?;
    postcard::from_bytes(&payload).map_err(|error| {
        Error::refused(
            Code::Malformed,
            format!("node {node} sent a list that cannot be read: {error}"),
        )
    })
}

/// Asks exactly this node, on a stream of its own. Hints are asked about by this too.
pub(crate) async fn ask<R: Request>(
    core: &Core,
    node: NodeId,
    request: &R,
    timeout: Duration,
) -> Result<Reply<R>, Error> {
    let deadline = Instant::now() + timeout;
    let down = |reason: String| Error::Unreachable { seeds: format!("node {node}"), reason };
    let connection = core.settled_connection(node, deadline).await;
    let connection = connection.ok_or_else(|| down("down".to_owned()))?;
    let reply = connection.exchange(request, Bytes::new(), deadline, MAX_ANSWER).await;
    reply.map_err(|error| match error {
        RequestError::Failure(failure) => {
            Error::refused(failure.code, format!("node {node}: {}", failure.detail))
        }
        other => down(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_is_cut_off_is_no_digest() {
        let mut bytes = vec![0; 64];
        bytes[0] = 7;
        bytes[8] = 3;
        bytes[16] = 9;
        let found = split(Bytes::from(bytes.clone()), 2).unwrap();
        assert_eq!(found[0], BucketDigest { start: 7, values: 3, digest: 9 });
        for count in [0, 1, 3, usize::MAX] {
            assert_eq!(split(Bytes::from(bytes.clone()), count), None);
        }
    }
}
