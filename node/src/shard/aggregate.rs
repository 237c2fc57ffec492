//! Aggregates of a shard: windows of every wanted field of every wanted series.
//!
//! Invariants: what comes out is what a scan with the same filter would give, value by value,
//! summed up as [`Partial`]s; items come in order of (series key, field); a series with more
//! windows than fit into memory comes in several rounds, each later in time than the one before and
//! each with its fields in order, and no window is in two items of a field. Called by sessions
//! through [`ShardStore::aggregate`].

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;
use quorate_protocol::{
    aggregate::{FieldWindows, Partial, Windows},
    id::{FieldId, ShardId},
    rows::Rows,
    schema::FieldType,
};

use super::{
    ShardStore,
    error::{ScanError, ShardError},
    filter::ScanFilter,
    read::{Content, Known, Scan},
};

/// What to aggregate, and over which windows.
#[derive(Clone, Debug, Default)]
pub struct AggregateFilter {
    /// The values.
    pub scan: ScanFilter,
    /// The windows. One that reaches beyond the filter's times has only what is within both.
    pub windows: Windows,
}

/// What an aggregation yields. After [`ScanError::Damaged`] it goes on, without the values that
/// were lost; after anything else it is over.
pub type AggregateItem = Result<FieldWindows, ScanError>;

/// Aggregates of one shard; see [`ShardStore::aggregate`]. It blocks: see
/// [`ShardStore::aggregate_page`] for tasks.
pub struct Aggregation {
    scan: Scan,
    windows: Windows,
    /// Partials kept before a round is given out.
    limit: usize,
    page_bytes: usize,
    open: OpenSeries,
    ready: VecDeque<AggregateItem>,
}

/// A field's name and its windows.
type Field = (Bytes, Vec<(i64, Partial)>);

/// The series that is being aggregated.
#[derive(Default)]
struct OpenSeries {
    key: Bytes,
    fields: BTreeMap<(FieldId, FieldType), Field>,
    partials: usize,
}

impl OpenSeries {
    /// Adds what is known of a field in the window that starts at `start`; windows of a field do
    /// not go back.
    fn add(&mut self, field: (FieldId, FieldType), name: &Bytes, start: i64, partial: Partial) {
        let (_, windows) =
            self.fields.entry(field).or_insert_with(|| (name.clone(), Vec::with_capacity(1)));
        match windows.last_mut() {
            Some((last, known)) if *last == start => known.merge(&partial),
            _ => {
                windows.push((start, partial));
                self.partials += 1;
            }
        }
    }

    /// Takes all windows that begin before `from`, field by field.
    fn take(&mut self, from: Option<i64>, out: &mut VecDeque<AggregateItem>) {
        for ((field, kind), (name, all)) in &mut self.fields {
            let end = from.map_or(all.len(), |from| all.partition_point(|(at, _)| *at < from));
            let windows: Vec<_> = all.drain(..end).collect();
            self.partials -= windows.len();
            if !windows.is_empty() {
                let (key, name) = (self.key.clone(), name.clone());
                out.push_back(Ok(FieldWindows { key, field: *field, name, kind: *kind, windows }));
            }
        }
        if self.partials == 0 {
            self.fields.clear();
        }
    }
}

/// The rows of each window: its start and where they stand.
fn cut(times: &[i64], windows: Windows) -> impl Iterator<Item = (i64, Range<usize>)> {
    let mut row = 0;
    std::iter::from_fn(move || {
        let (start, end) = windows.bounds(*times.get(row)?);
        let len = times.get(row..)?.partition_point(|time| *time < end);
        let range = row..row + len.max(1);
        row = range.end;
        Some((start, range))
    })
}

impl Aggregation {
    fn begin(scan: Scan, windows: Windows, limit: usize, page_bytes: usize) -> Self {
        let (open, ready) = (OpenSeries::default(), VecDeque::new());
        Self { scan, windows, limit: limit.max(1), page_bytes, open, ready }
    }

    fn push(&mut self, key: &Bytes, content: Content) {
        self.enter(key);
        match content {
            Content::Rows(rows) => self.add_rows(&rows),
            Content::Known(start, known) => {
                for Known { field, kind, name, partial } in known {
                    self.open.add((field, kind), &name, start, partial);
                }
                self.bound(start);
            }
        }
    }

    /// Gives out the series before, if this is another one.
    fn enter(&mut self, key: &Bytes) {
        if self.open.key != *key {
            self.open.take(None, &mut self.ready);
            self.open.key = key.clone();
        }
    }

    fn add_rows(&mut self, rows: &Rows) {
        for (start, range) in cut(&rows.times, self.windows) {
            for column in &rows.columns {
                if let Some(partial) = Partial::of(&rows.times, column, range.clone()) {
                    let field = (column.field, column.kind());
                    self.open.add(field, &column.name, start, partial);
                }
            }
            self.bound(start);
        }
    }

    /// Gives out what is complete if there is much of it; the window that starts at `start` may go
    /// on in the next rows.
    fn bound(&mut self, start: i64) {
        if self.open.partials >= self.limit {
            self.open.take(Some(start), &mut self.ready);
        }
    }

    /// The next items, about a page of them in memory; none at the end.
    fn next_page(&mut self) -> Vec<AggregateItem> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < self.page_bytes
            && let Some(item) = self.next()
        {
            bytes += match &item {
                Ok(item) => item.key.len() + item.windows.len() * size_of::<(i64, Partial)>(),
                Err(_) => 0,
            };
            page.push(item);
        }
        page
    }
}

impl Iterator for Aggregation {
    type Item = AggregateItem;

    fn next(&mut self) -> Option<AggregateItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            match self.scan.next_content() {
                Some(Ok((key, content))) => self.push(&key, content),
                Some(Err(error)) => {
                    if matches!(error, ScanError::Shard(_)) {
                        // The scan is over; half a series is no answer.
                        self.open = OpenSeries::default();
                    }
                    return Some(Err(error));
                }
                None => {
                    self.open.take(None, &mut self.ready);
                    return self.ready.pop_front();
                }
            }
        }
    }
}

impl ShardStore {
    /// Begins to aggregate what a scan begun now would yield. A shard without data has no windows.
    /// Blocks, while it iterates too.
    ///
    /// # Errors
    /// The shard was dropped.
    pub fn aggregate(
        &self,
        shard: ShardId,
        filter: AggregateFilter,
    ) -> Result<Aggregation, ShardError> {
        let scan = self.scan_known(shard, filter.scan, Some(filter.windows))?;
        let config = &self.inner.config;
        Ok(Aggregation::begin(scan, filter.windows, config.aggregate_partials, config.scan_bytes))
    }

    /// [`Self::aggregate`] for tasks.
    ///
    /// # Errors
    /// As [`Self::aggregate`].
    pub async fn aggregate_begin(
        &self,
        shard: ShardId,
        filter: AggregateFilter,
    ) -> Result<Aggregation, ShardError> {
        let store = self.clone();
        self.inner.executor.run(move || store.aggregate(shard, filter)).await?
    }

    /// The next items of an aggregation, about a page of them, for tasks. None: it is over.
    ///
    /// # Errors
    /// The runtime is stopping.
    pub async fn aggregate_page(
        &self,
        mut aggregation: Aggregation,
    ) -> Result<(Aggregation, Vec<AggregateItem>), ShardError> {
        let next = self.inner.executor.run(move || {
            let page = aggregation.next_page();
            (aggregation, page)
        });
        Ok(next.await?)
    }
}

#[cfg(test)]
mod tests;
