//! Metadata: the nodes, databases, shard groups and field types the whole cluster agrees on.
//!
//! One Raft group of openraft, whose names appear nowhere outside this module. Reading order:
//! `command` is what the log holds, `state` what a command does to the map; `store`, `rows`, `log`
//! and `machine` keep both on disk; `feed` is what watchers of the map are told; `network` and `serve` carry Raft's messages; `membership` makes
//! joined nodes members, `election` replaces silent leaders; `start` begins and ends a node's part, this file is the handle it uses.
//!
//! Invariants: whatever a node has shown in its map is committed and never taken back; one node
//! bootstraps a cluster, once; a directory belongs to one node id for ever. Elections need no
//! randomness: each node has a fixed timeout, staggered by id (see [`MetaConfig`]), and a tie goes
//! to the larger id.

mod command;
mod config;
mod election;
mod error;
mod feed;
mod log;
mod machine;
mod membership;
mod network;
mod rows;
mod serve;
mod start;
mod state;
mod store;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    BasicNode,
    error::{ClientWriteError, Fatal, RaftError},
};
use quorate_protocol::{
    change::Change,
    id::{MetaIndex, NodeId},
    map::ClusterMap,
    message::{Proposed, RaftRole},
};
use tokio::{
    sync::{OnceCell, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::executor::Executor;
use command::{Command, Raft};
use store::Store;

pub use config::MetaConfig;
pub use error::{MetaError, StoreError};
pub use feed::News;
pub use network::{Peer, RaftOp, RaftTransport, TransportError, TransportFuture};

/// Tells the wall clock's time in ns since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a node says about itself when it bootstraps; the same as in [`Change::AddNode`].
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Name as in its certificate.
    pub name: String,
    /// Where peers and clients dial it, `HOST:PORT`.
    pub addr: String,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Drawn once per data directory.
    pub instance: u128,
}

/// The end of a node's log, as indexes of entries; 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// The last entry that is there.
    pub last: u64,
    /// The last entry that the map includes.
    pub applied: u64,
}

/// This node's part of the metadata group.
pub struct Meta {
    config: Arc<MetaConfig>,
    clock: WallClock,
    transport: Arc<dyn RaftTransport>,
    /// Taken out by a shutdown, so that the environment closes.
    store: Mutex<Option<Store>>,
    feed: Arc<feed::Feed>,
    raft: OnceCell<(NodeId, Raft)>,
    heard: Arc<election::Heard>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Meta {
    /// Opens or creates the environment in `dir` and loads the map as it was; no peer is spoken to
    /// before [`Meta::start`] or [`Meta::bootstrap`].
    ///
    /// # Errors
    /// [`MetaError::Config`], or [`MetaError::Store`] if the directory cannot be used.
    pub async fn open(
        config: MetaConfig,
        dir: &Path,
        transport: Arc<dyn RaftTransport>,
        clock: WallClock,
        executor: Executor,
    ) -> Result<Self, MetaError> {
        config.check()?;
        let map_size = usize::try_from(config.map_size).unwrap_or(usize::MAX);
        let store = Store::open(dir, map_size, executor)?;
        let feed = Arc::new(feed::Feed::new(config.delta_bytes as usize));
        // Also publishes the stored map; Raft gets a machine of its own when it starts.
        machine::Machine::open(store.clone(), Arc::clone(&feed))?;
        Ok(Self {
            config: Arc::new(config),
            clock,
            transport,
            store: Mutex::new(Some(store)),
            feed,
            raft: OnceCell::new(),
            heard: Arc::new(election::Heard::new()),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// The map as this node knows it.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.feed.map()
    }

    /// Tells of every new map.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.feed.watch()
    }

    /// What leads from the map at `after` to the newest one of this node.
    #[must_use]
    pub fn since(&self, after: MetaIndex) -> News {
        self.feed.since(after)
    }

    /// Commits a change if this node leads. The outcome may be a refusal; see
    /// [`quorate_protocol::change::Outcome`].
    ///
    /// # Errors
    /// [`MetaError::Forward`] names the leader to ask instead, [`MetaError::NoLeader`] means to try
    /// again; both say that nothing was proposed. [`MetaError::Deadline`] leaves it open.
    pub async fn propose(&self, change: Change, deadline: Instant) -> Result<Proposed, MetaError> {
        let (_, raft) = self.raft.get().ok_or(MetaError::NotStarted)?;
        let command = Command { at_ns: (self.clock)(), change };
        self.check_size(&command)?;
        let written = tokio::time::timeout_at(deadline, raft.client_write(command));
        match written.await {
            Err(_) => Err(MetaError::Deadline),
            Ok(Ok(response)) => Ok(Proposed {
                index: MetaIndex(response.data.index),
                outcome: response.data.outcome,
            }),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                let known = to.leader_id.map(|id| (id, to.leader_node));
                Err(match known {
                    Some((id, node)) => MetaError::Forward { leader: self.peer(id, node.as_ref()) },
                    None => MetaError::NoLeader,
                })
            }
            Ok(Err(RaftError::APIError(other))) => Err(MetaError::Stopped(other.to_string())),
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(&error)),
        }
    }

