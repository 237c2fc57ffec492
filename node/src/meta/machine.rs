//! The replicated state machine: the cluster map, kept on disk and published to the node.
//!
//! Invariants: map, applied index and membership are committed together, synced, before anybody
//! sees the map; what was published is never taken back, also not by a restart. A snapshot is the
//! state itself, so none is kept beside it. openraft calls it, one entry list after the other.

use std::sync::Arc;

use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
    storage::RaftStateMachine,
};
use quorate_protocol::{
    change::Outcome,
    map::{ClusterMap, MapDelta},
};

use super::{
    command::{Applied, Entry, LogId, Membership, SnapshotMeta, StorageError, Types},
    error::StoreError,
    feed::Feed,
    rows, state,
    store::{Store, seal, unseal_part},
};

const APPLIED: &str = "applied";
const MEMBERSHIP: &str = "membership";

/// What has been applied.
#[derive(Clone)]
pub(super) struct View {
    map: Arc<ClusterMap>,
    applied: Option<LogId>,
    membership: Membership,
}

/// The machine.
pub(super) struct Machine {
    store: Store,
    view: View,
    feed: Arc<Feed>,
}

impl View {
    fn load(store: &Store) -> Result<Self, StoreError> {
        let txn = store.env.read_txn()?;
        Ok(Self {
            map: Arc::new(rows::load(store, &txn)?),
            applied: store.get_in::<Option<LogId>>(&txn, APPLIED)?.flatten(),
            membership: store.get_in(&txn, MEMBERSHIP)?.unwrap_or_default(),
        })
    }

    /// What the snapshot of this view is called: the same view always the same.
    fn meta(&self) -> SnapshotMeta {
        let id = self.applied.map(|id| {
            let leader = id.leader_id;
            format!("{}-{}-{}", leader.term, leader.node_id, id.index)
        });
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: id.unwrap_or_default(),
        }
    }

    fn snapshot(&self) -> Result<Snapshot<Types>, StoreError> {
        Ok(Snapshot { meta: self.meta(), snapshot: Box::new(encode_snapshot(&self.map)?) })
    }
}

/// The content of a snapshot: crc32 and postcard of the whole map, with the grants, which are in no
/// encoding of it, behind it if there are any.
pub(super) fn encode_snapshot(map: &ClusterMap) -> Result<Vec<u8>, StoreError> {
    if map.grants.is_empty() {
        return seal("snapshot", map);
    }
    seal("snapshot", &(map, &map.grants))
}

/// Reads the content of a snapshot.
pub(super) fn decode_snapshot(data: &[u8]) -> Result<ClusterMap, StoreError> {
    let what = "snapshot";
    let (mut map, rest) = unseal_part::<ClusterMap>(what, data)?;
    if !rest.is_empty() {
        let grants = postcard::from_bytes(rest);
        map.grants = grants.map_err(|source| StoreError::Codec { what, source })?;
    }
    Ok(map)
}

impl Machine {
    /// Loads the stored state and publishes its map.
    pub(super) fn open(store: Store, feed: Arc<Feed>) -> Result<Self, StoreError> {
        let view = View::load(&store)?;
        feed.replace(&view.map);
        Ok(Self { store, view, feed })
    }

    /// Commits `next`, to which `steps` lead or which stands alone, and then publishes it.
    async fn install(
        &mut self,
        next: View,
        steps: Option<Vec<MapDelta>>,
    ) -> Result<(), StoreError> {
        let new = next.clone();
        let written = self.store.run(move |store| {
            store.write(|store, txn| {
                match &steps {
                    Some(steps) => rows::save(store, txn, steps)?,
                    None => rows::replace(store, txn, &new.map)?,
                }
                store.put(txn, APPLIED, &new.applied)?;
                store.put(txn, MEMBERSHIP, &new.membership)?;
                Ok(steps)
            })
        });
        match written.await? {
            Some(steps) if steps.is_empty() => {}
            Some(steps) => self.feed.publish(&next.map, steps),
            None => self.feed.replace(&next.map),
        }
        self.view = next;
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = View;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.view.applied, self.view.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut next = self.view.clone();
        let mut applied = Vec::new();
        let mut steps = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            next.applied = Some(entry.log_id);
            let outcome = match entry.payload {
                EntryPayload::Blank => Outcome::Done,
                // A step of its own for each command, so that all nodes know the same indexes.
                EntryPayload::Normal(command) => {
                    let before = Arc::clone(&next.map);
                    let outcome = state::apply(Arc::make_mut(&mut next.map), index, &command);
                    steps.push(MapDelta::between(&before, &next.map));
                    outcome
                }
                EntryPayload::Membership(membership) => {
                    next.membership = Membership::new(Some(entry.log_id), membership);
                    Outcome::Done
                }
            };
            applied.push(Applied { index, outcome });
        }
        let installed = self.install(next, Some(steps)).await;
        installed.map_err(|error| StorageIOError::write_state_machine(&error))?;
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> View {
        self.view.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Vec<u8>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Vec<u8>>,
    ) -> Result<(), StorageError> {
        let map = decode_snapshot(&snapshot)
            .map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), &error))?;
        let next = View {
            map: Arc::new(map),
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let installed = self.install(next, None).await;
        installed
            .map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error).into())
    }

    /// The state as it is now; newer than the last one built, which only ever helps.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        if self.view.applied.is_none() {
            return Ok(None);
        }
        let snapshot = self.view.snapshot();
        snapshot.map(Some).map_err(|error| StorageIOError::read_snapshot(None, &error).into())
    }
}

impl RaftSnapshotBuilder<Types> for View {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        self.snapshot().map_err(|error| StorageIOError::read_snapshot(None, &error).into())
    }
}
