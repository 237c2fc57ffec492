//! Finding out what shards hold: when the store opens, or later where that was not possible.
//!
//! Opening believes a shard's summary and opens what has none that can be believed. A shard that is
//! damaged is poisoned. One that could not be opened for a reason that may pass (descriptors,
//! memory, room, permissions) is *unread*: whoever scans it opens it, and whoever folds it, the
//! background at every tick among them, takes note of what is found.
//!
//! Invariant: a shard takes a record in live only if its `applied` is known and lies below it; a
//! shard that is unread or poisoned at the start takes none, whatever sequences the journal gives
//! out. From this follows that what is skipped was folded, and that the journal keeps what was not:
//! - All that the journal replays for an unread shard counts as fresh, which holds
//!   [`ShardStore::applied_through`] back and answers scans together with what is stored. Once
//!   `applied` is read, what it covers is forgotten: it was taken in by an earlier start, which knew
//!   `applied`.
//! - [`ShardStore::found_applied`] does not count the unread, so that a journal which has lost its
//!   end may give sequences again that such a shard has applied. So `applied` is first lowered,
//!   durably, to the last record that the store was offered: all that the shard ever takes in
//!   comes behind that. Too low is never wrong: a record that is folded twice changes nothing.
//! - [`ShardStore::highest_version`] counts what is stored from then on. The node saves the highest
//!   version before it gives up the journal's records, and so does not depend on it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quorate_protocol::id::{Sequence, ShardId, Version};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, Inner, Known, ShardError, ShardStore, Slots,
    counters::Counters,
    directory,
    fault::{NoProbe, Probe, Step},
    fresh::Budget,
    open::OpenShard,
    opened::OpenShards,
    slot::Slot,
    state,
    summary::{self, Summary},
    work::Work,
};
use crate::executor::Executor;

impl ShardStore {
    /// Opens the store in `dir`, which is created if it is missing. Opens only the shards that were
    /// open when the store ended without [`Self::close`]; of the others it reads two small files.
    ///
    /// # Errors
    /// A shard of a newer format, or a directory that cannot be listed. A damaged shard is poisoned;
    /// one that cannot be opened now is tried again.
    pub fn open(config: Config, dir: &Path, executor: Executor) -> Result<Self, ShardError> {
        Self::open_keyed(config, dir, executor, 0)
    }

    /// As [`Self::open`]; `key` is a random number that nobody else knows, for the hashes by which
    /// series are found in memory: whoever knows it might choose tags that make two series one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_keyed(
        config: Config,
        dir: &Path,
        executor: Executor,
        key: u64,
    ) -> Result<Self, ShardError> {
        Self::open_as(config, dir, executor, Arc::new(NoProbe), key)
    }

    /// As [`Self::open`]; `probe` watches every step, for tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_probed(
        config: Config,
        dir: &Path,
        executor: Executor,
        probe: Arc<dyn Probe>,
    ) -> Result<Self, ShardError> {
        Self::open_as(config, dir, executor, probe, 0)
    }

    fn open_as(
        config: Config,
        dir: &Path,
        executor: Executor,
        probe: Arc<dyn Probe>,
        key: u64,
    ) -> Result<Self, ShardError> {
        let ids = directory::list(dir)?;
        // All markers first: with a newer format anywhere, nothing is touched anywhere.
        for id in &ids {
            if let Err(error @ ShardError::NewerFormat { .. }) =
                directory::check(&directory::path(dir, *id))
            {
                return Err(error);
            }
        }
        let open = OpenShards::new(dir, config, key);
        let budget = Budget::new(config.fresh_bytes);
        let slots = Slots::default();
        let mut highest = Version(0);
        let mut found_applied = Sequence(0);
        for id in ids {
            let slot = Slot::new(id, Arc::clone(&budget));
            match find(&open, dir, id) {
                Ok(Some(found)) => {
                    highest = highest.max(found.highest_version);
                    found_applied = found_applied.max(found.applied);
                    slot.fresh().folded(found.applied);
                    slot.set_stored(found.stored);
                }
                Ok(None) => continue,
                // Its damage costs no other shard anything, and the journal keeps its records.
                Err(error) if error.lasts() => {
                    open.distrust(id);
                    slot.set_poison(&error.to_string());
                }
                Err(error) => {
                    tracing::warn!(shard = %id, %error, "cannot open the shard; trying again");
                    slot.set_unread();
                }
            }
            slots.insert(id, Known::Live(Arc::new(slot)));
        }
        let inner = Inner {
            config,
            executor,
            probe,
            open,
            slots,
            budget,
            counters: Counters::default(),
            accepted: AtomicU64::new(0),
            highest_version: AtomicU64::new(highest.0),
            found_applied,
            released: watch::Sender::new(Sequence(0)),
            work_wanted: Notify::new(),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// What a shard holds; `None` if it has no marker yet.
fn find(open: &OpenShards, dir: &Path, id: ShardId) -> Result<Option<Summary>, ShardError> {
    if let Some(found) = summary::read(&directory::path(dir, id)) {
        return Ok(Some(found));
    }
    open.pin(id)?.map(|shard| shard.summary()).transpose()
}

impl Inner {
    /// Reads a shard that is still unread; whether it was.
    ///
    /// # Errors
    /// It still cannot be read, or is damaged and poisoned now.
    pub(super) fn read_late(&self, slot: &Slot) -> Result<bool, ShardError> {
        if !slot.is_unread() {
            return Ok(false);
        }
        let _writer = slot.folding()?;
        if !slot.is_unread() {
            return Ok(false);
        }
        let pinned = self.open.pin(slot.id);
        let found = pinned.and_then(|pin| pin.map(|shard| self.found(slot, &shard)).transpose());
        match found {
            Ok(Some(found)) => {
                slot.fresh().folded(found.applied);
                slot.set_stored(found.stored);
                self.highest_version.fetch_max(found.highest_version.0, Ordering::Relaxed);
            }
            // It has never had a marker: nothing was ever stored.
            Ok(None) => {}
            Err(error) if error.lasts() => return Err(self.poison(slot, &error)),
            Err(error) => return Err(error),
        }
        slot.set_read();
        tracing::info!(shard = %slot.id, "the shard could be opened after all");
        Ok(true)
    }

    /// What a shard holds, its `applied` not beyond what the store was offered.
    fn found(&self, slot: &Slot, shard: &OpenShard) -> Result<Summary, ShardError> {
        let (offered, mut state) = (self.accepted(), shard.state()?);
        if state.applied > offered {
            state.applied = offered;
            let record = state.encode();
            Work::new(self, slot, shard)
                .commit(Step::Flip, |txn, [.., states]| states.put(txn, state::KEY, &record))?;
        }
        shard.summary()
    }
}
