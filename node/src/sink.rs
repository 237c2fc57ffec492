//! From the journal into the shard store: what is durable becomes visible.
//!
//! Invariant: the store sees records in order of sequence, at recovery and while running, each
//! before its writer is answered; then followers see them, once they are synced.

use std::sync::Arc;

use quorate_protocol::{
    batch::EncodedBatch,
    id::{Sequence, Version},
};

use crate::{
    feed::Feeds,
    journal::{Committed, Sink},
    shard::ShardStore,
};

pub(crate) struct ShardSink {
    shards: ShardStore,
    feeds: Arc<Feeds>,
}

impl ShardSink {
    pub(crate) const fn new(shards: ShardStore, feeds: Arc<Feeds>) -> Self {
        Self { shards, feeds }
    }

    /// Takes one record, whose own checksum holds; the version of its batch, if it is one.
    pub(crate) fn take(&self, record: &Committed) -> Option<Version> {
        // The batch's checksum was verified before it was journaled.
        let batch = match EncodedBatch::parse_verified(record.payload.clone()) {
            Ok(batch) => batch,
            Err(error) => {
                // The record's own checksum held, so it was accepted like this: a defect.
                tracing::error!(sequence = %record.sequence, %error, "unreadable batch in the journal");
                metrics::counter!("quorate_journal_unreadable_batches_total").increment(1);
                return None;
            }
        };
        let version = batch.header().part.version;
        // A record of a dropped shard has nowhere to go.
        let _ = self.shards.accept(record.shard, record.sequence, batch);
        Some(version)
    }
}

impl Sink for ShardSink {
    fn committed(&self, records: &[Committed]) {
        for record in records {
            self.take(record);
            self.feeds.push(record.shard, record.sequence, || {
                EncodedBatch::parse_verified(record.payload.clone()).ok()
            });
        }
    }

    fn synced(&self, through: Sequence) {
        self.feeds.synced(through);
    }
}
