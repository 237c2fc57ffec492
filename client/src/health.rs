//! Which nodes are live, as the write path and the reads see it.
//!
//! Invariants: nothing here dials or waits for a dial, apart from the very first one of a node
//! ([`Core::settled`]), so that a node nobody has tried yet does not pass for one that is down; a node that
//! has failed lately counts as down wherever others will do, and as live where they will not.

use std::sync::Arc;

use quorate_protocol::{consistency::Level, id::NodeId};
use tokio::time::{Instant, timeout_at};

use crate::{
    connection::Connection,
    core::Core,
    pool::{DownReason, Pass, PeerHandle, PeerState, Trust},
};

impl Core {
    /// The nodes with a connection, by id.
    pub(crate) fn live(&self) -> Vec<NodeId> {
        let peers = self.pool.peers();
        peers.iter().filter(|peer| peer.connection().is_some()).map(PeerHandle::node).collect()
    }

    pub(crate) fn is_live(&self, node: NodeId) -> bool {
        self.connection(node).is_some()
    }

    /// In which order nodes are asked for what any of them can give: those that are well, those that have
    /// failed lately, those that are down.
    pub(crate) fn rank(&self, node: NodeId) -> u8 {
        match self.pool.peer(node) {
            Some(peer) if peer.connection().is_some() => u8::from(peer.trust() != Trust::Full),
            _ => 2,
        }
    }

    /// The nodes that may be given hints, of which there shall be so many copies: those that are well, or
    /// all that are live if those are too few.
    pub(crate) fn holders(&self, copies: usize) -> Vec<NodeId> {
        let live = self.live();
        let well: Vec<NodeId> = live.iter().copied().filter(|node| self.is_well(*node)).collect();
        if well.len() < copies { live } else { well }
    }

    fn is_well(&self, node: NodeId) -> bool {
        self.rank(node) == 0
    }

    /// Leave to send a part to each of its owners; none for those that count as down. Doubts about a
    /// node never put a level out of reach: if `level` needs it, it is asked.
    pub(crate) fn passes(&self, owners: &[NodeId], level: Level) -> Vec<Option<Pass>> {
        let up = |node: &NodeId| self.pool.peer(*node).filter(|peer| peer.connection().is_some());
        let peers: Vec<Option<PeerHandle>> = owners.iter().map(up).collect();
        let mut passes: Vec<Option<Pass>> =
            peers.iter().map(|peer| peer.as_ref()?.admit()).collect();
        let needed = match level {
            // Somebody else can keep a hint.
            Level::Any if self.live().iter().any(|node| self.is_well(*node)) => 0,
            Level::Any => 1,
            level => level.required(owners.len()),
        };
        let mut missing = needed.saturating_sub(passes.iter().flatten().count());
        for (pass, peer) in passes.iter_mut().zip(&peers) {
            if missing > 0
                && pass.is_none()
                && let Some(peer) = peer
            {
                *pass = Some(peer.insist());
                missing -= 1;
            }
        }
        passes
    }

    pub(crate) fn connection(&self, node: NodeId) -> Option<Arc<Connection>> {
        self.pool.peer(node)?.connection()
    }

    /// Some live connection, another one for each `turn`, of nodes that are well as long as there are
    /// any; a seed's while no node is known.
    pub(crate) fn any(&self, turn: usize) -> Option<Arc<Connection>> {
        let mut up = self.pool.up();
        if up.iter().any(|connection| self.is_well(connection.node())) {
            up.retain(|connection| self.is_well(connection.node()));
        }
        let index = turn.checked_rem(up.len())?;
        up.get(index).cloned()
    }

    /// Waits until the first dial of every node has come to something; or, with most of them up,
    /// for a moment only, since a node that is dead answers no dial.
    pub(crate) async fn settled(&self, deadline: Instant) {
        let moment = Instant::now() + self.config.settle;
        for peer in self.pool.peers() {
            tried(&peer, moment.min(deadline)).await;
        }
        let (live, all) = (self.live().len(), self.pool.peers().len());
        if live * 2 <= all {
            for peer in self.pool.peers() {
                tried(&peer, deadline).await;
            }
        }
    }

    /// The connection to a node, for whose first dial it waits, but for no other's.
    pub(crate) async fn settled_connection(
        &self,
        node: NodeId,
        deadline: Instant,
    ) -> Option<Arc<Connection>> {
        let peer = self.pool.peer(node)?;
        tried(&peer, deadline).await;
        peer.connection()
    }

    /// Ends when every seed has refused this client, or is refused by it, for a reason that no
    /// further dial can change.
    pub(crate) async fn refused_by_all(&self) {
        let mut changes = self.pool.changes();
        loop {
            let seeds = self.pool.seeds();
            let refused = |peer: &PeerHandle| match peer.state() {
                PeerState::Down { reason: DownReason::Connect(error), .. } => !error.retryable(),
                _ => false,
            };
            if !seeds.is_empty() && seeds.iter().all(refused) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Why a seed or node is down, for whoever could not connect at all.
    pub(crate) fn last_failure(&self) -> Option<String> {
        let peers = self.pool.seeds().into_iter().chain(self.pool.peers());
        let mut down = peers.filter_map(|peer| match peer.state() {
            PeerState::Down { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        down.next()
    }
}

/// Waits until the first dial of a node has come to something.
async fn tried(peer: &PeerHandle, deadline: Instant) {
    if matches!(peer.state(), PeerState::Connecting) {
        let mut watch = peer.watch();
        let tried = watch.wait_for(|state| !matches!(state, PeerState::Connecting));
        // At the deadline the node counts as down, which it is for this call.
        let _ = timeout_at(deadline, tried).await;
    }
}
