//! The series of a shard: full key to id and back, and all keys in order.
//!
//! Invariants: a key has one id for as long as its environment is not rewritten. `series` is keyed by
//! (hash, ordinal) and says which id a key of that hash may have; `ids` has the full key of an id,
//! and only a comparison with it makes a match: an entry of `series` without its id in `ids` was
//! left by an interrupted fold and matches nothing. `keys` is keyed by an order-preserving form of
//! the key, cut where it would be too long for LMDB, and the id; it changes together with `ids` and
//! the next id. Every table is written in its own order. Used by [`super::fold`], [`super::dense`]
//! and [`super::read`].

use std::{collections::VecDeque, ops::Bound};

use bytes::Bytes;
use heed::{PutFlags, RoRange, RoTxn, RwTxn, types};

use super::{env::Table, open::Tables, state};

/// An id of a series, given in order of arrival, from 1.
pub(super) type SeriesId = u64;

/// The longest order-preserving form of a key; with an id behind it, it stays below 511 bytes.
const ORDERED_MAX: usize = 480;
/// What the hash of a series costs in a transaction, in bytes.
pub(super) const HASH_BYTES: usize = 64;
/// Ends an order-preserving form that was not cut. Smaller than anything that can follow a byte of
/// a longer key, since a zero byte within a key is followed by [`ZERO`].
const END: [u8; 2] = [0, 1];
const ZERO: u8 = 0xff;

fn series_key(hash: u64, ordinal: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&hash.to_be_bytes());
    key[8..].copy_from_slice(&ordinal.to_be_bytes());
    key
}

/// A series that is being looked up.
#[derive(Clone, Debug)]
pub(super) struct Lookup<'a> {
    pub(super) hash: u64,
    pub(super) key: &'a [u8],
    /// 0 until it is found.
    pub(super) id: SeriesId,
}

/// A series that gets an id.
#[derive(Clone, Debug)]
pub(super) struct NewSeries {
    pub(super) hash: u64,
    pub(super) key: Bytes,
    pub(super) id: SeriesId,
}

/// Finds ids. Fastest if the lookups ascend by hash.
pub(super) fn find(
    txn: &RoTxn<'_>,
    [_, series, ids, ..]: &Tables,
    lookups: &mut [Lookup<'_>],
) -> heed::Result<()> {
    // Ids that have the right hash, and of which lookup; then their keys, in order of the ids.
    let mut candidates: Vec<(SeriesId, usize)> = Vec::with_capacity(lookups.len());
    for (at, lookup) in lookups.iter().enumerate() {
        let mut ordinal = 0;
        while let Some(id) = series.get(txn, &series_key(lookup.hash, ordinal))? {
            candidates.extend(id.try_into().map(|id| (SeriesId::from_le_bytes(id), at)));
            ordinal += 1;
        }
    }
    candidates.sort_unstable();
    for (id, at) in candidates {
        let key = ids.get(txn, &id.to_be_bytes())?;
        if let (Some(key), Some(lookup)) = (key, lookups.get_mut(at))
            && key == lookup.key
        {
            lookup.id = id;
        }
    }
    Ok(())
}

/// The key of a series.
pub(super) fn key_of<'txn>(
    txn: &'txn RoTxn<'_>,
    [_, _, ids, ..]: &Tables,
    id: SeriesId,
) -> heed::Result<Option<&'txn [u8]>> {
    ids.get(txn, &id.to_be_bytes())
}

/// The id the next new series gets.
pub(super) fn next_id(txn: &RoTxn<'_>, [.., states]: &Tables) -> heed::Result<SeriesId> {
    let stored = states.get(txn, state::NEXT_SERIES)?;
    Ok(stored.and_then(|id| id.try_into().ok()).map_or(1, SeriesId::from_le_bytes))
}

/// Makes new series findable by their hashes, by which they ascend. To be committed before, or
/// together with, their keys.
pub(super) fn insert_hashes(
    txn: &mut RwTxn<'_>,
    [_, series, ..]: &Tables,
    new: impl Iterator<Item = (u64, SeriesId)>,
) -> heed::Result<()> {
    for (hash, id) in new {
        let mut ordinal = 0;
        while series.get(txn, &series_key(hash, ordinal))?.is_some() {
            ordinal += 1;
        }
        series.put(txn, &series_key(hash, ordinal), &id.to_le_bytes())?;
    }
    Ok(())
}

