//! Telling a follower what its shards store.
//!
//! Invariants: of each shard first where it begins, then every batch in order, the ones it was too
//! slow for counted in the next answer; what is on its way to one follower is bounded in bytes, since
//! whatever waits there is kept although the ring has let it go. Called by the service, one task per
//! follower.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use quorate_protocol::{
    batch::EncodedBatch,
    code::Code,
    grant::Access,
    id::{BatchId, Sequence, ShardId, Version},
    message::{Bodies, Failure, Follow, FollowShard, Followed, MAX_FOLLOWED},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Joined, Wake, ring::Entry};
use crate::{
    core::Core,
    directory::Snapshot,
    grants,
    session::{Gone, Peer, ReplySink},
};

/// Batches of one shard in a row, if others have some too.
const ROW: usize = 16;

const TOLD: &str = "quorate_feed_told_batches_total";
const SENT: &str = "quorate_feed_sent_bytes_total";
const MISSED: &str = "quorate_feed_missed_batches_total";

/// One shard of a follower.
struct Shard {
    wanted: FollowShard,
    /// None when nothing more comes of it.
    joined: Option<Joined>,
    cursor: u64,
    /// Left out and not yet told of.
    missed: u64,
}

/// A batch on its way, and its share of what may be.
struct Sending {
    batch: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.batch
    }
}

impl Core {
    /// What its shards store, as it is synced, until the follower is gone, its shards are, or this
    /// node stops.
    pub(crate) async fn follow(&self, peer: &Peer, request: Follow, mut reply: ReplySink) {
        let Some(_place) = self.feeds.enter() else {
            let mut busy = self.failure(Code::Busy, "too many follow shards of this node");
            busy.retry_after_ms = self.feeds.config.busy_retry_ms;
            return reply.fail(busy).await;
        };
        let stopping = reply.stopping();
        let ended = tokio::select! {
            biased;
            told = self.tell_followed(peer, request, &mut reply) => told,
            () = stopping => Ok(self.failure(Code::ShuttingDown, "follow another owner")),
        };
        if let Ok(failure) = ended {
            reply.fail(failure).await;
        }
    }

    async fn tell_followed(
        &self,
        peer: &Peer,
        request: Follow,
        reply: &mut ReplySink,
    ) -> Result<Failure, Gone> {
        let unique: HashSet<ShardId> = request.shards.iter().map(|it| it.shard).collect();
        if unique.len() != request.shards.len() || unique.is_empty() {
            return Ok(self.failure(Code::Malformed, "shards to follow: some, each once"));
        }
        if unique.len() > MAX_FOLLOWED {
            return Ok(self.failure(Code::LimitExceeded, "too many shards of one follower"));
        }
        let mut changes = self.directory.changes();
        let Ok(snapshot) = self.snapshot_for(request.meta_index).await else {
            return Ok(self.failure(Code::StaleMeta, ""));
        };
        let dirty = request.shards.iter().map(|_| true.into()).collect();
        let wake = Arc::new(Wake { dirty, ..Wake::default() });
        let mut shards = Vec::with_capacity(request.shards.len());
        for (index, wanted) in request.shards.into_iter().enumerate() {
            let joined = self
                .follows(&snapshot, peer, wanted.shard)
                .is_ok()
                .then(|| self.feeds.join(wanted.shard, wanted.after, &wake, index));
            if let Some(Joined { start, .. }) = &joined {
                let beginning =
                    Followed { sequence: start.sequence, gap: start.gap, ..of(wanted.shard) };
                reply.more(&beginning, Bytes::new()).await?;
            }
            let cursor = joined.as_ref().map_or(0, |joined| joined.start.cursor);
            shards.push(Shard { wanted, joined, cursor, missed: 0 });
        }
        drop(snapshot);
        let room = Arc::new(Semaphore::new(self.send_bytes() as usize));
        let mut over: HashSet<ShardId> = HashSet::new();
        loop {
            changes.mark_unchanged();
            let snapshot = self.directory.current();
            let mut last = None;
            for shard in &mut shards {
                let id = shard.wanted.shard;
                let Err(code) = self.follows(&snapshot, peer, id) else { continue };
                last = Some(code);
                if over.insert(id) {
                    shard.joined = None;
                    if code == Code::ShardGone {
                        self.feeds.remove(id);
                    }
                    reply.more(&Followed { ended: Some(code), ..of(id) }, Bytes::new()).await?;
                }
            }
            if let (Some(code), true) = (last, over.len() == shards.len()) {
                return Ok(self.failure(code, "nothing of this is here any more"));
            }
            drop(snapshot);
            // Until the map changes.
            while !changes.has_changed().unwrap_or(true) {
                for (shard, dirty) in shards.iter_mut().zip(&wake.dirty) {
                    if dirty.swap(false, Ordering::AcqRel) {
                        let more = self.tell_shard(shard, &room, reply).await?;
                        dirty.fetch_or(more, Ordering::AcqRel);
                    }
                }
                if wake.dirty.iter().any(|dirty| dirty.load(Ordering::Acquire)) {
                    continue;
                }
                tokio::select! {
                    () = wake.notify.notified() => {}
                    changed = changes.changed() => {
                        // Ends with the node.
                        changed.map_err(|_| Gone)?;
                        break;
                    }
                }
            }
        }
    }

