//! Requests over lanes against bare quinn, at the same settings, in one run.
//!
//! `cargo bench -p quorate-benches --bench transport [-- FILTER]`
//!
//! Both sides are in this process, over loopback, with certificates. `lane` is this project's client and server
//! with a service that answers at once: frames, checks, dispatch and an answer for each; `bare` is one stream
//! with the same bytes, and 32 bytes back for each message. `mtu` is a lane with other limits of the path's MTU,
//! with and without segmentation offload; `apart` is both with a wider window, and bare with more streams.
//! Invariant: as many messages are under way in both, and none is counted before its answer has come.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_certs::{Authority, Config as CertsConfig, Credentials, Roles, SERVER_NAME, UnixTime};
use quorate_client::{
    Env,
    config::TransportConfig,
    connection::{Connection, Dialer, Local, client_config},
    env::BoxFuture,
};
use quorate_node::{
    endpoint,
    server::{Greeting, Server, Service},
    session::{Peer, ReplySink},
};
use quorate_protocol::{
    frame::{Frame, Message},
    id::{ClusterId, Epoch, MetaIndex, NodeId, Sequence, ShardId, Version},
    message::{Answer, Write, Written},
};
use tokio::{
    runtime::Runtime,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

const CLUSTER: ClusterId = ClusterId(1);
const ANSWER: usize = 32;
/// Chunks that the bare side takes at once, as many as a lane does.
const CHUNKS: usize = 32;
const SIZES: [(&str, usize); 4] =
    [("200b", 200), ("4k", 4 << 10), ("64k", 64 << 10), ("256k", 256 << 10)];
const IN_FLIGHT: [usize; 2] = [1, 32];
/// With segmentation offload or without.
const MTUS: [(u16, bool); 5] =
    [(1_452, false), (1_452, true), (6_000, true), (9_000, false), (65_000, false)];
const PATIENCE: Duration = Duration::from_secs(60);

/// Stores nothing and says that it did.
struct AtOnce;

impl Service for AtOnce {
    fn greeting(&self) -> Greeting {
        Greeting { cluster: CLUSTER, node: NodeId(1), ..Greeting::default() }
    }

    fn call(&self, _peer: Arc<Peer>, request: Frame, reply: ReplySink) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let sequence = Sequence(request.payload.len() as u64);
            let copy = Answer { error: None, sequence, retry_after_ms: 0 };
            let written = Written {
                copy: Some(copy),
                hints: vec![],
                highest_version: Version(0),
                meta_index: MetaIndex(0),
                buffered: false,
            };
            assert_eq!(request.op, Write::OP, "only writes are sent");
            reply.send(&written, Bytes::new()).await;
        })
    }
}

struct World {
    connection: Arc<Connection>,
    bare: quinn::Connection,
    _server: Server,
    _dialer: Dialer,
    _bare_endpoints: [quinn::Endpoint; 2],
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl World {
    async fn new(config: TransportConfig) -> Self {
        let (env, now) = (Env::system(), UnixTime::now());
        let authority = Authority::ephemeral("bench", CertsConfig::default(), now).expect("a CA");
        let node = authority.issue_node_in_memory("n1", &[], now).expect("a certificate");
        let client = authority.issue_client_in_memory("app", Roles::default(), now);
        let client: Credentials = client.expect("a certificate");

        let (served, _) = endpoint::bind(&env, loopback(), &node, &config).expect("a socket");
        let addr = served.local_addr().expect("it is bound");
        let server = Server::start(served, node.clone(), config.clone(), Arc::new(AtOnce));
        let socket = env.client_endpoint(&config).expect("a socket");
        let dialer = Dialer::new(env.clone(), socket, client.clone(), config.clone());
        let dialer = dialer.expect("valid credentials");
        dialer.set_local(Local { cluster: CLUSTER, node: NodeId(0), ..Local::default() });
        let connection = dialer.dial(&addr.to_string(), NodeId(0)).await.expect("it listens");

        let (accepting, _) = endpoint::bind(&env, loopback(), &node, &config).expect("a socket");
        let addr = accepting.local_addr().expect("it is bound");
        tokio::spawn(echo(accepting.clone()));
        let socket = env.client_endpoint(&config).expect("a socket");
        let quic = client_config(&client, &config).expect("valid credentials");
        let bare = socket.connect_with(quic, addr, SERVER_NAME).expect("valid settings");
        let bare = bare.await.expect("it listens");
        Self {
            connection,
            bare,
            _server: server,
            _dialer: dialer,
            _bare_endpoints: [accepting, socket],
        }
    }

    /// Sends so many messages, each when one before it has been answered; how long that took.
    async fn lane(&self, size: usize, in_flight: usize, count: u64) -> Duration {
        let places = Arc::new(Semaphore::new(in_flight));
        let payload = Bytes::from(vec![7; size]);
        let began = Instant::now();
        for _ in 0..count {
            let place = Arc::clone(&places).acquire_owned().await.expect("it stays open");
            tokio::spawn(ask(Arc::clone(&self.connection), payload.clone(), place));
        }
        let all = u32::try_from(in_flight).expect("few");
        let _all = places.acquire_many(all).await.expect("it stays open");
        began.elapsed()
    }

    async fn bare(&self, size: usize, in_flight: usize, count: u64) -> Duration {
        let (mut send, mut recv) = self.bare.open_bi().await.expect("it is up");
        let length = u32::try_from(size).expect("small").to_le_bytes();
        send.write_all(&length).await.expect("it is up");
        let payload = Bytes::from(vec![7; size]);
        let places = Semaphore::new(in_flight);
        let began = Instant::now();
        let write = async {
            for _ in 0..count {
                places.acquire().await.expect("it stays open").forget();
                send.write_chunk(payload.clone()).await.expect("it is up");
            }
            send.finish().expect("once");
        };
        let read = async {
            let (mut held, mut answered) = (0, 0);
            while answered < count {
                let chunk = recv.read_chunk(usize::MAX, true).await.expect("it is up");
                held += chunk.expect("answers are missing").bytes.len();
                let complete = held / ANSWER;
                held %= ANSWER;
                answered += complete as u64;
                places.add_permits(complete);
            }
        };
        tokio::join!(write, read);
        began.elapsed()
    }
}

async fn ask(connection: Arc<Connection>, payload: Bytes, _place: OwnedSemaphorePermit) {
    let write = Write {
        shard: ShardId(1),
        epoch: Epoch(0),
        meta_index: MetaIndex(0),
        deadline_ms: 60_000,
        store: true,
        any: false,
        hint_for: vec![],
    };
    let answer = connection.request(&write, payload, Instant::now() + PATIENCE).await;
    answer.expect("it is answered");
}

/// Answers each message of each stream.
async fn echo(endpoint: quinn::Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { return };
        tokio::spawn(async move {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    let mut size = [0; 4];
                    recv.read_exact(&mut size).await.ok()?;
                    let (size, mut held) = (u32::from_le_bytes(size) as usize, 0);
                    let mut chunks = [const { Bytes::new() }; CHUNKS];
                    while let Some(read) = recv.read_chunks(&mut chunks).await.ok()? {
                        held += chunks[..read].iter().map(Bytes::len).sum::<usize>();
                        send.write_all(&vec![7; held / size * ANSWER]).await.ok()?;
                        held %= size;
                    }
                    send.finish().ok()
                });
            }
        });
    }
}

