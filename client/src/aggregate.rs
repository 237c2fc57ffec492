//! Aggregates over windows of time, from the nodes or from rows.
//!
//! At level one (or of one node) the windows are computed where the blocks are and only partials
//! travel. At quorum and all, replicas must be merged value by value first: rows are fetched as a
//! query does, and aggregated here. Both ways give the same result. Invariants: a window comes out
//! once, also where it spans shard groups; memory is that of a query, and the open windows of one
//! series.

mod pushed;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use quorate_protocol::{
    aggregate::{FieldWindows, Partial, Windows},
    consistency::Level,
    id::FieldId,
    rows::Rows,
    schema::FieldType,
};

use crate::{
    core::Core,
    error::Error,
    query::{self, Query, RowStream},
    series::Items,
};

/// Windows of one series as they come, in order of (series key, time).
#[derive(Debug)]
pub struct WindowStream {
    source: Source,
    open: OpenSeries,
    ready: VecDeque<SeriesWindows>,
    ended: bool,
    /// Windows that are still wanted.
    left: usize,
}

/// Some windows of one series. Those that come later for the same series are later in time.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesWindows {
    /// The canonical series key.
    pub key: Bytes,
    /// Its fields, in order of (id, type), each with its windows in order of time. A window in which
    /// a field has no value is left out.
    pub fields: Vec<FieldWindows>,
}

#[derive(Debug)]
enum Source {
    Pushed(Items<Vec<FieldWindows>>),
    Rows(RowStream, Windows),
}

impl Source {
    fn close(&mut self) {
        match self {
            Self::Pushed(items) => items.close(),
            Self::Rows(rows, _) => rows.close(),
        }
    }

    async fn next(&mut self) -> Option<Result<(Bytes, Vec<FieldWindows>), Error>> {
        match self {
            Self::Pushed(items) => items.next().await,
            Self::Rows(rows, windows) => {
                let next = rows.next().await?;
                Some(next.map(|(key, rows)| {
                    let fields = of_rows(&key, &rows, *windows);
                    (key, fields)
                }))
            }
        }
    }
}

/// Starts to aggregate what a query would give.
pub(crate) fn start(
    core: &Arc<Core>,
    query: &Query,
    windows: Windows,
) -> Result<WindowStream, Error> {
    metrics::counter!("quorate_client_queries_total", "kind" => "windows").increment(1);
    let left = query.limit.unwrap_or(usize::MAX);
    // A window may be of any number of rows.
    let query = &Query { limit: None, ..query.clone() };
    let pushed = query.node.is_some() || matches!(query.level, Level::Any | Level::One);
    let source = if pushed {
        Source::Pushed(pushed::start(core, query, windows)?)
    } else {
        Source::Rows(query::start(core, query)?, windows)
    };
    let (open, ready) = (OpenSeries::default(), VecDeque::new());
    Ok(WindowStream { source, open, ready, ended: false, left })
}

impl WindowStream {
    /// The next windows of a series; none at the end. After an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<SeriesWindows, Error>> {
        loop {
            if let Some(mut ready) = self.ready.pop_front() {
                self.left -= ready.truncate(self.left);
                return Some(Ok(ready));
            }
            if self.left == 0 {
                // What is not wanted is not read.
                self.source.close();
                self.ended = true;
            }
            if self.ended {
                return None;
            }
            match self.source.next().await {
                Some(Ok((key, fields))) => {
                    if key != self.open.key {
                        self.ready.extend(self.open.take(None));
                        self.open.key = key;
                    }
                    self.open.add(fields);
                    // The last window may go on in the next group.
                    let last = self.open.last();
                    self.ready.extend(self.open.take(last));
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                None => {
                    self.ended = true;
                    self.ready.extend(self.open.take(None));
                }
            }
        }
    }
}

impl SeriesWindows {
    /// Keeps the windows with the first `most` starts; how many starts are left.
    fn truncate(&mut self, most: usize) -> usize {
        let all = self.fields.iter().flat_map(|field| &field.windows);
        let mut starts: Vec<i64> = all.map(|(start, _)| *start).collect();
        starts.sort_unstable();
        starts.dedup();
        if let Some(end) = starts.get(most) {
            for field in &mut self.fields {
                field.windows.retain(|(start, _)| start < end);
            }
            self.fields.retain(|field| !field.windows.is_empty());
        }
        starts.len().min(most)
    }
}

/// The series whose windows may not be complete.
#[derive(Debug, Default)]
struct OpenSeries {
    key: Bytes,
    fields: BTreeMap<(FieldId, FieldType), FieldWindows>,
}

impl OpenSeries {
    /// Takes in windows that do not begin before any that was given out.
    fn add(&mut self, fields: Vec<FieldWindows>) {
        for mut new in fields {
            let field = (new.field, new.kind);
            let Some(known) = self.fields.get_mut(&field) else {
                self.fields.insert(field, new);
                continue;
            };
            if let (Some((last, partial)), Some((first, more))) =
                (known.windows.last_mut(), new.windows.first())
                && last == first
            {
                partial.merge(more);
                new.windows.remove(0);
            }
            known.windows.append(&mut new.windows);
        }
    }

    /// The start of the last window.
    fn last(&self) -> Option<i64> {
        self.fields.values().filter_map(|field| Some(field.windows.last()?.0)).max()
    }

    /// Takes the windows that begin before `end`, or all of them.
    fn take(&mut self, end: Option<i64>) -> Option<SeriesWindows> {
        let mut fields = Vec::new();
        for field in self.fields.values_mut() {
            let count = end.map_or(field.windows.len(), |end| {
                field.windows.partition_point(|(start, _)| *start < end)
            });
            if count > 0 {
                let rest = field.windows.split_off(count);
                let windows = std::mem::replace(&mut field.windows, rest);
                let (key, name) = (self.key.clone(), field.name.clone());
                fields.push(FieldWindows {
                    key,
                    field: field.field,
                    name,
                    kind: field.kind,
                    windows,
                });
            }
        }
        if end.is_none() {
            self.fields.clear();
        }
        (!fields.is_empty()).then(|| SeriesWindows { key: self.key.clone(), fields })
    }
}

/// The windows of merged rows, which have each time once.
fn of_rows(key: &Bytes, rows: &Rows, windows: Windows) -> Vec<FieldWindows> {
    let mut cuts = Vec::new();
    let mut row = 0;
    while let Some(time) = rows.times.get(row) {
        let (start, end) = windows.bounds(*time);
        let next = rows.times.partition_point(|time| *time < end).max(row + 1);
        cuts.push((start, row..next));
        row = next;
    }
    let fields = rows.columns.iter().map(|column| FieldWindows {
        key: key.clone(),
        field: column.field,
        name: column.name.clone(),
        kind: column.kind(),
        windows: cuts
            .iter()
            .filter_map(|(start, range)| {
                Some((*start, Partial::of(&rows.times, column, range.clone())?))
            })
            .collect(),
    });
    fields.filter(|field| !field.windows.is_empty()).collect()
}
