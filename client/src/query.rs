//! Reading back: rows of many shards in one stream, in order of (series key, time).
//!
//! Every shard is read from as many owners as the read level needs and merged by version; shards
//! are merged by series key. Invariants: a stream that ends without an error is whole; an owner
//! that fails on the way is replaced by another, from the series it failed in. Memory is bounded by
//! a page, and by the largest series of a shard, times the owners read, and by what is read ahead, whether
//! anybody takes the rows or not; no stream is held open while another is read, so that a query may span any
//! number of shards. With a limit, no owner is asked for more rows than the limit.

pub mod builder;
pub mod pattern;

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::{
    code::Code,
    consistency::Level,
    id::{NodeId, ShardId},
    map::ClusterMap,
    message::{Scan, TagMatch},
    rows::Rows,
};

pub use self::{
    builder::{QueryBuilder, QueryError},
    pattern::PatternError,
};
use crate::{
    core::Core,
    error::Error,
    scan::{GivenUp, Source, scan_request},
    series::{Items, Reader, merged},
};

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
    /// At most so many rows, in order of (series key, time), or windows if it is aggregated; then the reading
    /// ends. None for all.
    pub limit: Option<usize>,
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
            limit: None,
        }
    }
}

/// Series as they come: each with its rows of one shard group, one row per time.
#[derive(Debug)]
pub struct RowStream {
    items: Items<Rows>,
}

impl RowStream {
    /// The next series key with rows; none at the end. A series that spans several groups comes
    /// once per group, in order of time. After an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<(Bytes, Rows), Error>> {
        self.items.next().await
    }

    /// Ends the reading.
    pub(crate) fn close(&mut self) {
        self.items.close();
    }
}

/// Starts a query.
pub(crate) fn start(core: &Arc<Core>, query: &Query) -> Result<RowStream, Error> {
    metrics::counter!("quorate_client_queries_total", "kind" => "rows").increment(1);
    let map = core.topology.map();
    let readers: Vec<ShardReader> = plan(&map, query)?
        .into_iter()
        .map(|plan| ShardReader {
            core: Arc::clone(core),
            shard: plan.shard,
            request: scan_request(query, plan.shard, map.index),
            unused: plan.owners,
            required: plan.required,
            sources: Vec::new(),
            last_key: None,
        })
        .collect();
    let page = page_bytes(core, readers.iter().map(|reader| reader.required).sum());
    let with_limit = |mut reader: ShardReader| {
        reader.request.limit = page;
        reader
    };
    let readers = readers.into_iter().map(with_limit).collect();
    Ok(RowStream { items: merged(core, readers, query.limit) })
}

/// A shard that can hold something of a query, and who can be asked for it.
pub(crate) struct Plan {
    pub(crate) shard: ShardId,
    pub(crate) owners: Vec<NodeId>,
    /// How many of them must answer.
    pub(crate) required: usize,
}

/// The shards of a query, in order of time.
pub(crate) fn plan(map: &ClusterMap, query: &Query) -> Result<Vec<Plan>, Error> {
    query.check()?;
    let database = map.database_named(&query.database).ok_or_else(|| {
        let detail = format!("{:?}; 'quorate db ls' lists what there is", query.database);
        Error::refused(Code::DatabaseNotFound, detail)
    })?;
    let policy = database.policy_named(query.policy.as_deref()).ok_or_else(|| {
        let detail = format!("{:?} in database {:?}", query.policy, query.database);
        Error::refused(Code::PolicyNotFound, detail)
    })?;
    let groups = policy.groups.iter().filter(|g| g.start < query.to && query.from < g.end);
    let shards = groups.flat_map(|group| &group.shards);
    let plans = shards.filter_map(|shard| {
        let (owners, required) = match query.node {
            Some(node) if !shard.owners.contains(&node) => return None,
            Some(node) => (vec![node], 1),
            None => (shard.owners.clone(), query.level.required(shard.owners.len())),
        };
        Some(Plan { shard: shard.id, owners, required })
    });
    Ok(plans.collect())
}

/// Bytes of one page, if so many are kept at once.
pub(crate) fn page_bytes(core: &Core, pages: usize) -> u32 {
    let page = (core.config.query_bytes / pages.max(1)).clamp(PAGE_BYTES.start, PAGE_BYTES.end);
    u32::try_from(page).unwrap_or(u32::MAX)
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

impl Reader for ShardReader {
    type Item = Rows;

    /// The next series, merged over the owners that are read.
    async fn next(&mut self) -> Result<Option<(Bytes, Rows)>, Error> {
        let mut last = GivenUp::nobody();
        loop {
            // Owners that are up first, so that a node that is down costs nothing.
            while self.sources.len() < self.required {
                self.unused.sort_by_key(|node| self.core.rank(*node));
                if self.unused.is_empty() {
                    return Err(Error::ReadLevel {
                        shard: self.shard,
                        answered: self.sources.len(),
                        required: self.required,
                        code: last.code,
                        reason: last.reason,
                    });
                }
                let node = self.unused.remove(0);
                let request = Scan { after: self.last_key.clone(), ..self.request.clone() };
                self.sources.push(Source::new(Arc::clone(&self.core), node, request));
            }
            match self.advance().await {
                Ok(series) => return Ok(series),
                // That owner's stream broke: another one reads from the series after the last.
                Err(why) => {
                    why.count();
                    last = why;
                }
            }
        }
    }

    fn len(rows: &Rows) -> usize {
        rows.len()
    }

    fn bytes(rows: &Rows) -> usize {
        rows.approximate_bytes()
    }

    fn truncate(rows: Rows, len: usize) -> Rows {
        rows.range(0..len)
    }
}

impl ShardReader {
    /// The lowest series key of all sources, with all their rows of it.
    async fn advance(&mut self) -> Result<Option<(Bytes, Rows)>, GivenUp> {
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