/// Gives new series their ids, by which and by their keys they ascend, and which follow the last
/// one given.
pub(super) fn insert_keys(
    txn: &mut RwTxn<'_>,
    tables: &Tables,
    new: &[NewSeries],
) -> heed::Result<()> {
    let [_, _, ids, keys, ..] = tables;
    for new in new {
        ids.put_with_flags(txn, PutFlags::APPEND, &new.id.to_be_bytes(), &new.key)?;
    }
    for new in new {
        let (ordered, value) = ordered_entry(&new.key, new.id);
        keys.put(txn, &ordered, value)?;
    }
    new.last().map_or(Ok(()), |last| take_ids(txn, tables, last.id))
}

/// Takes all ids up to one: no series that comes later gets them.
pub(super) fn take_ids(txn: &mut RwTxn<'_>, tables: &Tables, last: SeriesId) -> heed::Result<()> {
    let next = next_id(txn, tables)?.max(last.saturating_add(1));
    let [.., states] = tables;
    states.put(txn, state::NEXT_SERIES, &next.to_le_bytes())
}

/// What the `keys` table has of a series: its key and its value there.
pub(super) fn ordered_entry(key: &[u8], id: SeriesId) -> (Vec<u8>, &[u8]) {
    let (mut ordered, cut) = ordered(key);
    ordered.extend(id.to_be_bytes());
    (ordered, if cut { key } else { &[] })
}

/// The order-preserving form of a key, and whether it was cut.
fn ordered(key: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(key.len() + END.len() + 8);
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(ZERO);
        }
        if out.len() > ORDERED_MAX - END.len() {
            out.truncate(ORDERED_MAX);
            return (out, true);
        }
    }
    out.extend(END);
    (out, false)
}

/// A key back from its order-preserving form and its value.
fn restore(ordered: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    if !value.is_empty() {
        return Some(value.to_vec());
    }
    let escaped = ordered.strip_suffix(&END)?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        if byte == 0 && bytes.next() != Some(&ZERO) {
            return None;
        }
        key.push(byte);
    }
    Some(key)
}

/// Series in order of their keys.
pub(super) struct InOrder<'txn> {
    entries: RoRange<'txn, types::Bytes, types::Bytes>,
    /// Read ahead from `entries`: the rest of a group of keys with one cut form, in order.
    ready: VecDeque<(Vec<u8>, SeriesId)>,
    /// The first entry behind the group.
    behind: Option<Entry<'txn>>,
    from: Bound<&'txn [u8]>,
}

struct Entry<'txn> {
    ordered: &'txn [u8],
    value: &'txn [u8],
    id: SeriesId,
}

impl<'txn> InOrder<'txn> {
    /// Starts at the first key within the bound.
    pub(super) fn new(
        txn: &'txn RoTxn<'_>,
        keys: &Table,
        from: Bound<&'txn [u8]>,
    ) -> heed::Result<Self> {
        let first = match from {
            Bound::Included(key) | Bound::Excluded(key) => {
                let (mut form, cut) = ordered(key);
                if !cut {
                    form.truncate(form.len() - END.len());
                }
                form
            }
            // LMDB has no empty keys, and no form begins with this one.
            Bound::Unbounded => vec![0],
        };
        // An empty form would be an empty LMDB key.
        let first = if first.is_empty() { vec![0] } else { first };
        let range = (Bound::Included(first.as_slice()), Bound::Unbounded);
        let entries = keys.range(txn, &range)?;
        Ok(Self { entries, ready: VecDeque::new(), behind: None, from })
    }

