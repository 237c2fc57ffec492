//! A cluster in one process: over loopback UDP in real time, or over [`SimNet`] in virtual time.
//!
//! Invariants: node `n` is the `n`th that was started and keeps its name, address and disk over
//! restarts; a simulated cluster draws everything from one seed, and its nodes keep their files in
//! memory (LMDB excepted), so that [`Cluster::crash`] can take away what was not synced. Every node
//! has a [`FaultDisk`]. Used within [`super::limit::real`] or [`super::limit::simulated`].

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use quorate_certs::{Authority, Config as CertsConfig, Credentials, Role, UnixTime};
use quorate_client::{Client, ClientConfig, Env, Error};
use quorate_node::{
    config::NodeConfig,
    disk::{Disk, FaultDisk, Keep, MemoryDisk, SystemDisk},
    start::{Node, NodeEnv, StartError, StartMode},
};
use quorate_protocol::{hello::MINOR, id::NodeId};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    net::SimNet,
    observe,
    seams::{Seeded, Skewed},
};

/// The name of every cluster here.
pub const NAME: &str = "tested";
/// Port of every simulated node; each has a host of its own.
const PORT: u16 = 7100;

/// Changes a node's settings before one of its starts.
pub type Configure = Arc<dyn Fn(NodeId, &mut NodeConfig) + Send + Sync>;

/// What a cluster shall be.
#[derive(Clone)]
pub struct Plan {
    /// How many nodes.
    pub nodes: u64,
    /// Changes a node's settings before each of its starts.
    pub configure: Configure,
    /// How far each node's wall clock is ahead, in ms; simulated clusters only.
    pub skew_ms: BTreeMap<NodeId, i64>,
    /// Seconds on all wall clocks for each one of the runtime's; simulated clusters only. Timers
    /// follow the runtime: more than 1 makes whatever is decided by age come sooner.
    pub clock_rate: u32,
    /// The clients' settings.
    pub client: ClientConfig,
}

impl Plan {
    /// So many nodes with default settings.
    #[must_use]
    pub fn of(nodes: u64) -> Self {
        Self {
            nodes,
            configure: Arc::new(|_, _| {}),
            skew_ms: BTreeMap::new(),
            clock_rate: 1,
            client: ClientConfig::default(),
        }
    }

    /// With these changes to every node's settings.
    #[must_use]
    pub fn configured(
        mut self,
        configure: impl Fn(NodeId, &mut NodeConfig) + Send + Sync + 'static,
    ) -> Self {
        self.configure = Arc::new(configure);
        self
    }
}

/// A running cluster.
pub struct Cluster {
    /// Goes last: nodes have files in it.
    members: BTreeMap<NodeId, Member>,
    clients: Vec<Client>,
    /// What nodes say that they speak, where it is not what they do.
    minors: BTreeMap<NodeId, u16>,
    authority: Authority,
    world: World,
    plan: Plan,
    root: TempDir,
}

enum World {
    Loopback,
    Simulated { net: SimNet, seed: u64, lives: u64 },
}

struct Member {
    data: PathBuf,
    credentials: Credentials,
    addr: SocketAddr,
    memory: MemoryDisk,
    disk: FaultDisk,
    running: Option<Node>,
    /// A crashed node that is still being torn down.
    dying: Option<JoinHandle<()>>,
}

/// A node's disks at one moment.
pub struct Image {
    /// Its durable files.
    pub memory: MemoryDisk,
    files: TempDir,
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Where a simulated node lives.
#[must_use]
pub fn host(node: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node.0).unwrap())
}

/// Where a simulated client lives, by order of connecting.
#[must_use]
pub fn client_host(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, u8::try_from(number).unwrap())
}

/// The moment that certificates are made and judged at: the system's, in simulations too.
fn now() -> UnixTime {
    UnixTime::now()
}

/// A directory of its own. LMDB's files of a simulated cluster lie in memory where the system has
/// such a place: its syncs would be the only thing that takes real time.
fn directory(simulated: bool) -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if simulated && let Ok(directory) = TempDir::with_prefix_in("quorate-test-", memory) {
        return directory;
    }
    TempDir::with_prefix("quorate-test-").unwrap()
}

