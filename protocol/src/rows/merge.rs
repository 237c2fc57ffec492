//! Merging versioned rows.
//!
//! Invariant: the result is a function of the set of winners (per time and field the highest
//! (version, canonical value)) and of nothing else, which makes merging associative, commutative
//! and idempotent. Rows exist for the (time, version) pairs among the winners.

use std::collections::BTreeMap;

use super::Rows;
use crate::{
    batch::{Column, Presence, Values},
    id::{FieldId, Version},
    schema::FieldType,
};

/// Where a row of the result comes from.
enum Source {
    /// All of one row of one part.
    Row { part: u32, row: u32 },
    /// For each column of its own, from `cells[at..at + columns]`.
    Cells { at: usize },
}

/// A row of a part that takes part in the general merge; orders by (time, version).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    time: i64,
    version: Version,
    part: u32,
    row: u32,
}

pub(super) fn merge(parts: Vec<Rows>) -> Rows {
    let mut parts: Vec<Rows> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.sort_by_key(Rows::time_range);
    // Replicas that agree are the common case of a merge with overlap.
    parts.dedup();
    let once = |part: &Rows| part.times.is_sorted_by(|a, b| a < b);
    let apart = |two: &[Rows]| match (two[0].times.last(), two[1].times.first()) {
        (Some(last), Some(first)) => last < first,
        _ => true,
    };
    if parts.windows(2).all(apart) && parts.iter().all(once) {
        return concat(parts);
    }
    let columns = Columns::of(&parts);
    let (times, versions, sources, cells) = plan(&parts, &columns);
    columns.gather(&parts, times, versions, &sources, &cells)
}

/// Joins parts that follow each other in time, and have every time once.
fn concat(mut parts: Vec<Rows>) -> Rows {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return tidy(only);
    }
    let columns = Columns::of(&parts);
    let len = parts.iter().map(Rows::len).sum();
    let mut out = columns.empty(len);
    for (index, part) in parts.iter().enumerate() {
        out.times.extend_from_slice(&part.times);
        out.versions.extend_from_slice(&part.versions);
        for (column, from) in out.columns.iter_mut().zip(&columns.index[index]) {
            match from.map(|from| &part.columns[from]) {
                Some(from) => column.extend(from, 0..part.len()),
                None => (0..part.len()).for_each(|_| column.push_absent()),
            }
        }
    }
    tidy(out)
}

/// Drops columns without values and rows without fields.
fn tidy(mut rows: Rows) -> Rows {
    rows.columns.retain(|column| column.present.any());
    let order = |column: &Column| (column.field, column.kind());
    if !rows.columns.is_sorted_by_key(order) {
        rows.columns.sort_by_key(order);
    }
    if rows.columns.iter().any(|column| column.present.is_all()) {
        return rows;
    }
    let fields: Vec<FieldId> = rows.columns.iter().map(|column| column.field).collect();
    rows.select(&fields)
}

/// The columns of the result and where each part has them.
struct Columns {
    heads: Vec<(FieldId, FieldType, bytes::Bytes)>,
    /// Per part, per column of the result: the column of the part.
    index: Vec<Vec<Option<usize>>>,
}

impl Columns {
    fn of(parts: &[Rows]) -> Self {
        let mut heads: BTreeMap<(FieldId, FieldType), &bytes::Bytes> = BTreeMap::new();
        for column in parts.iter().flat_map(|part| &part.columns) {
            let name = heads.entry((column.field, column.kind())).or_insert(&column.name);
            // One field has one name; this only keeps the result independent of the order.
            *name = (*name).min(&column.name);
        }
        let index = parts
            .iter()
            .map(|part| {
                let at = |key: &(FieldId, FieldType)| {
                    part.columns.iter().position(|c| (c.field, c.kind()) == *key)
                };
                heads.keys().map(at).collect()
            })
            .collect();
        let heads = heads.into_iter().map(|((id, kind), name)| (id, kind, name.clone())).collect();
        Self { heads, index }
    }

    fn empty(&self, rows: usize) -> Rows {
        let column = |(field, kind, name): &(FieldId, FieldType, bytes::Bytes)| Column {
            field: *field,
            name: name.clone(),
            present: Presence::all(0),
            values: Values::with_capacity(*kind, rows),
        };
        Rows {
            times: Vec::with_capacity(rows),
            versions: Vec::with_capacity(rows),
            columns: self.heads.iter().map(column).collect(),
        }
    }

