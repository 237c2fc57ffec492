//! Client of a Quorate cluster: maps points to shards, writes them to every owner, and waits for
//! consistency itself.
//!
//! ```no_run
//! use quorate_client::{Batch, Client, Point};
//!
//! # async fn example(now_ns: i64) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .seed("n1.example:7101")
//!     .certificates("/etc/quorate/certs") // made by `quorate certs client`
//!     .connect()
//!     .await?;
//!
//! let mut batch = Batch::new();
//! batch.push(&Point::builder("cpu").tag("host", "a").field("usage", 12.5).at(now_ns)?);
//!
//! let receipt = match client.write("metrics", &batch, client.options()).await {
//!     Ok(receipt) => receipt,
//!     // Some rows did not reach a quorum: those, and only those, once more.
//!     Err(error) if error.retryable() => {
//!         client.resend("metrics", &batch, &error, client.options()).await?
//!     }
//!     Err(error) => return Err(error.into()),
//! };
//! // Durable on a quorum; and now on every owner.
//! client.converged(&receipt, std::time::Duration::from_secs(30)).await?;
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Text goes in by [`Client::write_lines`], points of many tasks by a [`Writer`], and [`Client::query`]
//! reads back. The programs in `client/examples` show each of these.
//!
//! Reading order: [`Client`] here, how it is made in `builder`; [`config`]; `topology` follows the map;
//! `route` splits a batch; `write`, `part` and `copy` bring it to its owners; [`receipt`] and [`error`] say
//! what came of it, `later` and `converged` what came of it after that, [`history`] how it went, `resend`
//! sends the rest; `lines` and [`writer`] are other ways in. `query` and `scan` read back, `aggregate` sums
//! up, [`subscribe`] follows what is written, `shard` compares replicas, `survey` asks how all nodes are,
//! `hints` looks at what is on its way. Under them [`pool`], [`connection`] and `lane` are the one way in
//! which anybody in this project calls a node; [`mod@env`] is the way to the world.
//!
//! A [`Batch`] is filled by [points](Point), by lines ([`line::parse_into`]), or, fastest, by the
//! handles of a [`Layout`], which are made once:
//!
//! ```
//! use quorate_client::{Batch, Layout};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cpu = Layout::builder("cpu").float("usage").integer("procs").build()?;
//! let host = cpu.series(&[("host", "a"), ("region", "eu")])?;
//!
//! let mut batch = Batch::new();
//! batch.fill(&cpu).push(&host, 1_700_000_000_000_000_000, (12.5, 311_i64))?;
//! // `client.write("metrics", &batch, &options).await`, then the next rows into the same batch:
//! batch.clear_rows();
//! batch.fill(&cpu).push_series(&host, &[10, 20], &[&[12.5, 13.0], &[311_i64, 312]])?;
//! assert_eq!(batch.rows(), 2);
//! # Ok(())
//! # }
//! ```