/// How long a crashed node is away at least, so that everybody has noticed when it is back.
const BACK_AFTER: Duration = Duration::from_secs(5);

impl Cluster {
    /// So many nodes over loopback UDP, all voting.
    pub async fn real(nodes: u64) -> Self {
        Self::real_with(Plan::of(nodes)).await
    }

    /// A cluster over loopback UDP.
    pub async fn real_with(plan: Plan) -> Self {
        Self::start_all(World::Loopback, plan).await
    }

    /// So many nodes over a simulated network, all voting.
    pub async fn simulated(nodes: u64, seed: u64) -> Self {
        Self::simulated_with(Plan::of(nodes), seed).await
    }

    /// A cluster over a simulated network.
    pub async fn simulated_with(plan: Plan, seed: u64) -> Self {
        let net = SimNet::new(seed);
        net.set_clock_rate(plan.clock_rate);
        Self::start_all(World::Simulated { net, seed, lives: 0 }, plan).await
    }

    async fn start_all(world: World, plan: Plan) -> Self {
        let mut cluster = Self {
            members: BTreeMap::new(),
            clients: Vec::new(),
            minors: BTreeMap::new(),
            authority: Authority::ephemeral(NAME, CertsConfig::default(), now()).unwrap(),
            root: directory(matches!(world, World::Simulated { .. })),
            world,
            plan,
        };
        for id in 1..=cluster.plan.nodes {
            cluster.add(NodeId(id)).await;
        }
        observe::wait_healthy(&cluster.client().await, &cluster.ids()).await;
        cluster
    }

    /// One more node joins; its id.
    pub async fn join(&mut self) -> NodeId {
        let last = self.members.keys().next_back().map_or(0, |id| id.0);
        self.add(NodeId(last + 1)).await;
        NodeId(last + 1)
    }

    /// A new member: the first founds the cluster, the others join it.
    async fn add(&mut self, id: NodeId) {
        let name = format!("n{id}");
        let sans = ["127.0.0.1".to_owned()];
        let memory = MemoryDisk::new();
        let (addr, disk): (_, Arc<dyn Disk>) = match &self.world {
            World::Loopback => (SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(SystemDisk)),
            World::Simulated { .. } => {
                (SocketAddr::from((host(id), PORT)), Arc::new(memory.clone()))
            }
        };
        let member = Member {
            data: self.root.path().join(&name),
            credentials: self.authority.issue_node_in_memory(&name, &sans, now()).unwrap(),
            addr,
            memory,
            disk: FaultDisk::new(disk),
            running: None,
            dying: None,
        };
        let mode = match self.seeds().first() {
            None => StartMode::Bootstrap,
            Some(_) => StartMode::Join(self.seeds()),
        };
        // What is not a durable file goes past the disk seam: LMDB, and the lock.
        std::fs::create_dir_all(&member.data).unwrap();
        self.members.insert(id, member);
        self.launch(id, mode).await.unwrap();
    }

    async fn launch(&mut self, id: NodeId, mode: StartMode) -> Result<(), StartError> {
        let env = self.env(host(id), self.plan.skew_ms.get(&id).copied().unwrap_or(0));
        let inline = matches!(self.world, World::Simulated { .. });
        let minor = self.minors.get(&id).copied().unwrap_or(MINOR);
        let member = self.members.get_mut(&id).unwrap();
        assert!(member.running.is_none(), "node {id} runs already");
        let mut config =
            NodeConfig { data: member.data.clone(), listen: member.addr, ..NodeConfig::default() };
        (self.plan.configure)(id, &mut config);
        let world = NodeEnv { env, disk: Arc::new(member.disk.clone()), inline, minor };
        let node = Node::start(config, member.credentials.clone(), world, mode).await?;
        assert_eq!(node.id(), id);
        member.addr = node.addr();
        member.running = Some(node);
        Ok(())
    }

