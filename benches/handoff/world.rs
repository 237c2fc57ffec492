//! Nodes on loopback: one that hints are for, and some that will hold them.
//!
//! The target and the holders run in threads of their own ([`Hosts`]), and not in those of whoever measures.
//! Invariant: all own every shard; a node that was stopped comes back at its address with its files.
//! Batches are made by the same encoder as a client's.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use quorate_benches::fleet::{self, Rows, Shape, Source, Values};
use quorate_certs::{Authority, Config as CertsConfig, Role, UnixTime};
use quorate_client::{
    Client, Env, WriteOptions,
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
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::Outcome;

/// Bytes per second of drains that are to wait: next to nothing.
const HELD: u64 = 1;

pub(crate) const TARGET: NodeId = NodeId(1);
/// The first of those that hold hints, and the only one unless there are to be more.
pub(crate) const HOLDER: NodeId = NodeId(2);
const DATABASE: &str = "bench";
/// The rows of all parts and of the write that makes the group and the fields.
const FLEET: Shape =
    Shape { hosts: 1_000, values: Values::TwoDecimals, seed: 1, start: fleet::START };

pub(crate) struct World {
    root: TempDir,
    authority: Authority,
    hosts: Hosts,
    members: BTreeMap<NodeId, Member>,
    pub(crate) client: Client,
    pub(crate) map: Arc<ClusterMap>,
    rows: Mutex<Rows>,
}

/// The threads that nodes run in.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    target: Arc<Runtime>,
    holders: Arc<Runtime>,
    /// As `holders`, at the lowest priority: what happens there takes nothing from the target, as if
    /// they had processors of their own.
    far: Arc<Runtime>,
}

impl Hosts {
    pub(crate) fn new() -> Outcome<Self> {
        let make = |nice: i32| -> Outcome<Arc<Runtime>> {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            // One that cannot be lowered goes on as it is.
            builder.enable_all().on_thread_start(move || {
                let _ = rustix::process::nice(nice);
            });
            Ok(Arc::new(builder.build()?))
        };
        Ok(Self { target: make(0)?, holders: make(0)?, far: make(19)? })
    }

    /// With holders far away.
    pub(crate) fn far(&self) -> Self {
        Self { holders: Arc::clone(&self.far), ..self.clone() }
    }
}

struct Member {
    addr: SocketAddr,
    node: Option<Node>,
}

impl World {
    /// All up, and a database on all of them. Nothing drains yet.
    pub(crate) async fn start(root: TempDir, hosts: Hosts, holders: u64) -> Outcome<Self> {
        let authority = Authority::ephemeral("bench", CertsConfig::default(), UnixTime::now())?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = launch(&hosts, &authority, &root, TARGET, any, StartMode::Bootstrap).await?;
        let seeds = vec![first.addr().to_string()];
        let mut members = BTreeMap::new();
        members.insert(TARGET, Member { addr: first.addr(), node: Some(first) });
        for id in (HOLDER.0..).take(usize::try_from(holders)?).map(NodeId) {
            let join = StartMode::Join(seeds.clone());
            let node = launch(&hosts, &authority, &root, id, any, join).await?;
            members.insert(id, Member { addr: node.addr(), node: Some(node) });
        }
        let roles = [Role::Admin, Role::Write, Role::Read].into_iter().collect();
        let credentials = authority.issue_client_in_memory("bench", roles, UnixTime::now())?;
        let client = Client::builder().seeds(&seeds).credentials(credentials).connect().await?;
        let policy = PolicySpec {
            name: "default".to_owned(),
            duration: 0,
            // Room for the time of all rows.
            group_duration: 52 * 7 * 86_400 * 1_000_000_000,
            replication: u32::try_from(members.len())?,
        };
        let name = DATABASE.to_owned();
        client.change(Change::CreateDatabase { name, policy }).await?;
        // Makes the group and the fields.
        let mut rows = Rows::new(FLEET);
        let first = batch(&mut rows, 1)?;
        client.write(DATABASE, &first, &WriteOptions::at(Level::All)).await?;
        let map = client.map();
        Ok(Self { root, authority, hosts, members, client, map, rows: Mutex::new(rows) })
    }

    /// Those that hold hints.
    pub(crate) fn holders(&self) -> Vec<NodeId> {
        self.members.keys().copied().filter(|id| *id != TARGET).collect()
    }

    /// Where a holder has its queues; for use while it is down.
    pub(crate) fn queues(&self, holder: NodeId) -> PathBuf {
        self.root.path().join(holder.to_string()).join("handoff")
    }

