//! Copying rows of several sources one behind the other, column by column.
//!
//! Invariant: each column comes out with one slot per row, whatever its sources have; slots of absent
//! rows mean nothing. Used by [`super::assemble`] for row groups, by [`super::source`] and by
//! [`super::pieces`].

use std::ops::Range;

use bytes::Bytes;
use quorate_protocol::{
    batch::{Column, Presence, Values},
    id::FieldId,
    rows::Rows,
    schema::FieldType,
};

use super::source::{Source, Versions};

/// What a column of sources is called.
#[derive(Clone, Debug)]
pub(super) struct Head {
    field: FieldId,
    kind: FieldType,
    name: Bytes,
}

impl Head {
    const fn key(&self) -> (FieldId, FieldType) {
        (self.field, self.kind)
    }
}

fn find(heads: &[Head], column: &Column) -> Result<usize, usize> {
    heads.binary_search_by_key(&(column.field, column.kind()), Head::key)
}

/// Whether the columns of a source are exactly these.
pub(super) fn is_layout(heads: &[Head], source: &Source) -> bool {
    let same = |(head, column): (&Head, &Column)| {
        head.key() == (column.field, column.kind()) && head.name == column.name
    };
    heads.len() == source.columns.len() && heads.iter().zip(&source.columns).all(same)
}

/// How many columns of a source are not there yet.
pub(super) fn missing(heads: &[Head], source: &Source) -> usize {
    source.columns.iter().filter(|column| find(heads, column).is_err()).count()
}

/// Adds the columns of a source.
pub(super) fn count(heads: &mut Vec<Head>, source: &Source) {
    for column in &source.columns {
        match find(heads, column) {
            // One field has one name; this only keeps the result independent of the order.
            Ok(at) if heads[at].name > column.name => heads[at].name = column.name.clone(),
            Ok(_) => {}
            Err(at) => {
                let (field, kind) = (column.field, column.kind());
                heads.insert(at, Head { field, kind, name: column.name.clone() });
            }
        }
    }
}

/// Rows of some sources, each part one behind the other; a source by its position. `heads` are all
/// columns of them, as [`count`] makes them; those without values are left out.
pub(super) fn rows<'a>(
    sources: &[&'a Source],
    parts: Vec<(u32, Range<usize>)>,
    heads: &[Head],
) -> Rows {
    let splice = Splice::new(parts, sources.len());
    let times: Vec<_> = sources.iter().map(|source| Some(source.times.as_slice())).collect();
    let mut rows = Rows {
        times: splice.slots(&times),
        versions: Vec::with_capacity(splice.len),
        columns: Vec::with_capacity(heads.len()),
    };
    for (at, part) in splice.parts() {
        match &sources[at].versions {
            Versions::One(version) => {
                rows.versions.resize(rows.versions.len() + part.len(), *version);
            }
            Versions::Each(versions) => push_all(&mut rows.versions, versions, part),
        }
    }
    for head in heads {
        // Where it is in the source before, which is often of the same layout.
        let (mut layout, mut at) = (0, None);
        let find = |source: &&'a Source| {
            if layout == 0 || source.layout != layout {
                let key = |column: &Column| (column.field, column.kind());
                at = source.columns.binary_search_by_key(&head.key(), key).ok();
                layout = source.layout;
            }
            source.columns.get(at?)
        };
        let from: Vec<Option<&Column>> = sources.iter().map(find).collect();
        let present = splice.presence(&from);
        if present.any() {
            let values = splice.values(head.kind, &from);
            let name = head.name.clone();
            rows.columns.push(Column { field: head.field, name, present, values });
        }
    }
    rows
}

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
    let mut windows = vec![0..0; sources];
    for (at, rows) in parts {
        let window = &mut windows[*at as usize];
        *window = match window.end == 0 {
            true => rows.clone(),
            false => window.start.min(rows.start)..window.end.max(rows.end),
        };
    }
    let spanned: usize = windows.iter().map(Range::len).sum();
    (spanned <= 2 * wanted).then_some(windows)
}

/// `extend_from_slice`, and fast for the single rows that many series come in.
#[inline]
fn push_all<T: Clone>(to: &mut Vec<T>, from: &[T], range: Range<usize>) {
    match &from[range] {
        [only] => to.push(only.clone()),
        many => to.extend_from_slice(many),
    }
}