    /// Tells some of what a shard has; whether there may be more.
    async fn tell_shard(
        &self,
        shard: &mut Shard,
        room: &Arc<Semaphore>,
        reply: &mut ReplySink,
    ) -> Result<bool, Gone> {
        for _ in 0..ROW {
            let Some(joined) = &shard.joined else { return Ok(false) };
            let durable = self.feeds.durable();
            let (missed, entry) = {
                let inner = joined.feed.lock();
                let (missed, entry) = inner.ring.next(&mut shard.cursor, durable);
                (missed, entry.cloned())
            };
            shard.missed += missed;
            metrics::counter!(MISSED).increment(missed);
            let Some(Entry { sequence, batch }) = entry else { return Ok(false) };
            let whole = match shard.wanted.bodies {
                Bodies::None => false,
                Bodies::All => true,
                Bodies::New => sequence > joined.start.last,
            };
            let missed = std::mem::take(&mut shard.missed);
            let told = Followed { missed, ..named(sequence, &batch) };
            let body = match whole {
                true => share(room, self.send_bytes(), batch.bytes().clone()).await?,
                false => Bytes::new(),
            };
            metrics::counter!(TOLD).increment(1);
            metrics::counter!(SENT).increment(body.len() as u64);
            reply.more(&told, body).await?;
        }
        Ok(true)
    }

    fn send_bytes(&self) -> u32 {
        // Some systems allow no more permits.
        self.feeds.config.send_bytes.clamp(1, 1 << 28)
    }

    /// Why a shard cannot be followed here.
    fn follows(&self, snapshot: &Snapshot, peer: &Peer, shard: ShardId) -> Result<(), Code> {
        let place = snapshot.shard(shard).ok_or(Code::ShardGone)?;
        // May be revoked while it is followed.
        if !grants::allows(&snapshot.map, &peer.identity, place.database, Access::READ) {
            return Err(Code::Unauthorised);
        }
        if place.owners.contains(&self.node) { Ok(()) } else { Err(Code::NotOwner) }
    }
}

/// The same bytes, which give their share of the room back when nothing holds them any more.
async fn share(room: &Arc<Semaphore>, all: u32, batch: Bytes) -> Result<Bytes, Gone> {
    // What is larger than all of it waits until it is alone.
    let wanted = u32::try_from(batch.len()).unwrap_or(u32::MAX).min(all);
    let share = Arc::clone(room).acquire_many_owned(wanted).await.map_err(|_| Gone)?;
    Ok(Bytes::from_owner(Sending { batch, _share: share }))
}

fn of(shard: ShardId) -> Followed {
    Followed {
        shard,
        sequence: Sequence(0),
        batch: BatchId(0),
        version: Version(0),
        checksum: 0,
        length: 0,
        missed: 0,
        gap: false,
        ended: None,
    }
}

fn named(sequence: Sequence, batch: &EncodedBatch) -> Followed {
    let part = batch.header().part;
    Followed {
        sequence,
        batch: part.batch,
        version: part.version,
        checksum: batch.checksum(),
        // No batch is as long as a frame.
        length: u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX),
        ..of(part.shard)
    }
}