    fn member(&mut self, id: NodeId) -> Outcome<&mut Member> {
        self.members.get_mut(&id).ok_or_else(|| format!("no node {id}").into())
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        if let Some(node) = self.members.get_mut(&id).and_then(|member| member.node.take()) {
            node.shutdown().await;
        }
    }

    pub(crate) async fn restart(&mut self, id: NodeId) -> Outcome<()> {
        let addr = self.member(id)?.addr;
        let mode = StartMode::Restart;
        let (hosts, authority) = (&self.hosts, &self.authority);
        let node = launch(hosts, authority, &self.root, id, addr, mode).await?;
        self.member(id)?.node = Some(node);
        Ok(())
    }

    /// Nothing that the target has taken is in its memory any more.
    pub(crate) async fn fold(&self) {
        if let Some(node) = self.members.get(&TARGET).and_then(|member| member.node.as_ref()) {
            node.fold().await;
        }
    }

    /// All holders drain, each at this many bytes per second at most; 0 for no limit.
    pub(crate) fn let_go(&self, rate: u64) {
        let mut config = NodeConfig::default();
        config.drain.rate_limit = rate;
        for node in self.members.values().filter_map(|member| member.node.as_ref()) {
            node.reload(&config);
        }
    }

    /// A connection to the target as the holder's own.
    pub(crate) async fn dial(&self) -> Outcome<Arc<Connection>> {
        let (env, transport) = (Env::system(), TransportConfig::default());
        let name = format!("n{HOLDER}");
        let target = self.members.get(&TARGET).ok_or("no target")?.addr.to_string();
        let credentials = self.authority.issue_node_in_memory(&name, &[], UnixTime::now())?;
        let endpoint = env.client_endpoint(&transport)?;
        let dialer = Dialer::new(env, endpoint, credentials, transport)?;
        Ok(dialer.dial(&target, TARGET).await?)
    }

    /// What a holder says of its queue: delivered, pending.
    pub(crate) async fn queue(&self, holder: NodeId) -> Outcome<(u64, u64)> {
        let status = self.client.node_status(holder, Duration::from_secs(5)).await?;
        let queue = status.queues.iter().find(|queue| queue.target == TARGET);
        Ok(queue.map_or((0, 0), |queue| (queue.delivered, queue.pending)))
    }

    /// A part of the next `count` rows, with this number.
    pub(crate) fn part(&self, number: u64, count: u64) -> Outcome<(PartHeader, Bytes)> {
        let database = self.map.database_named(DATABASE).ok_or("no database")?;
        let policy = database.policy_named(None).ok_or("no policy")?;
        let shard = policy.group_at(FLEET.start).and_then(|group| group.shards.first());
        let shard = shard.ok_or("no shard")?;
        let header = PartHeader {
            batch: BatchId(u128::from(number)),
            version: Version(FLEET.start.cast_unsigned() + number),
            meta_index: self.map.index,
            database: database.id,
            policy: policy.id,
            shard: shard.id,
            epoch: shard.epoch,
        };
        let batch = batch(&mut *self.rows.lock().map_err(|_| "poisoned")?, count)?;
        let bytes = encode_part(&batch, &header, Selection::All, &|measurement, field, _| {
            database.field(measurement, field).map(|field| field.id)
        })?;
        Ok((header, bytes))
    }

    pub(crate) async fn finish(mut self) {
        self.client.close().await;
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}

async fn launch(
    hosts: &Hosts,
    authority: &Authority,
    root: &TempDir,
    id: NodeId,
    listen: SocketAddr,
    mode: StartMode,
) -> Outcome<Node> {
    let sans = ["127.0.0.1".to_owned()];
    let credentials = authority.issue_node_in_memory(&format!("n{id}"), &sans, UnixTime::now())?;
    let data = root.path().join(id.to_string());
    let mut config = NodeConfig { data, listen, ..NodeConfig::default() };
    config.drain.rate_limit = HELD;
    let host = if id == TARGET { &hosts.target } else { &hosts.holders };
    Ok(host.spawn(Node::start(config, credentials, NodeEnv::system(), mode)).await??)
}

/// The next rows.
fn batch(rows: &mut Rows, count: u64) -> Outcome<Batch> {
    let rows: Vec<_> = rows.take(usize::try_from(count)?).collect();
    let first = rows.first().ok_or("no rows")?.host;
    let mut source = Source::new(&FLEET, first, FLEET.hosts.min(rows.len()))?;
    source.fill(rows)?;
    Ok(source.batch)
}