pub mod aggregate;
mod asking;
mod backlog;
pub mod backoff;
mod budget;
mod builder;
pub mod certificates;
pub mod config;
pub mod connection;
mod converged;
mod copy;
mod core;
pub mod env;
pub mod error;
mod gate;
mod grants;
mod health;
pub mod hints;
pub mod history;
pub mod lane;
mod later;
mod lines;
mod part;
pub mod pool;
pub mod query;
pub mod receipt;
mod resend;
mod route;
mod scan;
mod series;
mod several;
pub mod shard;
pub mod subscribe;
pub mod survey;
mod topology;
pub mod traffic;
mod usage;
mod write;
pub mod writer;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_protocol::{
    aggregate::Windows,
    change::{Change, Outcome},
    id::{NodeId, Sequence, ShardId},
    map::ClusterMap,
    message::{
        Fate, HandOn, HandedOn, HintFate, Hints, HintsDo, HintsDone, MarkInfo, NodeStatus,
        QueueVerified, Request, ShardState, Status, Verified,
    },
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

#[doc(inline)]
pub use quorate_protocol::{
    batch::{Batch, Cell, CellSlice, Cells, FillError, Filler, Layout, LayoutBuilder, Series},
    consistency::Level,
    line,
    point::{Point, PointBuilder, PointError, Value},
};

pub use crate::{
    aggregate::{SeriesWindows, WindowStream},
    builder::{ClientBuilder, SetupError},
    config::{ClientConfig, WriteOptions},
    converged::{Lacking, NotConverged},
    env::Env,
    error::{Error, WriteError},
    hints::HintStream,
    history::WriteHistory,
    lines::{LineOptions, LinesError, LinesReceipt},
    query::{Query, QueryBuilder, QueryError, RowStream},
    receipt::Receipt,
    shard::{BucketDigest, DigestRange},
    subscribe::{Event, Gap, GapReason, StoredBatch, SubscribeOptions, Subscription},
    survey::ClusterReport,
    traffic::NodeTraffic,
    usage::{ConnectionUsage, PeerUsage, Usage},
    writer::{Pending, PushError, Pushed, Writer, WriterConfig, WriterStats},
};
use crate::{core::Core, write::Full};

/// A handle to a cluster; clones are cheap and share connections, budget and background work.
///
/// [`Self::close`] waits, for `close_timeout` at most, until copies that are still on their way have arrived.
/// Dropping the last clone waits for nothing, and ends the trying where no node takes a copy at once.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    _last: Arc<StopOnDrop>,
}

