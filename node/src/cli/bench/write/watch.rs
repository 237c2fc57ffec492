//! What client and nodes take of the machine while the load goes on.
//!
//! Invariants: a process counts from the moment it is followed until its end, so one that is killed and
//! comes back is counted twice, rightly; memory is the most that any look has seen. Looks cost nothing
//! that could be measured.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorate_client::Client;
use quorate_protocol::id::NodeId;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{drive::STEP, scene::Scene};
use crate::cli::bench::process::{cpu_seconds, disk_bytes, rss_anon_mb};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Goes on looking until it is dropped.
pub(super) struct Watch {
    state: Arc<Mutex<State>>,
    client: Client,
    _stop: DropGuard,
}

#[derive(Default)]
struct State {
    own: Process,
    nodes: BTreeMap<NodeId, Vec<Process>>,
    /// Bytes sent, by connection.
    sent: BTreeMap<u64, u64>,
    /// Of those, how many before the load.
    before: u64,
    own_before_mb: f64,
    line: Line,
}

/// What was held at the beginning of each step of the time line.
#[derive(Clone, Default)]
pub(super) struct Line {
    pub(super) client_rss_anon_mb: Vec<f64>,
    /// Of all nodes together.
    pub(super) nodes_rss_anon_mb: Vec<f64>,
    /// Of all nodes' data together; empty if they are not ours.
    pub(super) disk_mb: Vec<f64>,
}

#[derive(Clone, Copy, Default)]
struct Process {
    pid: u32,
    /// Processor time when it was first seen, and last.
    cpu: (f64, f64),
    rss_anon_mb: f64,
}

/// What was seen.
pub(super) struct Load {
    pub(super) client_cpu_s: f64,
    /// At the beginning: what the bench itself made.
    pub(super) client_rss_anon_before_mb: f64,
    pub(super) client_rss_anon_mb: f64,
    /// Of each node, by id; none if they are not ours.
    pub(super) node_cpu_s: Vec<f64>,
    pub(super) node_rss_anon_mb: Vec<f64>,
    /// Bytes of UDP payload that the client has sent.
    pub(super) sent_bytes: u64,
}

impl Process {
    fn new(pid: u32) -> Self {
        let cpu = cpu_seconds(pid).unwrap_or(0.0);
        Self { pid, cpu: (cpu, cpu), rss_anon_mb: 0.0 }
    }

    /// What is gone stays as it was.
    fn look(&mut self) {
        self.cpu.1 = cpu_seconds(self.pid).unwrap_or(self.cpu.1);
        self.rss_anon_mb = self.rss_anon_mb.max(rss_anon_mb(self.pid).unwrap_or(0.0));
    }

    fn cpu_s(&self) -> f64 {
        self.cpu.1 - self.cpu.0
    }
}

impl Watch {
    pub(super) fn start(scene: &Scene) -> Self {
        let own = Process::new(std::process::id());
        let state = Arc::new(Mutex::new(State { own, ..State::default() }));
        let stop = CancellationToken::new();
        let watch = Self {
            state: Arc::clone(&state),
            client: scene.client.clone(),
            _stop: stop.clone().drop_guard(),
        };
        watch.follow(scene);
        look(&state, &watch.client);
        let mut first = lock(&state);
        first.before = first.sent.values().sum();
        first.own_before_mb = first.own.rss_anon_mb;
        drop(first);
        let client = scene.client.clone();
        let folders = scene.folders();
        let began = Instant::now();
        tokio::spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
                look(&state, &client);
                let known = lock(&state).line.client_rss_anon_mb.len() as u128;
                if began.elapsed().as_nanos() / STEP.as_nanos() >= known {
                    let disk = folders.as_deref().map(|of| of.iter().map(|data| disk_bytes(data)));
                    lock(&state).step(disk.map(Iterator::sum));
                }
            }
        });
        watch
    }

    /// Takes note of processes that are new.
    pub(super) fn follow(&self, scene: &Scene) {
        let mut state = lock(&self.state);
        for (node, pid) in scene.processes() {
            let known = state.nodes.entry(node).or_default();
            if known.iter().all(|process| process.pid != pid) {
                known.push(Process::new(pid));
            }
        }
    }

    /// What was held over time.
    pub(super) fn line(&self) -> Line {
        lock(&self.state).line.clone()
    }

    pub(super) fn so_far(&self) -> Load {
        look(&self.state, &self.client);
        let state = lock(&self.state);
        let cpu = |runs: &Vec<Process>| runs.iter().map(Process::cpu_s).sum();
        let rss = |runs: &Vec<Process>| runs.iter().map(|run| run.rss_anon_mb).fold(0.0, f64::max);
        Load {
            client_cpu_s: state.own.cpu_s(),
            client_rss_anon_before_mb: state.own_before_mb,
            client_rss_anon_mb: state.own.rss_anon_mb,
            node_cpu_s: state.nodes.values().map(cpu).collect(),
            node_rss_anon_mb: state.nodes.values().map(rss).collect(),
            sent_bytes: state.sent.values().sum::<u64>() - state.before,
        }
    }
}

impl State {
    fn step(&mut self, disk: Option<u64>) {
        let held = |process: &Process| rss_anon_mb(process.pid).unwrap_or(0.0);
        self.line.client_rss_anon_mb.push(held(&self.own));
        self.line.nodes_rss_anon_mb.push(self.nodes.values().flatten().map(held).sum());
        self.line.disk_mb.extend(disk.map(|bytes| bytes as f64 / 1e6));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Numbers are as good as before whatever panicked beside them.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(state: &Mutex<State>, client: &Client) {
    let traffic = client.traffic();
    let mut state = lock(state);
    state.own.look();
    state.nodes.values_mut().flatten().for_each(Process::look);
    for connection in traffic {
        state.sent.insert(connection.connection, connection.sent_bytes);
    }
}
