//! Reading back: rows of many shards in one stream, in order of (series key, time).
//!
//! Every shard is read from as many owners as the read level needs and merged by version; shards
//! are merged by series key. Invariants: a stream that ends without an error is whole; an owner
//! that fails on the way is replaced by another, from the series it failed in. Memory is bounded by
//! a page, and by the largest series of a shard, times the owners read; no stream is held open while
//! another is read, so that a query may span any number of shards.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use bytes::Bytes;
use quorate_protocol::{
    code::Code,
    consistency::Level,
    id::{NodeId, ShardId},
    map::ClusterMap,
    message::{Scan, TagMatch},
    rows::Rows,
};
use tokio::sync::mpsc;

use crate::{
    core::Core,
    error::Error,
    scan::{Source, scan_request},
};

/// Series that may wait for their reader.
const READ_AHEAD: usize = 16;

/// Bounds of one page of a query, in encoded bytes.
const PAGE_BYTES: std::ops::Range<usize> = 256 << 10..8 << 20;

/// What to read.
#[derive(Clone, Debug)]
pub struct Query {
    /// Name of the database.
    pub database: String,
    /// Name of the retention policy; none for the default one.
    pub policy: Option<String>,
    /// Unescaped name of the measurement; none for all.
    pub measurement: Option<Bytes>,
    /// Conditions on tags, all of which must hold.
    pub tags: Vec<TagMatch>,
    /// Unescaped names of fields; empty for all.
    pub fields: Vec<Bytes>,
    /// First time, in ns.
    pub from: i64,
    /// The time behind the last, in ns; `i64::MAX` for no end.
    pub to: i64,
    /// How many owners must agree to be read; `any` is `one`.
    pub level: Level,
    /// Read from this node's disk alone, and only the shards it owns.
    pub node: Option<NodeId>,
}

impl Query {
    /// Everything in a database's default policy, at level quorum.
    #[must_use]
    pub fn all(database: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            policy: None,
            measurement: None,
            tags: Vec::new(),
            fields: Vec::new(),
            from: i64::MIN,
            to: i64::MAX,
            level: Level::Quorum,
            node: None,
        }
    }
}

/// Series as they come: each with its rows of one shard group, one row per time.
#[derive(Debug)]
pub struct RowStream {
    receiver: mpsc::Receiver<Item>,
    /// The end, or an error, was seen.
    ended: bool,
}

/// A series, or nothing to say that there are no more: a reader must be able to tell the end from a
/// client that was closed on the way.
type Item = Result<Option<(Bytes, Rows)>, Error>;

impl RowStream {
    /// The next series key with rows; none at the end. A series that spans several groups comes
    /// once per group, in order of time. After an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<(Bytes, Rows), Error>> {
        if self.ended {
            return None;
        }
        match self.receiver.recv().await {
            Some(Ok(Some(series))) => Some(Ok(series)),
            other => {
                self.ended = true;
                match other {
                    Some(Ok(_)) => None,
                    Some(Err(error)) => Some(Err(error)),
                    None => Some(Err(Error::Closed)),
                }
            }
        }
    }
}

/// Starts a query.
pub(crate) fn start(core: &Arc<Core>, query: Query) -> Result<RowStream, Error> {
    let map = core.topology.map();
    let readers = readers(core, &map, &query)?;
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let cancel = core.cancel.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            // The reader has gone: nobody is left to be told of anything.
            () = sender.closed() => {}
            () = async {
                let result = merge_shards(readers, &sender).await;
                let _ = sender.send(result.map(|()| None)).await;
            } => {}
        }
    });
    Ok(RowStream { receiver, ended: false })
}

/// One reader per shard that can hold rows of the query, in order of time.
fn readers(core: &Arc<Core>, map: &ClusterMap, query: &Query) -> Result<Vec<ShardReader>, Error> {
    let database = map.database_named(&query.database).ok_or_else(|| {
        let detail = format!("{:?}; 'quorate db ls' lists what there is", query.database);
        Error::refused(Code::DatabaseNotFound, detail)
    })?;
    let policy = database.policy_named(query.policy.as_deref()).ok_or_else(|| {
        let detail = format!("{:?} in database {:?}", query.policy, query.database);
        Error::refused(Code::PolicyNotFound, detail)
    })?;
    let groups = policy.groups.iter().filter(|g| g.start < query.to && query.from < g.end);
    let mut readers = Vec::new();
    for shard in groups.flat_map(|group| &group.shards) {
        let (owners, required) = match query.node {
            Some(node) if !shard.owners.contains(&node) => continue,
            Some(node) => (vec![node], 1),
            None => (shard.owners.clone(), query.level.required(shard.owners.len())),
        };
        readers.push(ShardReader {
            core: Arc::clone(core),
            shard: shard.id,
            request: scan_request(query, shard.id, map.index),
            unused: owners,
            required,
            sources: Vec::new(),
            last_key: None,
        });
    }
    let sources: usize = readers.iter().map(|reader| reader.required).sum();
    let page = (core.config.query_bytes / sources.max(1)).clamp(PAGE_BYTES.start, PAGE_BYTES.end);
    for reader in &mut readers {
        reader.request.limit = u32::try_from(page).unwrap_or(u32::MAX);
    }
    Ok(readers)
}

