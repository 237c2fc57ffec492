//! Which stored series a scan looks at next, in order of their keys.
//!
//! Invariants: every wanted series that has an id when the walk passes its key is visited, once;
//! where the walk stands is a key and never an id, since a rewritten shard has other ids. Ids that
//! the index selected are used only as long as the environment is the same. Part of every scan.

use std::ops::Bound;

use bytes::Bytes;
use heed::RoTxn;

use crate::shard::{
    filter::ScanFilter,
    index::{select::Selection, set::IdSet},
    open::Tables,
    series::{self, InOrder, SeriesId},
};

/// Series looked at in one read transaction, wanted or not: some milliseconds.
const VISITS: usize = 8192;

/// Where the walk stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Before the first series.
    Start,
    /// Behind this one.
    After(Vec<u8>),
    /// Within a series, from this time on.
    Within(Vec<u8>, i64),
    /// Behind the last.
    End,
}

/// Where the series come from.
enum Source {
    /// All keys of the measurement, or all.
    Keys,
    /// The index is being asked.
    Selecting(Selection),
    /// The keys of selected ids are being read.
    Listing { ids: Vec<SeriesId>, done: usize, list: Vec<(Bytes, SeriesId)> },
    /// Few series, ascending by key.
    List(Vec<(Bytes, SeriesId)>),
    /// Many: all keys are looked at, and most are passed over without a look at their tags.
    Set(IdSet),
}

/// A walk over the stored series that a filter wants.
pub(super) struct Walk {
    pub(super) at: At,
    measurement: Option<Vec<u8>>,
    source: Source,
    /// Series that are listed at most.
    max_list: usize,
    /// Which environment the ids are of.
    environment: Option<u64>,
}

/// What to do with a series that was visited.
pub(super) enum Next {
    /// It is done.
    Done,
    /// The page is full; it goes on at this time, if at all.
    Full(Option<i64>),
}

impl Walk {
    pub(super) fn new(filter: &ScanFilter, max_list: usize) -> Self {
        Self {
            at: filter.after.as_ref().map_or(At::Start, |key| At::After(key.to_vec())),
            measurement: filter.escaped_measurement(),
            source: Source::Keys,
            max_list,
            environment: None,
        }
    }

    /// Visits series of one page, each with the time it begins at; `visit` says when it is full.
    pub(super) fn page<E: From<heed::Error>>(
        &mut self,
        txn: &RoTxn<'_>,
        tables: &Tables,
        environment: u64,
        filter: &ScanFilter,
        mut visit: impl FnMut(&[u8], SeriesId, i64) -> Result<Next, E>,
    ) -> Result<(), E> {
        if self.environment.replace(environment) != Some(environment) {
            self.source = Selection::new(filter).map_or(Source::Keys, Source::Selecting);
        }
        if !self.select(txn, tables, filter)? {
            return Ok(());
        }
        let at = std::mem::replace(&mut self.at, At::End);
        let (bound, within) = match &at {
            At::Start => match &self.measurement {
                Some(measurement) => (Bound::Included(measurement.as_slice()), None),
                None => (Bound::Unbounded, None),
            },
            At::After(key) => (Bound::Excluded(key.as_slice()), None),
            At::Within(key, from) => (Bound::Included(key.as_slice()), Some((key, *from))),
            At::End => return Ok(()),
        };
        let mut cursor = match &self.source {
            Source::List(list) => {
                let before = |(key, _): &(Bytes, SeriesId)| match bound {
                    Bound::Included(from) => &key[..] < from,
                    Bound::Excluded(from) => &key[..] <= from,
                    Bound::Unbounded => false,
                };
                Cursor::List(list.get(list.partition_point(before)..).unwrap_or_default().iter())
            }
            _ => Cursor::Keys(InOrder::new(txn, &tables[3], bound)?),
        };
        let mut visits = 0;
        while let Some((key, id)) = cursor.next()? {
            if self.is_past(&key) {
                return Ok(());
            }
            visits += 1;
            if self.wants(filter, &key, id) {
                let from = match within {
                    Some((within, from)) if *within == key => from,
                    _ => filter.from,
                };
                match visit(&key, id, from)? {
                    Next::Done => {}
                    Next::Full(None) => visits = VISITS,
                    Next::Full(Some(from)) => {
                        self.at = At::Within(key, from);
                        return Ok(());
                    }
                }
            }
            if visits >= VISITS {
                self.at = At::After(key);
                return Ok(());
            }
        }
        Ok(())
    }

    fn wants(&self, filter: &ScanFilter, key: &[u8], id: SeriesId) -> bool {
        match &self.source {
            // Verified when they were listed.
            Source::List(_) => true,
            Source::Set(ids) if !ids.contains(id) => false,
            _ => filter.key_matches(self.measurement.as_deref(), key),
        }
    }

    /// Asks the index; whether it has answered.
    fn select(
        &mut self,
        txn: &RoTxn<'_>,
        tables: &Tables,
        filter: &ScanFilter,
    ) -> heed::Result<bool> {
        if let Source::Selecting(selection) = &mut self.source {
            let Some(ids) = selection.advance(txn, &tables[4])? else {
                return Ok(false);
            };
            self.source = if ids.len() > self.max_list {
                Source::Set(ids)
            } else {
                Source::Listing { ids: ids.iter().collect(), done: 0, list: Vec::new() }
            };
        }
        let Source::Listing { ids, done, list } = &mut self.source else {
            return Ok(true);
        };
        let some = ids.get(*done..).unwrap_or_default();
        for id in some.iter().take(VISITS) {
            *done += 1;
            if let Some(key) = series::key_of(txn, tables, *id)?
                && filter.key_matches(self.measurement.as_deref(), key)
            {
                list.push((Bytes::copy_from_slice(key), *id));
            }
        }
        if *done < ids.len() {
            return Ok(false);
        }
        let mut list = std::mem::take(list);
        list.sort_unstable();
        self.source = Source::List(list);
        Ok(true)
    }

    /// Whether no key from this one on is of the wanted measurement.
    fn is_past(&self, key: &[u8]) -> bool {
        self.measurement.as_ref().is_some_and(|measurement| {
            let rest = key.strip_prefix(measurement.as_slice());
            rest.is_none_or(|rest| rest.first().is_some_and(|byte| *byte > b','))
        })
    }
}

enum Cursor<'a> {
    Keys(InOrder<'a>),
    List(std::slice::Iter<'a, (Bytes, SeriesId)>),
}

impl Cursor<'_> {
    fn next(&mut self) -> heed::Result<Option<(Vec<u8>, SeriesId)>> {
        match self {
            Self::Keys(keys) => keys.next(),
            Self::List(list) => Ok(list.next().map(|(key, id)| (key.to_vec(), *id))),
        }
    }
}
