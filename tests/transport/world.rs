//! Nodes with a service that does as it is told, and clients that dial them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quorate_certs::{Authority, Config, Credentials, Roles, UnixTime};
use quorate_client::{
    config::TransportConfig,
    connection::{Connection, Dialer, Local},
    env::{BoxFuture, Env},
};
use quorate_node::{
    endpoint,
    limits::LimitsConfig,
    server::{Greeting, Server, Service},
    session::{Peer, ReplySink, failure},
};
use quorate_protocol::{
    code::Code,
    frame::{Frame, Message},
    id::{ClusterId, Epoch, MetaIndex, NodeId, Sequence, ShardId, Version},
    message::{
        Answer, MetaChanged, MetaGet, MetaState, MetaWatch, Propose, RaftInstalled, RaftSnapshot,
        Rows, Scan, Write, Written,
    },
};
use quorate_tests::harness::net::SimNet;
use tokio::time::{Instant, sleep};

/// The cluster's id in all tests.
pub const CLUSTER: ClusterId = ClusterId(77);

/// The CA of all tests, and another that nobody trusts. Made once, so that two runs in one process
/// send the same number of bytes.
pub fn authorities() -> &'static (Authority, Authority) {
    static BOTH: OnceLock<(Authority, Authority)> = OnceLock::new();
    let make = || Authority::ephemeral("prod", Config::default(), UnixTime::now()).unwrap();
    BOTH.get_or_init(|| (make(), make()))
}

pub fn node_credentials(name: &str) -> Credentials {
    let ca = &authorities().0;
    ca.issue_node_in_memory(name, &[], UnixTime::now()).unwrap()
}

/// A client with the default roles: write and read.
pub fn client_credentials() -> Credentials {
    static ONE: OnceLock<Credentials> = OnceLock::new();
    let ca = &authorities().0;
    let make = || ca.issue_client_in_memory("app", Roles::default(), UnixTime::now()).unwrap();
    ONE.get_or_init(make).clone()
}

/// What the service does with a `Write` of a shard.
pub mod shard {
    use super::ShardId;

    /// Answers with the payload at once.
    pub const ECHO: ShardId = ShardId(0);
    /// The same after `meta_index` milliseconds.
    pub const SLOW: ShardId = ShardId(1);
    /// Never answers.
    pub const NEVER: ShardId = ShardId(2);
    /// Returns without an answer.
    pub const FORGET: ShardId = ShardId(3);
    /// Panics.
    pub const PANIC: ShardId = ShardId(4);
}

/// A service that does as it is told, and counts.
#[derive(Default)]
pub struct Echo {
    pub greeting: Greeting,
    /// Calls in progress.
    pub running: AtomicUsize,
    /// Calls ever made.
    pub calls: AtomicUsize,
    /// The minor version agreed on with whoever came last.
    pub minor: AtomicU16,
}

struct Running(Arc<Echo>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The handle that is given to servers.
pub struct EchoService(pub Arc<Echo>);

impl Service for EchoService {
    fn greeting(&self) -> Greeting {
        self.0.greeting
    }

    fn seen(&self, peer: &Peer) {
        self.0.minor.store(peer.minor, Ordering::Relaxed);
    }

    fn call(&self, _peer: Arc<Peer>, request: Frame, reply: ReplySink) -> BoxFuture<'static, ()> {
        let echo = Arc::clone(&self.0);
        Box::pin(async move {
            echo.calls.fetch_add(1, Ordering::Relaxed);
            echo.running.fetch_add(1, Ordering::Relaxed);
            let _running = Running(Arc::clone(&echo));
            match request.op {
                Write::OP => write(&request, reply).await,
                Scan::OP => scan(&request, reply).await,
                MetaGet::OP => {
                    let get: MetaGet = request.message().unwrap();
                    let map = vec![7; usize::try_from(get.after.0).unwrap()];
                    let index = echo.greeting.meta_index;
                    reply.send(&MetaState { index }, map.into()).await;
                }
                MetaWatch::OP => watch(&request, reply).await,
                Propose::OP => {
                    sleep(Duration::from_secs(5)).await;
                    reply.fail(failure(Code::NotReady, "no metadata")).await;
                }
                RaftSnapshot::OP => {
                    let length = request.payload.len().to_string();
                    reply.send(&RaftInstalled {}, length.into()).await;
                }
                _ => reply.fail(failure(Code::NotReady, "only echoes")).await,
            }
        })
    }
}

/// News every half minute, for ever.
async fn watch(request: &Frame, mut reply: ReplySink) {
    let watch: MetaWatch = request.message().unwrap();
    for step in 1.. {
        sleep(Duration::from_secs(30)).await;
        let index = MetaIndex(watch.after.0 + step);
        if reply.more(&MetaChanged { index, left: 0 }, Bytes::new()).await.is_err() {
            return;
        }
    }
}

