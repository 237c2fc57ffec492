//! News of the cluster map, for whoever asks once or goes on listening.
//!
//! Invariants: a watcher hears of every index in turn, or gets the whole map if it was away for too
//! long; it is never waited for, and nothing is queued for it but what it has not read of the last
//! news. Any node answers; called by the service.

use bytes::Bytes;
use quorate_protocol::{
    code::Code,
    frame::MAX_PAYLOAD,
    id::MetaIndex,
    message::{MetaChanged, MetaGet, MetaState, MetaWatch},
};

use crate::{
    core::Core,
    session::{Gone, Peer, ReplySink},
};

const WATCHERS: &str = "quorate_meta_watchers";
const SENT: &str = "quorate_meta_news_bytes_total";

impl Core {
    /// What is newer than the asker's map.
    pub(crate) fn meta_get(&self, peer: &Peer, request: MetaGet) -> (MetaState, Bytes) {
        let news = self.news(Some(peer), request.after);
        (MetaState { index: news.index }, news.joined())
    }

    /// What comes to the map, as it comes, until the watcher is gone or this node stops.
    pub(crate) async fn meta_watch(&self, peer: &Peer, request: MetaWatch, mut reply: ReplySink) {
        let _watching = Watching::new();
        let stopping = reply.stopping();
        tokio::select! {
            biased;
            // Its stream is gone, and so is this.
            Err(Gone) = self.tell(peer, request.after, &mut reply) => return,
            () = stopping => {}
        }
        reply.fail(self.failure(Code::ShuttingDown, "watch another node")).await;
    }

    async fn tell(
        &self,
        peer: &Peer,
        mut have: MetaIndex,
        reply: &mut ReplySink,
    ) -> Result<(), Gone> {
        let mut watch = self.meta.watch();
        loop {
            for (index, update) in self.news(Some(peer), have).updates {
                send(reply, index, update).await?;
                have = index;
            }
            // Ends with the node.
            let newer = watch.wait_for(|map| map.index > have);
            newer.await.map_err(|_| Gone)?;
        }
    }
}

/// Sends an update, in pieces if it is larger than a frame.
async fn send(reply: &mut ReplySink, index: MetaIndex, mut update: Bytes) -> Result<(), Gone> {
    metrics::counter!(SENT).increment(update.len() as u64);
    loop {
        let piece = update.split_to(update.len().min(MAX_PAYLOAD));
        // No map is as large as that.
        let left = u32::try_from(update.len()).unwrap_or(u32::MAX);
        reply.more(&MetaChanged { index, left }, piece).await?;
        if update.is_empty() {
            return Ok(());
        }
    }
}

/// Counts a watcher for as long as it lives.
struct Watching(metrics::Gauge);

impl Watching {
    fn new() -> Self {
        let gauge = metrics::gauge!(WATCHERS);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