    /// Builds the result column by column.
    fn gather(
        &self,
        parts: &[Rows],
        times: Vec<i64>,
        versions: Vec<Version>,
        sources: &[Source],
        cells: &[Option<(u32, u32)>],
    ) -> Rows {
        let mut out = self.empty(times.len());
        for (at, column) in out.columns.iter_mut().enumerate() {
            for source in sources {
                let cell = match *source {
                    Source::Row { part, row } => Some((part, row)),
                    Source::Cells { at: start } => cells[start + at],
                };
                let from = cell.and_then(|(part, row)| {
                    let from = self.index[part as usize][at]?;
                    Some((&parts[part as usize].columns[from], row as usize))
                });
                match from {
                    Some((from, row)) => column.extend(from, row..row + 1),
                    None => column.push_absent(),
                }
            }
        }
        out.times = times;
        out.versions = versions;
        tidy(out)
    }
}

type Plan = (Vec<i64>, Vec<Version>, Vec<Source>, Vec<Option<(u32, u32)>>);

/// Decides every row of the result.
fn plan(parts: &[Rows], columns: &Columns) -> Plan {
    let mut entries = Vec::with_capacity(parts.iter().map(Rows::len).sum());
    for (part, rows) in (0_u32..).zip(parts) {
        for (row, (time, version)) in (0_u32..).zip(rows.times.iter().zip(&rows.versions)) {
            entries.push(Entry { time: *time, version: *version, part, row });
        }
    }
    entries.sort_unstable();
    let (mut times, mut versions) = (Vec::new(), Vec::new());
    let (mut sources, mut cells) = (Vec::new(), Vec::new());
    for group in entries.chunk_by(|a, b| a.time == b.time) {
        if let [only] = group {
            times.push(only.time);
            versions.push(only.version);
            sources.push(Source::Row { part: only.part, row: only.row });
            continue;
        }
        let winners: Vec<Option<Entry>> =
            (0..columns.heads.len()).map(|at| winner(parts, columns, at, group)).collect();
        for row in group.chunk_by(|a, b| a.version == b.version) {
            let version = row[0].version;
            let wins = |entry: &Option<Entry>| entry.filter(|entry| entry.version == version);
            if winners.iter().any(|entry| wins(entry).is_some()) {
                times.push(row[0].time);
                versions.push(version);
                sources.push(Source::Cells { at: cells.len() });
                cells.extend(winners.iter().map(|w| wins(w).map(|w| (w.part, w.row))));
            }
        }
    }
    (times, versions, sources, cells)
}

/// The entry among rows of one time that wins a column.
fn winner(parts: &[Rows], columns: &Columns, at: usize, group: &[Entry]) -> Option<Entry> {
    let value = |entry: &Entry| {
        let column = columns.index[entry.part as usize][at]?;
        parts[entry.part as usize].columns[column].get(entry.row as usize)
    };
    let mut best: Option<(Entry, crate::point::ValueRef<'_>)> = None;
    for entry in group {
        let Some(new) = value(entry) else { continue };
        let better = best.is_none_or(|(old, old_value)| {
            entry.version.cmp(&old.version).then_with(|| new.canonical_cmp(old_value)).is_gt()
        });
        if better {
            best = Some((*entry, new));
        }
    }
    best.map(|(entry, _)| entry)
}

pub(super) fn collapse(rows: Rows) -> Rows {
    let rows = merge(vec![rows]);
    if rows.times.is_sorted_by(|a, b| a < b) {
        return rows;
    }
    let mut out = Rows {
        columns: rows
            .columns
            .iter()
            .map(|column| Column::new(column.field, column.name.clone(), column.kind()))
            .collect(),
        ..Rows::default()
    };
    let mut start = 0;
    for group in rows.times.chunk_by(|a, b| a == b) {
        let range = start..start + group.len();
        out.times.push(group[0]);
        // The last row of a time has its highest version.
        out.versions.push(rows.versions[range.end - 1]);
        for (to, from) in out.columns.iter_mut().zip(&rows.columns) {
            match range.clone().rev().find(|row| from.present.get(*row)) {
                Some(row) => to.extend(from, row..row + 1),
                None => to.push_absent(),
            }
        }
        start = range.end;
    }
    out
}

#[cfg(test)]
mod tests;
