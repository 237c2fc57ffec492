//! How a node's part of the group begins and ends: bootstrap, start, shutdown.
//!
//! Invariants: a directory belongs to one node id, written down before Raft writes anything; a
//! cluster is initialised once, with one voter, and everybody else is added by the leader; after a
//! shutdown the directory can be opened again.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use openraft::{
    BasicNode,
    error::{InitializeError, RaftError},
};
use quorate_protocol::{
    change::{Change, Outcome},
    id::{ClusterId, NodeId},
    message::Proposed,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Meta, MetaError, NewNode, StoreError, command::Raft, election, log, machine, membership,
    network, stopped,
};

/// The id of the node that bootstraps a cluster.
const FIRST_NODE: NodeId = NodeId(1);

/// Record of the `state` database that says whose directory this is.
const IDENTITY: &str = "identity";

/// Who this directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// The node.
    node: NodeId,
    /// Whether its bootstrap or join was completed; until then it must be asked for again.
    complete: bool,
}

impl Meta {
    /// The node this directory belongs to, once its bootstrap or join was completed: then call
    /// [`Meta::start`] with it, whatever the command line says about bootstrap and join.
    ///
    /// # Errors
    /// [`MetaError::Store`] if it cannot be read.
    pub fn identity(&self) -> Result<Option<NodeId>, MetaError> {
        let identity: Option<Identity> = self.store()?.get(IDENTITY)?;
        Ok(identity.filter(|id| id.complete).map(|id| id.node))
    }

    /// Makes this node the first of a new cluster, with id 1. May be called again after a crash
    /// half-way: what is done stays done, the cluster id of the first call included, so read it
    /// from the map afterwards.
    ///
    /// # Errors
    /// [`MetaError::WrongNode`] if the directory belongs to another node, [`MetaError::Refused`] if
    /// a name or address is invalid, [`MetaError::Deadline`], or a failure of the store.
    pub async fn bootstrap(
        &self,
        cluster: ClusterId,
        name: &str,
        me: NewNode,
        deadline: Instant,
    ) -> Result<NodeId, MetaError> {
        let raft = self.raft_as(FIRST_NODE, false).await?;
        let members = BTreeMap::from([(FIRST_NODE.0, BasicNode::new(&me.addr))]);
        match raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(MetaError::Stopped(error.to_string())),
        }
        let timeout = Some(deadline.saturating_duration_since(Instant::now()));
        raft.wait(timeout)
            .metrics(|m| m.current_leader == Some(FIRST_NODE.0), "own election")
            .await
            .map_err(|_| MetaError::Deadline)?;
        if self.map().cluster == ClusterId(0) {
            let name = name.to_owned();
            let change = Change::Bootstrap { cluster, name };
            self.propose_accepted(change, deadline).await?;
        }
        let change =
            Change::AddNode { name: me.name, addr: me.addr, zone: me.zone, instance: me.instance };
        let proposed = self.propose_accepted(change, deadline).await?;
        if proposed.outcome != Outcome::Node(FIRST_NODE) {
            return Err(MetaError::Malformed {
                what: "bootstrap: this cluster has a first node already",
            });
        }
        self.wait_for(proposed.index, deadline).await?;
        self.set_identity(FIRST_NODE, true).await?;
        Ok(FIRST_NODE)
    }

    /// Takes part as `node`: after a restart with [`Meta::identity`], or after a join with the id
    /// that join gave. The leader then sends the log and makes it a member.
    ///
    /// # Errors
    /// [`MetaError::WrongNode`] if the directory belongs to another node; failures of the store.
    pub async fn start(&self, node: NodeId) -> Result<(), MetaError> {
        self.raft_as(node, true).await.map(drop)
    }

    /// Stops taking part and closes the environment, so that the directory can be opened again.
    /// What was committed stays committed.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some((_, raft)) = self.raft.get()
            && let Err(error) = raft.shutdown().await
        {
            tracing::warn!(%error, "metadata did not stop cleanly");
        }
        let store = self.lock_store().take();
        let Some(store) = store else { return };
        let closing = store.env.prepare_for_closing();
        // The library's tasks drop their handles as they end, without telling; bounded, because a
        // directory that stays open a little longer does no harm.
        for _ in 0..500 {
            if closing.wait_timeout(Duration::ZERO) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tracing::warn!("metadata environment is still in use after the shutdown");
    }

    async fn raft_as(&self, node: NodeId, complete: bool) -> Result<&Raft, MetaError> {
        let start = || self.start_raft(node, complete);
        let (running, raft) = self.raft.get_or_try_init(start).await?;
        if *running != node {
            return Err(MetaError::WrongNode { stored: *running, asked: node });
        }
        Ok(raft)
    }

    async fn start_raft(&self, node: NodeId, complete: bool) -> Result<(NodeId, Raft), MetaError> {
        if node == NodeId(0) {
            return Err(MetaError::Malformed { what: "node id 0" });
        }
        let store = self.store()?;
        let log = log::Log::new(store.clone(), self.config.append_bytes as usize);
        match store.get::<Identity>(IDENTITY)? {
            Some(identity) if identity.node != node => {
                return Err(MetaError::WrongNode { stored: identity.node, asked: node });
            }
            Some(identity) if identity.complete => {}
            None if !log.is_pristine()? => {
                return Err(StoreError::Corrupt { what: "identity" }.into());
            }
            // Before Raft writes anything, so that no other id can ever take this log over.
            Some(_) | None => self.set_identity(node, complete).await?,
        }
        let entries = log.indexes()?;
        let machine = machine::Machine::open(store, Arc::clone(&self.feed))?;
        let network = network::Network::new(Arc::clone(&self.transport), self.watch());
        let config = Arc::new(self.config.raft(node.0));
        let raft = Raft::new(node.0, config, network, log, machine)
            .await
            .map_err(|error| stopped(&error))?;
        self.purge_surplus(&raft, entries).await;
        self.tasks.spawn(membership::reconcile(
            raft.clone(),
            self.watch(),
            Arc::clone(&self.config),
            self.cancel.clone(),
        ));
        self.tasks.spawn(election::watch(
            raft.clone(),
            Arc::clone(&self.heard),
            node.0,
            Arc::clone(&self.config),
            self.cancel.clone(),
        ));
        Ok((node, raft))
    }

    /// The library purges only after snapshots it takes by count, and counts from its start: without
    /// this, the log of a node that restarts often would never get shorter.
    async fn purge_surplus(&self, raft: &Raft, entries: RangeInclusive<u64>) {
        let keep = self.config.log_keep;
        let limit = keep.saturating_add(self.config.snapshot_after);
        if entries.end().saturating_sub(*entries.start()) > limit
            && let Err(error) = raft.trigger().purge_log(entries.end() - keep).await
        {
            tracing::warn!(%error, "metadata log could not be purged");
        }
    }

    async fn set_identity(&self, node: NodeId, complete: bool) -> Result<(), MetaError> {
        let identity = Identity { node, complete };
        let store = self.store()?;
        let written =
            store.run(move |store| store.write(|store, txn| store.put(txn, IDENTITY, &identity)));
        Ok(written.await?)
    }

    async fn propose_accepted(
        &self,
        change: Change,
        deadline: Instant,
    ) -> Result<Proposed, MetaError> {
        let proposed = self.propose(change, deadline).await?;
        match proposed.outcome {
            Outcome::Refused { code, detail } => Err(MetaError::Refused { code, detail }),
            _ => Ok(proposed),
        }
    }
}
