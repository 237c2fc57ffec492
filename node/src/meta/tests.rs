//! The group as a whole: openraft's own suite over the stores, and a few nodes over memory.
//!
//! The cluster tests run under a paused clock with the disk inline: waiting costs nothing and no
//! thread but the test's own takes part. Conditions are polled until a deadline of virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::testing::{StoreBuilder, Suite};
use quorate_protocol::{
    change::{Outcome, PolicySpec},
    id::{ClusterId, DatabaseId},
};
use tempfile::TempDir;

use super::*;
use crate::executor::Executor;

struct Stores(Executor);

impl StoreBuilder<command::Types, log::Log, machine::Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, log::Log, machine::Machine), command::StorageError> {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path(), 64 << 20, self.0).unwrap();
        let log = log::Log::new(store.clone(), 1 << 20);
        Ok((dir, log, machine::Machine::open(store, Arc::new(feed::Feed::new(1 << 20))).unwrap()))
    }
}

#[test]
fn the_stores_pass_the_librarys_suite_inline() {
    Suite::test_all(Stores(Executor::Inline)).unwrap();
}

#[test]
fn the_stores_pass_the_librarys_suite_on_blocking_threads() {
    Suite::test_all(Stores(Executor::Thread)).unwrap();
}

/// What comes together on one node comes apart on another, and a watcher may change between them.
#[test]
fn every_command_is_a_step_of_its_own_whatever_is_applied_together() {
    use openraft::{EntryPayload, storage::RaftStateMachine};
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 64 << 20, Executor::Inline).unwrap();
    let feed = Arc::new(feed::Feed::new(1 << 20));
    let mut machine = machine::Machine::open(store, Arc::clone(&feed)).unwrap();
    let entry = |index, payload| command::Entry {
        log_id: command::LogId::new(openraft::CommittedLeaderId::new(1, 1), index),
        payload,
    };
    let bootstrap = Change::Bootstrap { cluster: ClusterId(1), name: "c".to_owned() };
    let changes = [bootstrap, add_node(1), add_node(1), database("db")];
    let commands = changes.map(|change| EntryPayload::Normal(Command { at_ns: 1, change }));
    let mut entries: Vec<_> = (2..).zip(commands).map(|(n, payload)| entry(n, payload)).collect();
    entries.insert(2, entry(9, EntryPayload::Blank));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(machine.apply(entries)).unwrap();
    let indexes = |after| -> Vec<u64> {
        let news = feed.since(MetaIndex(after));
        news.updates.iter().map(|(index, _)| index.0).collect()
    };
    assert_eq!(indexes(0), [5], "the whole map");
    assert_eq!(indexes(2), [3, 4, 5]);
    assert_eq!(indexes(4), [5]);
}

/// Nodes that reach each other by a function call, unless they are cut off.
#[derive(Default)]
struct Net {
    nodes: Mutex<BTreeMap<u64, Arc<Meta>>>,
    cut: Mutex<BTreeSet<u64>>,
    snapshots: std::sync::atomic::AtomicU64,
}

/// One node's way out.
struct Wire {
    net: Arc<Net>,
    from: u64,
}

impl RaftTransport for Wire {
    fn call(&self, op: RaftOp, peer: Peer, payload: Bytes, _: Duration) -> TransportFuture<'_> {
        Box::pin(async move {
            let cut = |id: &u64| self.net.cut.lock().unwrap().contains(id);
            let target = self.net.nodes.lock().unwrap().get(&peer.id.0).cloned();
            let target = target.filter(|_| !cut(&peer.id.0) && !cut(&self.from));
            let target = target.ok_or_else(|| TransportError::Unreachable(format!("{peer:?}")))?;
            // A round trip, so that virtual time passes between retries.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if op == RaftOp::Snapshot {
                let count = &self.net.snapshots;
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            let answer = target.serve(op, &payload).await;
            answer.map_err(|error| TransportError::Network(error.to_string()))
        })
    }
}

struct Cluster {
    net: Arc<Net>,
    dirs: BTreeMap<u64, TempDir>,
    config: MetaConfig,
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn new_node(id: u64) -> NewNode {
    NewNode {
        name: format!("n{id}"),
        addr: format!("n{id}:7000"),
        zone: None,
        instance: u128::from(id),
    }
}

fn add_node(id: u64) -> Change {
    let NewNode { name, addr, zone, instance } = new_node(id);
    Change::AddNode { name, addr, zone, instance }
}

fn database(name: &str) -> Change {
    Change::CreateDatabase {
        name: name.to_owned(),
        policy: PolicySpec { name: String::new(), duration: 0, group_duration: 0, replication: 0 },
    }
}

impl Cluster {
    fn new(config: MetaConfig) -> Self {
        Self { net: Arc::default(), dirs: BTreeMap::new(), config }
    }

