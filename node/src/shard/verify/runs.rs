//! Verifying runs: their blocks one by one, and what the state record says of them.
//!
//! Invariant: a run is looked at from its first block to its last while it is live; if it is merged
//! away on the way, what was found of it is forgotten with it. Part of every verification.

use std::{collections::BTreeSet, ops::Bound};

use heed::RoTxn;

use super::{PAGE_BYTES, ProblemKind, VerifyReport};
use crate::shard::{
    block::{BlockError, RowGroup, Statistics, VersionTable, View},
    open::Tables,
    run::BlockKey,
    series::{self, SeriesId},
    state::{Run, State},
};

/// All live runs.
#[derive(Default)]
pub(super) struct RunsCheck {
    done: BTreeSet<u32>,
    current: Option<OfRun>,
}

/// What was seen of a run so far.
struct OfRun {
    run: u32,
    /// The last block looked at.
    after: BlockKey,
    versions: Option<VersionTable>,
    /// Of the last block: its last series and its last time, and whether it had several series.
    last: Option<(SeriesId, i64, bool)>,
    blocks: u64,
    bytes: u64,
    rows: u64,
    values: u64,
    times: (i64, i64),
    report: VerifyReport,
}

impl RunsCheck {
    /// Looks at some blocks; whether all live runs are done.
    pub(super) fn page(
        &mut self,
        txn: &RoTxn<'_>,
        tables: &Tables,
        state: &State,
        report: &mut VerifyReport,
    ) -> heed::Result<bool> {
        if self.current.as_ref().is_some_and(|current| !state.is_live(current.run)) {
            self.current = None;
        }
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                let Some(run) = state.runs.iter().find(|run| !self.done.contains(&run.id)) else {
                    return Ok(true);
                };
                OfRun::new(txn, tables, run.id)?
            }
        };
        if !current.page(txn, tables, state)? {
            self.current = Some(current);
            return Ok(false);
        }
        self.done.insert(current.run);
        let recorded = state.runs.iter().find(|run| run.id == current.run);
        recorded.into_iter().for_each(|run| current.compare(run));
        current.add_to(report);
        Ok(false)
    }
}

impl OfRun {
    fn new(txn: &RoTxn<'_>, [runs, ..]: &Tables, run: u32) -> heed::Result<Self> {
        let (after, mut report) = (BlockKey::versions(run), VerifyReport::default());
        let mut versions = None;
        if let Some(value) = runs.get(txn, &after.encode())? {
            match VersionTable::decode(value) {
                Ok(table) => versions = Some(table),
                Err(error) => {
                    report.problem(ProblemKind::Versions, || format!("run {run}: {error}"))
                }
            }
        }
        Ok(Self {
            run,
            after,
            versions,
            last: None,
            blocks: 0,
            bytes: 0,
            rows: 0,
            values: 0,
            times: (i64::MAX, i64::MIN),
            report,
        })
    }

