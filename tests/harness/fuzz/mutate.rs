//! Bytes that are nearly right: what is known, changed a little.
//!
//! Invariant: the same seed, the same bytes.

/// Longest input.
const MOST: usize = 64 << 10;

/// Numbers that lengths and counts are compared with.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x10_0000,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

pub struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn draw(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.draw() % end as u64) as usize }
    }

    /// One of these, with some changes.
    pub fn change(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            self.once(&mut bytes, corpus);
        }
        bytes.truncate(MOST);
        bytes
    }

    fn once(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        match self.below(9) {
            0 => bytes.truncate(at),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = self.draw() as u8;
                }
            }
            3 => bytes.insert(at, self.draw() as u8),
            4 => {
                let end = (at + 1 + self.below(16)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            // A number in one of the ways that formats have.
            5 => {
                let number = NUMBERS[self.below(NUMBERS.len())];
                let mut coded = number.to_le_bytes().to_vec();
                coded.truncate([1, 2, 4, 8][self.below(4)]);
                let end = (at + coded.len()).min(bytes.len());
                bytes.splice(at..end, coded);
            }
            6 => {
                let mut number = NUMBERS[self.below(NUMBERS.len())];
                let mut coded = Vec::new();
                while number >= 0x80 {
                    coded.push(number as u8 | 0x80);
                    number >>= 7;
                }
                coded.push(number as u8);
                let end = (at + 1 + self.below(3)).min(bytes.len());
                bytes.splice(at..end, coded);
            }
            // A piece of another, or of itself, once more.
            7 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                let piece = other[from..to].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = self.below(bytes.len() + 1);
                let to = (from + self.below(256)).min(bytes.len());
                let piece = bytes[from..to].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}
