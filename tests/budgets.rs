//! What a stopped node costs the others, at full load: memory within bounds that follow from the
//! configuration, and no part of their rate.

use std::{process::Stdio, time::Duration};

use quorate_client::ClientConfig;
use quorate_node::config::NodeConfig;
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    limit::{real, soak},
    observe::{PATIENCE, create_database, leader, queues, statuses, total, wait_for, wait_healthy},
    process::Processes,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep},
};

pub const MIB: usize = 1 << 20;
/// Tasks that write, one row after the other.
const TASKS: usize = 32;

/// How long a node is stopped, the client's budget, and bytes of a row. The short form has so small a
/// budget that it is used up before anybody can know that the node is stopped.
fn plan() -> (Duration, usize, usize) {
    match soak(1) {
        1 => (Duration::from_secs(4), 4 * MIB, 16 << 10),
        _ => (Duration::from_secs(60), ClientConfig::default().budget_bytes, 1 << 10),
    }
}

/// Little of everything, so that bounds are narrow; and the same as a file.
pub fn narrow() -> (NodeConfig, String) {
    let mut config = NodeConfig::default();
    config.transport.credit = 4 << 20;
    (config.journal.queue_bytes, config.journal.group_bytes) = (16 * MIB, 4 * MIB);
    (config.handoff.queue_bytes, config.handoff.group_bytes) = (16 * MIB, 4 * MIB);
    let shard = &mut config.shard;
    (shard.fresh_bytes, shard.fold_bytes, shard.fold_limit_bytes) = (32 << 20, 4 << 20, 8 << 20);
    (shard.fold_cells, shard.series_cache_bytes, shard.compaction_threads) = (1 << 20, MIB, 1);
    let text = format!(
        "[transport]\ncredit = {}\n[journal]\nqueue_bytes = {}\ngroup_bytes = {}\n\
         [handoff]\nqueue_bytes = {}\ngroup_bytes = {}\n\
         [shard]\nfresh_bytes = {}\nfold_bytes = {}\nfold_limit_bytes = {}\nfold_cells = {}\n\
         series_cache_bytes = {}\ncompaction_threads = {}\n",
        config.transport.credit,
        config.journal.queue_bytes,
        config.journal.group_bytes,
        config.handoff.queue_bytes,
        config.handoff.group_bytes,
        shard.fresh_bytes,
        shard.fold_bytes,
        shard.fold_limit_bytes,
        shard.fold_cells,
        shard.series_cache_bytes,
        shard.compaction_threads,
    );
    (config, text)
}

/// What a client may take ([`ClientConfig::budget_bytes`]): its budget, what its callers hold, and the
/// process itself.
fn client_bound(budget: usize, row: usize) -> usize {
    budget + TASKS * 2 * row + 16 * MIB
}

/// What a node may take: what is fresh in its shards, what waits for the journal, for the hint queues and
/// from other nodes' drains, what is granted to each connection, what is sent on each, a fold, the cache of
/// series, and the process itself.
pub fn node_bound(config: &NodeConfig) -> usize {
    // A client that writes, one that looks, two nodes.
    let connections = 4;
    let granted =
        config.transport.granted_credit() as usize + config.transport.send_window as usize;
    config.shard.fresh_bytes as usize
        + config.journal.queue_bytes
        + config.handoff.queue_bytes
        + config.hint_receive_bytes as usize
        + connections * granted
        + config.shard.fold_limit_bytes as usize
        + 16 * config.shard.fold_cells as usize
        + 2 * config.shard.txn_bytes
        + config.shard.series_cache_bytes
        + 32 * MIB
}

pub fn rss_anon(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// What the client says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    pub acked: u64,
    pub failed: u64,
    budget: usize,
}

/// A client under full load.
pub struct Load {
    child: Child,
    told: watch::Receiver<Told>,
}