    /// Opens a node's directory, once whoever had it before has let go of it.
    async fn open(&mut self, id: u64) -> Arc<Meta> {
        let dir = self.dirs.entry(id).or_insert_with(|| TempDir::new().unwrap());
        let wire = Arc::new(Wire { net: Arc::clone(&self.net), from: id });
        let deadline = soon();
        loop {
            let opened = Meta::open(
                self.config.clone(),
                dir.path(),
                wire.clone(),
                Arc::new(|| 1),
                Executor::Inline,
            );
            match opened.await {
                Ok(meta) => {
                    let meta = Arc::new(meta);
                    self.net.nodes.lock().unwrap().insert(id, Arc::clone(&meta));
                    return meta;
                }
                Err(MetaError::Store(StoreError::Lmdb(heed::Error::EnvAlreadyOpened)))
                    if Instant::now() < deadline => {}
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn bootstrap(&mut self) {
        let meta = self.open(1).await;
        let done = meta.bootstrap(ClusterId(9), "test", new_node(1), soon());
        assert_eq!(done.await.unwrap(), NodeId(1));
    }

    async fn join(&mut self, id: u64) {
        let joined = self.propose(add_node(id)).await;
        assert_eq!(joined.outcome, Outcome::Node(NodeId(id)));
        let meta = self.open(id).await;
        meta.start(NodeId(id)).await.unwrap();
    }

    /// `count` nodes, all voters.
    async fn start(count: u64, config: MetaConfig) -> Self {
        let mut cluster = Self::new(config);
        cluster.bootstrap().await;
        for id in 2..=count {
            cluster.join(id).await;
        }
        cluster.all_vote(count).await;
        cluster
    }

    async fn restart(&mut self, id: u64) -> Arc<Meta> {
        let meta = self.open(id).await;
        assert_eq!(meta.identity().unwrap(), Some(NodeId(id)));
        meta.start(NodeId(id)).await.unwrap();
        meta
    }

    /// Drops a node like a crash would.
    fn kill(&self, id: u64) {
        self.net.nodes.lock().unwrap().remove(&id).unwrap();
    }

    fn metas(&self) -> Vec<Arc<Meta>> {
        self.net.nodes.lock().unwrap().values().cloned().collect()
    }

    fn leader(&self) -> Option<Arc<Meta>> {
        let mut metas = self.metas();
        metas.retain(|meta| meta.role() == RaftRole::Leader);
        metas.pop()
    }

    /// Proposes as a node would: asks around until somebody leads.
    async fn propose(&self, change: Change) -> Proposed {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            for meta in self.metas() {
                match meta.propose(change.clone(), soon()).await {
                    Ok(proposed) => return proposed,
                    Err(MetaError::Forward { .. } | MetaError::NoLeader) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn all_vote(&self, count: u64) {
        let voters = |meta: &Meta| {
            let metrics = meta.raft.get().unwrap().1.metrics();
            let voters = metrics.borrow().membership_config.voter_ids().count();
            voters as u64
        };
        until("all vote", || self.metas().iter().all(|meta| voters(meta) == count)).await;
    }

    async fn same_everywhere(&self, index: MetaIndex) {
        let mut maps = Vec::new();
        for meta in self.metas() {
            maps.push(meta.wait_for(index, soon()).await.unwrap());
        }
        assert!(maps.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

fn id_of(meta: &Meta) -> u64 {
    meta.raft.get().unwrap().0.0
}

#[tokio::test(start_paused = true)]
async fn three_nodes_elect_agree_and_survive_the_loss_of_their_leader() {
    let mut cluster = Cluster::start(3, MetaConfig::default()).await;
    let first = cluster.propose(database("one")).await;
    assert_eq!(first.outcome, Outcome::Database(DatabaseId(1)));
    cluster.same_everywhere(first.index).await;

    let follower = cluster.metas().into_iter().find(|meta| meta.role() == RaftRole::Follower);
    let refused = follower.unwrap().propose(database("two"), soon()).await;
    let Err(MetaError::Forward { leader }) = refused else { panic!("{refused:?}") };
    assert_eq!(leader.addr, format!("n{}:7000", leader.id));
    let lost = leader.id.0;
    cluster.kill(lost);

    let begun = Instant::now();
    until("a new leader", || cluster.leader().is_some()).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "election took {took:?}");
    let second = cluster.propose(database("two")).await;
    assert_eq!(second.outcome, Outcome::Database(DatabaseId(2)));

    let back = cluster.restart(lost).await;
    assert!(back.map().index >= first.index, "the map was lost on disk");
    cluster.same_everywhere(second.index).await;

    cluster.join(4).await;
    cluster.all_vote(4).await;
    let third = cluster.propose(database("three")).await;
    cluster.same_everywhere(third.index).await;
    assert_eq!(back.map().active_nodes().count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_follower_far_behind_gets_a_snapshot() {
    let config =
        MetaConfig { snapshot_after: 16, log_keep: 4, lag_threshold: 20, ..MetaConfig::default() };
    let mut cluster = Cluster::start(3, config).await;
    until("a leader", || cluster.leader().is_some()).await;
    let away = cluster.metas().into_iter().map(|meta| id_of(&meta));
    let leader = id_of(&cluster.leader().unwrap());
    let away = away.filter(|id| *id != leader).max().unwrap();
    let behind = cluster.net.nodes.lock().unwrap()[&away].map().index;
    cluster.kill(away);
    let mut last = MetaIndex(0);
    for i in 0..80 {
        last = cluster.propose(database(&format!("d{i}"))).await.index;
    }
    let purged = || {
        let metrics = cluster.leader()?.raft.get()?.1.metrics();
        let purged = metrics.borrow().purged;
        purged.map(|id| id.index)
    };
    until("a purged log", || purged() > Some(behind.0)).await;
    let before = cluster.net.snapshots.load(std::sync::atomic::Ordering::Relaxed);
    cluster.restart(away).await;
    cluster.same_everywhere(last).await;
    let after = cluster.net.snapshots.load(std::sync::atomic::Ordering::Relaxed);
    assert!(after > before, "it caught up without a snapshot");

    cluster.kill(away);
    let back = cluster.restart(away).await;
    assert!(back.map().index >= last, "the snapshot was not kept");
    assert_eq!(back.map().databases.len(), 80);
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_a_change_fails_within_its_deadline() {
    let cluster = Cluster::start(3, MetaConfig::default()).await;
    until("a leader", || cluster.leader().is_some()).await;
    let leader = cluster.leader().unwrap();
    for meta in cluster.metas() {
        if id_of(&meta) != id_of(&leader) {
            cluster.net.cut.lock().unwrap().insert(id_of(&meta));
        }
    }
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(2);
    let failed = leader.propose(database("lost"), deadline).await;
    assert!(matches!(failed, Err(MetaError::Deadline)), "{failed:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    cluster.net.cut.lock().unwrap().clear();
    let proposed = cluster.propose(database("found")).await;
    cluster.same_everywhere(proposed.index).await;
}

#[tokio::test(start_paused = true)]
async fn who_has_no_vote_notices_that_the_leader_is_silent_and_that_it_is_back() {
    let config = MetaConfig { max_voters: 1, ..MetaConfig::default() };
    let (heartbeat, patience) = (config.heartbeat_ms, 2 * config.election_timeout_ms);
    let mut cluster = Cluster::new(config);
    cluster.bootstrap().await;
    cluster.join(2).await;
    let index = cluster.leader().unwrap().map().index;
    cluster.same_everywhere(index).await;
    let learner = Arc::clone(&cluster.net.nodes.lock().unwrap()[&2]);
    assert_eq!(learner.role(), RaftRole::Learner);
    // Where nothing happens there are heartbeats.
    let quiet = Instant::now() + Duration::from_secs(60);
    while Instant::now() < quiet {
        assert_eq!(learner.leaderless(), None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.net.cut.lock().unwrap().insert(1);
    let begun = Instant::now();
    until("it notices", || learner.leaderless().is_some()).await;
    let took = begun.elapsed().as_millis() as u64;
    let soonest = patience - 2 * heartbeat;
    assert!((soonest..patience + 100).contains(&took), "noticed after {took} ms");
    assert_eq!(learner.leader().map(|peer| peer.id), Some(NodeId(1)), "Raft does not");

    cluster.net.cut.lock().unwrap().clear();
    let begun = Instant::now();
    until("it has heard", || learner.leaderless().is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn who_has_left_is_no_member_any_more() {
    let cluster = Cluster::start(3, MetaConfig::default()).await;
    until("a leader", || cluster.leader().is_some()).await;
    let leader = id_of(&cluster.leader().unwrap());
    let node = NodeId(if leader == 2 { 3 } else { 2 });
    let left = cluster.propose(Change::RemoveNode { node }).await;
    assert_eq!(left.outcome, Outcome::Done);
    let members = || {
        let metrics = cluster.leader()?.raft.get()?.1.metrics();
        let members = &metrics.borrow().membership_config;
        Some(members.nodes().map(|(id, _)| *id).collect::<Vec<_>>())
    };
    until("two members", || members().is_some_and(|ids| ids.len() == 2 && !ids.contains(&node.0)))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_can_be_repeated_and_a_directory_has_one_owner() {
    let mut cluster = Cluster::new(MetaConfig::default());
    let meta = cluster.open(1).await;
    let early = meta.propose(database("early"), soon()).await;
    assert!(matches!(early, Err(MetaError::NotStarted)));
    assert!(matches!(meta.serve(RaftOp::Vote, b"").await, Err(MetaError::NotStarted)));
    let once = meta.bootstrap(ClusterId(9), "test", new_node(1), soon());
    assert_eq!(once.await.unwrap(), NodeId(1));
    let index = meta.map().index;
    let twice = meta.bootstrap(ClusterId(8), "test", new_node(1), soon());
    assert_eq!(twice.await.unwrap(), NodeId(1));
    assert_eq!(meta.map().cluster, ClusterId(9));
    meta.shutdown().await;
    drop(meta);
    cluster.kill(1);

    let meta = cluster.open(1).await;
    assert!(meta.map().index >= index);
    assert_eq!(meta.identity().unwrap(), Some(NodeId(1)));
    let stranger = meta.start(NodeId(2)).await;
    assert!(matches!(stranger, Err(MetaError::WrongNode { .. })));
    meta.start(NodeId(1)).await.unwrap();
    let proposed = cluster.propose(database("again")).await;
    assert_eq!(proposed.outcome, Outcome::Database(DatabaseId(1)));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_refused_before_raft_sees_it() {
    let mut cluster = Cluster::new(MetaConfig::default());
    cluster.bootstrap().await;
    let meta = cluster.leader().unwrap();
    for op in [RaftOp::Append, RaftOp::Vote, RaftOp::Snapshot] {
        for payload in [&b""[..], &[0xff; 64]] {
            let answer = meta.serve(op, payload).await;
            assert!(matches!(answer, Err(MetaError::Malformed { .. })), "{op:?}");
        }
    }
    let message = network::SnapshotMessage {
        vote: command::Vote::new_committed(99, 2),
        meta: command::SnapshotMeta::default(),
        data: Bytes::from_static(b"not a map"),
    };
    let message = postcard::to_allocvec(&message).unwrap();
    let answer = meta.serve(RaftOp::Snapshot, &message).await;
    assert!(matches!(answer, Err(MetaError::Malformed { .. })));
    let large = Change::CreateGroups {
        policy: quorate_protocol::id::PolicyId(1),
        times: vec![i64::MIN; 200_000],
    };
    let answer = meta.propose(large, soon()).await;
    assert!(matches!(answer, Err(MetaError::TooLarge { .. })));
    assert_eq!(meta.failure(), None);
    assert_eq!(cluster.propose(database("fine")).await.outcome, Outcome::Database(DatabaseId(1)));
}

#[tokio::test(start_paused = true)]
async fn the_log_gets_shorter_also_if_a_node_restarts_often() {
    let mut cluster = Cluster::new(MetaConfig {
        snapshot_after: 16,
        lag_threshold: 20,
        log_keep: 4,
        ..MetaConfig::default()
    });
    cluster.bootstrap().await;
    for round in 0..6 {
        for i in 0..8 {
            cluster.propose(database(&format!("d{round}-{i}"))).await;
        }
        cluster.kill(1);
        cluster.restart(1).await;
        until("a leader", || cluster.leader().is_some()).await;
    }
    let purged = || {
        let metrics = cluster.leader()?.raft.get()?.1.metrics();
        let purged = metrics.borrow().purged;
        purged.map(|id| id.index)
    };
    until("a purged log", || purged() > Some(20)).await;
}

/// Threads, a real clock and real syncs, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_also_works_on_threads() {
    let dir = TempDir::new().unwrap();
    let open = || {
        Meta::open(
            MetaConfig::default(),
            dir.path(),
            Arc::new(Wire { net: Arc::default(), from: 1 }),
            Arc::new(|| 1),
            Executor::Thread,
        )
    };
    let meta = open().await.unwrap();
    let done = meta.bootstrap(ClusterId(9), "test", new_node(1), soon());
    assert_eq!(done.await.unwrap(), NodeId(1));
    let proposed = meta.propose(database("db"), soon()).await.unwrap();
    assert_eq!(meta.wait_for(proposed.index, soon()).await.unwrap().databases.len(), 1);
    meta.shutdown().await;
    drop(meta);
    let meta = open().await.unwrap();
    assert_eq!(meta.map().databases.len(), 1);
}