    /// The world as one host sees it. Every life of a host draws other numbers.
    fn env(&mut self, host: Ipv4Addr, skew_ms: i64) -> Env {
        match &mut self.world {
            World::Loopback => Env::system(),
            World::Simulated { net, seed, lives } => {
                *lives += 1;
                let of_host = net.env(host);
                Env {
                    clock: Arc::new(Skewed::new(of_host.clock, skew_ms)),
                    entropy: Arc::new(Seeded::new(*seed ^ (*lives << 32))),
                    sockets: of_host.sockets,
                }
            }
        }
    }

    /// All node ids, running or not.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.members.keys().copied().collect()
    }

    /// The addresses of the nodes that run.
    #[must_use]
    pub fn seeds(&self) -> Vec<String> {
        let running = self.members.values().filter(|member| member.running.is_some());
        running.map(|member| member.addr.to_string()).collect()
    }

    /// A running node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        self.members[&id].running.as_ref().unwrap()
    }

    /// The disk of a node; a restart after a crash brings a new one.
    #[must_use]
    pub fn disk(&self, id: NodeId) -> &FaultDisk {
        &self.members[&id].disk
    }

    /// The data directory of a node, with the files that do not go through its disk.
    #[must_use]
    pub fn data(&self, id: NodeId) -> &std::path::Path {
        &self.members[&id].data
    }

    /// The files of a simulated node.
    #[must_use]
    pub fn memory(&self, id: NodeId) -> &MemoryDisk {
        &self.members[&id].memory
    }

    /// Bytes of these simulated nodes' files whose path contains `part`, from the first occurrence
    /// of `mark` to the last byte that is not zero; none if it occurs nowhere.
    #[must_use]
    pub fn disk_bytes(&self, ids: &[NodeId], part: &str, mark: &[u8]) -> Option<u64> {
        let mut sum = None;
        for id in ids {
            let memory = self.memory(*id);
            for path in memory.paths().iter().filter(|path| path.to_string_lossy().contains(part)) {
                let bytes = memory.content(path).unwrap_or_default();
                let Some(first) = bytes.windows(mark.len()).position(|at| at == mark) else {
                    continue;
                };
                let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(first);
                *sum.get_or_insert(0) += (last - first) as u64;
            }
        }
        sum
    }

    /// Everything a simulated node that is down has on its disks.
    #[must_use]
    pub fn image(&self, id: NodeId) -> Image {
        let member = &self.members[&id];
        assert!(member.running.is_none(), "node {id} uses its disk");
        let files = directory(true);
        copy(&member.data, files.path());
        Image { memory: member.memory.crash(Keep::All), files }
    }

    /// Gives a simulated node that is down the disks of an image, which stays as it is.
    pub fn restore(&mut self, id: NodeId, image: &Image) {
        let member = self.members.get_mut(&id).unwrap();
        assert!(member.running.is_none(), "node {id} uses its disk");
        std::fs::remove_dir_all(&member.data).unwrap();
        copy(image.files.path(), &member.data);
        member.memory = image.memory.crash(Keep::All);
        member.disk = FaultDisk::new(Arc::new(member.memory.clone()));
    }

    /// The simulated network.
    #[must_use]
    pub fn net(&self) -> &SimNet {
        match &self.world {
            World::Simulated { net, .. } => net,
            World::Loopback => panic!("a real network cannot be told what to do"),
        }
    }

    /// What signs this cluster's certificates.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A client with every role.
    pub async fn client(&mut self) -> Client {
        let config = self.plan.client.clone();
        self.client_with(config).await
    }

    /// A client with these settings.
    pub async fn client_with(&mut self, config: ClientConfig) -> Client {
        let credentials = self.client_credentials("tester");
        let client = self.client_as(credentials, config).await.unwrap();
        self.clients.push(client.clone());
        client
    }

    /// Credentials of a client of this cluster with every role.
    #[must_use]
    pub fn client_credentials(&self, name: &str) -> Credentials {
        let roles = [Role::Admin, Role::Write, Role::Read].into_iter().collect();
        self.authority.issue_client_in_memory(name, roles, now()).unwrap()
    }

    /// A client of an authority that this cluster does not know, which has this cluster name.
    ///
    /// # Errors
    /// It is refused, if all is well.
    pub async fn client_of_other_ca(&mut self, cluster: &str) -> Result<Client, Error> {
        let other = Authority::ephemeral(cluster, CertsConfig::default(), now()).unwrap();
        let roles = [Role::Admin].into_iter().collect();
        let credentials = other.issue_client_in_memory("stranger", roles, now()).unwrap();
        let config = self.plan.client.clone();
        self.client_as(credentials, config).await
    }

    /// A client with these credentials.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`](quorate_client::ClientBuilder::connect).
    pub async fn client_as(
        &mut self,
        credentials: Credentials,
        config: ClientConfig,
    ) -> Result<Client, Error> {
        let env = self.client_env();
        let client = Client::builder().seeds(self.seeds()).credentials(credentials);
        client.config(config).env(env).connect().await
    }

    /// The world of one more client.
    pub fn client_env(&mut self) -> Env {
        let number = self.clients.len() + 1;
        self.env(client_host(number), 0)
    }

    /// Stops a node as an operator would.
    pub async fn stop(&mut self, id: NodeId) {
        let node = self.members.get_mut(&id).unwrap().running.take();
        node.unwrap().shutdown().await;
    }

    /// Ends a simulated node in the middle of whatever it does: nothing it says gets out any more,
    /// nothing it writes is kept, and of what it wrote `keep` is what the next start finds.
    pub fn crash(&mut self, id: NodeId, keep: Keep) {
        self.isolate(id);
        let member = self.members.get_mut(&id).unwrap();
        let image = member.memory.crash(keep);
        member.disk.stop_after(0);
        member.memory = image.clone();
        member.disk = FaultDisk::new(Arc::new(image));
        let node = member.running.take().unwrap();
        member.dying = Some(tokio::spawn(node.shutdown()));
    }

    /// Cuts a simulated node off from everybody, silently.
    pub fn isolate(&self, id: NodeId) {
        self.others(id, |net, other| net.partition(host(id), other));
    }

    /// Ends [`Self::isolate`], and every other partition of this node.
    pub fn rejoin(&self, id: NodeId) {
        self.others(id, |net, other| net.heal(host(id), other));
    }

    fn others(&self, id: NodeId, act: impl Fn(&SimNet, Ipv4Addr)) {
        let nodes = self.members.keys().filter(|other| **other != id).map(|other| host(*other));
        let clients = (1..=32).map(client_host);
        nodes.chain(clients).for_each(|other| act(self.net(), other));
    }

    /// Makes a node another version from its next start on, as far as it says so.
    pub fn set_minor(&mut self, id: NodeId, minor: u16) {
        self.minors.insert(id, minor);
    }

    /// Starts a node again that was stopped or crashed.
    pub async fn restart(&mut self, id: NodeId) {
        self.try_restart(id).await.unwrap();
    }

    /// Starts a node again that was stopped or crashed.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn try_restart(&mut self, id: NodeId) -> Result<(), StartError> {
        if let Some(dying) = self.members.get_mut(&id).unwrap().dying.take() {
            dying.await.unwrap();
            sleep(BACK_AFTER).await;
            self.rejoin(id);
        }
        self.launch(id, StartMode::Restart).await
    }

    /// Waits until a client has connections to exactly these nodes.
    pub async fn wait_up(&self, client: &Client, nodes: &[NodeId]) {
        observe::wait_for("connections", observe::PATIENCE, async || {
            let up = client.up();
            if up == nodes { Ok(()) } else { Err(format!("connected to {up:?}, not {nodes:?}")) }
        })
        .await;
    }

    /// Closes clients and nodes; hangs if one of them cannot be closed.
    pub async fn finish(mut self) {
        for client in &self.clients {
            client.close().await;
        }
        for (_, member) in std::mem::take(&mut self.members) {
            if let Some(node) = member.running {
                node.shutdown().await;
            }
            if let Some(dying) = member.dying {
                dying.await.unwrap();
            }
        }
    }
}
