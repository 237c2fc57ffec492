//! Two nodes on loopback: one that will hold hints, one that they are for.
//!
//! Invariant: both own every shard; a node that was stopped comes back at its address with its files.
//! Batches are made by the same encoder as a client's.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_certs::{Authority, Config as CertsConfig, Role, UnixTime};
use quorate_client::{
    Client, ClientConfig, Env, WriteOptions,
    config::TransportConfig,
    connection::{Connection, Dialer},
};
use quorate_node::{
    config::NodeConfig,
    start::{Node, NodeEnv, StartMode},
};
use quorate_protocol::{
    batch::{Batch, PartHeader, Selection, encode_part},
    change::{Change, PolicySpec},
    consistency::Level,
    id::{BatchId, NodeId, Version},
    map::ClusterMap,
    point::Point,
};
use tempfile::TempDir;

use super::Outcome;

pub(crate) const HOLDER: NodeId = NodeId(1);
pub(crate) const TARGET: NodeId = NodeId(2);
const DATABASE: &str = "bench";
/// Time of the first row, ns.
const START: i64 = 1_699_999_999_000_000_000;

pub(crate) struct Pair {
    root: TempDir,
    authority: Authority,
    nodes: [Option<Node>; 2],
    addrs: [SocketAddr; 2],
    pub(crate) client: Client,
    pub(crate) map: Arc<ClusterMap>,
    drain_rate: u64,
}

fn place(id: NodeId) -> usize {
    usize::from(id != HOLDER)
}

impl Pair {
    /// Both up, and a database on both. The holder drains at this many bytes per second at most.
    pub(crate) async fn start(root: TempDir, drain_rate: u64) -> Outcome<Self> {
        let authority = Authority::ephemeral("bench", CertsConfig::default(), UnixTime::now())?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first =
            launch(&authority, &root, HOLDER, any, StartMode::Bootstrap, drain_rate).await?;
        let seeds = vec![first.addr().to_string()];
        let join = StartMode::Join(seeds.clone());
        let second = launch(&authority, &root, TARGET, any, join, drain_rate).await?;
        let roles = [Role::Admin, Role::Write, Role::Read].into_iter().collect();
        let credentials = authority.issue_client_in_memory("bench", roles, UnixTime::now())?;
        let client =
            Client::connect(&seeds, credentials, ClientConfig::default(), Env::system()).await?;
        let policy = PolicySpec {
            name: "default".to_owned(),
            duration: 0,
            group_duration: 0,
            replication: 2,
        };
        let name = DATABASE.to_owned();
        client.change(Change::CreateDatabase { name, policy }).await?;
        // Makes the group and the fields.
        client.write(DATABASE, &rows(0, 1), &WriteOptions::at(Level::All)).await?;
        let (addrs, map) = ([first.addr(), second.addr()], client.map());
        let nodes = [Some(first), Some(second)];
        Ok(Self { root, authority, nodes, addrs, client, map, drain_rate })
    }

    /// Where the holder has its queues; for use while it is down.
    pub(crate) fn queues(&self) -> PathBuf {
        self.root.path().join(HOLDER.to_string()).join("handoff")
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        if let Some(node) = self.nodes[place(id)].take() {
            node.shutdown().await;
        }
    }

    pub(crate) async fn restart(&mut self, id: NodeId) -> Outcome<()> {
        let addr = self.addrs[place(id)];
        let mode = StartMode::Restart;
        let node = launch(&self.authority, &self.root, id, addr, mode, self.drain_rate).await?;
        self.nodes[place(id)] = Some(node);
        Ok(())
    }

    /// A connection to the target as the holder's own.
    pub(crate) async fn dial(&self) -> Outcome<Arc<Connection>> {
        let (env, transport) = (Env::system(), TransportConfig::default());
        let name = format!("n{HOLDER}");
        let credentials = self.authority.issue_node_in_memory(&name, &[], UnixTime::now())?;
        let endpoint = env.client_endpoint(&transport)?;
        let dialer = Dialer::new(env, endpoint, credentials, transport)?;
        Ok(dialer.dial(&self.addrs[place(TARGET)].to_string(), TARGET).await?)
    }

    /// What the holder says of its queue: delivered, pending.
    pub(crate) async fn queue(&self) -> Outcome<(u64, u64)> {
        let status = self.client.node_status(HOLDER, Duration::from_secs(5)).await?;
        let queue = status.queues.iter().find(|queue| queue.target == TARGET);
        Ok(queue.map_or((0, 0), |queue| (queue.delivered, queue.pending)))
    }

    /// A part of `count` rows, the `number`th of its kind.
    pub(crate) fn part(&self, number: u64, count: u64) -> Outcome<(PartHeader, Bytes)> {
        let database = self.map.database_named(DATABASE).ok_or("no database")?;
        let policy = database.policy_named(None).ok_or("no policy")?;
        let shard = policy.group_at(START).and_then(|group| group.shards.first());
        let shard = shard.ok_or("no shard")?;
        let header = PartHeader {
            batch: BatchId(u128::from(number)),
            version: Version(START.cast_unsigned() + number),
            meta_index: self.map.index,
            database: database.id,
            policy: policy.id,
            shard: shard.id,
            epoch: shard.epoch,
        };
        let batch = rows(number, count);
        let bytes = encode_part(&batch, &header, Selection::All, &|measurement, field, _| {
            database.field(measurement, field).map(|field| field.id)
        })?;
        Ok((header, bytes))
    }

    pub(crate) async fn finish(mut self) {
        self.client.close().await;
        self.stop(TARGET).await;
        self.stop(HOLDER).await;
    }
}

async fn launch(
    authority: &Authority,
    root: &TempDir,
    id: NodeId,
    listen: SocketAddr,
    mode: StartMode,
    drain_rate: u64,
) -> Outcome<Node> {
    let sans = ["127.0.0.1".to_owned()];
    let credentials = authority.issue_node_in_memory(&format!("n{id}"), &sans, UnixTime::now())?;
    let data = root.path().join(id.to_string());
    let mut config = NodeConfig { data, listen, ..NodeConfig::default() };
    config.drain.rate_limit = drain_rate;
    Ok(Node::start(config, credentials, NodeEnv::system(), mode).await?)
}

/// Rows of ten fields that hardly compress.
fn rows(number: u64, count: u64) -> Batch {
    let mut batch = Batch::new();
    for row in 0..count {
        let at = number * count + row;
        let host = format!("host_{}", at % 100);
        let mut point = Point::builder("cpu").tag("host", host);
        for field in 0..10_u64 {
            let noise = (at * 10 + field).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            point = point.field(format!("f{field}"), (noise >> 11) as f64 / 1e9);
        }
        // What is not valid is not there: the names are.
        if let Ok(point) = point.at(START + at as i64) {
            batch.push(&point);
        }
    }
    batch
}
