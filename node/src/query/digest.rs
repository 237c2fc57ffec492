//! Answering digests: what a replica holds of a shard, bucket by bucket.
//!
//! Invariant: an answer covers everything that was asked for, or is a failure: a digest over what a
//! damaged block has left would make replicas look different that are to be repaired otherwise.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_protocol::{
    aggregate::Windows,
    message::{Digest, Digested, Failure},
};

use crate::{
    core::Core,
    session::ReplySink,
    shard::{BucketDigest, DigestFilter},
};

impl Core {
    /// Sends the digests of all buckets.
    pub(crate) async fn digest(&self, request: Digest, reply: ReplySink) {
        match self.digest_all(request).await {
            Ok(buckets) => {
                // Bounded by the store's limit on buckets.
                let count = u32::try_from(buckets.len()).unwrap_or(u32::MAX);
                reply.send(&Digested { buckets: count }, encode(&buckets)).await;
            }
            Err(failure) => reply.fail(failure).await,
        }
    }

    async fn digest_all(&self, request: Digest) -> Result<Vec<BucketDigest>, Failure> {
        self.owned(request.shard, request.meta_index).await?;
        let filter = DigestFilter {
            from: request.from,
            to: request.to,
            buckets: Windows::new(request.bucket),
            up_to: request.up_to,
        };
        let digesting = self.shards.digest_begin(request.shard, filter).await;
        let mut digesting = digesting.map_err(|error| self.shard_failure(&error))?;
        loop {
            let page = self.shards.digest_page(digesting).await;
            let (rest, done) = page.map_err(|error| self.scan_failure(&error))?;
            match done {
                Some(buckets) => return Ok(buckets),
                None => digesting = rest,
            }
        }
    }
}

fn encode(buckets: &[BucketDigest]) -> Bytes {
    let mut out = BytesMut::with_capacity(buckets.len() * 32);
    for bucket in buckets {
        out.put_i64_le(bucket.start);
        out.put_u64_le(bucket.cells);
        out.put_u128_le(bucket.digest);
    }
    out.freeze()
}
