//! One connection per peer, kept up in the background.
//!
//! Invariants: a caller never dials and never waits for a dial, it sees at once who is up and who is
//! down; each peer has one worker, so a dead node is dialled once per backoff however many writes
//! want it; every task belongs to the pool and ends with [`Pool::shutdown`]. Used by the client for
//! its writes, and by nodes for drains, Raft and forwarding. Two nodes that call each other have
//! two connections, one each way: roles stay simple and no tie has to be broken.

mod breaker;
mod pass;
mod peer;
mod worker;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use quorate_protocol::{code::Close, id::NodeId, map::Node};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, Dialer};
pub use breaker::Trust;
pub use pass::Pass;
pub use peer::{DownReason, PeerHandle, PeerState};
use worker::Worker;

/// The connections of a process.
pub struct Pool {
    dialer: Arc<Dialer>,
    peers: Mutex<Peers>,
    /// Counts whatever happens to any peer, so that one waiter can watch all.
    changes: watch::Sender<u64>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Peers {
    by_id: BTreeMap<NodeId, PeerHandle>,
    seeds: BTreeMap<String, PeerHandle>,
}

/// A node that a pool shall keep a connection to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// The name that its certificate must have; none if that is not known.
    pub name: Option<String>,
    /// Where it is, `HOST:PORT`.
    pub addr: String,
}

impl From<(NodeId, String)> for Member {
    fn from((node, addr): (NodeId, String)) -> Self {
        Self { node, name: None, addr }
    }
}

impl From<&Node> for Member {
    fn from(node: &Node) -> Self {
        Self { node: node.id, name: Some(node.name.clone()), addr: node.addr.clone() }
    }
}

impl Member {
    /// Whether a connection leads to this node, by its certificate as by its word.
    fn is(&self, connection: &Connection) -> bool {
        let named = self.name.as_ref().is_none_or(|name| name == connection.identity().name());
        connection.node() == self.node && named
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>) -> Self {
        Self {
            dialer,
            peers: Mutex::default(),
            changes: watch::Sender::new(0),
            stop: CancellationToken::new(),
        }
    }

    /// What the pool dials with.
    #[must_use]
    pub fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    fn with<T>(&self, act: impl FnOnce(&mut Peers) -> T) -> T {
        // A panic while it was locked can only have been a failed allocation.
        act(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spawn(&self, peer: Member, first: Option<Arc<Connection>>) -> PeerHandle {
        let stop = self.stop.child_token();
        let dialer = Arc::clone(&self.dialer);
        Worker::spawn(dialer, peer, first, self.changes.clone(), stop)
    }

    /// Keeps connections to these addresses (`HOST:PORT`) until [`Self::update`] says who the
    /// cluster's nodes are. Known seeds are left alone.
    pub fn seed<I: IntoIterator<Item = String>>(&self, addresses: I) {
        if self.stop.is_cancelled() {
            return;
        }
        self.with(|peers| {
            for addr in addresses {
                peers
                    .seeds
                    .entry(addr)
                    .or_insert_with_key(|addr| self.spawn((NodeId(0), addr.clone()).into(), None));
            }
        });
    }

    /// Makes the peers exactly these: new ones are dialled, moved ones redialled, others dropped.
    /// Connections of seeds are taken over by the nodes they turned out to be; with a list that is
    /// not empty, the seeds are done.
    pub fn update<I: IntoIterator<Item: Into<Member>>>(&self, nodes: I) {
        if self.stop.is_cancelled() {
            return;
        }
        let nodes = nodes.into_iter().map(|node| {
            let member: Member = node.into();
            (member.node, member)
        });
        let nodes: BTreeMap<NodeId, Member> = nodes.collect();
        let gone = self.with(|peers| {
            let mut gone = Vec::new();
            if !nodes.is_empty() {
                gone.extend(std::mem::take(&mut peers.seeds).into_values());
            }
            peers.by_id.retain(|node, peer| {
                let stays = nodes.contains_key(node);
                if !stays {
                    gone.push(peer.clone());
                }
                stays
            });
            for (node, member) in nodes {
                if let Some(peer) = peers.by_id.get(&node) {
                    peer.set_addr(&member.addr);
                    continue;
                }
                let first = gone
                    .iter()
                    .filter_map(PeerHandle::connection)
                    .find(|connection| member.is(connection));
                peers.by_id.insert(node, self.spawn(member, first));
            }
            gone
        });
        for peer in gone {
            peer.stop();
        }
    }

    /// The handle of a node, if it is known.
    #[must_use]
    pub fn peer(&self, node: NodeId) -> Option<PeerHandle> {
        self.with(|peers| peers.by_id.get(&node).cloned())
    }

    /// All nodes, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerHandle> {
        self.with(|peers| peers.by_id.values().cloned().collect())
    }

    /// The connections that are up, nodes by id, then seeds.
    #[must_use]
    pub fn up(&self) -> Vec<Arc<Connection>> {
        self.with(|peers| {
            let all = peers.by_id.values().chain(peers.seeds.values());
            all.filter_map(PeerHandle::connection).collect()
        })
    }

    /// The seeds and what is known of each; empty once the nodes are known.
    #[must_use]
    pub fn seeds(&self) -> Vec<PeerHandle> {
        self.with(|peers| peers.seeds.values().cloned().collect())
    }

    /// A number that changes whenever any peer comes up or goes down.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Dials a node now if it is down: it was seen alive elsewhere.
    pub fn nudge(&self, node: NodeId) {
        if let Some(peer) = self.peer(node) {
            peer.nudge();
        }
    }

    /// Dials every peer that is down, now.
    pub fn nudge_all(&self) {
        let all = self.with(|peers| {
            let all = peers.by_id.values().chain(peers.seeds.values());
            all.cloned().collect::<Vec<_>>()
        });
        for peer in all {
            peer.nudge();
        }
    }

    /// Closes all connections and waits until every task has ended. Nothing comes up again.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.dialer.shutdown().await;
        self.with(|peers| *peers = Peers::default());
    }

    /// As [`Self::shutdown`], and then waits until the endpoint has said goodbye to everybody, for
    /// processes that own the endpoint and do not listen on it.
    pub async fn shutdown_endpoint(&self) {
        self.shutdown().await;
        let endpoint = self.dialer.endpoint();
        endpoint.close(crate::connection::close_code(Close::Done), b"");
        // A peer that does not answer must not hold this process.
        let _ = timeout(self.dialer.config().mute_after, endpoint.wait_idle()).await;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|peers| {
            f.debug_struct("Pool")
                .field("peers", &peers.by_id)
                .field("seeds", &peers.seeds)
                .finish_non_exhaustive()
        })
    }
}
