//! Selecting series by their tags.
//!
//! Invariants: every series that has an id and that the filter wants is selected; some that it does
//! not want may be, so that the reader must look at their keys. A read transaction sees some
//! thousand chunks, then the selection goes on in another one; what is added meanwhile may or may
//! not be selected. Called by scans.

use std::ops::Bound;

use heed::RoTxn;

use super::{chunk, is_exact, set::IdSet, tag_prefix, take_name, value_prefix};
use crate::shard::{
    env::Table,
    filter::{ScanFilter, TagTest},
    series::SeriesId,
};

/// Chunks looked at in one read transaction: some milliseconds.
const VISITS: usize = 4096;
/// With so few series left, looking at their keys is cheaper than more of the index.
const FEW: usize = 1024;

/// One condition, as the index can answer it.
struct Condition {
    /// What the keys of the chunks to look at begin with.
    prefixes: Vec<Vec<u8>>,
    /// Which values count, if all of a tag are looked at.
    test: Option<TagTest>,
    /// The ids are those to leave out.
    exclude: bool,
    /// Roughly how many chunks there are; unknown if all values are looked at.
    chunks: usize,
}

/// A selection that is going on.
pub(in crate::shard) struct Selection {
    /// Those that are left, the next one last.
    conditions: Vec<Condition>,
    /// The chunks of the first condition's prefixes are being counted, from this prefix on.
    counted: Option<(usize, usize)>,
    /// Behind which key the condition goes on.
    behind: Vec<u8>,
    /// Of the condition so far.
    found: IdSet,
    /// Of all conditions before.
    selected: Option<IdSet>,
}

impl Selection {
    /// `None` if the index is of no use: then all keys must be looked at.
    pub(in crate::shard) fn new(filter: &ScanFilter) -> Option<Self> {
        let measurement = filter.escaped_measurement()?;
        let mut conditions = Vec::new();
        for tag in &filter.tags {
            let prefix = tag_prefix(&measurement, &tag.key);
            let without = tag.test.matches(b"");
            if without {
                if !is_exact(&measurement) || !is_exact(&tag.key) {
                    continue;
                }
                // All series but those with a value that fails.
                let (prefixes, test) = (vec![prefix], Some(tag.test.clone()));
                conditions.push(Condition { prefixes, test, exclude: true, chunks: usize::MAX });
                continue;
            }
            conditions.push(match &tag.test {
                TagTest::In(values) => {
                    let mut prefixes: Vec<_> =
                        values.iter().map(|value| value_prefix(&prefix, value)).collect();
                    prefixes.sort_unstable();
                    prefixes.dedup();
                    Condition { prefixes, test: None, exclude: false, chunks: 0 }
                }
                TagTest::Matches(_) => {
                    let (prefixes, test) = (vec![prefix], Some(tag.test.clone()));
                    Condition { prefixes, test, exclude: false, chunks: usize::MAX - 1 }
                }
            });
        }
        if conditions.is_empty() {
            return None;
        }
        if conditions.iter().all(|condition| condition.exclude) {
            let all = value_prefix(&tag_prefix(&measurement, b""), b"");
            let (prefixes, test) = (vec![all], None);
            conditions.push(Condition { prefixes, test, exclude: false, chunks: 0 });
        }
        let behind = Vec::new();
        let (counted, found, selected) = (Some((0, 0)), IdSet::default(), None);
        Some(Self { conditions, counted, behind, found, selected })
    }

    /// Looks at some chunks; the ids when it is done.
    pub(in crate::shard) fn advance(
        &mut self,
        txn: &RoTxn<'_>,
        index: &Table,
    ) -> heed::Result<Option<IdSet>> {
        let mut visits = VISITS;
        if !self.count(txn, index, &mut visits)? {
            return Ok(None);
        }
        while let Some(condition) = self.conditions.last() {
            let few = self.selected.as_ref().is_some_and(|selected| selected.len() <= FEW);
            if few {
                break;
            }
            let whole = condition.test.is_some();
            let Some(prefix) = condition.prefixes.last() else {
                self.close();
                continue;
            };
            let from = if self.behind.is_empty() { prefix } else { &self.behind };
            let range = (Bound::Excluded(&from[..]), Bound::Unbounded);
            let mut passes = (Vec::new(), false);
            for entry in index.range(txn, &range)? {
                let (key, value) = entry?;
                let Some(rest) = key.strip_prefix(&prefix[..]) else { break };
                if visits == 0 {
                    return Ok(None);
                }
                visits -= 1;
                self.behind = key.to_vec();
                let Some((form, id)) = rest.split_last_chunk() else { continue };
                if whole && passes.0 != form {
                    passes = (form.to_vec(), self.passes(form));
                }
                if whole && !passes.1 {
                    continue;
                }
                let first = SeriesId::from_be_bytes(*id);
                let ids = chunk::decode(first, value);
                ids.unwrap_or_default().into_iter().for_each(|id| self.found.insert(id));
            }
            self.behind.clear();
            if let Some(condition) = self.conditions.last_mut() {
                condition.prefixes.pop();
            }
        }
        Ok(Some(self.selected.take().unwrap_or_default()))
    }

    /// Whether the ids of a value of the tag count.
    fn passes(&self, form: &[u8]) -> bool {
        let Some(condition) = self.conditions.last() else { return false };
        let (Some(test), Some((name, _))) = (&condition.test, take_name(form)) else {
            return false;
        };
        match name {
            Some(value) => test.matches(&value) != condition.exclude,
            // A value that was cut may be anything: its series are kept.
            None => !condition.exclude,
        }
    }

    /// Ends a condition.
    fn close(&mut self) {
        let found = std::mem::take(&mut self.found);
        let Some(condition) = self.conditions.pop() else { return };
        match &mut self.selected {
            Some(selected) if condition.exclude => selected.subtract(&found),
            Some(selected) => selected.intersect(&found),
            None => self.selected = Some(found),
        }
    }

    /// Counts the chunks that each condition has to look at, then puts the one with the fewest last;
    /// whether it is done.
    fn count(&mut self, txn: &RoTxn<'_>, index: &Table, visits: &mut usize) -> heed::Result<bool> {
        let Some((mut at, mut done)) = self.counted else {
            return Ok(true);
        };
        while let Some(condition) = self.conditions.get_mut(at) {
            let prefixes = if condition.test.is_some() { &[][..] } else { &condition.prefixes };
            for prefix in prefixes.get(done..).unwrap_or_default() {
                if *visits == 0 {
                    self.counted = Some((at, done));
                    return Ok(false);
                }
                done += 1;
                // The first and the last chunk are found as quickly as one; how many lie between
                // follows from their ids, roughly.
                let range = (Bound::Excluded(&prefix[..]), Bound::Unbounded);
                let mut entries = index.range(txn, &range)?;
                for _ in 0..64 {
                    *visits = visits.saturating_sub(1);
                    match entries.next().transpose()? {
                        Some((key, _)) if key.starts_with(prefix) => condition.chunks += 1,
                        _ => break,
                    }
                }
            }
            (at, done) = (at + 1, 0);
        }
        self.counted = None;
        // Conditions that leave something out come first here, so that they are done last.
        self.conditions.sort_by_key(|condition| std::cmp::Reverse(condition.chunks));
        Ok(true)
    }
}
