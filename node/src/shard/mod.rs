//! The shard store: fresh batches in memory, folded into LMDB runs, read back merged.
//!
//! Reading order: `fresh` and `slot` are a shard in memory; `directory`, `env`, `open`, `state`,
//! `series`, `run` and `block` are a shard on disk. `fold` (with `gather` and `enrol`), `merge` and
//! `dense` (with `cursor` and `weave`) turn one into the other through `assemble` and `writer`;
//! `background` says when, and `recovery` what was there at the start. `read` and `filter` answer
//! scans, `aggregate` and `digest` sum them up, `verify` checks what is stored; `retention` drops.
//! Formats: `SPEC.md`, section 13.
//!
//! Reading back, each in a blocking form and one for tasks (`_begin` and `_page`):
//! - `scan(shard, ScanFilter) -> Scan`, an iterator of [`ScanItem`];
//! - `aggregate(shard, AggregateFilter) -> Aggregation`, an iterator of [`AggregateItem`];
//! - `digest(shard, DigestFilter) -> Vec<BucketDigest>`;
//! - `verify(shard) -> VerifyReport`, and `verify_dir(path)` for a directory that nobody has open.
//!
//! Invariants: a batch that was accepted is visible to every scan that begins later, until its
//! shard is dropped; [`ShardStore::applied_through`] never passes a record that is not in a
//! committed run (or in quarantine), so the journal may forget what is below; nothing here is on
//! the way of an acknowledgement but one push. Owned by the node, which connects journal, sessions
//! and metadata to it.