    fn entry(&mut self) -> heed::Result<Option<Entry<'txn>>> {
        if let Some(entry) = self.behind.take() {
            return Ok(Some(entry));
        }
        for found in self.entries.by_ref() {
            let (key, value) = found?;
            if let Some((ordered, id)) = key.split_last_chunk() {
                let id = SeriesId::from_be_bytes(*id);
                return Ok(Some(Entry { ordered, value, id }));
            }
        }
        Ok(None)
    }

    /// The next key with its id.
    pub(super) fn next(&mut self) -> heed::Result<Option<(Vec<u8>, SeriesId)>> {
        loop {
            if let Some((key, id)) = self.ready.pop_front() {
                let within = match self.from {
                    Bound::Included(from) => key.as_slice() >= from,
                    Bound::Excluded(from) => key.as_slice() > from,
                    Bound::Unbounded => true,
                };
                if within {
                    return Ok(Some((key, id)));
                }
                continue;
            }
            let Some(first) = self.entry()? else {
                return Ok(None);
            };
            let group = first.ordered;
            let mut next = Some(first);
            while let Some(entry) = next {
                if entry.ordered != group {
                    self.behind = Some(entry);
                    break;
                }
                if let Some(key) = restore(entry.ordered, entry.value) {
                    self.ready.push_back((key, entry.id));
                }
                next = self.entry()?;
            }
            self.ready.make_contiguous().sort();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shard::{
        env::{EnvError, EnvLimits, Environment},
        open::NAMES,
    };

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let short =
            prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255), Just(b'a')], 1..6);
        let long = (470_usize..490, prop::collection::vec(prop_oneof![Just(0), Just(b'b')], 0..4));
        prop_oneof![
            short,
            long.prop_map(|(len, tail)| [vec![b'a'; len], tail].concat()),
            (230_usize..250, 0_u8..3).prop_map(|(len, tail)| [vec![0; len], vec![tail]].concat()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn keys_come_in_order_and_keep_their_ids(
            keys in prop::collection::btree_set(key(), 1..60), hashes in 1_u64..4, from in key(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let limits = EnvLimits { map_bytes: 1 << 20, max_map_bytes: 1 << 30, readers: 8 };
            let env = Environment::open(dir.path(), limits, NAMES).unwrap();
            // Few hashes, so that keys collide.
            let hash = |key: &[u8]| key.len() as u64 % hashes;
            // Every other one first, so that ids do not follow the order of keys.
            let (first, second): (Vec<_>, Vec<_>) =
                keys.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
            let ids: Vec<(Vec<u8>, u64)> =
                first.iter().chain(&second).map(|(_, key)| key.clone()).zip(1..).collect();
            let new: Vec<NewSeries> = ids
                .iter()
                .map(|(key, id)| NewSeries { hash: hash(key), key: key.clone().into(), id: *id })
                .collect();
            let (first, second) = new.split_at(first.len());
            for part in [first, second] {
                let mut by_hash: Vec<_> = part.iter().map(|new| (new.hash, new.id)).collect();
                by_hash.sort_unstable();
                env.write(|txn, tables| {
                    insert_hashes(txn, tables, by_hash.iter().copied())?;
                    insert_keys(txn, tables, part)
                }).unwrap();
            }
            // What a crash between the two leaves behind.
            env.write(|txn, tables| {
                insert_hashes(txn, tables, [(0, ids.len() as u64 + 1)].into_iter())
            }).unwrap();
            for bound in [
                Bound::Unbounded, Bound::Included(&from[..]), Bound::Excluded(&from[..]),
                Bound::Excluded(&ids[0].0[..]), Bound::Included(&ids[0].0[..]),
            ] {
                let mut expected: Vec<_> = ids.clone();
                expected.retain(|(key, _)| match bound {
                    Bound::Unbounded => true,
                    Bound::Included(from) => key.as_slice() >= from,
                    Bound::Excluded(from) => key.as_slice() > from,
                });
                expected.sort();
                let found = env.read(|txn, [_, _, _, ordered, ..]| -> Result<_, EnvError> {
                    let mut all = Vec::new();
                    let mut cursor = InOrder::new(txn, ordered, bound).unwrap();
                    while let Some(found) = cursor.next().unwrap() {
                        all.push(found);
                    }
                    Ok(all)
                }).unwrap();
                prop_assert_eq!(found, expected);
            }
            let mut lookups: Vec<Lookup<'_>> = ids
                .iter()
                .map(|(key, _)| Lookup { hash: hash(key), key, id: 0 })
                .chain([Lookup { hash: 0, key: b"lost", id: 0 }])
                .collect();
            env.read(|txn, tables| -> Result<_, EnvError> {
                find(txn, tables, &mut lookups).unwrap();
                assert_eq!(next_id(txn, tables).unwrap(), ids.len() as u64 + 1);
                for (key, id) in &ids {
                    assert_eq!(key_of(txn, tables, *id).unwrap(), Some(&key[..]));
                }
                Ok(())
            }).unwrap();
            let found: Vec<_> = lookups.iter().map(|lookup| lookup.id).collect();
            let expected: Vec<_> = ids.iter().map(|(_, id)| *id).chain([0]).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
