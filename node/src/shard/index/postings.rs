//! New series on their way into the index.
//!
//! Invariant: postings are written in the order of the table, each page of it once per fold however
//! many series are new, in transactions of bounded size. Ids only grow, so that
//! lists are only appended to. Made by [`super::super::enrol`] and [`super::super::dense`].

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
    ops::Range,
};

use heed::RwTxn;
use quorate_protocol::point::key::{measurement_of, tags_of};

use super::{chunk, chunk_key, tag_prefix, unescaped, value_prefix};
use crate::shard::{env::Table, series::SeriesId};

/// What a posting costs in a transaction beyond its prefix, roughly.
const POSTING_BYTES: usize = 64;

type Fixed = BuildHasherDefault<DefaultHasher>;

/// The series of one value of a tag.
struct List {
    /// The table's key without the id.
    prefix: Vec<u8>,
    /// Ascending.
    ids: Vec<SeriesId>,
}

/// New series by measurement, tag and value.
#[derive(Default)]
pub(in crate::shard) struct Postings {
    /// Ascending by prefix.
    lists: Vec<List>,
}

/// Lists while they are collected.
#[derive(Default)]
struct Collector<'a> {
    /// By escaped measurement and tag: the prefix, and the lists by escaped value.
    tags: HashMap<(&'a [u8], &'a [u8]), Tag<'a>, Fixed>,
}

#[derive(Default)]
struct Tag<'a> {
    prefix: Vec<u8>,
    values: HashMap<&'a [u8], Vec<SeriesId>, Fixed>,
}

impl<'a> Collector<'a> {
    fn add(&mut self, measurement: &'a [u8], tag: &'a [u8], value: &'a [u8], id: SeriesId) {
        let tag = self.tags.entry((measurement, tag)).or_insert_with(|| Tag {
            prefix: tag_prefix(measurement, &unescaped(tag)),
            values: HashMap::default(),
        });
        tag.values.entry(value).or_default().push(id);
    }
}

impl Postings {
    /// Of new series, ascending by id.
    pub(in crate::shard) fn of<'a>(series: impl Iterator<Item = (SeriesId, &'a [u8])>) -> Self {
        let mut all = Collector::default();
        for (id, key) in series {
            let measurement = measurement_of(key);
            all.add(measurement, b"", b"", id);
            for (tag, value) in tags_of(key) {
                all.add(measurement, tag, value, id);
            }
        }
        let lists = all.tags.into_values().flat_map(|tag| {
            let Tag { prefix, values } = tag;
            values.into_iter().map(move |(value, ids)| List {
                prefix: value_prefix(&prefix, &unescaped(value)),
                ids,
            })
        });
        let mut lists: Vec<List> = lists.collect();
        lists.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix));
        // Names that were cut may share a form, hash included.
        lists.dedup_by(|next, kept| {
            let same = next.prefix == kept.prefix;
            if same {
                kept.ids.append(&mut next.ids);
                kept.ids.sort_unstable();
                kept.ids.dedup();
            }
            same
        });
        Self { lists }
    }

    /// How many lists there are.
    pub(in crate::shard) fn len(&self) -> usize {
        self.lists.len()
    }

    /// Roughly what all of it costs in a transaction, in bytes.
    pub(in crate::shard) fn bytes(&self) -> usize {
        self.lists.iter().map(List::bytes).sum()
    }

    /// Where the lists that fit into a transaction of about `max` bytes end, from `from` on.
    pub(in crate::shard) fn fitting(&self, from: usize, max: usize) -> usize {
        let (mut end, mut bytes) = (from, 0);
        for list in self.lists.get(from..).unwrap_or_default() {
            bytes += list.bytes();
            if end > from && bytes > max {
                break;
            }
            end += 1;
        }
        end
    }

    /// Writes the lists of a range.
    pub(in crate::shard) fn put(
        &self,
        txn: &mut RwTxn<'_>,
        index: &Table,
        range: Range<usize>,
    ) -> heed::Result<()> {
        for list in self.lists.get(range).unwrap_or_default() {
            list.put(txn, index)?;
        }
        Ok(())
    }
}

impl List {
    fn bytes(&self) -> usize {
        // The last chunk there is may be written again.
        let rewritten = if self.ids.len() > 1 { chunk::MAX_BYTES / 2 } else { 0 };
        POSTING_BYTES + self.prefix.len() + 2 * self.ids.len() + rewritten
    }

    /// Appends the ids behind those that are there.
    fn put(&self, txn: &mut RwTxn<'_>, index: &Table) -> heed::Result<()> {
        let end = chunk_key(&self.prefix, SeriesId::MAX);
        let last = index.get_lower_than_or_equal_to(txn, &end)?;
        let last = last.and_then(|(key, value)| {
            let first =
                SeriesId::from_be_bytes(key.strip_prefix(&self.prefix[..])?.try_into().ok()?);
            // A damaged chunk is left alone; a verification will tell.
            Some((chunk::decode(first, value)?, chunk::has_room(value)))
        });
        let Some((mut known, has_room)) = last else {
            return put_all(txn, index, &self.prefix, &self.ids);
        };
        let behind = known.last().copied().unwrap_or(0);
        let new = self.ids.get(self.ids.partition_point(|id| *id <= behind)..).unwrap_or_default();
        if new.is_empty() {
            return Ok(());
        }
        if has_room {
            known.extend(new);
            return put_all(txn, index, &self.prefix, &known);
        }
        put_all(txn, index, &self.prefix, new)
    }
}

fn put_all(
    txn: &mut RwTxn<'_>,
    index: &Table,
    prefix: &[u8],
    mut ids: &[SeriesId],
) -> heed::Result<()> {
    while let Some(first) = ids.first() {
        let (value, count) = chunk::encode(ids);
        index.put(txn, &chunk_key(prefix, *first), &value)?;
        ids = ids.get(count.max(1)..).unwrap_or_default();
    }
    Ok(())
}
