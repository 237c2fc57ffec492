//! Single messages to single nodes, past the client's write path.
//!
//! For what a client would not do on purpose: copies in another order on every replica, versions of
//! the test's choice. Invariant: the batches are made by the same encoder as a client's.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_certs::Credentials;
use quorate_client::{
    Env,
    config::TransportConfig,
    connection::{Connection, Dialer},
};
use quorate_protocol::{
    batch::{Batch, PartHeader, Selection, encode_part},
    change::{Change, Outcome},
    code::Close,
    id::{BatchId, MetaIndex, NodeId, PolicyId, Version},
    map::{ClusterMap, apply_updates},
    message::{MetaGet, Propose, Write, Written},
    point::Point,
};
use tokio::time::Instant;

use super::observe::wait_for;

/// Time for one message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest map taken, in bytes.
const MAX_MAP: usize = 64 << 20;

/// The way to every node of a cluster.
pub struct Raw {
    dialer: Dialer,
}

impl Raw {
    /// Dials with these credentials.
    #[must_use]
    pub fn new(env: Env, credentials: Credentials) -> Self {
        Self::with(env, credentials, TransportConfig::default())
    }

    /// Dials with these credentials and settings.
    #[must_use]
    pub fn with(env: Env, credentials: Credentials, transport: TransportConfig) -> Self {
        let endpoint = env.client_endpoint(&transport).unwrap();
        Self { dialer: Dialer::new(env, endpoint, credentials, transport).unwrap() }
    }

    /// A connection to one node.
    pub async fn connect(&self, map: &ClusterMap, node: NodeId) -> Arc<Connection> {
        self.dialer.dial(&map.node(node).unwrap().addr, node).await.unwrap()
    }

    /// What one node has for the map, and its length on the wire.
    ///
    /// # Errors
    /// Why the node did not answer.
    pub async fn map_of(
        &self,
        map: &ClusterMap,
        node: NodeId,
    ) -> Result<(ClusterMap, usize), String> {
        let addr = &map.node(node).ok_or_else(|| format!("no node {node}"))?.addr;
        let connection = self.dialer.dial(addr, node).await.map_err(|error| error.to_string())?;
        let request = MetaGet { after: MetaIndex(0) };
        let deadline = Instant::now() + PATIENCE;
        let answer = connection.exchange(&request, Bytes::new(), deadline, MAX_MAP).await;
        connection.close(Close::Done, "");
        let (_, payload) = answer.map_err(|error| error.to_string())?;
        let map = apply_updates(&Arc::default(), &payload).map_err(|error| error.to_string())?;
        let map = map.ok_or("no map")?;
        Ok((Arc::unwrap_or_clone(map), payload.len()))
    }

    /// Waits until all of these nodes have one map, at `index` or beyond it.
    ///
    /// # Panics
    /// If they do not within [`super::observe::PATIENCE`].
    pub async fn same_map(
        &self,
        map: &ClusterMap,
        nodes: &[NodeId],
        index: MetaIndex,
    ) -> ClusterMap {
        wait_for("one map on all nodes", super::observe::PATIENCE, async || {
            let mut maps = Vec::new();
            for node in nodes {
                maps.push(self.map_of(map, *node).await?.0);
            }
            let same = maps.windows(2).all(|pair| pair[0] == pair[1]);
            match maps.pop() {
                Some(last) if same && last.index >= index => Ok(last),
                last => Err(format!("same: {same}, the last at {:?}", last.map(|map| map.index))),
            }
        })
        .await
    }
}

/// Makes groups for these times through this node; the index at which they were made.
pub async fn create_groups(
    connection: &Arc<Connection>,
    policy: PolicyId,
    times: Vec<i64>,
) -> MetaIndex {
    let change = Change::CreateGroups { policy, times };
    // Nothing that is newer than this is asked for.
    let after = MetaIndex(u64::MAX);
    let request = Propose { deadline_ms: 5_000, forwarded: false, after };
    let deadline = Instant::now() + PATIENCE;
    let change = change.encode().unwrap();
    let reply = connection.exchange(&request, change, deadline, 1 << 20).await;
    let (proposed, news) = reply.unwrap();
    assert_eq!((proposed.outcome, news.len()), (Outcome::Done, 0));
    proposed.index
}

/// Points of one shard as an encoded batch with this version. All groups and fields must exist.
#[must_use]
pub fn encode(
    map: &ClusterMap,
    database: &str,
    points: &[Point],
    version: Version,
) -> (Write, Bytes) {
    encode_as(map, database, points, version, |_| {})
}

/// As [`encode`], with another head than it should have.
#[must_use]
pub fn encode_as(
    map: &ClusterMap,
    database: &str,
    points: &[Point],
    version: Version,
    head: impl FnOnce(&mut PartHeader),
) -> (Write, Bytes) {
    let mut batch = Batch::new();
    points.iter().for_each(|point| batch.push(point));
    let database = map.database_named(database).unwrap();
    let policy = database.policy_named(None).unwrap();
    let mut places = batch.rows_iter().map(|(_, _, hash, time)| {
        let group = policy.group_at(time).unwrap();
        group.shard_for(hash).unwrap()
    });
    let shard = places.next().unwrap();
    assert!(places.all(|other| other.id == shard.id), "the points are of several shards");
    drop(places);
    let mut header = PartHeader {
        batch: BatchId(u128::from(version.0)),
        version,
        meta_index: map.index,
        database: database.id,
        policy: policy.id,
        shard: shard.id,
        epoch: shard.epoch,
    };
    head(&mut header);
    let bytes = encode_part(&batch, &header, Selection::All, &|measurement, field, kind| {
        let field = database.field(measurement, field).filter(|field| field.kind == kind);
        field.map(|field| field.id)
    });
    let request = Write {
        shard: shard.id,
        epoch: shard.epoch,
        meta_index: map.index,
        deadline_ms: 5_000,
        store: true,
        any: false,
        hint_for: Vec::new(),
    };
    (request, bytes.unwrap())
}

/// Sends one write message.
pub async fn send(connection: &Arc<Connection>, request: &Write, batch: &Bytes) -> Written {
    let deadline = Instant::now() + PATIENCE;
    connection.request(request, batch.clone(), deadline).await.unwrap().0
}

/// Removes a member for good; the connection must be a node's.
pub async fn remove_node(connection: &Arc<Connection>, node: NodeId) {
    let change = Change::RemoveNode { node };
    let request = Propose { deadline_ms: 5_000, forwarded: false, after: MetaIndex(0) };
    let deadline = Instant::now() + PATIENCE;
    let change = change.encode().unwrap();
    let reply = connection.exchange(&request, change, deadline, 1 << 20).await;
    assert_eq!(reply.unwrap().0.outcome, Outcome::Done);
}
