//! Answering scans: one shard's rows, as they come from the store.

use bytes::Bytes;
use quorate_protocol::message::{Failure, Rows, Scan};

use super::page::{Entry, Page, Reading};
use crate::{
    core::Core,
    session::ReplySink,
    shard::{self, ScanFilter, ScanItem, SeriesRows, ShardError, ShardStore},
};

impl Entry for SeriesRows {
    type Answer = Rows;

    fn key(&self) -> &Bytes {
        &self.key
    }

    fn put(&self, page: &mut Page) {
        page.piece(&self.key);
        page.encoded(|block| self.rows.encode(block));
    }

    fn cut(&mut self, most: usize) -> usize {
        let mut times = 0;
        let first = |row: &usize| *row == 0 || self.rows.times[*row] != self.rows.times[row - 1];
        let end = (0..self.rows.len()).find(|row| {
            times += usize::from(first(row));
            times > most
        });
        if let Some(end) = end {
            self.rows = self.rows.range(0..end);
        }
        times.min(most)
    }

    fn answer(entries: u32, complete: bool) -> Rows {
        Rows { entries, complete }
    }
}

impl Reading for shard::Scan {
    type Entry = SeriesRows;

    async fn next(self, store: &ShardStore) -> Result<(Self, Vec<ScanItem>), ShardError> {
        store.scan_page(self).await
    }
}

impl Core {
    /// Streams the answer to a scan.
    pub(crate) async fn scan(&self, request: Scan, reply: ReplySink) {
        let limit = (request.limit, request.rows);
        match self.begin_scan(request).await {
            Ok(scan) => self.stream(scan, limit, reply).await,
            Err(failure) => reply.fail(failure).await,
        }
    }

    async fn begin_scan(&self, request: Scan) -> Result<shard::Scan, Failure> {
        self.owned(request.shard, request.meta_index).await?;
        let filter = ScanFilter {
            measurement: request.measurement,
            tags: self.tag_filters(request.tags)?,
            fields: request.fields,
            from: request.from,
            to: request.to,
            after: request.after,
        };
        let scan = self.shards.scan_begin(request.shard, filter).await;
        scan.map_err(|error| self.shard_failure(&error))
    }
}
