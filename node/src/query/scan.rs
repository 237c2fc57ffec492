//! Answering scans: one shard's rows, as they come from the store, in frames of some size.
//!
//! Invariant: memory is bounded by one page of the store; the stream's window holds the scan back
//! when the reader is slow. A page ends between two series, never within one.

use quorate_protocol::message::{Failure, Rows, Scan};

use super::{FRAME_BYTES, Page};
use crate::{
    core::Core,
    session::ReplySink,
    shard::{self, ScanFilter, SeriesRows},
};

impl Page {
    fn push_rows(&mut self, series: &SeriesRows) {
        let mut block = std::mem::take(&mut self.scratch);
        block.clear();
        series.rows.encode(&mut block);
        self.piece(&series.key);
        self.piece(&block);
        self.scratch = block;
        self.entries += 1;
    }

    fn rows(&mut self, complete: bool) -> (Rows, bytes::Bytes) {
        let (entries, payload) = self.take();
        (Rows { entries, complete }, payload)
    }
}

impl Core {
    /// Streams the answer to a scan.
    pub(crate) async fn scan(&self, request: Scan, mut reply: ReplySink) {
        let mut page = Page::new(request.limit);
        let mut scan = match self.begin_scan(request).await {
            Ok(scan) => scan,
            Err(failure) => return reply.fail(failure).await,
        };
        loop {
            let (rest, items) = match self.shards.scan_page(scan).await {
                Ok(next) => next,
                Err(error) => return reply.fail(self.shard_failure(&error)).await,
            };
            scan = rest;
            if items.is_empty() {
                let (rows, payload) = page.rows(true);
                return reply.send(&rows, payload).await;
            }
            for item in items {
                let series = match item {
                    Ok(series) => series,
                    Err(error) => return reply.fail(self.scan_failure(&error)).await,
                };
                if !page.enters(&series.key) {
                    let (rows, payload) = page.rows(false);
                    return reply.send(&rows, payload).await;
                }
                page.push_rows(&series);
                if page.payload.len() >= FRAME_BYTES {
                    let (rows, payload) = page.rows(false);
                    if reply.more(&rows, payload).await.is_err() {
                        return;
                    }
                }
            }
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
