//! Answers in pages: entries of a reading, as they come from the store, in frames of some size.
//!
//! Invariants: memory is bounded by one page of the store, and the stream's window holds the reading
//! back when the asker is slow; a page ends between two series, never within one, so that the next
//! can go on behind a key, unless the asker wants no more rows than it has. Scans and aggregates are answered by this.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_protocol::frame::Message;

use crate::{
    core::Core,
    session::ReplySink,
    shard::{ScanError, ShardError, ShardStore},
};

/// Payload bytes after which a frame is sent.
const FRAME_BYTES: usize = 256 << 10;

/// Something of one series, on its way into a page.
pub(super) trait Entry {
    /// Says how many of them are in a frame.
    type Answer: Message;

    /// The key of its series.
    fn key(&self) -> &Bytes;

    /// Appends its pieces.
    fn put(&self, page: &mut Page);

    /// Its rows, of which those of one time count once; cut off behind the first so many, where rows can be.
    fn cut(&mut self, most: usize) -> usize;

    /// `complete`: nothing is left.
    fn answer(entries: u32, complete: bool) -> Self::Answer;
}

/// Some entries, and the reading that goes on behind them.
type Next<R> = Result<(R, Vec<Result<<R as Reading>::Entry, ScanError>>), ShardError>;

/// What the store reads page by page.
pub(super) trait Reading: Sized {
    type Entry: Entry;

    /// The next entries; none at the end.
    fn next(self, store: &ShardStore) -> impl Future<Output = Next<Self>> + Send;
}

/// Entries on their way into frames, and how much of the page that was asked for is left.
pub(super) struct Page {
    entries: u32,
    payload: BytesMut,
    scratch: Vec<u8>,
    left: usize,
    /// Rows that are still wanted.
    rows: usize,
    last: Bytes,
}

impl Page {
    /// A page of about `limit` payload bytes and `rows` rows at most; 0 for no end.
    fn new(limit: u32, rows: u32) -> Self {
        let most = |limit: u32| if limit == 0 { usize::MAX } else { limit as usize };
        Self {
            entries: 0,
            payload: BytesMut::new(),
            scratch: Vec::new(),
            left: most(limit),
            rows: most(rows),
            last: Bytes::new(),
        }
    }

    /// Whether an entry of this series belongs to the page.
    fn enters(&mut self, key: &Bytes) -> bool {
        if self.last == *key {
            return true;
        }
        let enters = self.left > 0;
        if enters {
            self.last = key.clone();
        }
        enters
    }

    /// Appends a piece behind its length.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        // Keys, blocks and windows are far below 4 GiB: a key is limited, the others are cut.
        self.payload.put_u32_le(piece.len() as u32);
        self.payload.put_slice(piece);
        self.left = self.left.saturating_sub(4 + piece.len());
    }

    /// Appends a piece that is still to be encoded.
    pub(super) fn encoded(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        encode(&mut bytes);
        self.piece(&bytes);
        self.scratch = bytes;
    }

    fn frame<E: Entry>(&mut self, complete: bool) -> (E::Answer, Bytes) {
        let entries = std::mem::take(&mut self.entries);
        (E::answer(entries, complete), self.payload.split().freeze())
    }
}

impl Core {
    /// Streams one page of a reading, which ends behind so many rows.
    pub(super) async fn stream<R: Reading>(
        &self,
        mut reading: R,
        (limit, rows): (u32, u32),
        mut reply: ReplySink,
    ) {
        let mut page = Page::new(limit, rows);
        loop {
            if page.rows == 0 {
                let (last, payload) = page.frame::<R::Entry>(false);
                return reply.send(&last, payload).await;
            }
            let (rest, entries) = match reading.next(&self.shards).await {
                Ok(next) => next,
                Err(error) => return reply.fail(self.shard_failure(&error)).await,
            };
            reading = rest;
            if entries.is_empty() {
                let (last, payload) = page.frame::<R::Entry>(true);
                return reply.send(&last, payload).await;
            }
            for entry in entries {
                let mut entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => return reply.fail(self.scan_failure(&error)).await,
                };
                if page.rows == 0 || !page.enters(entry.key()) {
                    let (last, payload) = page.frame::<R::Entry>(false);
                    return reply.send(&last, payload).await;
                }
                page.rows -= entry.cut(page.rows);
                entry.put(&mut page);
                page.entries += 1;
                if page.payload.len() >= FRAME_BYTES {
                    let (some, payload) = page.frame::<R::Entry>(false);
                    if reply.more(&some, payload).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