    /// This node's part of the Raft group; a learner before it has started.
    #[must_use]
    pub fn role(&self) -> RaftRole {
        use openraft::ServerState;
        let state = self.raft.get().map(|(_, r)| r.metrics().borrow().state);
        match state {
            Some(ServerState::Leader) => RaftRole::Leader,
            Some(ServerState::Follower) => RaftRole::Follower,
            Some(ServerState::Candidate) => RaftRole::Candidate,
            Some(ServerState::Learner | ServerState::Shutdown) | None => RaftRole::Learner,
        }
    }

    /// The term in which this node leads the group, if it does.
    #[must_use]
    pub fn leads(&self) -> Option<u64> {
        let (_, raft) = self.raft.get()?;
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        metrics.state.is_leader().then_some(metrics.current_term)
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<Peer> {
        let (_, raft) = self.raft.get()?;
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let id = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&id);
        Some(self.peer(id, node))
    }

    /// Why this node has no leader to count on, if so: it knows none, or it leads and no majority has
    /// answered it for as long as others wait before they elect another, or it has heard of none for
    /// as long. The last is how a node without a vote notices: it elects nobody, so Raft has it go on
    /// with the last leader that it knew.
    #[must_use]
    pub fn leaderless(&self) -> Option<&'static str> {
        let Some((_, raft)) = self.raft.get() else {
            return Some("metadata has not started");
        };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        if metrics.current_leader.is_none() {
            return Some("no leader is known: more than half of the voting nodes must be up");
        }
        // The lease and the timeout, as for a follower.
        let patience = 2 * self.config.election_timeout_ms;
        if metrics.state != openraft::ServerState::Leader {
            let silent = self.heard.silence() >= Duration::from_millis(patience);
            return silent.then_some("the last known leader has fallen silent");
        }
        let answered = metrics.millis_since_quorum_ack.is_some_and(|ms| ms < patience);
        (!answered).then_some("this node leads, and no majority answers it")
    }

    /// The members of the Raft group as this node knows them. A node that has left the map stays one
    /// until the leader has dropped it.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        let Some((_, raft)) = self.raft.get() else { return Vec::new() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.nodes().map(|(id, _)| NodeId(*id)).collect()
    }

    /// How far this node's log reaches, and how much of it the map includes.
    #[must_use]
    pub fn log(&self) -> LogEnd {
        let Some((_, raft)) = self.raft.get() else { return LogEnd::default() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        LogEnd {
            last: metrics.last_log_index.unwrap_or_default(),
            applied: metrics.last_applied.map_or(0, |id| id.index),
        }
    }

    /// Why the Raft group of this node has stopped by itself, if it has: a failure of the disk.
    /// The node should then say so and stop.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let (_, raft) = self.raft.get()?;
        let metrics = raft.metrics();
        let state = &metrics.borrow().running_state;
        match state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// The map once it includes `index`.
    ///
    /// # Errors
    /// [`MetaError::Deadline`] if it does not in time.
    pub async fn wait_for(
        &self,
        index: MetaIndex,
        deadline: Instant,
    ) -> Result<Arc<ClusterMap>, MetaError> {
        let mut watch = self.watch();
        let included = watch.wait_for(|map| map.index >= index);
        match tokio::time::timeout_at(deadline, included).await {
            Ok(Ok(map)) => Ok(Arc::clone(&map)),
            Ok(Err(_)) => Err(MetaError::NotStarted),
            Err(_) => Err(MetaError::Deadline),
        }
    }

    /// Handles a peer's message and returns the payload of the answer. The caller has checked that
    /// the peer is a node of this cluster.
    ///
    /// # Errors
    /// [`MetaError::NotStarted`] or [`MetaError::Malformed`]; Raft's own errors are in the answer.
    pub async fn serve(&self, op: RaftOp, payload: &[u8]) -> Result<Bytes, MetaError> {
        let (_, raft) = self.raft.get().ok_or(MetaError::NotStarted)?;
        serve::serve(raft, &self.heard, op, payload).await
    }

    fn check_size(&self, command: &Command) -> Result<(), MetaError> {
        let limit = self.config.command_bytes;
        let size = postcard::experimental::serialized_size(command);
        match size {
            Ok(bytes) if bytes <= limit as usize => Ok(()),
            Ok(bytes) => Err(MetaError::TooLarge { bytes, limit }),
            Err(_) => Err(MetaError::Malformed { what: "command" }),
        }
    }

    fn peer(&self, id: u64, member: Option<&BasicNode>) -> Peer {
        let map = self.map();
        let known = map.node(NodeId(id)).map(|node| node.addr.as_str());
        let addr = known.or(member.map(|node| node.addr.as_str()));
        Peer { id: NodeId(id), addr: addr.unwrap_or_default().to_owned() }
    }

    fn store(&self) -> Result<Store, MetaError> {
        let store = self.lock_store().clone();
        store.ok_or_else(|| MetaError::Stopped("shut down".to_owned()))
    }

    fn lock_store(&self) -> std::sync::MutexGuard<'_, Option<Store>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Meta {
    /// Like a crash: the library stops by itself when its last handle is gone.
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn stopped(error: &Fatal<u64>) -> MetaError {
    MetaError::Stopped(error.to_string())
}
