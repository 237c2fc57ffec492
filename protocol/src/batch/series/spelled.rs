//! Series as lines spell them: known spellings, and new ones with the tags that the line before had.
//!
//! Invariant: what is found here is what [`crate::line`] reads from the same bytes by its rules for
//! keys; any key that needs those rules (an escape, another set or order of tags, an equals sign in a
//! value) is left to them. Agents write the same tags in the same order again and again, sorted or
//! not, so that scanning, sorting and checking the tags need not be repeated.

use super::SeriesTable;
use crate::{find::find, point::key};

/// The tags of a spelling.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    /// `,key=` each, in the order of the line, without escapes.
    tags: Vec<Vec<u8>>,
    /// In key order: the position in the line and the tag column.
    sorted: Vec<(usize, usize)>,
    /// Where each tag begins, and its value, and where that ends; reused.
    found: Vec<(usize, usize, usize)>,
    /// New series in a row that had other tags.
    misses: u8,
}

/// So many of them before others are learned: lines with several sets of tags in turn would pay for
/// that each time.
const PATIENCE: u8 = 3;

impl Shape {
    /// Finds the tags in a spelling of a key, behind the measurement; false if they are others.
    fn find(&mut self, spelling: &[u8], name: usize) -> bool {
        self.found.clear();
        let mut at = name;
        for tag in &self.tags {
            if !spelling[at..].starts_with(tag) {
                return false;
            }
            let value = at + tag.len();
            // Behind an equals sign no tag matches, and it is not the end.
            let len = find(&spelling[value..], b',', b'=');
            let end = len.map_or(spelling.len(), |len| value + len);
            if end == value {
                return false;
            }
            self.found.push((at, value, end));
            at = end;
        }
        at == spelling.len() && !self.tags.is_empty()
    }
}

impl SeriesTable {
    /// The series that a line spelled this way, tags perhaps unsorted, was found to be. Only for
    /// plain spellings, without two backslashes in a row: about others the rules for the end of a
    /// line and for the end of a name disagree.
    pub(in crate::batch) fn by_spelling(&mut self, spelling: &[u8]) -> Option<u32> {
        let id = self.keys.find(spelling)?;
        let (series, plain) = self.key_series[id as usize];
        self.step(id);
        plain.then_some(series)
    }

    /// The same without a search, for the key that a line begins with, and how long it is; if it is
    /// the next one: series keep coming in the order in which they came first.
    pub(in crate::batch) fn by_next_spelling(&mut self, line: &[u8]) -> Option<(u32, usize)> {
        let (last, step) = self.last;
        let next = last.wrapping_add(step);
        let &(series, plain) = self.key_series.get(next as usize)?;
        let spelling = self.keys.get(next);
        // A space without a backslash before it ends a key, and there is none within one. A newline
        // in a key has a backslash before it, and does not end a line either.
        if plain && line.get(spelling.len()) == Some(&b' ') && line.starts_with(spelling) {
            self.last.0 = next;
            Some((series, spelling.len()))
        } else {
            None
        }
    }

    fn step(&mut self, id: u32) {
        self.last = (id, id.wrapping_sub(self.last.0));
    }

    /// The series of a line's key, which has no space, newline or backslash, if its tags are those of
    /// the line before. The spelling is new.
    pub(in crate::batch) fn by_spelled_tags(&mut self, spelling: &[u8]) -> Option<u32> {
        let mut shape = std::mem::take(&mut self.spelled);
        let known = spelling.starts_with(&self.escaped) && shape.find(spelling, self.escaped.len());
        let series = known.then(|| self.add_spelled(spelling, &shape));
        if known {
            shape.misses = 0;
        }
        self.spelled = shape;
        series
    }

    fn add_spelled(&mut self, spelling: &[u8], shape: &Shape) -> u32 {
        let mut canonical = std::mem::take(&mut self.scratch);
        canonical.clear();
        canonical.extend_from_slice(&self.escaped);
        for &(at, _) in &shape.sorted {
            let (start, _, end) = shape.found[at];
            canonical.extend_from_slice(&spelling[start..end]);
        }
        let (series, new) = self.intern_late(&canonical, true);
        if new {
            for &(at, column) in &shape.sorted {
                let (_, value, end) = shape.found[at];
                self.tags[column].add(series, &spelling[value..end]);
            }
            if self.series.len() - self.hashes.len() >= 4 {
                self.complete();
            }
        }
        let (id, new) = self.keys.intern(spelling);
        if new {
            self.key_series.push((series, true));
        }
        self.step(id);
        self.scratch = canonical;
        series
    }

    /// Remembers the tags of a valid spelling.
    pub(in crate::batch) fn learn_spelling(&mut self, spelling: &[u8]) {
        self.spelled.misses += 1;
        let patient = self.spelled.misses < PATIENCE && !self.spelled.tags.is_empty();
        if patient || spelling.contains(&b'\\') {
            self.spelled.misses = self.spelled.misses.min(PATIENCE);
            return;
        }
        let mut shape = Shape::default();
        let mut sorted = Vec::new();
        for (at, (tag, _)) in key::tags_of(spelling).enumerate() {
            shape.tags.push([b",", tag, b"="].concat());
            sorted.push((tag, at));
        }
        sorted.sort_unstable();
        shape.sorted = sorted.into_iter().map(|(tag, at)| (at, self.tag_column(tag))).collect();
        self.spelled = shape;
    }
}
