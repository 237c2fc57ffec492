//! The cluster that is measured: child processes of our own, or one that is there.
//!
//! Invariants: rows go into a database of this run's own, which goes afterwards; what was started is
//! ended, and its folder removed, however the run ends.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_certs::Role;
use quorate_client::{Client, Env};
use quorate_protocol::{
    change::{Change, PolicySpec},
    id::NodeId,
    message::QueueStatus,
};
use tokio::time::{Instant, sleep};

use super::fault::Fault;
use crate::cli::{
    bench::process,
    children::{Cluster, Setup},
    connect::{Connect, unix_time},
    fail::Fail,
    tell,
};

const CLIENT: &str = "bench";
/// How long nodes may take to know each other.
const START: Duration = Duration::from_secs(60);
/// How long a node may take to say how it is.
const ASK: Duration = Duration::from_secs(5);
/// Time range of a shard that holds the whole load.
const ALL: u64 = 5200 * 7 * 86_400 * 1_000_000_000;

/// Where rows go.
pub(super) struct Scene {
    pub(super) client: Client,
    pub(super) database: String,
    copies: usize,
    own: Option<Own>,
}

/// How rows are spread.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    /// Copies of every row; 3, or as many as there are nodes, without it.
    pub(super) replication: Option<u32>,
    /// Time range of one shard in ns; all in one without it.
    pub(super) shard_duration: Option<u64>,
}

/// What was started. The processes end before their folder goes.
struct Own {
    cluster: Cluster,
    folder: Folder,
}

/// Removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tell(&format!("quorate: cannot remove {}: {error}", self.0.display()));
        }
    }
}

impl Scene {
    /// Starts nodes, with data in a new folder in `dir`.
    pub(super) async fn start(
        dir: Option<&Path>,
        nodes: usize,
        spread: Spread,
        fault: Fault,
        env: &Env,
    ) -> Result<Self, Fail> {
        if fault != Fault::None && nodes < 3 {
            return Err(Fail::usage("--fault needs --nodes 3 or more: two of them must go on"));
        }
        let parent = dir.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let cannot = |error| {
            Fail::failed(format!("cannot use {}: {error}; choose another --dir", parent.display()))
        };
        let parent = parent.canonicalize().map_err(cannot)?;
        let path = parent.join(format!("quorate-bench-{:016x}", env.entropy.next_u64()));
        fs::create_dir(&path).map_err(cannot)?;
        let folder = Folder(path);
        let setup = Setup { name: CLIENT, nodes, clients: &[(CLIENT, &[Role::Admin])] };
        let now = unix_time(env);
        let cluster = Cluster::start(&folder.0, &setup, now).await?;
        let credentials = cluster.credentials(CLIENT, now)?;
        let client = Client::builder()
            .seeds(cluster.seeds())
            .credentials(credentials)
            .env(env.clone())
            .connect()
            .await?;
        let end = Instant::now() + START;
        while client.up().len() < nodes {
            if Instant::now() > end {
                return Err(Fail::failed("the nodes did not find each other in time"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Self::with_database(client, spread, Some(Own { cluster, folder }), env).await
    }

    /// Uses a cluster that is there.
    pub(super) async fn connect(
        connect: &Connect,
        spread: Spread,
        env: &Env,
    ) -> Result<Self, Fail> {
        Self::with_database(connect.open(env).await?, spread, None, env).await
    }

    async fn with_database(
        client: Client,
        spread: Spread,
        own: Option<Own>,
        env: &Env,
    ) -> Result<Self, Fail> {
        let database = format!("bench_{:016x}", env.entropy.next_u64());
        let nodes = client.map().active_nodes().count();
        let copies = spread.replication.map_or(3, |copies| copies as usize).min(nodes).max(1);
        let policy = PolicySpec {
            name: "all".to_owned(),
            duration: 0,
            group_duration: spread.shard_duration.unwrap_or(ALL),
            replication: u32::try_from(copies).unwrap_or(1),
        };
        client.change(Change::CreateDatabase { name: database.clone(), policy }).await?;
        Ok(Self { client, database, copies, own })
    }

    /// The folder of the nodes, where they are ours.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.folder.0.as_path())
    }

    /// Where each node's data is, where they are ours.
    pub(super) fn folders(&self) -> Option<Vec<PathBuf>> {
        let own = self.own.as_ref()?;
        let members = own.cluster.members.iter();
        Some(members.map(|member| own.folder.0.join(&member.name)).collect())
    }

    /// Bytes that the nodes' data takes.
    pub(super) fn disk_bytes(&self) -> Option<u64> {
        Some(self.folders()?.iter().map(|data| process::disk_bytes(data)).sum())
    }

    pub(super) fn nodes(&self) -> usize {
        self.client.map().active_nodes().count()
    }

    /// Of every row.
    pub(super) const fn copies(&self) -> usize {
        self.copies
    }

    /// The processes of the nodes, where they are ours and run.
    pub(super) fn processes(&self) -> Vec<(NodeId, u32)> {
        let members = self.own.iter().flat_map(|own| &own.cluster.members);
        members.filter_map(|member| Some((member.id, member.pid()?))).collect()
    }

    /// The nodes that are ours, and which of them faults happen to: the last one, which does not lead.
    pub(super) fn victim(&mut self) -> Result<(&mut Cluster, NodeId), Fail> {
        let own = self.own.as_mut();
        let found = own.and_then(|own| {
            let id = own.cluster.members.last()?.id;
            Some((&mut own.cluster, id))
        });
        found.ok_or_else(|| Fail::failed("no node was started"))
    }

    /// What all hint queues say together.
    pub(super) async fn hints(client: &Client) -> Result<Hints, Fail> {
        let report = client.survey(ASK).await?;
        if report.meta_index < client.map().index {
            return Err(Fail::failed(format!("node {} has not caught up", report.node)));
        }
        let mut hints = Hints::default();
        for (node, report) in report.members {
            let report = report.map_err(|why| Fail::failed(format!("node {node}: {why}")))?;
            for QueueStatus { accepted, delivered, pending, .. } in report.status.queues {
                hints.accepted += accepted;
                hints.delivered += delivered;
                hints.pending += pending;
            }
        }
        Ok(hints)
    }

    /// Ends what was started; the rows are not needed any more.
    pub(super) async fn end(self) -> Result<(), Fail> {
        let dropped = match &self.own {
            Some(_) => Ok(()),
            None => {
                let name = self.database;
                self.client.change(Change::DropDatabase { name }).await.map(|_| ())
            }
        };
        self.client.close().await;
        if let Some(mut own) = self.own {
            own.cluster.stop().await?;
        }
        Ok(dropped?)
    }
}

/// Hints of all nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hints {
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) pending: u64,
}
