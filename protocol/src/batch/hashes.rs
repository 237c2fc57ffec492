//! The series hashes of many keys.
//!
//! Invariant: the same hashes as [`crate::hash::series_hash`], four keys at a time: each byte of a
//! key has to wait for the one before it, so a processor can do four keys in the time of one.

use crate::hash::series_hash;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hashes of keys that stand one behind another and end where `ends` says.
pub(super) fn series_hashes(keys: &[u8], ends: &[usize]) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(ends.len());
    let mut start = 0;
    let (fours, rest) = ends.as_chunks::<4>();
    for four in fours {
        let [a, b, c, d] = *four;
        hashes.extend(hash_four([&keys[start..a], &keys[a..b], &keys[b..c], &keys[c..d]]));
        start = d;
    }
    for &end in rest {
        hashes.push(series_hash(&keys[start..end]));
        start = end;
    }
    hashes
}

/// The hashes of four keys.
pub(super) fn hash_four(keys: [&[u8]; 4]) -> [u64; 4] {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    let shortest = keys.iter().map(|key| key.len()).min().unwrap_or(0);
    let [a, b, c, d] = keys.map(|key| &key[..shortest]);
    let mut hashes = [OFFSET; 4];
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        hashes[0] = step(hashes[0], *a);
        hashes[1] = step(hashes[1], *b);
        hashes[2] = step(hashes[2], *c);
        hashes[3] = step(hashes[3], *d);
    }
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = key[shortest..].iter().fold(*hash, |hash, byte| step(hash, *byte));
    }
    hashes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn four_at_a_time_or_one(keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let all = keys.concat();
            let mut end = 0;
            let ends: Vec<usize> = keys.iter().map(|key| { end += key.len(); end }).collect();
            let expected: Vec<u64> = keys.iter().map(|key| series_hash(key)).collect();
            prop_assert_eq!(series_hashes(&all, &ends), expected);
        }
    }
}
