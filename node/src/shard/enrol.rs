//! Giving ids to the series of a fold: looking up those that have one, enrolling those that do not.
//!
//! Order, which a crash may cut anywhere: first the ids are taken, together with the hashes of all
//! new series, in order of the hash so that neighbouring pages are written together; then their tags,
//! in order of the index; then their keys, in order of the key, and ids with them. What is not
//! committed when the fold is ready goes into its last transaction. Invariants: a hash is committed
//! no later than its key, so that no key ever gets a second id; an id is taken no later than the
//! index names it, so that an id in the index is never that of another series; tags are committed no
//! later than the key, so that the index misses no series.
//! Called by [`super::fold`], which holds the shard's right to write meanwhile.

use bytes::Bytes;
use heed::RwTxn;

use super::{
    error::ShardError,
    index::Postings,
    open::{OpenShard, Tables},
    series::{self, Lookup, NewSeries, SeriesId},
};

/// Lookups of series in one read transaction: some milliseconds.
pub(super) const LOOKUPS: usize = 8192;
/// What a series costs in a transaction beyond its key, which is stored twice.
pub(super) const KEY_BYTES: usize = 128;

/// New series that are not committed yet.
#[derive(Default)]
pub(super) struct Enrolment {
    /// Ascending by key and id.
    new: Vec<NewSeries>,
    /// Those of `new` whose hashes are not committed yet, ascending by hash: all or none.
    by_hash: Vec<u32>,
    /// Their tags, as far as they are not committed yet: all or none.
    tags: Postings,
}

/// The ids of series, given by hash and key; new ones get the next ids in the order of their keys.
/// `all_new`: none of them has one yet.
pub(super) fn resolve<'a>(
    shard: &OpenShard,
    series: impl Iterator<Item = (u64, &'a Bytes)>,
    all_new: bool,
) -> Result<(Vec<SeriesId>, Enrolment), ShardError> {
    let series: Vec<(u64, &Bytes)> = series.collect();
    let mut ids = vec![0; series.len()];
    let (mut unknown, mut order) = (Vec::new(), Vec::new());
    if all_new {
        unknown.extend(0..series.len() as u32);
    } else {
        order.extend(series.iter().map(|(hash, _)| *hash).zip(0_u32..));
        order.sort_unstable();
    }
    for some in order.chunks(LOOKUPS) {
        let lookup = |(hash, at): &(u64, u32)| {
            let key = series.get(*at as usize).map_or(&[][..], |(_, key)| key);
            Lookup { hash: *hash, key, id: 0 }
        };
        let mut lookups: Vec<Lookup<'_>> = some.iter().map(lookup).collect();
        shard.env.read(|txn, tables| {
            series::find(txn, tables, &mut lookups).map_err(|error| shard.env.wrap(error))
        })?;
        for (lookup, (_, at)) in lookups.iter().zip(some) {
            match lookup.id {
                0 => unknown.push(*at),
                id => ids[*at as usize] = id,
            }
        }
    }
    unknown.sort_unstable_by_key(|at| series[*at as usize].1);
    let next = shard
        .env
        .read(|txn, tables| series::next_id(txn, tables).map_err(|error| shard.env.wrap(error)))?;
    let mut new = Vec::with_capacity(unknown.len());
    for (id, at) in (next..).zip(unknown) {
        let (hash, key) = series[at as usize];
        ids[at as usize] = id;
        new.push(NewSeries { hash, key: key.clone(), id });
    }
    let mut by_hash: Vec<u32> = (0_u32..).take(new.len()).collect();
    by_hash.sort_unstable_by_key(|at| new[*at as usize].hash);
    let tags = Postings::of(new.iter().map(|new| (new.id, &new.key[..])));
    Ok((ids, Enrolment { new, by_hash, tags }))
}

impl Enrolment {
    /// Commits new series until what is left fits into a transaction of `max` bytes together with
    /// `with` bytes of something else.
    pub(super) fn shrink(
        &mut self,
        with: usize,
        max: usize,
        mut commit: impl FnMut(
            &mut dyn FnMut(&mut RwTxn<'_>, &Tables) -> heed::Result<()>,
        ) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        let cost = |new: &NewSeries| 2 * new.key.len() + KEY_BYTES;
        let mut left = self.new.iter().map(cost).sum::<usize>() + with;
        if left + self.by_hash.len() * series::HASH_BYTES + self.tags.bytes() <= max {
            return Ok(());
        }
        let last = self.new.last().map_or(0, |new| new.id);
        for some in self.by_hash.chunks((max / series::HASH_BYTES).max(1)) {
            commit(&mut |txn, tables| {
                series::take_ids(txn, tables, last)?;
                series::insert_hashes(txn, tables, self.hashes(some))
            })?;
        }
        self.by_hash.clear();
        let mut from = 0;
        while from < self.tags.len() {
            let to = self.tags.fitting(from, max);
            commit(&mut |txn, tables| self.tags.put(txn, &tables[4], from..to))?;
            from = to;
        }
        self.tags = Postings::default();
        let mut done = 0;
        while left > max && done < self.new.len() {
            let (mut count, mut bytes) = (0, 0);
            for new in &self.new[done..] {
                if count > 0 && bytes + cost(new) > max {
                    break;
                }
                count += 1;
                bytes += cost(new);
            }
            let some = &self.new[done..done + count];
            commit(&mut |txn, tables| series::insert_keys(txn, tables, some))?;
            (done, left) = (done + count, left - bytes);
        }
        self.new.drain(..done);
        Ok(())
    }

    fn hashes<'a>(&'a self, of: &'a [u32]) -> impl Iterator<Item = (u64, SeriesId)> {
        of.iter().filter_map(|at| self.new.get(*at as usize)).map(|new| (new.hash, new.id))
    }

    /// Writes all that is left.
    pub(super) fn finish(&self, txn: &mut RwTxn<'_>, tables: &Tables) -> heed::Result<()> {
        if let Some(last) = self.new.last() {
            series::take_ids(txn, tables, last.id)?;
        }
        series::insert_hashes(txn, tables, self.hashes(&self.by_hash))?;
        self.tags.put(txn, &tables[4], 0..self.tags.len())?;
        series::insert_keys(txn, tables, &self.new)
    }
}
