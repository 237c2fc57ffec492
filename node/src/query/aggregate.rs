//! Answering aggregates: partials of the windows of a shard, made where its blocks are.
//!
//! Invariant: memory is bounded by one page of the store; a page ends between two series, so that
//! the next one can go on behind a key.

use quorate_protocol::{
    aggregate::{FieldWindows, Windows},
    message::{Aggregate, Aggregated, Failure},
};

use super::{FRAME_BYTES, Page};
use crate::{
    core::Core,
    session::ReplySink,
    shard::{AggregateFilter, Aggregation, ScanFilter},
};

impl Page {
    fn push_windows(&mut self, windows: &FieldWindows) {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        windows.encode(&mut bytes);
        self.piece(&bytes);
        self.scratch = bytes;
        self.entries += 1;
    }

    fn aggregated(&mut self, complete: bool) -> (Aggregated, bytes::Bytes) {
        let (entries, payload) = self.take();
        (Aggregated { entries, complete }, payload)
    }
}

impl Core {
    /// Streams the answer to an aggregate.
    pub(crate) async fn aggregate(&self, request: Aggregate, mut reply: ReplySink) {
        let mut page = Page::new(request.limit);
        let mut aggregation = match self.begin_aggregate(request).await {
            Ok(aggregation) => aggregation,
            Err(failure) => return reply.fail(failure).await,
        };
        loop {
            let (rest, items) = match self.shards.aggregate_page(aggregation).await {
                Ok(next) => next,
                Err(error) => return reply.fail(self.shard_failure(&error)).await,
            };
            aggregation = rest;
            if items.is_empty() {
                let (last, payload) = page.aggregated(true);
                return reply.send(&last, payload).await;
            }
            for item in items {
                let windows = match item {
                    Ok(windows) => windows,
                    Err(error) => return reply.fail(self.scan_failure(&error)).await,
                };
                if !page.enters(&windows.key) {
                    let (last, payload) = page.aggregated(false);
                    return reply.send(&last, payload).await;
                }
                page.push_windows(&windows);
                if page.payload.len() >= FRAME_BYTES {
                    let (some, payload) = page.aggregated(false);
                    if reply.more(&some, payload).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn begin_aggregate(&self, request: Aggregate) -> Result<Aggregation, Failure> {
        self.owned(request.shard, request.meta_index).await?;
        let scan = ScanFilter {
            measurement: request.measurement,
            tags: self.tag_filters(request.tags)?,
            fields: request.fields,
            from: request.from,
            to: request.to,
            after: request.after,
        };
        let filter = AggregateFilter { scan, windows: Windows::new(request.every) };
        let aggregation = self.shards.aggregate_begin(request.shard, filter).await;
        aggregation.map_err(|error| self.shard_failure(&error))
    }
}
