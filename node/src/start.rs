//! Starting and stopping a node.
//!
//! Order of a start: the data directory is locked and its owner checked; the port is bound; the
//! node becomes a member if it is not one; the shards open, the journal is replayed into them, the
//! hint queues open; metadata starts; requests are answered. Invariant: nothing is answered before
//! everything the journal holds is visible. Stopping runs the other way, and flushes nothing: what
//! was acknowledged is durable already.

mod join;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use quorate_certs::Credentials;
use quorate_client::{
    connection::{Dialer, Local},
    env::Env,
    pool::Pool,
};
use quorate_protocol::{
    hello::MINOR,
    id::{ClusterId, NodeId},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::join::{join, join_again};
use crate::{
    accepted::Accepted,
    background,
    config::NodeConfig,
    core::Core,
    data::{DataDir, DataError, Identity},
    directory::Directory,
    disk::Disk,
    endpoint::{self, BindError, Port},
    executor::Executor,
    feed::Feeds,
    handoff::{self, Handoff, HandoffError, Marks},
    health::View,
    intake::Intake,
    journal::{Journal, JournalHome, JournalOpenError},
    meta::{Meta, MetaError, NewNode},
    raft::Lanes,
    server::Server,
    service::NodeService,
    shard::{ShardError, ShardStore},
    sink::ShardSink,
};

/// How long the first election and the first commands of a cluster may take.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(30);

/// How a node that is not a member yet becomes one; ignored once it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// It is a member already.
    Restart,
    /// It makes a new cluster.
    Bootstrap,
    /// It asks one of these members, `HOST:PORT` each.
    Join(Vec<String>),
}

/// The world around a node.
#[derive(Clone)]
pub struct NodeEnv {
    /// Clock, randomness and sockets.
    pub env: Env,
    /// Files, apart from LMDB's.
    pub disk: Arc<dyn Disk>,
    /// Whether disk work runs in the calling task. Only for simulations under a paused clock,
    /// whose time must not run on while a thread works.
    pub inline: bool,
    /// The highest minor version of the protocol that the node says it speaks, [`MINOR`]. Another one only for
    /// simulations of upgrades: it brings nothing that this version does not have.
    pub minor: u16,
}

