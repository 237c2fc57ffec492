//! Whatever is asked of a client may be given up at any moment: at every await of every operation, one
//! by one and many at once, nodes failing meanwhile. Afterwards nothing is held: no request, place, credit,
//! stream or byte of the budget, and there is one connection to each node.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use quorate_client::{
    Batch, Client, ConnectionUsage, Level, Query, Receipt, WriteOptions, Writer, WriterConfig,
    pool::PeerState,
};
use quorate_node::disk::Keep;
use quorate_protocol::{
    change::Change,
    id::NodeId,
    message::{Hints, Ping},
};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    gauges::Gauges,
    limit::{simulated, soak},
    load::{EPOCH, sample},
    observe::{PATIENCE, create_database, export, exports, wait_drained, wait_for, wait_healthy},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

const SECOND: Duration = Duration::from_secs(1);

/// A future that is dropped when it has been polled so many times and is not done.
struct GivenUp<F> {
    work: Option<Pin<Box<F>>>,
    polls: usize,
    /// Whether it is dropped in the moment it would go on, or as soon as it waits.
    late: bool,
}

impl<F: Future> GivenUp<F> {
    fn after(polls: usize, late: bool, work: F) -> Self {
        Self { work: Some(Box::pin(work)), polls, late }
    }
}

impl<F: Future> Future for GivenUp<F> {
    /// None if it was given up.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            self.work = None;
        }
        let Some(work) = &mut self.work else { return Poll::Ready(None) };
        if let Poll::Ready(output) = work.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        self.polls -= 1;
        if self.polls == 0 && !self.late {
            self.work = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

/// What is asked of the client.
#[derive(Clone, Copy, Debug)]
enum Op {
    Write(Level),
    TryWrite,
    NewGroup,
    Query,
    Aggregate,
    Converged,
    Survey,
    Status,
    Pings,
    Digest,
    Hints,
    Change,
    Push,
    PushWrite,
    Flush,
}

const OPS: [Op; 18] = [
    Op::Write(Level::Any),
    Op::Write(Level::One),
    Op::Write(Level::Quorum),
    Op::Write(Level::All),
    Op::TryWrite,
    Op::NewGroup,
    Op::Query,
    Op::Aggregate,
    Op::Converged,
    Op::Survey,
    Op::Status,
    Op::Pings,
    Op::Digest,
    Op::Hints,
    Op::Change,
    Op::Push,
    Op::PushWrite,
    Op::Flush,
];

/// A client under test, and what has been acknowledged to it.
struct Scene {
    client: Client,
    writer: Writer,
    receipt: Receipt,
    next: AtomicU64,
    acked: Mutex<Vec<i64>>,
}

impl Scene {
    async fn new(cluster: &Cluster, client: &Client) -> Arc<Self> {
        create_database(client, "db", 3).await;
        let mut first = Batch::new();
        first.push(&sample(0, 0));
        client.write("db", &first, &WriteOptions::at(Level::All)).await.unwrap();
        // Has a hint, which has to be asked for.
        cluster.isolate(NodeId(3));
        client.write("db", &first, &WriteOptions::default()).await.unwrap();
        cluster.wait_up(client, &[NodeId(1), NodeId(2)]).await;
        let receipt = client.write("db", &first, &WriteOptions::default()).await.unwrap();
        cluster.rejoin(NodeId(3));
        cluster.wait_up(client, &cluster.ids()).await;
        wait_healthy(client, &cluster.ids()).await;
        // Until it is trusted again.
        sleep(20 * SECOND).await;
        let config = WriterConfig { budget_bytes: 4000, ..WriterConfig::default() };
        Arc::new(Self {
            writer: client.writer("db", config),
            client: client.clone(),
            receipt,
            next: AtomicU64::new(1),
            acked: Mutex::new(vec![EPOCH]),
        })
    }

    fn ack(&self, time: i64) {
        self.acked.lock().unwrap().push(time);
    }

    /// Does it once, with a point of its own.
    async fn run(self: Arc<Self>, op: Op) {
        let client = &self.client;
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut point = sample(1, n);
        if matches!(op, Op::NewGroup) {
            // Each a week earlier, so that metadata is asked.
            let week = 7 * 24 * 3_600_000_000_000;
            let builder =
                quorate_client::Point::builder("cpu").tag("host", "old").field("usage", 0.5);
            point = builder.at(EPOCH - n as i64 * week).unwrap();
        }
        let mut batch = Batch::new();
        batch.push(&point);
        let options = |level| WriteOptions { timeout: 5 * SECOND, ..WriteOptions::at(level) };
        match op {
            Op::Write(level) => {
                if client.write("db", &batch, &options(level)).await.is_ok() {
                    self.ack(point.time());
                }
            }
            Op::TryWrite => {
                if client.try_write("db", &batch, &options(Level::Quorum)).await.is_ok() {
                    self.ack(point.time());
                }
            }
            Op::NewGroup => {
                if client.write("db", &batch, &options(Level::Quorum)).await.is_ok() {
                    self.ack(point.time());
                }
            }
            Op::Query => {
                let query = Query { level: Level::All, ..Query::all("db") };
                if let Ok(mut rows) = client.query(query).await {
                    while let Some(Ok(_)) = rows.next().await {}
                }
            }
            Op::Aggregate => {
                let query = Query { level: Level::One, ..Query::all("db") };
                if let Ok(mut windows) = client.aggregate(query, 0).await {
                    while let Some(Ok(_)) = windows.next().await {}
                }
            }
            Op::Converged => drop(client.converged(&self.receipt, SECOND).await),
            Op::Survey => drop(client.survey(SECOND).await),
            Op::Status => drop(client.node_status(NodeId(1 + n % 3), SECOND).await),
            Op::Pings => {
                let Some(PeerState::Up(connection)) = client.usage().peers.pop().map(|p| p.state)
                else {
                    return;
                };
                let end = Instant::now() + SECOND;
                // More than may be open at once: some wait for a place.
                let ping = || connection.request(&Ping {}, Bytes::new(), end);
                drop(tokio::join!(ping(), ping(), ping(), ping(), ping(), ping()));
            }
            Op::Digest => {
                let shard = self.receipt.parts[0].shard;
                let range = quorate_client::DigestRange::default();
                drop(client.shard_digest(shard, NodeId(1 + n % 3), range, SECOND).await);
            }
            Op::Hints => {
                let target = NodeId(1 + (n + 1) % 3);
                let request = Hints { target, quarantined: false, content: true, limit: 0 };
                if let Ok(mut hints) = client.hints(NodeId(1 + n % 3), request, SECOND).await {
                    while let Some(Ok(_)) = hints.next().await {}
                }
            }
            Op::Change => {
                let change = Change::DropDatabase { name: format!("nobody-has-{n}") };
                drop(client.change(change).await);
            }
            Op::Push => {
                if let Ok(pending) = self.writer.push(&point).await
                    && pending.await.is_ok()
                {
                    self.ack(point.time());
                }
            }
            Op::PushWrite => {
                if self.writer.write(&point).await.is_ok() {
                    self.ack(point.time());
                }
            }
            Op::Flush => {
                let _ = self.writer.try_push(&point);
                self.writer.flush().await;
            }
        }
    }

    /// Waits until nothing is under way, and checks that then nothing is held.
    async fn at_rest(&self, what: &str) {
        self.writer.flush().await;
        assert!(self.client.settle(PATIENCE).await, "{what}: the budget does not come back");
        wait_for(&format!("{what}: nothing is held"), PATIENCE, async || {
            let usage = self.client.usage();
            let mut streams = 0;
            for peer in &usage.peers {
                let held = peer.connection.ok_or(format!("{peer:?}"))?;
                streams += held.streams;
                let rest = ConnectionUsage { streams: held.streams, ..ConnectionUsage::default() };
                if held != rest {
                    return Err(format!("{peer:?}"));
                }
            }
            // The map is followed by one task over one stream of one connection.
            let all = (usage.budget_bytes, usage.tasks, usage.connections, usage.peers.len());
            if (streams, all) == (1, (0, 1, 3, 3)) { Ok(()) } else { Err(format!("{usage:?}")) }
        })
        .await;
        assert_eq!(self.writer.waiting_bytes(), 0, "{what}");
    }

    /// Everything that was acknowledged is there, and nodes agree but for what they know to lack.
    async fn check(&self, cluster: &Cluster) {
        wait_healthy(&self.client, &cluster.ids()).await;
        wait_drained(&self.client, &cluster.ids()).await;
        let read = export(&self.client, "db", None).await.unwrap();
        for time in self.acked.lock().unwrap().iter() {
            assert!(read.contains(&format!(" {time}\n")), "{time} is lost");
        }
        let mut marked = BTreeSet::new();
        for node in cluster.ids() {
            let marks = self.client.marks(node, SECOND).await.unwrap();
            marked.extend(marks.iter().map(|mark| mark.owner));
        }
        for (node, text) in exports(&self.client, "db", &cluster.ids()).await {
            assert!(
                text == read || marked.contains(&node),
                "node {node} differs, marked {marked:?}"
            );
        }
    }
}

/// A cluster whose clients have little of everything, so that all of it is waited for.
async fn narrow(seed: u64) -> Cluster {
    let mut plan = Plan::of(3);
    plan.client.budget_bytes = 1500;
    plan.client.transport.max_requests = 4;
    plan.client.transport.receive_budget = 16 << 20;
    Cluster::simulated_with(plan, seed).await
}

/// Connections, each by its number: it is another one after a reconnect.
fn connections(client: &Client) -> Vec<u64> {
    let peers = client.usage().peers;
    let number = |state: &PeerState| match state {
        PeerState::Up(connection) => connection.stable_id(),
        other => panic!("{other:?}"),
    };
    peers.iter().map(|peer| number(&peer.state)).collect()
}

#[test]
fn whatever_is_given_up_at_any_await_leaves_nothing_held() {
    simulated(async {
        let gauges = Gauges::install();
        let mut cluster = narrow(701).await;
        let client = cluster.client().await;
        let scene = Scene::new(&cluster, &client).await;
        scene.at_rest("at the beginning").await;
        let before = connections(&client);
        let mut awaits = 0;
        for op in OPS {
            for polls in 1.. {
                let done = GivenUp::after(polls, false, Arc::clone(&scene).run(op)).await;
                scene.at_rest(&format!("{op:?} after {polls} polls")).await;
                if done.is_some() {
                    // One that waits for nothing would have shown nothing.
                    assert!(polls > 1, "{op:?}");
                    awaits += polls - 1;
                    break;
                }
            }
        }
        assert!(awaits > 20, "{awaits} awaits are too few to be all");
        assert_eq!(connections(&client), before, "giving up costs no connection");
        scene.check(&cluster).await;
        assert!(gauges.sum("quorate_client_peers") > 0.0);
        drop((scene, client));
        cluster.finish().await;
        assert_eq!(gauges.sum("quorate_client_peers"), 0.0);
    });
}

#[test]
fn many_that_are_given_up_at_once_while_nodes_fail_leave_nothing_held() {
    for seed in 0..soak(2) {
        simulated(async {
            let mut cluster = narrow(702 + seed as u64).await;
            let client = cluster.client().await;
            let scene = Scene::new(&cluster, &client).await;
            let entropy = cluster.client_env().entropy;
            let draw = move |below: u64| entropy.next_u64() % below;
            for round in 0..4 {
                let mut all = JoinSet::new();
                for _ in 0..150 {
                    let op = OPS[draw(OPS.len() as u64) as usize];
                    let (polls, late) = (1 + draw(6) as usize, draw(2) == 0);
                    let pause = Duration::from_millis(draw(1500));
                    let scene = Arc::clone(&scene);
                    all.spawn(async move {
                        sleep(pause).await;
                        GivenUp::after(polls, late, scene.run(op)).await
                    });
                }
                sleep(Duration::from_millis(300)).await;
                let node = NodeId(1 + draw(3));
                match round % 3 {
                    0 => {
                        cluster.isolate(node);
                        sleep(Duration::from_millis(700 + draw(1500))).await;
                        cluster.rejoin(node);
                    }
                    1 => {
                        cluster.crash(node, Keep::Synced);
                        cluster.restart(node).await;
                    }
                    _ => {
                        cluster.stop(node).await;
                        cluster.restart(node).await;
                    }
                }
                let outcomes = all.join_all().await;
                let given_up = outcomes.iter().filter(|outcome| outcome.is_none()).count();
                assert!(
                    given_up > 10 && given_up < 150,
                    "{given_up} of {} given up",
                    outcomes.len()
                );
                wait_healthy(&client, &cluster.ids()).await;
                scene.at_rest(&format!("seed {seed}, round {round}")).await;
            }
            scene.check(&cluster).await;
            drop((scene, client));
            cluster.finish().await;
        });
    }
}
