//! Verifying the tables of series: `series`, `ids`, `keys` and `index` say the same.
//!
//! Invariants: every id is found by its key and its hash, and has an entry among the keys in order;
//! as the tables have equally many entries, none has one more. Postings are compared by a sum over
//! hashes of all of them, so that neither side has to be looked up in the other. What unfinished
//! folds have left (hashes and postings of ids that no series has) is no problem. Part of every
//! verification.

use std::ops::Bound;

use heed::RoTxn;
use quorate_protocol::hash::series_hash;
use xxhash_rust::xxh3::xxh3_64;

use super::{PAGE_BYTES, ProblemKind, VerifyReport};
use crate::shard::{
    index::{self, set::IdSet},
    open::Tables,
    series::{self, Lookup, SeriesId},
};

/// How many postings there are, and a sum over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Postings {
    count: u64,
    sum: u64,
}

impl Postings {
    fn add(&mut self, list: u64, id: SeriesId) {
        self.count += 1;
        let posting = [list.to_le_bytes(), id.to_le_bytes()].concat();
        self.sum = self.sum.wrapping_add(xxh3_64(&posting));
    }
}

/// All ids, by the tables they must be in.
#[derive(Default)]
pub(super) struct IdsCheck {
    after: SeriesId,
    ids: IdSet,
    count: u64,
    postings: Postings,
}

impl IdsCheck {
    /// Looks at some ids; at the end, all there are and their postings.
    pub(super) fn page(
        &mut self,
        txn: &RoTxn<'_>,
        tables: &Tables,
        report: &mut VerifyReport,
    ) -> heed::Result<Option<(IdSet, Postings)>> {
        let [_, _, ids, keys, ..] = tables;
        let next = series::next_id(txn, tables)?;
        let (from, mut read) = (self.after.to_be_bytes(), 0);
        for entry in ids.range(txn, &(Bound::Excluded(&from[..]), Bound::Unbounded))? {
            let (id, key) = entry?;
            let Ok(id) = id.try_into().map(SeriesId::from_be_bytes) else {
                report.problem(ProblemKind::Series, || format!("{} is no id", id.escape_ascii()));
                continue;
            };
            (self.after, self.count) = (id, self.count + 1);
            self.ids.insert(id);
            let mut bad = |why: &str| {
                report.problem(ProblemKind::Series, || {
                    format!("series {id}, {}: {why}", key.escape_ascii())
                });
            };
            if id >= next {
                bad("its id was never given");
            }
            let mut lookup = [Lookup { hash: series_hash(key), key, id: 0 }];
            series::find(txn, tables, &mut lookup)?;
            if lookup[0].id != id {
                bad("it is not found by its key");
            }
            let (ordered, value) = series::ordered_entry(key, id);
            if keys.get(txn, &ordered)? != Some(value) {
                bad("it is not among the keys in order");
            }
            index::lists_of(key, |list| self.postings.add(xxh3_64(list), id));
            read += 4 * key.len();
            if read >= PAGE_BYTES {
                return Ok(None);
            }
        }
        let keys = keys.len(txn)?;
        if keys != self.count {
            let count = self.count;
            report.problem(ProblemKind::Series, || {
                format!("{count} series have ids, and {keys} keys are in order")
            });
        }
        report.series = self.count;
        Ok(Some((std::mem::take(&mut self.ids), self.postings)))
    }
}

/// The table of hashes, against the ids.
#[derive(Default)]
pub(super) struct SeriesCheck {
    after: Vec<u8>,
}

impl SeriesCheck {
    /// Looks at some entries; whether these were the last.
    pub(super) fn page(
        &mut self,
        txn: &RoTxn<'_>,
        tables: &Tables,
        report: &mut VerifyReport,
    ) -> heed::Result<bool> {
        let mut read = 0;
        loop {
            let [_, series, ..] = tables;
            let found = if self.after.is_empty() {
                series.first(txn)?
            } else {
                series.get_greater_than(txn, &self.after)?
            };
            let Some((entry, id)) = found else {
                return Ok(true);
            };
            self.after = entry.to_vec();
            let parts = entry.split_first_chunk().zip(id.try_into().ok());
            let Some(((hash, ordinal), id)) = parts else {
                report.problem(ProblemKind::Series, || {
                    format!("{} is no hash of a series", entry.escape_ascii())
                });
                continue;
            };
            let (hash, id) = (u64::from_be_bytes(*hash), SeriesId::from_le_bytes(id));
            if let Some(key) = series::key_of(txn, tables, id)?
                && series_hash(key) != hash
            {
                report.problem(ProblemKind::Series, || {
                    format!("hash {hash:016x} stands for series {id}, which has another")
                });
            }
            let ordinal = ordinal.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
            if let Some(before) = ordinal.checked_sub(1) {
                let before = [&hash.to_be_bytes()[..], &before.to_be_bytes()].concat();
                if series.get(txn, &before)?.is_none() {
                    report.problem(ProblemKind::Series, || {
                        format!("hash {hash:016x} has an entry {ordinal} and none before it")
                    });
                }
            }
            read += 256;
            if read >= PAGE_BYTES {
                return Ok(false);
            }
        }
    }
}

/// The index, against the ids.
pub(super) struct IndexCheck {
    after: Vec<u8>,
    ids: IdSet,
    expected: Postings,
    found: Postings,
    /// The list of the last chunk and its last id.
    last: (Vec<u8>, SeriesId),
}

impl IndexCheck {
    pub(super) fn new(ids: IdSet, expected: Postings) -> Self {
        let (after, last) = (Vec::new(), (Vec::new(), 0));
        Self { after, ids, expected, found: Postings::default(), last }
    }

    /// Looks at some chunks; whether these were the last.
    pub(super) fn page(
        &mut self,
        txn: &RoTxn<'_>,
        tables: &Tables,
        report: &mut VerifyReport,
    ) -> heed::Result<bool> {
        let [.., table, _] = tables;
        let mut read = 0;
        loop {
            let found = if self.after.is_empty() {
                table.first(txn)?
            } else {
                table.get_greater_than(txn, &self.after)?
            };
            let Some((key, value)) = found else { break };
            self.after = key.to_vec();
            read += 256 + value.len();
            match index::read_chunk(key, value) {
                None => report.problem(ProblemKind::Index, || {
                    format!("{} cannot be read", key.escape_ascii())
                }),
                Some((list, ids)) => {
                    if self.last.0 == list && ids.first().is_some_and(|id| *id <= self.last.1) {
                        report.problem(ProblemKind::Index, || {
                            format!("{} overlaps the chunk before", key.escape_ascii())
                        });
                    }
                    let hash = xxh3_64(list);
                    let there = ids.iter().filter(|id| self.ids.contains(**id));
                    there.for_each(|id| self.found.add(hash, *id));
                    self.last = (list.to_vec(), ids.last().copied().unwrap_or(0));
                }
            }
            if read >= PAGE_BYTES {
                return Ok(false);
            }
        }
        if self.found != self.expected {
            let (found, expected) = (self.found.count, self.expected.count);
            report.problem(ProblemKind::Index, || {
                format!("the tags of all series make {expected} entries, the index has {found}, or others")
            });
        }
        Ok(true)
    }
}