use std::{
    hash::{BuildHasherDefault, DefaultHasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::DashMap;
use quorate_protocol::{
    aggregate::Windows,
    batch::EncodedBatch,
    id::{Sequence, ShardId, Version},
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod aggregate;
mod assemble;
mod background;
mod block;
mod cardinality;
mod config;
mod counters;
mod cursor;
mod dense;
mod digest;
mod directory;
mod enrol;
pub(crate) mod env;
mod error;
pub mod fault;
mod filter;
mod fold;
mod fresh;
mod gather;
mod index;
mod latest;
mod merge;
#[cfg(test)]
mod naive;
mod open;
mod opened;
mod pace;
mod pieces;
mod quarantine;
mod read;
mod recovery;
pub mod retention;
mod run;
mod series;
mod series_cache;
mod slot;
mod source;
mod splice;
mod state;
mod summary;
mod verify;
mod weave;
mod work;
mod writer;

pub use self::{
    aggregate::{AggregateFilter, AggregateItem, Aggregation},
    cardinality::LookupError,
    config::Config,
    counters::{ShardSize, Stats},
    digest::{BucketDigest, DigestFilter, Digesting},
    directory::FORMAT,
    error::{AdmitError, EnvError, ScanError, ShardError, ShardGone},
    filter::{ScanFilter, TagFilter, TagTest},
    fresh::Admission,
    read::{Scan, ScanItem, SeriesRows},
    verify::{MAX_PROBLEMS, Problem, ProblemKind, Verification, VerifyReport, verify_dir},
};
use self::{counters::Counters, fault::Probe, fresh::Budget, opened::OpenShards, slot::Slot};
use crate::executor::Executor;

/// The shards of a node. Clones are the same store.
#[derive(Clone)]
pub struct ShardStore {
    inner: Arc<Inner>,
}

/// What all parts of the store share.
struct Inner {
    config: Config,
    executor: Executor,
    probe: Arc<dyn Probe>,
    open: OpenShards,
    slots: Slots,
    budget: Arc<Budget>,
    counters: Counters,
    /// The last record of the journal that was offered to a shard.
    accepted: AtomicU64,
    highest_version: AtomicU64,
    /// The last record any shard had folded when the store was opened.
    found_applied: Sequence,
    released: watch::Sender<Sequence>,
    work_wanted: Notify,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// What the store knows of a shard.
enum Known {
    /// It takes batches.
    Live(Arc<Slot>),
    /// Dropped since the store was opened: late records for it are refused.
    Dropped,
}

/// Shards by id. The hasher is fixed: nothing may depend on a random order.
type Slots = DashMap<ShardId, Known, BuildHasherDefault<DefaultHasher>>;

impl ShardStore {
    /// Starts folding and merging on the current runtime, until [`Self::close`].
    pub fn start(&self) {
        let inner = &self.inner;
        background::start(inner);
    }

    /// Stops the tasks and closes all environments. What is fresh stays in the journal. Scans that
    /// are still alive fail with [`ShardError::Closed`].
    pub async fn close(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        let inner = Arc::clone(&self.inner);
        // Closing waits for reads that are running, each of which takes some milliseconds.
        if self.inner.executor.run(move || inner.open.close()).await.is_err() {
            tracing::warn!("the runtime ended before all shards were closed");
        }
    }

    /// Room for a batch of `bytes` before it is journaled; keep it until the batch is accepted.
    ///
    /// # Errors
    /// There is no room now, or the shard takes no writes any more.
    pub fn admit(&self, shard: ShardId, bytes: u64) -> Result<Admission, AdmitError> {
        self.admit_up_to(shard, bytes, 100)
    }

    /// As [`Self::admit`] for a hint, which must leave room for live writes:
    /// [`Config::hint_fresh_percent`].
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub fn admit_hint(&self, shard: ShardId, bytes: u64) -> Result<Admission, AdmitError> {
        self.admit_up_to(shard, bytes, self.inner.config.hint_fresh_percent)
    }

    fn admit_up_to(
        &self,
        shard: ShardId,
        bytes: u64,
        percent: u64,
    ) -> Result<Admission, AdmitError> {
        self.takes_writes(shard)?;
        self.inner.budget.admit(bytes, percent).ok_or_else(|| {
            self.inner.work_wanted.notify_one();
            AdmitError::Busy { retry_after_ms: self.inner.config.busy_retry_ms }
        })
    }

    fn takes_writes(&self, shard: ShardId) -> Result<(), AdmitError> {
        if self.inner.is_dropped(shard) {
            return Err(AdmitError::Gone(shard));
        }
        if let Some(slot) = self.inner.slot(shard) {
            if slot.poisoned().is_some() {
                return Err(AdmitError::Poisoned(shard));
            }
            if slot.is_unread() {
                let retry_after_ms = self.inner.config.busy_retry_ms;
                return Err(AdmitError::Unread { shard, retry_after_ms });
            }
        }
        Ok(())
    }

    /// Takes in a batch that is durable in the journal: the sink of the journal calls this in order
    /// of sequence, after the sync and before the acknowledgement; so does recovery, for every
    /// record there is. Records that are folded already are skipped.
    ///
    /// # Errors
    /// The shard was dropped; the record may be forgotten.
    pub fn accept(
        &self,
        shard: ShardId,
        sequence: Sequence,
        batch: EncodedBatch,
    ) -> Result<(), ShardGone> {
        let inner = &self.inner;
        let version = batch.header().part.version;
        let slot = inner.slot_or_new(shard);
        let pushed = slot.as_ref().and_then(|slot| {
            let mut fresh = slot.fresh();
            fresh.push(sequence, batch).then(|| fresh.bytes())
        });
        // Only now: `applied_through` takes everything up to here for pushed.
        inner.accepted.fetch_max(sequence.0, Ordering::Release);
        let Some(bytes) = pushed else {
            return Err(ShardGone(shard));
        };
        inner.highest_version.fetch_max(version.0, Ordering::Relaxed);
        if bytes >= inner.config.fold_bytes || inner.budget.used() > inner.budget.limit() / 2 {
            inner.work_wanted.notify_one();
        }
        Ok(())
    }

    /// The highest sequence such that every accepted record up to it is folded, quarantined, or of
    /// a dropped shard: the journal may release what is not above it.
    #[must_use]
    pub fn applied_through(&self) -> Sequence {
        self.inner.applied_through()
    }

    /// Follows [`Self::applied_through`].
    #[must_use]
    pub fn released(&self) -> watch::Receiver<Sequence> {
        self.inner.released.subscribe()
    }

    /// The last record any shard had folded when the store was opened: a journal that lost its
    /// files must not give such a sequence again, since the shard would skip it. A shard that could
    /// not be read then is not counted, and sees to that itself before it takes anything in.
    #[must_use]
    pub fn found_applied(&self) -> Sequence {
        self.inner.found_applied
    }

    /// The highest version of any row that was ever accepted here, restarts included (once the
    /// journal was replayed and every shard was read).
    #[must_use]
    pub fn highest_version(&self) -> Version {
        Version(self.inner.highest_version.load(Ordering::Relaxed))
    }

    /// Folds everything the shard has fresh.
    ///
    /// # Errors
    /// A batch could not be made durable in a run; it stays fresh.
    pub async fn flush(&self, shard: ShardId) -> Result<(), ShardError> {
        self.repeat(shard, Inner::fold).await
    }

    /// Merges runs of the shard as long as a tier has enough of them, after whoever rewrites it now.
    ///
    /// # Errors
    /// A merge failed; the old runs are still live.
    pub async fn settle(&self, shard: ShardId) -> Result<(), ShardError> {
        self.repeat(shard, Inner::merge_now).await
    }

    /// Repeats a step on a shard until it says that nothing is left to do.
    async fn repeat(
        &self,
        shard: ShardId,
        step: fn(&Inner, &Slot) -> Result<bool, ShardError>,
    ) -> Result<(), ShardError> {
        let inner = Arc::clone(&self.inner);
        let Some(slot) = inner.slot(shard) else { return Ok(()) };
        let work = move || {
            while step(&inner, &slot)? {}
            Ok(())
        };
        self.inner.executor.run(work).await?
    }

    /// Forgets a shard and deletes its directory. Records and reads that come later are refused.
    ///
    /// # Errors
    /// The directory could not be removed; it is tried again when the store is opened.
    pub async fn drop_shard(&self, shard: ShardId) -> Result<(), ShardError> {
        let inner = Arc::clone(&self.inner);
        self.inner.executor.run(move || inner.drop_shard(shard)).await?
    }

    /// Begins a scan that sees everything accepted until now, and perhaps some of what comes later.
    /// A shard without data has no rows. Blocks, while it iterates too.
    ///
    /// # Errors
    /// The shard was dropped.
    pub fn scan(&self, shard: ShardId, filter: ScanFilter) -> Result<Scan, ShardError> {
        self.scan_known(shard, filter, None)
    }

    /// A scan that may say what is known of rows instead of yielding them.
    fn scan_known(
        &self,
        shard: ShardId,
        filter: ScanFilter,
        windows: Option<Windows>,
    ) -> Result<Scan, ShardError> {
        if self.inner.is_dropped(shard) {
            return Err(ShardError::Gone(shard));
        }
        Scan::begin(Arc::clone(&self.inner), self.inner.slot(shard), filter, windows)
    }

    /// [`Self::scan`] for tasks.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub async fn scan_begin(&self, shard: ShardId, filter: ScanFilter) -> Result<Scan, ShardError> {
        let store = self.clone();
        self.inner.executor.run(move || store.scan(shard, filter)).await?
    }

    /// The next items of a scan, about a page of them, for tasks. None: the scan is over.
    ///
    /// # Errors
    /// The runtime is stopping.
    pub async fn scan_page(&self, mut scan: Scan) -> Result<(Scan, Vec<ScanItem>), ShardError> {
        let next = self.inner.executor.run(move || {
            let page = scan.next_page();
            (scan, page)
        });
        Ok(next.await?)
    }

    /// The shards that have data here, ascending.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        self.inner.slots_snapshot().iter().map(|slot| slot.id).collect()
    }

    /// How much the store has of each shard, ascending.
    #[must_use]
    pub fn sizes(&self) -> Vec<ShardSize> {
        let slots = self.inner.slots_snapshot();
        let size = |slot: &Arc<Slot>| {
            let stored = slot.stored();
            ShardSize {
                shard: slot.id,
                series: stored.series,
                runs: stored.runs,
                bytes: stored.bytes,
                fresh_bytes: slot.fresh().bytes(),
                damaged: stored.damaged,
                poisoned: slot.poisoned().is_some(),
            }
        };
        slots.iter().map(size).collect()
    }

    /// The batches of a shard that are as they came, ascending, and the record up to which there are
    /// none: all that stand behind it are here.
    #[must_use]
    pub fn unfolded(&self, shard: ShardId) -> (Sequence, Vec<(Sequence, EncodedBatch)>) {
        let Some(slot) = self.inner.slot(shard) else {
            return (Sequence(0), Vec::new());
        };
        // Of a shard that could not be read nobody knows what is folded.
        if slot.is_unread() {
            return (self.inner.accepted(), Vec::new());
        }
        let (applied, entries) = {
            let fresh = slot.fresh();
            (fresh.applied(), fresh.behind(Sequence(0)))
        };
        let kept = entries.iter().map(|entry| (entry.sequence, entry.batch.clone()));
        (applied, kept.collect())
    }

    /// How the store is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let slots = self.inner.slots_snapshot();
        Stats {
            shards: slots.len(),
            open: self.inner.open.len(),
            poisoned: slots.iter().filter(|slot| slot.poisoned().is_some()).count(),
            unread: slots.iter().filter(|slot| slot.is_unread()).count(),
            fresh_bytes: self.inner.budget.used(),
            quarantined_batches: self.inner.counters.quarantined_batches(),
            bad_blocks: self.inner.counters.bad_blocks(),
        }
    }
}

impl Inner {
    fn slot(&self, shard: ShardId) -> Option<Arc<Slot>> {
        match self.slots.get(&shard).as_deref() {
            Some(Known::Live(slot)) => Some(Arc::clone(slot)),
            Some(Known::Dropped) | None => None,
        }
    }

    fn is_dropped(&self, shard: ShardId) -> bool {
        matches!(self.slots.get(&shard).as_deref(), Some(Known::Dropped))
    }

    /// The shard's slot; `None` if it was dropped.
    fn slot_or_new(&self, shard: ShardId) -> Option<Arc<Slot>> {
        if let Some(slot) = self.slot(shard) {
            return Some(slot);
        }
        let new = || Slot::new(shard, Arc::clone(&self.budget));
        let known = self.slots.entry(shard).or_insert_with(|| Known::Live(Arc::new(new())));
        match &*known {
            Known::Live(slot) => Some(Arc::clone(slot)),
            Known::Dropped => None,
        }
    }

    fn slots_snapshot(&self) -> Vec<Arc<Slot>> {
        let live = self.slots.iter().filter_map(|known| match &*known {
            Known::Live(slot) => Some(Arc::clone(slot)),
            Known::Dropped => None,
        });
        let mut live: Vec<_> = live.collect();
        live.sort_by_key(|slot| slot.id);
        live
    }

    fn accepted(&self) -> Sequence {
        Sequence(self.accepted.load(Ordering::Acquire))
    }

    fn applied_through(&self) -> Sequence {
        // First this, then the shards: a record accepted in between must not count as folded.
        let accepted = self.accepted();
        let slots = self.slots_snapshot();
        let waiting = slots.iter().filter_map(|slot| slot.fresh().first()).min();
        match waiting {
            Some(first) => accepted.min(Sequence(first.0.saturating_sub(1))),
            None => accepted,
        }
    }

    fn publish_released(&self) {
        let through = self.applied_through();
        self.released.send_if_modified(|released| {
            let grown = through > *released;
            *released = through.max(*released);
            grown
        });
    }

    fn fold(&self, slot: &Slot) -> Result<bool, ShardError> {
        if self.read_late(slot)? {
            self.publish_released();
            return Ok(true);
        }
        let folded = fold::fold(self, slot)?;
        if folded {
            slot.set_folded();
            self.publish_released();
            self.note_changed(slot)?;
        }
        Ok(folded)
    }

    fn drop_shard(&self, shard: ShardId) -> Result<(), ShardError> {
        if let Some(Known::Live(slot)) = self.slots.insert(shard, Known::Dropped) {
            slot.fresh().drop_all();
            // Only to let a fold end that has begun: whoever comes now finds the shard gone, and a
            // merge that has it pinned may wait for this right itself.
            drop(slot.last_writer());
            self.open.remove(shard)?;
        } else {
            self.open.remove(shard)?;
        }
        self.publish_released();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
