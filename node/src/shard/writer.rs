//! Writing a run: row groups in, transactions of blocks out.
//!
//! Invariants: blocks come in the order of their keys, the version table before them; a transaction
//! stays below the configured size; until [`Finished`] is dropped, nobody takes the unfinished run
//! for garbage. The last blocks are not committed here: they go into the transaction that makes the
//! run live. Used by [`super::fold`], [`super::merge`] and [`super::dense`].

use heed::{PutFlags, RwTxn};
use quorate_protocol::id::Version;

use super::{
    assemble::{EncodedGroup, SOLO_ROWS, Sink},
    block::{self, Density, MAX_SHARED_VERSIONS, RowGroup, Scratch, VersionTable},
    env::Table,
    error::ShardError,
    fault::Step,
    open::Building,
    run::{BlockKey, KEY_LEN},
    series::SeriesId,
    state::Run,
    work::Work,
};

/// A block on its way into a transaction.
pub(super) type NewBlock = ([u8; KEY_LEN], Vec<u8>);

/// A run being written.
pub(super) struct Writer<'a> {
    work: Work<'a>,
    building: Building<'a>,
    run: Run,
    density: Density,
    versions: Option<VersionTable>,
    pending: Vec<NewBlock>,
    pending_bytes: usize,
    scratch: Scratch,
}

/// What is left to be committed of a run.
pub(super) struct Finished<'a> {
    pub(super) blocks: Vec<NewBlock>,
    /// Its entry in the state record; `None` if it never had a block.
    pub(super) run: Option<Run>,
    _building: Building<'a>,
}

impl<'a> Writer<'a> {
    /// Starts a run. `versions` are all that its rows may have, in any order, or `None` if they are
    /// too many.
    pub(super) fn new(work: Work<'a>, density: Density, versions: Option<Vec<Version>>) -> Self {
        let building = work.shard.begin_run();
        let run = Run {
            id: building.run(),
            damaged: false,
            dense: density == Density::Dense,
            blocks: 0,
            rows: 0,
            bytes: 0,
            min_time: i64::MAX,
            max_time: i64::MIN,
        };
        let versions = versions.filter(|all| !all.is_empty()).map(VersionTable::new);
        let versions = versions.filter(|table| table.versions().len() <= MAX_SHARED_VERSIONS);
        let mut writer = Self {
            work,
            building,
            run,
            density,
            versions,
            pending: Vec::new(),
            pending_bytes: 0,
            scratch: Scratch::default(),
        };
        if let Some(table) = &writer.versions {
            let mut value = Vec::new();
            table.encode(density, &mut value);
            writer.pending_bytes += value.len();
            writer.pending.push((BlockKey::versions(run.id).encode(), value));
        }
        writer
    }

    fn push(
        &mut self,
        series: SeriesId,
        start: i64,
        times: (i64, i64),
        rows: usize,
        block: Vec<u8>,
    ) -> Result<(), ShardError> {
        self.work.go_on()?;
        self.work.step_aside();
        self.run.blocks += 1;
        self.run.rows += rows as u64;
        self.run.bytes += block.len() as u64;
        self.run.min_time = self.run.min_time.min(times.0);
        self.run.max_time = self.run.max_time.max(times.1);
        if self.pending_bytes + block.len() > self.work.shard.config.txn_bytes {
            self.commit()?;
        }
        self.pending_bytes += block.len();
        self.pending.push((BlockKey { run: self.run.id, series, start }.encode(), block));
        Ok(())
    }

    fn commit(&mut self) -> Result<(), ShardError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let blocks = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let work = &self.work;
        work.commit(Step::Commit, |txn, [runs, ..]| store(work, txn, runs, &blocks))?;
        self.work.at(Step::Committed)
    }

    /// The last blocks, less than a transaction full.
    pub(super) fn finish(self) -> Finished<'a> {
        let live = self.run.blocks > 0;
        Finished {
            blocks: if live { self.pending } else { Vec::new() },
            run: live.then_some(self.run),
            _building: self.building,
        }
    }
}

impl Sink for Writer<'_> {
    fn put(&mut self, group: &RowGroup) -> Result<(), ShardError> {
        let (Some(first), Some(start)) = (group.spans.first(), group.times.first()) else {
            return Ok(());
        };
        // With versions of its own, a block of one series can move to another run as it is.
        let moves = self.density == Density::Cheap
            && group.spans.len() == 1
            && group.times.len() >= SOLO_ROWS;
        let versions = if moves { None } else { self.versions.as_ref() };
        let mut block = Vec::new();
        block::encode(group, versions, self.density, &mut block, &mut self.scratch);
        let fold = |(least, most): (i64, i64), time: &i64| (least.min(*time), most.max(*time));
        let times = group.times.iter().fold((i64::MAX, i64::MIN), fold);
        self.push(first.series, *start, times, group.times.len(), block)
    }

    fn put_encoded(&mut self, block: EncodedGroup) -> Result<(), ShardError> {
        self.push(block.series, block.times.0, block.times, block.rows, block.bytes)
    }
}

/// Stores blocks.
pub(super) fn store(
    work: &Work<'_>,
    txn: &mut RwTxn<'_>,
    runs: &Table,
    blocks: &[NewBlock],
) -> heed::Result<()> {
    let Some((first, _)) = blocks.first() else {
        return Ok(());
    };
    // Later runs may stand behind this one already: folds go on during a merge.
    let last = runs.last(txn)?.is_none_or(|(last, _)| last < &first[..]);
    let flags = if last { PutFlags::APPEND } else { PutFlags::empty() };
    for (key, block) in blocks {
        work.step_aside();
        runs.put_with_flags(txn, flags, key, block)?;
    }
    Ok(())
}