fn transport(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let world = runtime.block_on(World::new(TransportConfig::default()));
    for (name, size) in SIZES {
        for in_flight in IN_FLIGHT {
            let mut group = criterion.benchmark_group(format!("{name}_{in_flight}_in_flight"));
            group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
            group.warm_up_time(Duration::from_millis(500));
            group.measurement_time(Duration::from_secs(2));
            group.bench_function("lane", |b| {
                b.iter_custom(|count| runtime.block_on(world.lane(size, in_flight, count)));
            });
            group.bench_function("bare", |b| {
                b.iter_custom(|count| runtime.block_on(world.bare(size, in_flight, count)));
            });
            group.finish();
        }
    }
}

fn mtu(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let (size, in_flight) = (64 << 10, 32);
    let mut group = criterion.benchmark_group("mtu");
    group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
    group.measurement_time(Duration::from_secs(2));
    for (max_mtu, segmentation_offload) in MTUS {
        let config =
            TransportConfig { max_mtu, segmentation_offload, ..TransportConfig::default() };
        let world = runtime.block_on(World::new(config));
        // By then the path's MTU has been found.
        runtime.block_on(world.lane(size, in_flight, 2_000));
        let offload = if segmentation_offload { "offload" } else { "plain" };
        group.bench_function(format!("{max_mtu}_{offload}"), |b| {
            b.iter_custom(|count| runtime.block_on(world.lane(size, in_flight, count)));
        });
    }
    group.finish();
}

/// What of bare quinn's time is one stream's window, and what the one stream.
fn apart(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let (size, in_flight) = (64 << 10, 32);
    let usual = TransportConfig::default();
    let wide = TransportConfig { stream_window: 4 << 20, ..usual.clone() };
    let mut group = criterion.benchmark_group("apart");
    group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
    group.measurement_time(Duration::from_secs(2));
    for (name, config) in [("usual_window", usual), ("window_of_4m", wide)] {
        let world = runtime.block_on(World::new(config));
        runtime.block_on(world.bare(size, in_flight, 2_000));
        group.bench_function(format!("bare_{name}"), |b| {
            b.iter_custom(|count| runtime.block_on(world.bare(size, in_flight, count)));
        });
        group.bench_function(format!("bare_4_streams_{name}"), |b| {
            b.iter_custom(|count| {
                let some = || world.bare(size, in_flight / 4, count.div_ceil(4));
                runtime.block_on(async {
                    let began = Instant::now();
                    tokio::join!(some(), some(), some(), some());
                    began.elapsed()
                })
            });
        });
        group.bench_function(format!("lane_{name}"), |b| {
            b.iter_custom(|count| runtime.block_on(world.lane(size, in_flight, count)));
        });
    }
    group.finish();
}

criterion_group!(benches, transport, mtu, apart);
criterion_main!(benches);