impl Load {
    pub fn start(
        cluster: &Processes,
        database: &str,
        budget: usize,
        tasks: usize,
        row: usize,
    ) -> Self {
        let addrs: Vec<&str> = cluster.ids().iter().map(|node| cluster.addr(*node)).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-loader-under-test"));
        command.arg(addrs.join(",")).arg(cluster.issue_client("loader")).arg(database);
        command.args([budget, tasks, row].map(|number| number.to_string()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, told) = watch::channel(Told::default());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let numbers: Vec<u64> =
                    line.split(' ').map(|number| number.parse().unwrap()).collect();
                let [acked, failed, budget] = numbers[..] else { panic!("{line}") };
                tell.send_replace(Told { acked, failed, budget: budget as usize });
            }
        });
        Self { child, told }
    }

    pub fn told(&self) -> Told {
        *self.told.borrow()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id().unwrap()).unwrap()
    }

    /// The last that it said.
    pub async fn stop(mut self) -> Told {
        drop(self.child.stdin.take());
        assert!(self.child.wait().await.unwrap().success());
        // The reader of its words has ended, too.
        while self.told.changed().await.is_ok() {}
        self.told()
    }
}

/// The most that was seen in a stretch, in bytes, and rows per second.
#[derive(Debug, Default)]
struct Stretch {
    client: usize,
    nodes: usize,
    budget: usize,
    rate: f64,
    acked: u64,
}

async fn look(cluster: &Processes, load: &Load, nodes: &[NodeId], length: Duration) -> Stretch {
    let (begun, before) = (Instant::now(), load.told().acked);
    let mut seen = Stretch::default();
    while begun.elapsed() < length {
        sleep(Duration::from_millis(20)).await;
        seen.client = seen.client.max(rss_anon(load.pid()));
        let most = nodes.iter().map(|node| rss_anon(cluster.pid(*node))).max();
        seen.nodes = seen.nodes.max(most.unwrap());
        seen.budget = seen.budget.max(load.told().budget);
    }
    seen.acked = load.told().acked - before;
    seen.rate = seen.acked as f64 / begun.elapsed().as_secs_f64();
    seen
}

/// Four seconds, of which the first is needed to notice; a minute with `QUORATE_SOAK`.
#[test]
fn a_stopped_node_costs_bounded_memory_and_none_of_the_others_rate() {
    real(async {
        let binary = env!("CARGO_BIN_EXE_quorate-under-test");
        let (config, text) = narrow();
        let mut cluster = Processes::start_with(binary, 3, &text).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        // Metadata is not what this is about.
        let lead = leader(&client, &cluster.ids()).await;
        let stopped = NodeId(if lead == NodeId(3) { 2 } else { 3 });
        let live: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != stopped).collect();
        let (stop, budget, row) = plan();
        let load = Load::start(&cluster, "db", budget, TASKS, row);
        wait_for("the load", PATIENCE, async || {
            let told = load.told();
            if told.acked > 500 { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
        let healthy = look(&cluster, &load, &live, stop / 2).await;
        cluster.freeze(stopped);
        let alone = look(&cluster, &load, &live, stop).await;
        cluster.thaw(stopped);
        let back = look(&cluster, &load, &live, stop / 2).await;
        let last = load.stop().await;
        let (client_bound, node_bound) = (client_bound(budget, row), node_bound(&config));
        for (name, stretch) in [("healthy", &healthy), ("stopped", &alone), ("back", &back)] {
            println!(
                "{name}: {:.0} rows/s, {:.2} of healthy; RssAnon at most: client {} of {} MiB, nodes {} of {} \
                 MiB; budget {} of {} KiB",
                stretch.rate,
                stretch.rate / healthy.rate,
                stretch.client / MIB,
                client_bound / MIB,
                stretch.nodes / MIB,
                node_bound / MIB,
                stretch.budget >> 10,
                budget >> 10,
            );
            assert!(stretch.client <= client_bound, "{name}: {stretch:?}");
            assert!(stretch.nodes <= node_bound, "{name}: {stretch:?}");
            assert!(stretch.budget <= budget && stretch.acked > 100, "{name}: {stretch:?}");
        }
        assert_eq!((last.failed, last.budget), (0, 0), "{last:?}");
        wait_healthy(&client, &cluster.ids()).await;
        let hints = total(&queues(&client, &live).await.unwrap());
        assert!(hints.accepted > 100, "{hints:?}: it was not missed");
        assert_eq!(statuses(&client, &cluster.ids()).await.unwrap().len(), 3);
        client.close().await;
        for node in cluster.ids() {
            cluster.kill(node).await;
        }
    });
}
