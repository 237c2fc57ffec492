//! Answering scans: one shard's rows, as they come from the store, in frames of some size.
//!
//! Invariant: an answer that ends without a failure is whole. Memory is bounded by one page of the
//! store; the stream's window holds the scan back when the reader is slow.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_protocol::{
    code::Code,
    message::{Failure, Rows, Scan, TagMatch},
};
use regex::bytes::Regex;

use crate::{
    core::Core,
    session::ReplySink,
    shard::{ScanError, ScanFilter, SeriesRows, ShardError, TagFilter, TagTest},
};

/// Payload bytes after which a frame is sent.
const FRAME_BYTES: usize = 256 << 10;

/// Entries on their way into a frame.
#[derive(Default)]
struct Page {
    entries: u32,
    payload: BytesMut,
    block: Vec<u8>,
}

impl Page {
    fn push(&mut self, series: &SeriesRows) {
        self.block.clear();
        series.rows.encode(&mut self.block);
        for piece in [&series.key[..], &self.block] {
            // Keys and blocks are far below 4 GiB: a key is limited, a block is cut by rows.
            self.payload.put_u32_le(piece.len() as u32);
            self.payload.put_slice(piece);
        }
        self.entries += 1;
    }

    fn take(&mut self, complete: bool) -> (Rows, Bytes) {
        let entries = std::mem::take(&mut self.entries);
        (Rows { entries, complete }, self.payload.split().freeze())
    }
}

impl Core {
    /// Streams the answer to a scan.
    pub(crate) async fn scan(&self, request: Scan, mut reply: ReplySink) {
        let mut page = Page::default();
        let mut left = match request.limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let mut last = Bytes::new();
        let mut scan = match self.begin(request).await {
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
                let (rows, payload) = page.take(true);
                return reply.send(&rows, payload).await;
            }
            for item in items {
                match item {
                    // A page ends between two series, never within one.
                    Ok(series) if left == 0 && series.key != last => {
                        let (rows, payload) = page.take(false);
                        return reply.send(&rows, payload).await;
                    }
                    Ok(series) => {
                        let before = page.payload.len();
                        page.push(&series);
                        left = left.saturating_sub(page.payload.len() - before);
                        last = series.key;
                    }
                    Err(ScanError::Shard(error)) => {
                        return reply.fail(self.shard_failure(&error)).await;
                    }
                    // Another owner has what is damaged here.
                    Err(damaged) => {
                        let failure = self.failure(Code::Io, damaged.to_string());
                        return reply.fail(failure).await;
                    }
                }
                if page.payload.len() >= FRAME_BYTES {
                    let (rows, payload) = page.take(false);
                    if reply.more(&rows, payload).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn begin(&self, request: Scan) -> Result<crate::shard::Scan, Failure> {
        let snapshot = self.snapshot_for(request.meta_index).await;
        let snapshot = snapshot.map_err(|code| self.failure(code, ""))?;
        let Some(place) = snapshot.shard(request.shard) else {
            return Err(self.failure(Code::ShardGone, format!("shard {}", request.shard)));
        };
        if !place.owners.contains(&self.node) {
            return Err(self.failure(Code::NotOwner, format!("shard {}", request.shard)));
        }
        let tags = request.tags.into_iter().map(tag_filter).collect::<Result<_, _>>();
        let filter = ScanFilter {
            measurement: request.measurement,
            tags: tags
                .map_err(|error: regex::Error| self.failure(Code::Invalid, error.to_string()))?,
            fields: request.fields,
            from: request.from,
            to: request.to,
            after: request.after,
        };
        let scan = self.shards.scan_begin(request.shard, filter).await;
        scan.map_err(|error| self.shard_failure(&error))
    }

    fn shard_failure(&self, error: &ShardError) -> Failure {
        let code = match error {
            ShardError::Gone(_) => Code::ShardGone,
            ShardError::Closed => Code::ShuttingDown,
            _ => Code::Io,
        };
        self.failure(code, error.to_string())
    }
}

fn tag_filter(wanted: TagMatch) -> Result<TagFilter, regex::Error> {
    let test = match wanted.pattern {
        Some(pattern) => TagTest::Matches(Regex::new(&pattern)?),
        None => TagTest::In(wanted.values),
    };
    Ok(TagFilter { key: wanted.key, test })
}
