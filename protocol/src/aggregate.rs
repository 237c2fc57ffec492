//! Aggregates over windows of time, as partials that can be merged.
//!
//! A [`Partial`] says of some values of one field all that the seven functions need. Invariants:
//! merging is commutative, and associative but for the last bits of a sum of floats (which is kept
//! to about 106 bits, so that the result of a function hardly ever shows them); a partial has at
//! least one value; all its values have one type. Made by nodes from blocks and rows, merged by
//! whoever asked several shards, in the same way for windows that two answers share.

use std::{cmp::Ordering, ops::Range};

use crate::{
    batch::{Column, Values},
    point::{Value, ValueRef},
    schema::FieldType,
};

mod codec;
mod function;
mod sum;
mod windows;

pub use self::{
    codec::FieldWindows,
    function::{Function, SumOverflow},
    sum::Sum,
    windows::Windows,
};

/// What is known of the values of one field in one window; mergeable in any order.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// The number of values, at least 1.
    pub count: u64,
    /// Their sum, of numbers.
    pub sum: Sum,
    /// The smallest, by [`value_cmp`]. Strings have none: the empty string stands here.
    pub min: Value,
    /// The largest, by [`value_cmp`]. Strings have none: the empty string stands here.
    pub max: Value,
    /// The earliest time and its value.
    pub first: (i64, Value),
    /// The latest time and its value.
    pub last: (i64, Value),
}

/// The order that `min` and `max` use: numeric, with `-0.0` below `0.0`; `false` below `true`;
/// strings bytewise. Values of different types, which one field never has, order by type.
#[must_use]
pub fn value_cmp(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    match (a, b) {
        (ValueRef::Float(a), ValueRef::Float(b)) => a.total_cmp(&b),
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
        (a, b) => a.canonical_cmp(b),
    }
}

impl Partial {
    /// One value.
    #[must_use]
    pub fn one(time: i64, value: Value) -> Self {
        let end = match &value {
            Value::String(_) => Value::String(bytes::Bytes::new()),
            number => number.clone(),
        };
        Self {
            count: 1,
            sum: Sum::of(value.as_ref()),
            min: end.clone(),
            max: end,
            first: (time, value.clone()),
            last: (time, value),
        }
    }

    /// The present values of a column in a range of rows that lies within it; `times` are the rows'
    /// times, strictly ascending. `None` if no value is present.
    #[must_use]
    pub fn of(times: &[i64], column: &Column, rows: Range<usize>) -> Option<Self> {
        let present = &column.present;
        let first = rows.clone().find(|row| present.get(*row))?;
        let last = rows.clone().rev().find(|row| present.get(*row))?;
        let at = |row: usize| Some((*times.get(row)?, column.values.get(row)?.to_value()));
        let (first_row, last_row) = (first, last);
        let (first, last) = (at(first)?, at(last)?);
        let rows = first_row..last_row + 1;
        let (count, sum, min, max) = if present.is_all() {
            numbers(&column.values, rows, &|_| true)
        } else {
            numbers(&column.values, rows, &|row| present.get(row))
        };
        Some(Self { count, sum, min, max, first, last })
    }

    /// The type of the values.
    #[must_use]
    pub fn kind(&self) -> FieldType {
        self.first.1.field_type()
    }

    /// Takes in what is known of other values of the same field. Where both know a value of the
    /// same time, which only happens if one value is given twice, the one that is larger by
    /// [`ValueRef::canonical_cmp`] counts as the first and as the last.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.sum.merge(other.sum);
        if value_cmp(other.min.as_ref(), self.min.as_ref()).is_lt() {
            self.min = other.min.clone();
        }
        if value_cmp(other.max.as_ref(), self.max.as_ref()).is_gt() {
            self.max = other.max.clone();
        }
        let larger = |new: &Value, old: &Value| new.canonical_cmp(old).is_gt();
        let first = other.first.0.cmp(&self.first.0);
        if first.is_lt() || first.is_eq() && larger(&other.first.1, &self.first.1) {
            self.first = other.first.clone();
        }
        let last = other.last.0.cmp(&self.last.0);
        if last.is_gt() || last.is_eq() && larger(&other.last.1, &self.last.1) {
            self.last = other.last.clone();
        }
    }
}

type Numbers = (u64, Sum, Value, Value);

/// Count, sum, least and greatest of the wanted rows, the first of which is wanted.
fn numbers(values: &Values, rows: Range<usize>, wanted: &impl Fn(usize) -> bool) -> Numbers {
    fn each<T: Copy>(
        slots: &[T],
        rows: Range<usize>,
        wanted: &impl Fn(usize) -> bool,
        mut take: impl FnMut(T),
    ) -> u64 {
        let mut count = 0;
        for (row, slot) in rows.clone().zip(slots.get(rows).unwrap_or_default()) {
            if wanted(row) {
                take(*slot);
                count += 1;
            }
        }
        count
    }
    match values {
        Values::Float(slots) => {
            let (mut high, mut low) = (0.0, 0.0);
            let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
            let count = each(slots, rows, wanted, |value: f64| {
                let (sum, error) = sum::two_sum(high, value);
                (high, low) = (sum, low + error);
                min = if value.total_cmp(&min).is_lt() { value } else { min };
                max = if value.total_cmp(&max).is_gt() { value } else { max };
            });
            (count, Sum::float(high, low), Value::Float(min), Value::Float(max))
        }
        Values::Integer(slots) => {
            let (mut sum, mut min, mut max) = (0_i128, i64::MAX, i64::MIN);
            let count = each(slots, rows, wanted, |value: i64| {
                sum += i128::from(value);
                (min, max) = (min.min(value), max.max(value));
            });
            (count, Sum::Integer(sum), Value::Integer(min), Value::Integer(max))
        }
        Values::Unsigned(slots) => {
            let (mut sum, mut min, mut max) = (0_i128, u64::MAX, u64::MIN);
            let count = each(slots, rows, wanted, |value: u64| {
                sum += i128::from(value);
                (min, max) = (min.min(value), max.max(value));
            });
            (count, Sum::Integer(sum), Value::Unsigned(min), Value::Unsigned(max))
        }
        Values::Boolean(slots) => {
            let (mut min, mut max) = (true, false);
            let count = each(slots, rows, wanted, |value: bool| {
                (min, max) = (min && value, max || value);
            });
            (count, Sum::None, Value::Boolean(min), Value::Boolean(max))
        }
        Values::String(_) => {
            let none = Value::String(bytes::Bytes::new());
            (rows.filter(|row| wanted(*row)).count() as u64, Sum::None, none.clone(), none)
        }
    }
}

#[cfg(test)]
mod tests;
