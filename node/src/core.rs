//! What all of a node's work shares.
//!
//! Made by `Node::start` once everything is open; the service answers from it, the background tasks
//! keep it going.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quorate_client::{env::Env, pool::Pool};
use quorate_protocol::{
    code::Code,
    id::{ClusterId, NodeId, Version},
    message::Failure,
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accepted::Accepted,
    config::NodeConfig,
    data::DataDir,
    directory::Directory,
    feed::Feeds,
    handoff::{DrainConfig, Handoff, Marks},
    intake::Intake,
    journal::Journal,
    meta::Meta,
    shard::ShardStore,
};

pub(crate) struct Core {
    pub(crate) config: NodeConfig,
    pub(crate) env: Env,
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) data: DataDir,
    pub(crate) directory: Directory,
    pub(crate) shards: ShardStore,
    /// What followers of shards are told.
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) journal: Journal,
    pub(crate) handoff: Handoff,
    /// The latest times of what it has accepted.
    pub(crate) accepted: Accepted,
    /// How much of others' queues comes in at once.
    pub(crate) intake: Intake,
    /// How hints are delivered; can be changed while the node runs.
    pub(crate) drain: watch::Sender<DrainConfig>,
    pub(crate) marks: Marks,
    pub(crate) meta: Meta,
    pub(crate) pool: Arc<Pool>,
    /// Whether this node has left the cluster and nothing is to be done here any more.
    pub(crate) left: watch::Sender<bool>,
    /// Somebody says that there are new certificates.
    pub(crate) look_at_certificates: Notify,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
    /// Set with [`Core::saw_version`].
    pub(crate) highest_version: AtomicU64,
}

impl Core {
    /// The highest version of a batch this node has accepted.
    pub(crate) fn highest_version(&self) -> Version {
        Version(self.highest_version.load(Ordering::Relaxed))
    }

    pub(crate) fn saw_version(&self, version: Version) {
        self.highest_version.fetch_max(version.0, Ordering::Relaxed);
    }

    /// Whether this node is known to be no member any more.
    pub(crate) fn has_left(&self, node: NodeId) -> bool {
        self.directory.current().map.node(node).is_some_and(|node| !node.is_member())
    }

    /// The same by the name in a certificate, which nobody can claim to have.
    pub(crate) fn is_named_as_left(&self, name: &str) -> bool {
        let map = &self.directory.current().map;
        map.nodes.iter().any(|node| node.name == name && !node.is_member())
    }

    /// A failure reply that carries this node's metadata index.
    pub(crate) fn failure(&self, code: Code, detail: impl Into<String>) -> Failure {
        let meta_index = self.directory.index();
        Failure { code, retry_after_ms: 0, meta_index, detail: detail.into() }
    }
}
