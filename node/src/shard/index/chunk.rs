//! Chunks of ascending series ids, small enough to stay within a page of LMDB.
//!
//! Invariants: the first id stands in the chunk's key, the value has the others; a value takes at
//! most [`MAX_BYTES`]. Written by [`super::postings`], read by [`super::select`] and by
//! verifications.

use quorate_protocol::batch::codec::{Reader, packed};

use crate::shard::series::SeriesId;

/// A value's bytes at most: with its key less than half a page, which LMDB keeps in the tree.
pub(super) const MAX_BYTES: usize = 1280;
/// Ids of a chunk at most.
const MAX_IDS: usize = 4096;

/// The value for as many of the ascending ids as fit, and how many these are; at least one id.
pub(super) fn encode(ids: &[SeriesId]) -> (Vec<u8>, usize) {
    let mut take = ids.len().min(MAX_IDS);
    loop {
        let Some((first, rest)) = ids.get(..take).and_then(<[_]>::split_first) else {
            return (Vec::new(), 0);
        };
        if rest.is_empty() {
            return (Vec::new(), 1);
        }
        let distances: Vec<i64> = rest.iter().map(|id| id.wrapping_sub(*first) as i64).collect();
        // At most `MAX_IDS`.
        let mut out = (rest.len() as u16).to_le_bytes().to_vec();
        packed::encode(&mut out, &distances);
        if out.len() <= MAX_BYTES {
            return (out, take);
        }
        // 64 ids never take more than 530 bytes.
        take = (take * MAX_BYTES / out.len()).max(64).min(take - 1);
    }
}

/// How many ids a chunk has, from its value.
pub(super) fn count(value: &[u8]) -> usize {
    1 + value.first_chunk().map_or(0, |count| usize::from(u16::from_le_bytes(*count)))
}

/// Whether a chunk is worth being written again with more ids.
pub(super) fn has_room(value: &[u8]) -> bool {
    value.len() < MAX_BYTES / 2 && count(value) < MAX_IDS / 2
}

/// All ids of a chunk; `None` if it is damaged.
pub(super) fn decode(first: SeriesId, value: &[u8]) -> Option<Vec<SeriesId>> {
    let mut ids = Vec::with_capacity(count(value).min(MAX_IDS));
    ids.push(first);
    if let Some((count, rest)) = value.split_first_chunk() {
        let count = usize::from(u16::from_le_bytes(*count));
        let mut reader = Reader::new(rest);
        if count == 0 || count >= MAX_IDS {
            return None;
        }
        let mut last = 0;
        for distance in packed::decode(&mut reader, count).ok()? {
            if distance <= last {
                return None;
            }
            last = distance;
            ids.push(first.checked_add(distance.cast_unsigned())?);
        }
        reader.finish().ok()?;
    } else if !value.is_empty() {
        return None;
    }
    Some(ids)
}