/// Ends the background tasks when the last clone of a client is gone, without waiting for them.
struct StopOnDrop(CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Client {
    /// What a client is made of; [`ClientBuilder::connect`] makes it.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// The options of writes that this client was made with.
    #[must_use]
    pub fn options(&self) -> &WriteOptions {
        &self.core.config.write
    }

    /// The newest map this client has.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.core.topology.map()
    }

    /// Follows the map.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.core.topology.watch()
    }

    /// Writes a batch and waits until every shard it touches has reached the level. Dropping the
    /// future only detaches the caller from what has been sent.
    ///
    /// # Errors
    /// [`WriteError`] names the rows that did not reach the level and says whether they can still
    /// appear; [`Client::resend`] sends them again. Rows beyond retention are no error: the receipt
    /// reports them.
    pub async fn write(
        &self,
        database: &str,
        batch: &Batch,
        options: &WriteOptions,
    ) -> Result<Receipt, WriteError> {
        write::write(&self.core, database, batch, None, options, Full::Wait).await
    }

    /// As [`Client::write`], but fails at once where the client's budget is full.
    ///
    /// # Errors
    /// As [`Client::write`]; rows without room fail with [`Code::Busy`](quorate_protocol::code::Code::Busy).
    pub async fn try_write(
        &self,
        database: &str,
        batch: &Batch,
        options: &WriteOptions,
    ) -> Result<Receipt, WriteError> {
        write::write(&self.core, database, batch, None, options, Full::Refuse).await
    }

    /// Takes note of a write of another client, so that this client's later writes win over it. False if
    /// they do not, because that client's clock is ahead of this one's by more than half of
    /// `max_clock_skew`; nodes refuse writes beyond the whole of it.
    pub fn observe(&self, receipt: &Receipt) -> bool {
        self.core.observe(receipt.version, receipt.meta_index)
    }

    /// Changes metadata, and waits until this client's map has the change.
    ///
    /// # Errors
    /// [`Error::Refused`] with the code of the refusal, or of the failure if there was no leader
    /// within `config.meta_timeout`.
    pub async fn change(&self, change: Change) -> Result<Outcome, Error> {
        let deadline = Instant::now() + self.core.config.meta_timeout;
        topology::propose(&self.core, change, deadline).await.map(|proposed| proposed.outcome)
    }

    /// Reads rows back. What [`Query::builder`] makes can be asked.
    ///
    /// # Errors
    /// [`Error::Query`] if it makes no sense, before anything is sent. If the database or policy is not
    /// there. Failures to read come through the stream.
    pub async fn query(&self, query: Query) -> Result<RowStream, Error> {
        query.check()?;
        let deadline = Instant::now() + self.core.config.connect_timeout;
        topology::refresh(&self.core, deadline).await;
        self.core.settled(deadline).await;
        query::start(&self.core, &query)
    }

    /// Follows what is written to a policy (none for the database's default one): every batch that an
    /// owner has synced from now on comes, at least once, or a gap is told. See [`subscribe`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the database or policy is not there, if nodes are too old
    /// ([`Code::Unsupported`]) or have too many followers ([`Code::Busy`]); [`Code::Unavailable`] if no
    /// owner of a shard is up.
    ///
    /// [`Code::Unsupported`]: quorate_protocol::code::Code::Unsupported
    /// [`Code::Busy`]: quorate_protocol::code::Code::Busy
    /// [`Code::Unavailable`]: quorate_protocol::code::Code::Unavailable
    pub async fn subscribe(
        &self,
        database: &str,
        policy: Option<&str>,
    ) -> Result<Subscription, Error> {
        self.subscribe_with(database, policy, SubscribeOptions::default()).await
    }

    /// As [`Client::subscribe`], with other limits.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn subscribe_with(
        &self,
        database: &str,
        policy: Option<&str>,
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        subscribe::start(self, database, policy, options).await
    }

    /// Aggregates what a query would give over windows of `every` ns, aligned as shard groups are;
    /// 0 for one window over all times. At level one, or of one node, nodes compute the windows and
    /// send partials; at quorum and all the rows of the replicas are merged here first. Each window
    /// has the time it starts at, also where `from` lies within it.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn aggregate(&self, query: Query, every: u64) -> Result<WindowStream, Error> {
        query.check()?;
        let deadline = Instant::now() + self.core.config.connect_timeout;
        topology::refresh(&self.core, deadline).await;
        self.core.settled(deadline).await;
        aggregate::start(&self.core, &query, Windows::new(every))
    }

    /// The digests of what one node has of a shard: of each bucket of time that has values.
    ///
    /// # Errors
    /// [`Error::Refused`] with the node's code, such as `NotOwner`, or `Io` if something stored is
    /// damaged; [`Error::Unreachable`] if it is down or does not answer in time.
    pub async fn shard_digest(
        &self,
        shard: ShardId,
        node: NodeId,
        range: DigestRange,
        timeout: Duration,
    ) -> Result<Vec<BucketDigest>, Error> {
        shard::digest(&self.core, shard, node, range, timeout).await
    }

    /// How much one node has of each of its shards.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is down.
    pub async fn shard_states(
        &self,
        node: NodeId,
        timeout: Duration,
    ) -> Result<Vec<ShardState>, Error> {
        shard::states(&self.core, node, timeout).await
    }

    /// Has one node read and check everything it stores of a shard, which may take long.
    ///
    /// # Errors
    /// As [`Client::shard_digest`]; damage is no error but in the report.
    pub async fn shard_verify(
        &self,
        shard: ShardId,
        node: NodeId,
        timeout: Duration,
    ) -> Result<Verified, Error> {
        shard::verify(&self.core, shard, node, timeout).await
    }

    /// The hints that one node keeps for another.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is down. Failures to read come through the stream.
    pub async fn hints(
        &self,
        node: NodeId,
        request: Hints,
        timeout: Duration,
    ) -> Result<HintStream, Error> {
        hints::list(&self.core, node, request, timeout).await
    }

    /// Has one node retry or drop hints, durably. Asking again does what is left to do.
    ///
    /// # Errors
    /// [`Error::Refused`] with the node's code; what was done before the failure stays done.
    /// [`Error::Unreachable`] if it is down or does not answer in time; it goes on all the same.
    pub async fn hints_do(
        &self,
        node: NodeId,
        request: HintsDo,
        timeout: Duration,
    ) -> Result<HintsDone, Error> {
        hints::act(&self.core, node, request, timeout).await
    }

    /// The repair marks of one node.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is down.
    pub async fn marks(&self, node: NodeId, timeout: Duration) -> Result<Vec<MarkInfo>, Error> {
        hints::marks(&self.core, node, timeout).await
    }

    /// Has one node read and check all of its hint queues and repair marks, which may take long.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is down; damage is no error but in the report.
    pub async fn hints_verify(
        &self,
        node: NodeId,
        timeout: Duration,
    ) -> Result<Vec<QueueVerified>, Error> {
        hints::verify(&self.core, node, timeout).await
    }

    /// Asks one node how it is.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is down.
    pub async fn node_status(&self, node: NodeId, timeout: Duration) -> Result<NodeStatus, Error> {
        self.ask(node, &Status {}, timeout).await
    }

    /// How all members are, from one node, which asks the others and gives them `timeout` to answer.
    /// A member that does not answer is in the report with the reason.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if no node answers at all; [`Error::Refused`] with its code if the last
    /// that was asked refuses.
    pub async fn survey(&self, timeout: Duration) -> Result<ClusterReport, Error> {
        survey::survey(&self.core, timeout).await
    }

    /// Asks a holder what has become of one of its hints, which
    /// [`receipt::CopyState::Hinted`] names.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is down.
    pub async fn hint_fate(
        &self,
        holder: NodeId,
        target: NodeId,
        sequence: Sequence,
        timeout: Duration,
    ) -> Result<Fate, Error> {
        let request = HintFate { target, sequence };
        self.ask(holder, &request, timeout).await.map(|answer| answer.fate)
    }

    /// Has a node give its hints to other nodes that are up, before it leaves, and says how many went
    /// and how many are left after `timeout`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is down.
    pub async fn hand_on(&self, node: NodeId, timeout: Duration) -> Result<HandedOn, Error> {
        let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        // The node's answer comes after its deadline at the latest.
        self.ask(node, &HandOn { deadline_ms }, timeout + Duration::from_secs(5)).await
    }

    /// One request to one node.
    async fn ask<R: Request>(
        &self,
        node: NodeId,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Reply, Error> {
        let deadline = Instant::now() + timeout;
        let down = |reason: String| Error::Unreachable { seeds: format!("node {node}"), reason };
        let connection = self.core.settled_connection(node, deadline).await;
        let connection = connection.ok_or_else(|| down("down".to_owned()))?;
        let reply = connection.request(request, Bytes::new(), deadline).await;
        reply.map(|(body, _)| body).map_err(|error| match error {
            connection::RequestError::Failure(failure) => {
                Error::refused(failure.code, failure.detail)
            }
            other => down(other.to_string()),
        })
    }

    /// The nodes this client has a live connection to.
    #[must_use]
    pub fn up(&self) -> Vec<NodeId> {
        self.core.live()
    }

    /// Waits until the background work of earlier writes has ended, for at most `patience`.
    pub async fn settle(&self, patience: Duration) -> bool {
        let all = u32::try_from(self.core.config.budget_bytes).unwrap_or(u32::MAX);
        let everything = self.core.budget.acquire_many(all);
        tokio::time::timeout(patience, everything).await.is_ok()
    }

    /// Waits for background work that is under way, at most
    /// [`close_timeout`](ClientConfig::close_timeout), then ends everything. Other clones of this client are
    /// closed with it. Whether all copies had come to their end by then: stored, hinted or marked for repair.
    pub async fn close(&self) -> bool {
        let settled = self.settle(self.core.config.close_timeout).await;
        if !settled {
            let bytes = self.usage().budget_bytes;
            tracing::warn!(bytes, "copies are given up that had not ended within close_timeout");
        }
        self.core.cancel.cancel();
        self.core.tasks.close();
        self.core.pool.shutdown_endpoint().await;
        self.core.tasks.wait().await;
        settled
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("up", &self.up()).finish_non_exhaustive()
    }
}
