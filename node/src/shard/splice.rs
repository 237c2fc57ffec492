//! Copying rows of several sources one behind the other, column by column.
//!
//! Invariant: each column comes out with one slot per row, whatever its sources have; slots of absent
//! rows mean nothing. Used by [`super::assemble`] for row groups and by [`super::source`].

use std::ops::Range;

use quorate_protocol::{
    batch::{Column, Presence, Values},
    schema::FieldType,
};

/// Sources from which on it is worth staging what is copied.
const MANY: usize = 8;

/// Which rows of which sources follow each other.
pub(super) struct Splice {
    /// Sources by their position in what [`Self::slots`] and the others are given.
    parts: Vec<(u32, Range<usize>)>,
    len: usize,
    /// The rows that are wanted of each source, if staging them is worth it.
    windows: Option<Vec<Range<usize>>>,
}

impl Splice {
    /// Of rows of so many sources.
    pub(super) fn new(parts: Vec<(u32, Range<usize>)>, sources: usize) -> Self {
        let len = parts.iter().map(|(_, rows)| rows.len()).sum();
        let windows = if sources > MANY && len < 4 * parts.len() {
            windows(&parts, sources, len)
        } else {
            None
        };
        Self { parts, len, windows }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.parts.iter().map(|(at, rows)| (*at as usize, rows.clone()))
    }

    /// Which rows have a value; `from`: the column in each source that has it.
    pub(super) fn presence(&self, from: &[Option<&Column>]) -> Presence {
        if from.iter().all(|column| column.is_some_and(|column| column.present.is_all())) {
            return Presence::all(self.len);
        }
        let mut present = Presence::all(0);
        for (at, rows) in self.parts() {
            match from[at] {
                Some(column) => present.extend(&column.present, rows),
                None => rows.for_each(|_| present.push(false)),
            }
        }
        present
    }

    /// The slots of a column of this type; `from` as for [`Self::presence`].
    pub(super) fn values(&self, kind: FieldType, from: &[Option<&Column>]) -> Values {
        macro_rules! slots {
            ($variant:ident) => {
                from.iter()
                    .map(|column| match column.map(|column| &column.values) {
                        Some(Values::$variant(slots)) => Some(slots.as_slice()),
                        _ => None,
                    })
                    .collect::<Vec<Option<&[_]>>>()
            };
        }
        match kind {
            FieldType::Float => Values::Float(self.slots(&slots!(Float))),
            FieldType::Integer => Values::Integer(self.slots(&slots!(Integer))),
            FieldType::Unsigned => Values::Unsigned(self.slots(&slots!(Unsigned))),
            FieldType::Boolean => Values::Boolean(self.slots(&slots!(Boolean))),
            FieldType::String => Values::String(self.copied(&slots!(String))),
        }
    }

    /// The slots of all rows. If single rows come from many sources in turn, nearly each would wait
    /// for memory; so what is wanted of each source is copied to one place first, where it is near.
    pub(super) fn slots<T: Copy + Default>(&self, from: &[Option<&[T]>]) -> Vec<T> {
        let Some(windows) = &self.windows else {
            return self.copied(from);
        };
        let mut staged: Vec<T> = Vec::with_capacity(2 * self.len);
        // What to add to a row of a source to have its place; it may wrap around and back.
        let mut offsets = Vec::with_capacity(from.len());
        for (slots, window) in from.iter().zip(windows) {
            offsets.push(staged.len().wrapping_sub(window.start));
            match slots {
                Some(slots) => staged.extend_from_slice(&slots[window.clone()]),
                None => staged.resize(staged.len() + window.len(), T::default()),
            }
        }
        let mut out = Vec::with_capacity(self.len);
        for (at, rows) in self.parts() {
            let place = |row: usize| row.wrapping_add(offsets[at]);
            push_all(&mut out, &staged, place(rows.start)..place(rows.end));
        }
        out
    }

    fn copied<T: Clone + Default>(&self, from: &[Option<&[T]>]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.len);
        for (at, rows) in self.parts() {
            match from[at] {
                Some(slots) => push_all(&mut out, slots, rows),
                None => out.resize_with(out.len() + rows.len(), Default::default),
            }
        }
        out
    }
}

/// From the first to the last wanted row of each source, unless that is far more than is wanted.
fn windows(
    parts: &[(u32, Range<usize>)],
    sources: usize,
    wanted: usize,
) -> Option<Vec<Range<usize>>> {
    let mut windows = vec![usize::MAX..0; sources];
    for (at, rows) in parts {
        let window = &mut windows[*at as usize];
        *window = window.start.min(rows.start)..window.end.max(rows.end);
    }
    let spanned: usize = windows.iter().map(Range::len).sum();
    (spanned <= 2 * wanted).then_some(windows)
}

/// `extend_from_slice`, and fast for the single rows that many series come in.
#[inline]
pub(super) fn push_all<T: Clone>(to: &mut Vec<T>, from: &[T], range: Range<usize>) {
    match &from[range] {
        [only] => to.push(only.clone()),
        many => to.extend_from_slice(many),
    }
}
