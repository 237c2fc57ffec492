//! Answering aggregates: partials of the windows of a shard, made where its blocks are.

use bytes::Bytes;
use quorate_protocol::{
    aggregate::{FieldWindows, Windows},
    message::{Aggregate, Aggregated, Failure},
};

use super::page::{Entry, Page, Reading};
use crate::{
    core::Core,
    session::ReplySink,
    shard::{AggregateFilter, AggregateItem, Aggregation, ScanFilter, ShardError, ShardStore},
};

impl Entry for FieldWindows {
    type Answer = Aggregated;

    fn key(&self) -> &Bytes {
        &self.key
    }

    fn put(&self, page: &mut Page) {
        page.encoded(|bytes| self.encode(bytes));
    }

    fn cut(&mut self, _: usize) -> usize {
        0
    }

    fn answer(entries: u32, complete: bool) -> Aggregated {
        Aggregated { entries, complete }
    }
}

impl Reading for Aggregation {
    type Entry = FieldWindows;

    async fn next(self, store: &ShardStore) -> Result<(Self, Vec<AggregateItem>), ShardError> {
        store.aggregate_page(self).await
    }
}

impl Core {
    /// Streams the answer to an aggregate.
    pub(crate) async fn aggregate(&self, request: Aggregate, reply: ReplySink) {
        let limit = (request.limit, 0);
        match self.begin_aggregate(request).await {
            Ok(aggregation) => self.stream(aggregation, limit, reply).await,
            Err(failure) => reply.fail(failure).await,
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