impl NodeEnv {
    /// The real world.
    #[must_use]
    pub fn system() -> Self {
        Self {
            env: Env::system(),
            disk: Arc::new(crate::disk::SystemDisk),
            inline: false,
            minor: MINOR,
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The certificate is a client's.
    #[error("the certificate is for {0}, not for a node; make one with 'quorate certs node'")]
    NotANode(String),
    /// There is no address that others could dial.
    #[error("--listen {0} is a wildcard address; say with --advertise HOST:PORT where others dial")]
    NoAdvertise(SocketAddr),
    /// The directory's node is no member any more.
    #[error(
        "node {name} has left this cluster and stays down; to use this machine again, start with an \
         empty --data directory, a certificate with a new name, and --join HOST:PORT"
    )]
    Left {
        /// Its name.
        name: String,
    },
    /// The port cannot be served on.
    #[error(transparent)]
    Endpoint(#[from] BindError),
    /// An empty directory and nothing that says what to do with it.
    #[error("this node is in no cluster yet; start it with --bootstrap or --join HOST:PORT")]
    NoCluster,
    /// No member has let the node in.
    #[error("could not join through {addresses}: {reason}")]
    Join {
        /// Who was asked.
        addresses: String,
        /// The last reason.
        reason: String,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalOpenError),
    /// The shard store cannot be opened.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The hint queues cannot be opened.
    #[error(transparent)]
    Handoff(#[from] HandoffError),
    /// Metadata did not start.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// A running node.
pub struct Node {
    pub(crate) core: Arc<Core>,
    pub(crate) server: Arc<Server>,
    name: String,
    addr: SocketAddr,
    port: Port,
}

impl Node {
    /// Starts a node and returns when it answers requests.
    ///
    /// # Errors
    /// See [`StartError`]; each says what to do.
    pub async fn start(
        config: NodeConfig,
        credentials: Credentials,
        world: NodeEnv,
        mode: StartMode,
    ) -> Result<Self, StartError> {
        let owner = credentials.identity();
        if !owner.is_node() {
            return Err(StartError::NotANode(owner.to_string()));
        }
        let (cluster_name, name) = (owner.cluster.clone(), owner.name().to_owned());
        let data = DataDir::open(&config.data, Arc::clone(&world.disk))?;
        let known = data.identity(&cluster_name, &name)?;
        if known.as_ref().is_some_and(|identity| identity.left) {
            return Err(StartError::Left { name });
        }
        let mut identity = known.unwrap_or_else(|| {
            Identity::new(cluster_name.clone(), name.clone(), world.env.next_u128())
        });

        let (endpoint, port) =
            endpoint::bind(&world.env, config.listen, &credentials, &config.transport)?;
        let addr = endpoint
            .local_addr()
            .map_err(|source| BindError::Io { addr: config.listen, source })?;
        let advertise = match &config.advertise {
            Some(advertise) => advertise.clone(),
            None if addr.ip().is_unspecified() => return Err(StartError::NoAdvertise(addr)),
            None => addr.to_string(),
        };
        let dialer = Dialer::new(
            world.env.clone(),
            endpoint.clone(),
            credentials.clone(),
            config.transport.clone(),
        );
        let dialer = Arc::new(dialer.map_err(BindError::from)?);
        let minor = world.minor;
        dialer.set_local(Local { minor, ..Local::default() });

        let again = match &mode {
            StartMode::Join(addresses) if identity.node != NodeId(0) => addresses.clone(),
            _ => Vec::new(),
        };
        if identity.node == NodeId(0) {
            // Before anybody hears of this node, so that a second attempt is the same node.
            data.save_identity(&identity)?;
            let (cluster, node) = match mode {
                StartMode::Bootstrap => {
                    identity.founder = true;
                    (ClusterId(world.env.next_u128()), NodeId(1))
                }
                StartMode::Join(addresses) => {
                    let joined = join(&config, &dialer, &identity, &advertise, &addresses).await?;
                    (joined.cluster, joined.node)
                }
                StartMode::Restart => return Err(StartError::NoCluster),
            };
            identity.set_member(cluster, node);
            data.save_identity(&identity)?;
        }
        dialer.set_local(Local { minor, cluster: identity.cluster(), node: identity.node });

        let pool = Arc::new(Pool::new(Arc::clone(&dialer)));
        let core = open(config, world, data, &identity, pool).await?;
        let service = Arc::new(NodeService::new(Arc::clone(&core)));
        let transport = core.config.transport.clone();
        let limits = core.config.limits.clone();
        let server = Server::start_with(endpoint, credentials, transport, limits, service);
        let server = Arc::new(server);
        background::start(&core);
        let node = Self { core, server, name, addr, port };
        if let Err(error) = become_member(&node.core, &identity, &advertise).await {
            // Its tasks would keep the directory and the port for ever.
            node.shutdown().await;
            return Err(error);
        }
        if !again.is_empty() && node.core.meta.map().node(identity.node).is_none() {
            let core = Arc::clone(&node.core);
            node.core.tasks.spawn(join_again(core, identity, advertise, again));
        }
        Ok(node)
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.core.node
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address it serves on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until this node is no member of the cluster any more and others have its hints: then
    /// shut it down. It does not start again.
    pub async fn left(&self) {
        let mut left = self.core.left.subscribe();
        // The sender is in the core, so it cannot be gone.
        let _ = left.wait_for(|left| *left).await;
    }

    /// For whoever watches the node, also when it is gone.
    pub(crate) fn view(&self) -> View {
        View { core: Arc::downgrade(&self.core), limits: Arc::downgrade(&self.server.limits()) }
    }

    /// Takes those settings that can change while the node runs, which are all of `[drain]`. Returns
    /// the names of others that differ: they need a restart.
    pub fn reload(&self, config: &NodeConfig) -> Vec<String> {
        self.core.drain.send_if_modified(|drain| {
            let differs = *drain != config.drain;
            drain.clone_from(&config.drain);
            differs
        });
        self.core.config.differences(config)
    }

    /// The term in which this node leads the metadata group, if it does; for tests of elections.
    #[must_use]
    pub fn leads(&self) -> Option<u64> {
        self.core.meta.leads()
    }

    /// Members that this node has dialled, and the minor version agreed on with each; for tests of versions
    /// side by side.
    #[must_use]
    pub fn minors(&self) -> Vec<(NodeId, u16)> {
        let up = self.core.pool.up();
        up.iter().map(|connection| (connection.node(), connection.welcome().minor)).collect()
    }

    /// Bytes of batches that are kept for followers; for tests of what they cost.
    #[must_use]
    pub fn followed_bytes(&self) -> u64 {
        self.core.feeds.kept_bytes()
    }

    /// Folds everything that is fresh into LMDB, now; for tests of what is at rest.
    pub async fn fold(&self) {
        for shard in self.core.shards.shards() {
            if let Err(error) = self.core.shards.flush(shard).await {
                tracing::warn!(%shard, %error, "not folded");
            }
        }
    }

    /// Stops answering, lets requests under way finish for a moment, and closes everything: a node can
    /// be started on the same files and at the same address at once.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        self.core.cancel.cancel();
        self.core.tasks.close();
        self.core.meta.shutdown().await;
        self.core.tasks.wait().await;
        self.core.pool.shutdown().await;
        self.core.handoff.close().await;
        self.core.marks.close().await;
        self.core.journal.close().await;
        self.core.shards.close().await;
        let endpoint = self.core.pool.dialer().endpoint().clone();
        drop((self.core, self.server));
        self.port.release(endpoint).await;
    }
}

/// Opens everything on disk.
async fn open(
    config: NodeConfig,
    world: NodeEnv,
    data: DataDir,
    identity: &Identity,
    pool: Arc<Pool>,
) -> Result<Arc<Core>, StartError> {
    let executor = if world.inline { Executor::Inline } else { Executor::Thread };
    let key = world.env.entropy.next_u64();
    let shards = ShardStore::open_keyed(config.shard, &data.join("shards"), executor, key)?;
    let home = JournalHome {
        directory: data.join("journal"),
        node: identity.node,
        salt: world.env.entropy.next_u64(),
        applied: shards.found_applied(),
        durability: config.durability,
    };
    let feeds = Feeds::new(config.feed.clone(), shards.clone());
    let sink = Arc::new(ShardSink::new(shards.clone(), Arc::clone(&feeds)));
    let mut highest_version = data.highest_version()?;
    let (journal, recovery) = Journal::open(
        config.journal.clone(),
        home,
        Arc::clone(&world.disk),
        executor,
        sink.clone(),
        &mut |record| {
            if let Some(version) = sink.take(&record) {
                highest_version = highest_version.max(version);
            }
        },
    )?;
    feeds.synced(recovery.highest);
    if recovery.damaged_records + recovery.unreadable_segments > 0 {
        feeds.distrust(recovery.highest);
    }
    if recovery.damaged_records > 0 {
        tracing::error!(
            records = recovery.damaged_records,
            "the journal was damaged; what could not be read is in journal/quarantine"
        );
    }
    tracing::info!(records = recovery.records, torn = recovery.torn, "journal replayed");
    let directory = data.join("handoff");
    let marks = Marks::open(
        directory.join(handoff::marks::FILE),
        world.env.entropy.next_u64(),
        Arc::clone(&world.disk),
        executor,
    )?;
    let salt = world.env.entropy.next_u64();
    let disk = Arc::clone(&world.disk);
    let (handoff, report) = Handoff::open(config.handoff.clone(), directory, salt, disk, executor)?;
    for (target, reason) in &report.failed {
        tracing::error!(%target, reason, "a hint queue cannot be used; it refuses hints");
    }
    for name in &report.unknown_files {
        tracing::warn!(name, "left alone in the directory of the hint queues");
    }
    tracing::info!(queues = report.queues, pending = report.pending, "hint queues opened");
    let clock = Arc::clone(&world.env.clock);
    let meta = Meta::open(
        config.meta.clone(),
        &data.join("meta"),
        Lanes::new(Arc::clone(&pool)),
        Arc::new(move || clock.wall_ns()),
        executor,
    )
    .await?;
    Ok(Arc::new(Core {
        drain: watch::Sender::new(config.drain.clone()),
        left: watch::Sender::new(false),
        accepted: Accepted::default(),
        intake: Intake::new(&config),
        config,
        env: world.env,
        node: identity.node,
        cluster: identity.cluster(),
        data,
        directory: Directory::new(identity.node),
        shards,
        feeds,
        journal,
        handoff,
        marks,
        meta,
        pool,
        look_at_certificates: Notify::new(),
        tasks: TaskTracker::new(),
        cancel: CancellationToken::new(),
        highest_version: AtomicU64::new(highest_version.0),
    }))
}

/// Starts metadata: as the founder of the cluster, or as a member that is one or becomes one.
async fn become_member(
    core: &Arc<Core>,
    identity: &Identity,
    advertise: &str,
) -> Result<(), StartError> {
    if identity.founder && core.meta.identity()?.is_none() {
        let me = NewNode {
            name: identity.name.clone(),
            addr: advertise.to_owned(),
            zone: core.config.zone.clone(),
            instance: identity.instance(),
        };
        let deadline = Instant::now() + BOOTSTRAP_TIMEOUT;
        core.meta.bootstrap(identity.cluster(), &identity.cluster_name, me, deadline).await?;
    } else {
        core.meta.start(identity.node).await?;
    }
    background::announce(core, advertise.to_owned());
    Ok(())
}