    /// Looks at some blocks; whether these were the last.
    fn page(&mut self, txn: &RoTxn<'_>, tables: &Tables, state: &State) -> heed::Result<bool> {
        let [runs, ..] = tables;
        let (from, mut read) = (self.after.encode(), 0);
        for entry in runs.range(txn, &(Bound::Excluded(&from[..]), Bound::Unbounded))? {
            let (key, bytes) = entry?;
            let Some(key) = BlockKey::decode(key) else {
                self.report.problem(ProblemKind::Order, || {
                    format!("{} is no key of a block", key.escape_ascii())
                });
                continue;
            };
            if key.run != self.run {
                return Ok(true);
            }
            self.after = key;
            self.blocks += 1;
            self.bytes += bytes.len() as u64;
            self.block(txn, tables, state, key, bytes)?;
            read += bytes.len();
            if read >= PAGE_BYTES {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn problem(&mut self, kind: ProblemKind, key: BlockKey, detail: impl FnOnce() -> String) {
        let BlockKey { run, series, start } = key;
        self.report.problem(kind, || {
            format!("run {run}, block of series {series} from {start}: {}", detail())
        });
    }

    fn block(
        &mut self,
        txn: &RoTxn<'_>,
        tables: &Tables,
        state: &State,
        key: BlockKey,
        bytes: &[u8],
    ) -> heed::Result<()> {
        let read = View::parse(bytes).and_then(|view| {
            let group = view.decode(self.versions.as_ref(), &|_| true)?;
            Ok((view, group))
        });
        let (view, group) = match read {
            Ok(read) => read,
            Err(error) => {
                let kind = match error {
                    BlockError::NoVersionTable => ProblemKind::Versions,
                    _ => ProblemKind::Block,
                };
                self.problem(kind, key, || error.to_string());
                // What follows may overlap it, as far as anybody can tell.
                self.last = None;
                return Ok(());
            }
        };
        self.order(key, &group);
        self.rows += group.times.len() as u64;
        let values =
            |group: &RowGroup| group.columns.iter().map(|c| c.present.count() as u64).sum();
        let values: u64 = values(&group);
        self.values += values;
        let (first, last) = view.time_range();
        self.times = (self.times.0.min(first), self.times.1.max(last));
        if let Some(version) = group.versions.iter().max().filter(|v| **v > state.highest_version) {
            let known = state.highest_version;
            self.problem(ProblemKind::Run, key, || {
                format!("version {version} is above the shard's highest, {known}")
            });
        }
        for (head, column) in view.heads().iter().zip(&group.columns) {
            if let Some(statistics) = &head.statistics
                && Statistics::of(column, &group.times).as_ref() != Some(statistics)
            {
                self.problem(ProblemKind::Statistics, key, || {
                    format!("those of field {} are not those of its values", head.field)
                });
            }
        }
        for span in &group.spans {
            if series::key_of(txn, tables, span.series)?.is_none() {
                self.problem(ProblemKind::Series, key, || format!("{} has no key", span.series));
            }
        }
        Ok(())
    }

    /// Whether the block stands where it belongs.
    fn order(&mut self, key: BlockKey, group: &RowGroup) {
        let (Some(first), Some(last)) = (group.spans.first(), group.spans.last()) else { return };
        let packed = group.spans.len() > 1;
        if first.series != key.series || group.times.first() != Some(&key.start) {
            self.problem(ProblemKind::Order, key, || "its rows begin elsewhere".into());
        }
        if let Some((series, time, several)) = self.last {
            let behind = first.series > series
                || first.series == series && !several && !packed && key.start > time;
            if !behind {
                self.problem(ProblemKind::Order, key, || "it overlaps the block before".into());
            }
        }
        self.last = group.times.last().map(|time| (last.series, *time, packed));
    }

    /// Compares what was seen with what is recorded.
    fn compare(&mut self, run: &Run) {
        let seen = Run {
            blocks: self.blocks,
            bytes: self.bytes,
            rows: self.rows,
            min_time: self.times.0,
            max_time: self.times.1,
            ..*run
        };
        // A block that cannot be read was told, and its rows cannot be counted.
        let unread = self
            .report
            .problems
            .iter()
            .any(|problem| matches!(problem.kind, ProblemKind::Block | ProblemKind::Versions));
        let same = if unread {
            (seen.blocks, seen.bytes) == (run.blocks, run.bytes)
        } else {
            seen == *run
        };
        if !same {
            self.report.problem(ProblemKind::Run, || {
                format!("run {}: recorded as {run:?}, found as {seen:?}", run.id)
            });
        }
    }

    fn add_to(self, report: &mut VerifyReport) {
        report.runs += 1;
        report.blocks += self.blocks;
        report.bytes += self.bytes;
        report.rows += self.rows;
        report.values += self.values;
        report.absorb(self.report);
    }
}

/// Counting what is left of runs that are not live.
#[derive(Default)]
pub(super) struct GarbageCheck {
    /// The last key looked at.
    after: Vec<u8>,
}

impl GarbageCheck {
    /// Looks at some blocks; whether these were the last.
    pub(super) fn page(
        &mut self,
        txn: &RoTxn<'_>,
        [runs, ..]: &Tables,
        is_kept: &dyn Fn(u32) -> bool,
        report: &mut VerifyReport,
    ) -> heed::Result<bool> {
        let mut read = 0;
        loop {
            let found = if self.after.is_empty() {
                runs.first(txn)?
            } else {
                runs.get_greater_than(txn, &self.after)?
            };
            let Some((key, bytes)) = found else {
                return Ok(true);
            };
            self.after = key.to_vec();
            match BlockKey::decode(key) {
                Some(key) if is_kept(key.run) => {
                    // Over all of it.
                    let end = BlockKey { run: key.run, series: SeriesId::MAX, start: i64::MAX };
                    self.after = end.encode().to_vec();
                }
                _ => {
                    report.garbage_blocks += 1;
                    report.garbage_bytes += bytes.len() as u64;
                    read += 256;
                }
            }
            if read >= PAGE_BYTES {
                return Ok(false);
            }
        }
    }
}
