//! New series on their way into the index.
//!
//! Invariant: postings are written in the order of the table, each page of it once per fold however
//! many series are new, in transactions of bounded size. Ids only grow, so that
//! lists are only appended to. Made by [`super::super::enrol`] and [`super::super::dense`].

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Range,
};

use heed::RwTxn;
use quorate_protocol::point::key::{measurement_of, tags_of};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{chunk, chunk_key, tag_prefix, unescaped, value_prefix};
use crate::shard::{env::Table, series::SeriesId};

/// What a posting costs in a transaction beyond its prefix, roughly.
const POSTING_BYTES: usize = 64;

/// Short names, hashed at once.
#[derive(Default)]
struct Short(u64);

impl Hasher for Short {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
}

type Names<K> = HashMap<K, u32, BuildHasherDefault<Short>>;

/// The series of one value of a tag.
struct List {
    /// The table's key without the id.
    prefix: Vec<u8>,
    /// Among the ids of all lists.
    ids: Range<usize>,
}

/// New series by measurement, tag and value.
#[derive(Default)]
pub(in crate::shard) struct Postings {
    /// Ascending by prefix.
    lists: Vec<List>,
    /// Ascending within a list.
    ids: Vec<SeriesId>,
}

/// Lists while they are collected. Most series have the tags of the one before, and many values.
#[derive(Default)]
struct Collector<'a> {
    tags: Vec<Tag<'a>>,
    /// By escaped measurement and tag.
    by_name: Names<(&'a [u8], &'a [u8])>,
    /// The measurement of the last series.
    measurement: &'a [u8],
    /// Its tags, by their places in its key.
    recent: Vec<(&'a [u8], u32)>,
}

#[derive(Default)]
struct Tag<'a> {
    prefix: Vec<u8>,
    /// The value of each list, escaped.
    values: Vec<&'a [u8]>,
    by_value: Names<&'a [u8]>,
    /// The list of each series that has the tag, in order of series.
    series: Vec<(u32, SeriesId)>,
}

impl<'a> Collector<'a> {
    fn add(&mut self, id: SeriesId, key: &'a [u8]) {
        let measurement = measurement_of(key);
        if measurement != self.measurement {
            self.measurement = measurement;
            self.recent.clear();
        }
        let all = (&b""[..], &b""[..]);
        for (at, (tag, value)) in std::iter::once(all).chain(tags_of(key)).enumerate() {
            let number = match self.recent.get(at) {
                Some((known, number)) if *known == tag => *number,
                _ => {
                    let number = self.number(tag);
                    self.recent.truncate(at);
                    self.recent.push((tag, number));
                    number
                }
            };
            // Numbers are those of `tags`.
            self.tags[number as usize].add(value, id);
        }
    }

    fn number(&mut self, tag: &'a [u8]) -> u32 {
        let next = self.tags.len() as u32;
        let number = *self.by_name.entry((self.measurement, tag)).or_insert(next);
        if number == next {
            let prefix = tag_prefix(self.measurement, &unescaped(tag));
            self.tags.push(Tag { prefix, ..Tag::default() });
        }
        number
    }
}

impl<'a> Tag<'a> {
    fn add(&mut self, value: &'a [u8], id: SeriesId) {
        let last = self.series.last().map(|(list, _)| *list);
        let last = last.filter(|list| self.values.get(*list as usize) == Some(&value));
        let list = last.unwrap_or_else(|| {
            let next = self.values.len() as u32;
            let list = *self.by_value.entry(value).or_insert(next);
            if list == next {
                self.values.push(value);
            }
            list
        });
        self.series.push((list, id));
    }

    /// Appends the lists, and their ids to `ids`.
    fn finish(self, lists: &mut Vec<List>, ids: &mut Vec<SeriesId>) {
        let mut ends = vec![0; self.values.len()];
        self.series.iter().for_each(|(list, _)| ends[*list as usize] += 1);
        let mut end = ids.len();
        for (value, len) in self.values.iter().zip(&mut ends) {
            let start = end;
            end += *len;
            let prefix = value_prefix(&self.prefix, &unescaped(value));
            lists.push(List { prefix, ids: start..end });
            // From here on, where the next id of the list goes.
            *len = start;
        }
        ids.resize(end, 0);
        for (list, id) in self.series {
            let next = &mut ends[list as usize];
            ids[*next] = id;
            *next += 1;
        }
    }
}

impl Postings {
    /// Of new series, ascending by id.
    pub(in crate::shard) fn of<'a>(series: impl Iterator<Item = (SeriesId, &'a [u8])>) -> Self {
        let mut all = Collector::default();
        series.for_each(|(id, key)| all.add(id, key));
        let (mut lists, mut ids) = (Vec::new(), Vec::new());
        all.tags.into_iter().for_each(|tag| tag.finish(&mut lists, &mut ids));
        lists.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix));
        // Names that were cut may share a form, hash included.
        lists.dedup_by(|next, kept| {
            let same = next.prefix == kept.prefix;
            if same {
                let mut both = [&ids[kept.ids.clone()], &ids[next.ids.clone()]].concat();
                both.sort_unstable();
                both.dedup();
                kept.ids = ids.len()..ids.len() + both.len();
                ids.append(&mut both);
            }
            same
        });
        Self { lists, ids }
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
            list.put(txn, index, &self.ids[list.ids.clone()])?;
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
    fn put(&self, txn: &mut RwTxn<'_>, index: &Table, ids: &[SeriesId]) -> heed::Result<()> {
        let end = chunk_key(&self.prefix, SeriesId::MAX);
        let last = index.get_lower_than_or_equal_to(txn, &end)?;
        let last = last.and_then(|(key, value)| {
            let first =
                SeriesId::from_be_bytes(key.strip_prefix(&self.prefix[..])?.try_into().ok()?);
            // A damaged chunk is left alone; a verification will tell.
            Some((chunk::decode(first, value)?, chunk::has_room(value)))
        });
        let Some((mut known, has_room)) = last else {
            return put_all(txn, index, &self.prefix, ids);
        };
        let behind = known.last().copied().unwrap_or(0);
        let new = &ids[ids.partition_point(|id| *id <= behind)..];
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
