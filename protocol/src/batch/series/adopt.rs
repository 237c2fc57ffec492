//! Series of one table taken over into another: how handles get into a batch.
//!
//! Invariant: the same series as by its key, with less work: nothing is hashed but the key, nothing
//! is taken apart, and a tag's value that came before is not looked up. Used by
//! [`crate::batch::Filler`].

use super::{SeriesTable, TagColumn};

/// What a table has taken over from another one, tag by tag of that one.
#[derive(Clone, Debug, Default)]
pub(in crate::batch) struct Adopted {
    tags: Vec<Tag>,
}

#[derive(Clone, Debug)]
struct Tag {
    /// The tag column here.
    column: usize,
    /// Per value there: its id here + 1, or 0; perhaps shorter.
    values: Vec<u32>,
}

impl Adopted {
    pub(in crate::batch) fn approximate_bytes(&self) -> usize {
        self.tags.iter().map(|tag| 16 + 4 * tag.values.len()).sum()
    }
}

impl Tag {
    /// The id here of a value there.
    fn value(&mut self, id: u32, there: &TagColumn, here: &mut TagColumn) -> u32 {
        let at = id as usize;
        if self.values.len() <= at {
            self.values.resize(at + 1, 0);
        }
        if self.values[at] == 0 {
            self.values[at] = here.values.intern(there.values.get(id)).0 + 1;
        }
        self.values[at] - 1
    }
}

impl SeriesTable {
    /// The series here that is `series` there; `adopted` is about the same two tables every time.
    pub(in crate::batch) fn adopt(
        &mut self,
        there: &Self,
        series: u32,
        adopted: &mut Adopted,
    ) -> u32 {
        let (key, plain) =
            (there.key(series), there.key_series[there.series[series as usize] as usize].1);
        let (own, new) = self.intern_late(key, plain);
        if !new {
            return own;
        }
        self.complete_before(own);
        self.hashes.push(there.hash(series));
        for (at, tag) in there.tags.iter().enumerate() {
            if adopted.tags.len() == at {
                let column = self.tag_column(&tag.key);
                adopted.tags.push(Tag { column, values: Vec::new() });
            }
            let known = &mut adopted.tags[at];
            if let Some(value) = tag.of(series) {
                let column = &mut self.tags[known.column];
                let value = known.value(value, tag, column);
                column.add_id(own, value);
            }
        }
        own
    }
}
