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
    hashes: Vec<u64>,
    /// Open addressing, a power of two: id + 1, or 0 for a free place.
    table: Vec<u32>,
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
        self.find_hashed(string, hash(string))
    }

    /// As [`Self::find`], for a string whose [`hash`] is known.
    pub(crate) fn find_hashed(&self, string: &[u8], hash: u64) -> Option<u32> {
        if self.table.is_empty() { None } else { self.probe(string, hash).ok() }
    }

    /// The id of a string, and whether it is new.
    pub(crate) fn intern(&mut self, string: &[u8]) -> (u32, bool) {
        self.intern_hashed(string, hash(string))
    }

    /// As [`Self::intern`], for a string whose [`hash`] is known.
    pub(crate) fn intern_hashed(&mut self, string: &[u8], hash: u64) -> (u32, bool) {
        if (self.len() + 1) * 2 > self.table.len() {
            self.grow();
        }
        match self.probe(string, hash) {
            Ok(id) => (id, false),
            Err(place) => {
                self.bytes.extend_from_slice(string);
                self.ends.push(self.bytes.len());
                self.hashes.push(hash);
                let count = self.ends.len();
                // A batch never has 2^32 of anything: `Batch` refuses far earlier.
                self.table[place] = u32::try_from(count).unwrap_or(u32::MAX);
                (u32::try_from(count - 1).unwrap_or(u32::MAX), true)
            }
        }
    }

    /// The memory the strings take, in bytes.
    pub(crate) fn approximate_bytes(&self) -> usize {
        self.bytes.len() + 16 * self.ends.len() + 4 * self.table.len()
    }

    fn probe(&self, string: &[u8], hash: u64) -> Result<u32, usize> {
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let Some(id) = self.table[place].checked_sub(1) else {
                return Err(place);
            };
            if self.hashes[id as usize] == hash && self.get(id) == string {
                return Ok(id);
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let places = (self.table.len() * 2).max(16);
        let mask = places - 1;
        let mut table = vec![0; places];
        for (id, hash) in (1_u32..).zip(&self.hashes) {
            let mut place = *hash as usize & mask;
            while table[place] != 0 {
                place = (place + 1) & mask;
            }
            table[place] = id;
        }
        self.table = table;
    }
}

/// A fast hash for short strings: eight bytes at a time, folded 128-bit products.
pub(crate) fn hash(string: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(K);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = K ^ string.len() as u64;
    let (words, tail) = string.as_chunks::<8>();
    for word in words {
        state = fold(state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    fold(fold(state, u64::from_le_bytes(last)), K)
}

#[cfg(test)]
mod tests {
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
}
