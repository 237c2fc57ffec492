//! The series of a shard: full key to id, and all keys in order.
//!
//! Invariants: a key has one id for as long as its shard exists; both tables and the next id change
//! in one transaction. Keys may be longer than LMDB's 511 bytes: `series` is keyed by (hash,
//! ordinal) and holds the full key, which is compared; `keys` is keyed by an order-preserving form
//! of the key, cut where it grows too long, and the id. Used by [`super::fold`] and [`super::read`].

use std::{collections::VecDeque, ops::Bound};

use heed::{RoRange, RoTxn, RwTxn, types};

use super::env::Table;

/// An id of a series, given in order of arrival, from 1.
pub(super) type SeriesId = u64;

/// The longest order-preserving form of a key; with an id behind it, it stays below 511 bytes.
const ORDERED_MAX: usize = 480;
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

/// The id of a key, or the ordinal it would be stored at.
pub(super) fn find(
    txn: &RoTxn<'_>,
    series: &Table,
    key: &[u8],
    hash: u64,
) -> heed::Result<Result<SeriesId, u32>> {
    let mut ordinal = 0;
    while let Some(value) = series.get(txn, &series_key(hash, ordinal))? {
        if let Some((id, found)) = value.split_first_chunk()
            && found == key
        {
            return Ok(Ok(SeriesId::from_le_bytes(*id)));
        }
        ordinal += 1;
    }
    Ok(Err(ordinal))
}

/// Stores a key that is not there yet.
pub(super) fn insert(
    txn: &mut RwTxn<'_>,
    [series, keys]: [&Table; 2],
    key: &[u8],
    hash: u64,
    id: SeriesId,
) -> heed::Result<()> {
    // Found again here: keys of one hash may be new together.
    if let Err(ordinal) = find(txn, series, key, hash)? {
        let value = [&id.to_le_bytes(), key].concat();
        series.put(txn, &series_key(hash, ordinal), &value)?;
        let (ordered, value) = ordered_entry(key, id);
        keys.put(txn, &ordered, value)?;
    }
    Ok(())
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
    use crate::shard::env::{EnvError, EnvLimits, Environment};

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
            let env = Environment::open(dir.path(), limits, ["series", "keys"]).unwrap();
            // Few hashes, so that keys collide.
            let hash = |key: &[u8]| key.len() as u64 % hashes;
            let ids: Vec<(Vec<u8>, u64)> = keys.into_iter().rev().zip(1..).collect();
            env.write(|txn, [series, ordered]| {
                for (key, id) in ids.iter().chain(&ids) {
                    insert(txn, [series, ordered], key, hash(key), *id)?;
                }
                Ok(())
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
                let found = env.read(|txn, [_, ordered]| -> Result<_, EnvError> {
                    let mut all = Vec::new();
                    let mut cursor = InOrder::new(txn, ordered, bound).unwrap();
                    while let Some(found) = cursor.next().unwrap() {
                        all.push(found);
                    }
                    Ok(all)
                }).unwrap();
                prop_assert_eq!(found, expected);
            }
            env.read(|txn, [series, _]| -> Result<_, EnvError> {
                for (key, id) in &ids {
                    assert_eq!(find(txn, series, key, hash(key)).unwrap(), Ok(*id));
                }
                Ok(())
            }).unwrap();
        }
    }
}