/// Merges shards by series key; groups of one series follow each other in order of time, because
/// the readers do.
async fn merge_shards(
    mut readers: Vec<ShardReader>,
    sender: &mpsc::Sender<Item>,
) -> Result<(), Error> {
    let mut heap = BinaryHeap::with_capacity(readers.len());
    let mut heads: Vec<Rows> = Vec::with_capacity(readers.len());
    for (index, reader) in readers.iter_mut().enumerate() {
        let head = reader.next().await?;
        if let Some((key, _)) = &head {
            heap.push(Reverse((key.clone(), index)));
        }
        heads.push(head.map(|(_, rows)| rows).unwrap_or_default());
    }
    while let Some(Reverse((key, index))) = heap.pop() {
        let rows = std::mem::take(&mut heads[index]);
        if !rows.is_empty() && sender.send(Ok(Some((key, rows)))).await.is_err() {
            return Ok(());
        }
        if let Some((key, rows)) = readers[index].next().await? {
            heap.push(Reverse((key, index)));
            heads[index] = rows;
        }
    }
    Ok(())
}

/// One shard, from as many owners as the level needs.
struct ShardReader {
    core: Arc<Core>,
    shard: ShardId,
    request: Scan,
    /// Owners that were not tried yet.
    unused: Vec<NodeId>,
    required: usize,
    sources: Vec<Source>,
    last_key: Option<Bytes>,
}

impl ShardReader {
    /// The next series, merged over the owners that are read.
    async fn next(&mut self) -> Result<Option<(Bytes, Rows)>, Error> {
        let mut reason = String::from("no owner is up");
        loop {
            // Owners that are up first, so that a node that is down costs nothing.
            while self.sources.len() < self.required {
                self.unused.sort_by_key(|node| !self.core.is_live(*node));
                if self.unused.is_empty() {
                    return Err(Error::ReadLevel {
                        shard: self.shard,
                        answered: self.sources.len(),
                        required: self.required,
                        reason,
                    });
                }
                let node = self.unused.remove(0);
                let request = Scan { after: self.last_key.clone(), ..self.request.clone() };
                self.sources.push(Source::new(Arc::clone(&self.core), node, request));
            }
            match self.advance().await {
                Ok(series) => return Ok(series),
                // That owner's stream broke: another one reads from the series after the last.
                Err(why) => reason = why,
            }
        }
    }

    /// The lowest series key of all sources, with all their rows of it.
    async fn advance(&mut self) -> Result<Option<(Bytes, Rows)>, String> {
        for index in 0..self.sources.len() {
            if let Err(why) = self.sources[index].fill().await {
                self.sources.swap_remove(index);
                return Err(why);
            }
        }
        let Some(key) = self.sources.iter().filter_map(Source::key).min().cloned() else {
            return Ok(None);
        };
        let taken = self.sources.iter_mut().filter_map(|source| source.take(&key));
        let rows = Rows::merge(taken.collect()).collapse();
        self.last_key = Some(key.clone());
        Ok(Some((key, rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_breaks_off_does_not_pass_as_whole() {
        let (sender, receiver) = mpsc::channel(4);
        let mut stream = RowStream { receiver, ended: false };
        let series = (Bytes::from_static(b"m"), Rows::default());
        sender.send(Ok(Some(series))).await.unwrap();
        drop(sender);
        assert!(matches!(stream.next().await, Some(Ok(_))));
        assert!(matches!(stream.next().await, Some(Err(Error::Closed))));
        assert!(stream.next().await.is_none());

        let (sender, receiver) = mpsc::channel(4);
        let mut stream = RowStream { receiver, ended: false };
        sender.send(Ok(None)).await.unwrap();
        assert!(stream.next().await.is_none(), "this one is whole");
        assert!(stream.next().await.is_none());
    }
}
