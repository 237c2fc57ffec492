//! The bytes of one measurement of a part.
//!
//! Invariant: only what the part's rows use is written: tags, dictionary entries, series, fields.

use super::plan::Plan;
use crate::{
    batch::{
        FieldColumn, MeasurementBuilder, Presence, Values,
        codec::{
            column::{self, Head},
            packed, put_bytes, put_varint, times,
        },
        series::TagColumn,
    },
    id::FieldId,
};

/// Buffers that are reused.
#[derive(Default)]
pub(super) struct Scratch {
    integers: Vec<i64>,
    /// Per row of the batch, where a column has its value, plus one; all zero between uses.
    positions: Vec<u32>,
    fields: Vec<u8>,
    column: column::Scratch,
}

pub(super) fn block(
    out: &mut Vec<u8>,
    measurement: &MeasurementBuilder,
    plan: &Plan,
    columns: &[(FieldId, &FieldColumn)],
    scratch: &mut Scratch,
) {
    put_bytes(out, measurement.escaped_name());
    tags(out, measurement, plan, &mut scratch.integers);
    packed::encode(out, &plan.counts);
    times::encode(out, &plan.times, &plan.counts);
    fields(out, measurement, plan, columns, scratch);
}

/// Tag columns with their dictionaries, then the number of series, then their indices.
fn tags(out: &mut Vec<u8>, measurement: &MeasurementBuilder, plan: &Plan, indices: &mut Vec<i64>) {
    let has = |tag: &&TagColumn| plan.series.iter().any(|series| tag.of(*series).is_some());
    let mut tags: Vec<&TagColumn> = measurement.table.tags().iter().filter(has).collect();
    tags.sort_by(|a, b| a.key.cmp(&b.key));
    put_varint(out, plan.series.len() as u64);
    put_varint(out, tags.len() as u64);
    for tag in tags {
        indices.clear();
        // Per value of the batch: its index in the part's dictionary, plus one.
        let mut places = vec![0_u32; tag.values.len()];
        let mut dictionary = Vec::new();
        for &series in &plan.series {
            let index = tag.of(series).map_or(0, |value| {
                let place = &mut places[value as usize];
                if *place == 0 {
                    dictionary.push(value);
                    *place = dictionary.len() as u32;
                }
                *place
            });
            indices.push(i64::from(index));
        }
        put_bytes(out, &tag.key);
        put_varint(out, dictionary.len() as u64);
        dictionary.iter().for_each(|value| put_bytes(out, tag.values.get(*value)));
        packed::encode(out, indices);
    }
}

fn fields(
    out: &mut Vec<u8>,
    measurement: &MeasurementBuilder,
    plan: &Plan,
    columns: &[(FieldId, &FieldColumn)],
    scratch: &mut Scratch,
) {
    let mut count = 0;
    scratch.fields.clear();
    scratch.positions.resize(measurement.len(), 0);
    for (field, column) in columns {
        let (present, values) = gather(column, plan, &mut scratch.positions);
        if values.is_empty() {
            continue;
        }
        count += 1;
        let head = Head { field: *field, name: column.name(), present: &present };
        column::encode(&mut scratch.fields, &head, &values, &mut scratch.column);
    }
    put_varint(out, count);
    out.extend_from_slice(&scratch.fields);
}

/// The values of a column in output order, absent ones left out.
fn gather(column: &FieldColumn, plan: &Plan, positions: &mut [u32]) -> (Presence, Values) {
    let store = &column.store;
    let rows = plan.times.len();
    if store.rows().is_none() && plan.starts.is_none() {
        let filled = store.values().len();
        let present = |row: &&u32| (**row as usize) < filled;
        if filled == positions.len() || plan.order.iter().all(|row| present(&row)) {
            let each = plan.order.iter().map(|row| *row as usize);
            return (Presence::all(rows), pick(store.values(), each, rows));
        }
    }
    match store.rows() {
        None => {
            (1_u32..).zip(&mut *positions).take(store.values().len()).for_each(|(at, p)| *p = at)
        }
        Some(named) => (1_u32..).zip(named).for_each(|(at, row)| positions[*row as usize] = at),
    }
    let mut present = Presence::all(0);
    let mut picked = Vec::with_capacity(rows);
    for row in 0..rows {
        let sources = match &plan.starts {
            None => row..row + 1,
            Some(starts) => starts[row] as usize..starts[row + 1] as usize,
        };
        let sources = plan.order[sources].iter().rev();
        let found = sources.map(|row| positions[*row as usize]).find(|position| *position != 0);
        present.push(found.is_some());
        picked.extend(found.map(|position| position as usize - 1));
    }
    match store.rows() {
        None => positions[..store.values().len()].fill(0),
        Some(named) => named.iter().for_each(|row| positions[*row as usize] = 0),
    }
    let count = picked.len();
    (present, pick(store.values(), picked.into_iter(), count))
}

/// The values at these positions, all of which exist.
fn pick(values: &Values, at: impl Iterator<Item = usize>, count: usize) -> Values {
    fn each<T: Clone>(values: &[T], at: impl Iterator<Item = usize>, count: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(count);
        out.extend(at.map(|at| values[at].clone()));
        out
    }
    match values {
        Values::Float(values) => Values::Float(each(values, at, count)),
        Values::Integer(values) => Values::Integer(each(values, at, count)),
        Values::Unsigned(values) => Values::Unsigned(each(values, at, count)),
        Values::Boolean(values) => Values::Boolean(each(values, at, count)),
        Values::String(values) => Values::String(each(values, at, count)),
    }
}
