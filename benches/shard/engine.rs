//! A node's way of a batch, without the network: room, journal, sync, shard store, and the journal
//! given back behind the folds.
//!
//! Invariant: nothing is left out that a node does between a batch's last byte and its answer,
//! except what needs metadata. Used by all parts.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quorate_node::{
    disk::SystemDisk,
    executor::Executor,
    journal::{Committed, Durability, Journal, JournalConfig, JournalError, JournalHome, Sink},
    shard::{AdmitError, Config, ShardStore},
};
use quorate_protocol::{
    batch::EncodedBatch,
    id::{NodeId, Sequence, ShardId},
};
use tokio::{task::JoinHandle, time::sleep};

/// How often a node gives its journal back.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Batches under way at once in a closed loop.
const IN_FLIGHT: usize = 8;

struct Feed(ShardStore);

impl Sink for Feed {
    fn committed(&self, records: &[Committed]) {
        for record in records {
            let batch = EncodedBatch::parse_verified(record.payload.clone());
            let batch = batch.expect("it was parsed before");
            // A record of a dropped shard has nowhere to go.
            let _ = self.0.accept(record.shard, record.sequence, batch);
        }
    }
}

/// Journal and shard store of a node.
pub(crate) struct Engine {
    pub(crate) shards: ShardStore,
    pub(crate) journal: Arc<Journal>,
    housekeeping: JoinHandle<()>,
}

impl Engine {
    /// Opens both in `dir`; folds and merges in the background if `compaction` says so.
    pub(crate) fn open(dir: &Path, config: Config, compaction: bool) -> Self {
        let shards = ShardStore::open(config, &dir.join("shards"), Executor::Thread);
        let shards = shards.expect("the store can be opened");
        let sink = Arc::new(Feed(shards.clone()));
        let journal = open_journal(dir, sink.clone(), shards.found_applied(), &mut |record| {
            sink.committed(&[record]);
        });
        let journal = Arc::new(journal);
        if compaction {
            shards.start();
        }
        let housekeeping = tokio::spawn(keep_house(shards.clone(), Arc::clone(&journal)));
        Self { shards, journal, housekeeping }
    }

    /// Writes a part as a node does and returns when it is durable; waits while the store is busy.
    pub(crate) async fn write(&self, part: Bytes) {
        let batch = EncodedBatch::parse(part.clone()).expect("the fleet is valid");
        let shard = batch.header().part.shard;
        let _room = loop {
            match self.shards.admit(shard, part.len() as u64) {
                Ok(room) => break room,
                Err(AdmitError::Busy { retry_after_ms }) => {
                    sleep(Duration::from_millis(retry_after_ms.into())).await;
                }
                Err(error) => panic!("cannot write: {error}"),
            }
        };
        loop {
            match self.journal.append(shard, part.clone()).await {
                Ok(_) => return,
                Err(JournalError::Busy { retry_after_ms }) => {
                    sleep(Duration::from_millis(retry_after_ms.into())).await;
                }
                Err(error) => panic!("cannot write: {error}"),
            }
        }
    }

    /// Writes all parts that `part` gives until it gives none, some of them at once; returns how
    /// many there were.
    pub(crate) async fn write_all<F>(self: &Arc<Self>, part: F) -> usize
    where
        F: Fn(usize) -> Option<Bytes> + Send + Sync + 'static,
    {
        let (part, next) = (Arc::new(part), Arc::new(AtomicUsize::new(0)));
        let writers: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (engine, part, next) = (Arc::clone(self), Arc::clone(&part), Arc::clone(&next));
                tokio::spawn(async move {
                    let mut written = 0;
                    while let Some(part) = part(next.fetch_add(1, Ordering::Relaxed)) {
                        engine.write(part).await;
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        let mut written = 0;
        for writer in writers {
            written += writer.await.expect("writers do not fail");
        }
        written
    }

    /// Folds all that is fresh.
    pub(crate) async fn flush(&self, shard: ShardId) {
        self.shards.flush(shard).await.expect("the shard can be folded");
    }

    /// Merges runs until no tier has enough of them.
    pub(crate) async fn settle(&self, shard: ShardId) {
        self.shards.settle(shard).await.expect("the shard can be merged");
    }

    /// Rewrites the shard densely, as a node does when its group is over and idle.
    pub(crate) async fn densify(&self, shard: ShardId) {
        self.shards.densify(shard).await.expect("the shard can be made dense");
    }

    pub(crate) async fn close(&self) {
        self.housekeeping.abort();
        self.journal.close().await;
        self.shards.close().await;
    }
}

/// A journal in `dir` with the settings of a node.
fn open_journal(
    dir: &Path,
    sink: Arc<dyn Sink>,
    applied: Sequence,
    recovered: &mut dyn FnMut(Committed),
) -> Journal {
    let durability = Durability::Commit;
    let directory = dir.join("journal");
    let home = JournalHome { directory, node: NodeId(1), salt: 7, applied, durability };
    let (config, disk) = (JournalConfig::default(), Arc::new(SystemDisk));
    let opened = Journal::open(config, home, disk, Executor::Thread, sink, recovered);
    opened.expect("the journal can be opened").0
}

async fn keep_house(shards: ShardStore, journal: Arc<Journal>) {
    loop {
        sleep(HOUSEKEEPING).await;
        if journal.release(shards.applied_through()).await.is_err() {
            return;
        }
    }
}
