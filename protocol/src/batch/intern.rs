//! Byte strings, each kept once and named by a dense number.
//!
//! Invariant: ids are given in order of first appearance, whatever the hash, so that equal input
//! gives equal batches on every machine. The hash is fixed and only finds the place in the table.
//! Used by the batch builder for series keys, tag values, field names and measurements.

/// A set of byte strings with dense ids from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`.
    ends: Vec<usize>,
    /// Open addressing, a power of two: the hash and id + 1, or 0 for a free place.
    table: Vec<(u32, u32)>,
}

impl Interner {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The string with this id, which came from this interner.
    pub(crate) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..self.ends[id]]
    }

    /// The id of a string, if it is there.
    pub(crate) fn find(&self, string: &[u8]) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        self.probe(string, hash(string)).ok()
    }

    /// The id of a string, and whether it is new.
    pub(crate) fn intern(&mut self, string: &[u8]) -> (u32, bool) {
        if (self.len() + 1) * 2 > self.table.len() {
            self.grow();
        }
        let hash = hash(string);
        match self.probe(string, hash) {
            Ok(id) => (id, false),
            Err(place) => {
                self.bytes.extend_from_slice(string);
                self.ends.push(self.bytes.len());
                // A batch never has 2^32 of anything: `Batch` refuses far earlier.
                let count = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
                self.table[place] = (hash, count);
                (count - 1, true)
            }
        }
    }

    /// The memory the strings take, in bytes.
    pub(crate) fn approximate_bytes(&self) -> usize {
        self.bytes.len() + 8 * self.ends.len() + 8 * self.table.len()
    }

    fn probe(&self, string: &[u8], hash: u32) -> Result<u32, usize> {
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let (known, id) = self.table[place];
            let Some(id) = id.checked_sub(1) else {
                return Err(place);
            };
            if known == hash && same(self.get(id), string) {
                return Ok(id);
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let places = (self.table.len() * 2).max(16);
        let mask = places - 1;
        let mut table = vec![(0, 0); places];
        for &(hash, id) in self.table.iter().filter(|(_, id)| *id != 0) {
            let mut place = hash as usize & mask;
            while table[place].1 != 0 {
                place = (place + 1) & mask;
            }
            table[place] = (hash, id);
        }
        self.table = table;
    }
}

/// Equality that does not call out for short strings.
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    // Both ends, which overlap or meet.
    if a.len() <= 16
        && let (Some(a_head), Some(b_head)) = (a.first_chunk::<8>(), b.first_chunk::<8>())
    {
        return a_head == b_head && a.last_chunk::<8>() == b.last_chunk::<8>();
    }
    if a.len() < 8 { word(a) == word(b) } else { a == b }
}

/// A fast hash for short strings: sixteen bytes at a time, folded 128-bit products.
fn hash(string: &[u8]) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    const L: u64 = 0xd6e8_feb8_6659_fd93;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = K ^ string.len() as u64;
    let (pairs, _) = string.as_chunks::<16>();
    for pair in pairs {
        let (a, b) = (word(&pair[..8]), word(&pair[8..]));
        state = fold(a ^ L, b ^ state);
    }
    // The last bytes, again if they have been in already.
    let (a, b) = if let Some(last) = string.last_chunk::<16>() {
        (word(&last[..8]), word(&last[8..]))
    } else if string.len() >= 8 {
        (word(&string[..8]), word(&string[string.len() - 8..]))
    } else {
        (word(string), 0)
    };
    (fold(fold(a ^ L, b ^ state), K) >> 32) as u32
}

/// At most eight bytes as a number that differs where they differ, for equal lengths.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    if let Some(eight) = bytes.first_chunk::<8>() {
        u64::from_le_bytes(*eight)
    } else if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << 32
    } else {
        match *bytes {
            [] => 0,
            [a] => u64::from(a),
            [a, b] => u64::from(a) | u64::from(b) << 8,
            [a, b, c, ..] => u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_dense_and_stable() {
        let mut interner = Interner::default();
        for round in 0..2 {
            for id in 0..5000_u32 {
                let string = format!("host_{id}");
                assert_eq!(interner.intern(string.as_bytes()), (id, round == 0));
                assert_eq!(interner.get(id), string.as_bytes());
                assert_eq!(interner.find(string.as_bytes()), Some(id));
            }
        }
        assert_eq!(interner.intern(b""), (5000, true));
        assert_eq!(interner.find(b""), Some(5000));
        assert_eq!(interner.find(b"absent"), None);
    }

    proptest! {
        /// Strings of all lengths that differ in a byte, or do not.
        #[test]
        fn strings_are_told_apart(
            strings in prop::collection::vec(prop::collection::vec(0_u8..2, 0..40), 0..40)
        ) {
            let mut interner = Interner::default();
            let mut model: Vec<&[u8]> = Vec::new();
            for string in &strings {
                let known = model.iter().position(|known| known == string);
                let expected = known.unwrap_or(model.len());
                if known.is_none() {
                    prop_assert_eq!(interner.find(string), None);
                    model.push(string);
                }
                prop_assert_eq!(interner.intern(string), (expected as u32, known.is_none()));
                prop_assert_eq!(interner.find(string), Some(expected as u32));
                prop_assert_eq!(interner.get(expected as u32), &string[..]);
            }
            for string in &strings {
                prop_assert!(same(string, string) && !same(string, &[&string[..], &[0]].concat()));
                for at in 0..string.len() {
                    let mut other = string.clone();
                    other[at] ^= 1;
                    prop_assert!(!same(string, &other), "{:?} at {}", string, at);
                }
            }
        }
    }
}