async fn write(request: &Frame, reply: ReplySink) {
    let write: Write = request.message().unwrap();
    match write.shard {
        shard::SLOW => sleep(Duration::from_millis(write.meta_index.0)).await,
        shard::NEVER => std::future::pending().await,
        shard::FORGET => return,
        shard::PANIC => panic!("as told"),
        _ => {}
    }
    let written = Written {
        copy: Some(Answer {
            error: None,
            sequence: Sequence(request.payload.len() as u64),
            retry_after_ms: 0,
        }),
        hints: vec![],
        highest_version: Version(0),
        meta_index: MetaIndex(0),
        buffered: false,
    };
    reply.send(&written, request.payload.clone()).await;
}

/// As many frames as `from` says, of `to` bytes each.
async fn scan(request: &Frame, mut reply: ReplySink) {
    let scan: Scan = request.message().unwrap();
    let block = Bytes::from(vec![1; usize::try_from(scan.to).unwrap()]);
    for entries in 1..u32::try_from(scan.from).unwrap() {
        let rows = Rows { entries, complete: false };
        if reply.more(&rows, block.clone()).await.is_err() {
            return;
        }
    }
    reply.send(&Rows { entries: 0, complete: true }, Bytes::new()).await;
}

pub fn write_to(shard: ShardId, wait_ms: u64) -> Write {
    Write {
        shard,
        epoch: Epoch(0),
        meta_index: MetaIndex(wait_ms),
        deadline_ms: 1000,
        store: true,
        any: false,
        hint_for: vec![],
    }
}

/// A node that listens.
pub struct Node {
    pub addr: SocketAddr,
    pub server: Server,
    pub echo: Arc<Echo>,
}

impl Node {
    pub fn start(env: &Env, addr: SocketAddr, id: u64) -> Self {
        let credentials = node_credentials(&format!("n{id}"));
        Self::with(env, addr, id, credentials, TransportConfig::default())
    }

    pub fn with(
        env: &Env,
        addr: SocketAddr,
        id: u64,
        credentials: Credentials,
        config: TransportConfig,
    ) -> Self {
        Self::limited(env, addr, id, credentials, config, LimitsConfig::default())
    }

    pub fn limited(
        env: &Env,
        addr: SocketAddr,
        id: u64,
        credentials: Credentials,
        config: TransportConfig,
        limits: LimitsConfig,
    ) -> Self {
        let (cluster, node, meta_index) = (CLUSTER, NodeId(id), MetaIndex(5));
        let greeting = Greeting { cluster, node, meta_index, ..Greeting::default() };
        Self::greeting(env, addr, greeting, credentials, config, limits)
    }

    /// One that says that it speaks this minor version.
    pub fn speaking(env: &Env, addr: SocketAddr, minor: u16) -> Self {
        let greeting = Greeting { minor, cluster: CLUSTER, node: NodeId(1), ..Greeting::default() };
        let (config, limits) = (TransportConfig::default(), LimitsConfig::default());
        Self::greeting(env, addr, greeting, node_credentials("n1"), config, limits)
    }

    fn greeting(
        env: &Env,
        addr: SocketAddr,
        greeting: Greeting,
        credentials: Credentials,
        config: TransportConfig,
        limits: LimitsConfig,
    ) -> Self {
        let (endpoint, _) = endpoint::bind(env, addr, &credentials, &config).unwrap();
        let echo = Arc::new(Echo { greeting, ..Echo::default() });
        let service = Arc::new(EchoService(Arc::clone(&echo)));
        Self {
            addr: endpoint.local_addr().unwrap(),
            server: Server::start_with(endpoint, credentials, config, limits, service),
            echo,
        }
    }

    /// Waits until no call is in progress.
    pub async fn idle(&self) {
        while self.echo.running.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A dialler with a client's certificate.
pub fn dialer(env: &Env) -> Arc<Dialer> {
    dialer_with(env, client_credentials(), TransportConfig::default())
}

pub fn dialer_with(env: &Env, credentials: Credentials, config: TransportConfig) -> Arc<Dialer> {
    let endpoint = env.client_endpoint(&config).unwrap();
    let dialer = Dialer::new(env.clone(), endpoint, credentials, config).unwrap();
    dialer.set_local(Local { cluster: CLUSTER, node: NodeId(0), ..Local::default() });
    Arc::new(dialer)
}

pub async fn connect(dialer: &Dialer, node: &Node) -> Arc<Connection> {
    dialer.dial(&node.addr.to_string(), NodeId(0)).await.unwrap()
}

/// Far enough away to never matter.
pub fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub const fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

pub fn on(n: u8) -> SocketAddr {
    SocketAddr::from((host(n), 7000))
}

/// A node on the simulated network; its id is its host's number.
pub fn sim_node(net: &SimNet, n: u8) -> Node {
    Node::start(&net.env(host(n)), on(n), n.into())
}

/// A dialler on the simulated network.
pub fn sim_dialer(net: &SimNet) -> Arc<Dialer> {
    dialer(&net.env(host(200)))
}

/// Runs a test on a simulated network, under a paused clock, on one thread.
pub fn simulate<T>(seed: u64, test: impl AsyncFnOnce(SimNet) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { test(SimNet::new(seed)).await })
}
