//! Rows that row groups are put together from, and how long they are needed.
//!
//! Invariant: a source stays as long as pieces of it wait for their row group, or until it is
//! retired if that is later. Filled by [`super::gather`] with decoded batches and by
//! [`super::cursor`] with decoded blocks; [`super::assemble`] copies out of it.

use std::{collections::VecDeque, ops::Range};

use quorate_protocol::{
    batch::{Column, DecodedMeasurement, Values},
    id::Version,
    rows::Rows,
};

use super::{
    block::RowGroup,
    splice::{Head, Splice, count, is_layout},
};

/// The versions of the rows of a source.
#[derive(Clone, Debug)]
pub(super) enum Versions {
    One(Version),
    Each(Vec<Version>),
}

/// Rows of one or more series, column by column: a measurement of a decoded batch, a decoded block,
/// or merged rows.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) times: Vec<i64>,
    pub(super) versions: Versions,
    /// Ascending by (field, type).
    pub(super) columns: Vec<Column>,
    /// What a row takes in memory on average, in bytes; at least 1.
    pub(super) row_bytes: usize,
    /// The last row group its columns were counted for.
    pub(super) counted_for: u64,
    /// Sources of the same number, which is not 0, have the same columns.
    pub(super) layout: u32,
    /// Pieces that wait.
    uses: u32,
    retired: bool,
}

impl Source {
    fn new(times: Vec<i64>, versions: Versions, mut columns: Vec<Column>) -> Self {
        let order = |column: &Column| (column.field, column.kind());
        if !columns.is_sorted_by_key(order) {
            columns.sort_by_key(order);
        }
        let strings = |column: &Column| match &column.values {
            Values::String(slots) => slots.iter().map(|slot| slot.len() + 24).sum(),
            _ => 0_usize,
        };
        let strings: usize = columns.iter().map(strings).sum();
        let row_bytes = 16 + 8 * columns.len() + strings.div_ceil(times.len().max(1));
        Self {
            times,
            versions,
            columns,
            row_bytes,
            counted_for: 0,
            layout: 0,
            uses: 0,
            retired: false,
        }
    }

    pub(super) fn of_batch(measurement: DecodedMeasurement, version: Version) -> Self {
        Self::new(measurement.times, Versions::One(version), measurement.columns)
    }

    pub(super) fn of_block(group: RowGroup) -> Self {
        Self::new(group.times, Versions::Each(group.versions), group.columns)
    }

    pub(super) fn of_rows(rows: Rows) -> Self {
        Self::new(rows.times, Versions::Each(rows.versions), rows.columns)
    }

    /// Some of the rows, in this order, one range behind the other.
    pub(super) fn select(&self, ranges: &[Range<u32>]) -> Self {
        let parts = ranges.iter().map(|rows| (0, rows.start as usize..rows.end as usize));
        let splice = Splice::new(parts.collect(), 1);
        let column = |column: &Column| Column {
            field: column.field,
            name: column.name.clone(),
            present: splice.presence(&[Some(column)]),
            values: splice.values(column.kind(), &[Some(column)]),
        };
        let versions = match &self.versions {
            Versions::One(version) => Versions::One(*version),
            Versions::Each(versions) => Versions::Each(splice.slots(&[Some(versions.as_slice())])),
        };
        Self {
            times: splice.slots(&[Some(self.times.as_slice())]),
            versions,
            columns: self.columns.iter().map(column).collect(),
            ..*self
        }
    }

    /// Some rows, which are of one series, on their own.
    pub(super) fn rows(&self, range: Range<u32>) -> Rows {
        let range = range.start as usize..range.end as usize;
        Rows {
            times: self.times.get(range.clone()).unwrap_or_default().to_vec(),
            versions: match &self.versions {
                Versions::One(version) => vec![*version; range.len()],
                Versions::Each(versions) => {
                    versions.get(range.clone()).unwrap_or_default().to_vec()
                }
            },
            columns: self
                .columns
                .iter()
                .map(|column| column.slice(range.clone()))
                .filter(|column| column.present.any())
                .collect(),
        }
    }

    /// How many of some rows of one series are before `time`.
    pub(super) fn before(&self, range: Range<u32>, time: i64) -> u32 {
        let times = self.times.get(range.start as usize..range.end as usize).unwrap_or_default();
        // Rows are counted in u32 throughout, so the position fits.
        times.partition_point(|row| *row < time) as u32
    }

    /// The first and the last time of some rows of one series.
    pub(super) fn time_range(&self, range: &Range<u32>) -> (i64, i64) {
        let time = |row: u32| self.times.get(row as usize).copied().unwrap_or_default();
        (time(range.start), time(range.end.saturating_sub(1)))
    }
}

/// Where ranges stand in what [`Source::select`] makes of them.
pub(super) fn one_behind_the_other<'a>(ranges: impl Iterator<Item = &'a mut Range<u32>>) {
    let mut start = 0;
    for range in ranges {
        let end = start + (range.end - range.start);
        *range = start..end;
        start = end;
    }
}

/// Layouts a new source is compared with: batches of a few measurements take turns.
const RECENT_LAYOUTS: usize = 8;

/// Sources by number.
#[derive(Debug, Default)]
pub(super) struct Sources {
    slots: Vec<Option<Source>>,
    free: Vec<u32>,
    /// The columns of the latest layouts, the latest one last.
    recent: VecDeque<(u32, Vec<Head>)>,
    layouts: u32,
}

impl Sources {
    pub(super) fn add(&mut self, mut source: Source) -> u32 {
        source.layout = self.layout(&source);
        if let Some(number) = self.free.pop() {
            self.slots[number as usize] = Some(source);
            return number;
        }
        self.slots.push(Some(source));
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    /// A source that is there: its number came from [`Self::add`] and it is still in use.
    #[expect(clippy::expect_used, reason = "the invariant of the file")]
    pub(super) fn get(&self, number: u32) -> &Source {
        self.slots[number as usize].as_ref().expect("a source stays while it is used")
    }

    #[expect(clippy::expect_used, reason = "the invariant of the file")]
    pub(super) fn get_mut(&mut self, number: u32) -> &mut Source {
        self.slots[number as usize].as_mut().expect("a source stays while it is used")
    }

    /// A piece of the source waits from now on.
    pub(super) fn hold(&mut self, number: u32) {
        self.get_mut(number).uses += 1;
    }

    /// A piece waits no more.
    pub(super) fn release(&mut self, number: u32) {
        let source = self.get_mut(number);
        source.uses -= 1;
        if source.retired && source.uses == 0 {
            self.remove(number);
        }
    }

    /// No new pieces come out of the source.
    pub(super) fn retire(&mut self, number: u32) {
        let source = self.get_mut(number);
        source.retired = true;
        if source.uses == 0 {
            self.remove(number);
        }
    }

    /// The number of the source's columns, a new one if nothing like it came lately.
    fn layout(&mut self, source: &Source) -> u32 {
        let known = self.recent.iter().rev().find(|(_, heads)| is_layout(heads, source));
        if let Some((layout, _)) = known {
            return *layout;
        }
        self.layouts += 1;
        if self.recent.len() == RECENT_LAYOUTS {
            self.recent.pop_front();
        }
        let mut heads = Vec::with_capacity(source.columns.len());
        count(&mut heads, source);
        self.recent.push_back((self.layouts, heads));
        self.layouts
    }

    fn remove(&mut self, number: u32) {
        self.slots[number as usize] = None;
        self.free.push(number);
    }
}
