//! The first 128 bytes of a segment: two copies of a 64-byte header.
//!
//! Invariant: a header is used only if its checksum holds; that checksum is also the seed of every
//! other checksum in the file, which ties all of them to this number, owner and salt.

use std::io;

use crate::disk::DiskFile;

/// Bytes of one copy.
pub const COPY: usize = 64;
/// Bytes before the first record.
pub const LENGTH: u64 = 2 * COPY as u64;
/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"QSEG";
/// The format version this program writes, and the newest it reads.
pub const VERSION: u16 = 1;

const CHECKED: usize = 60;

/// What a segment is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The journal of the node named as owner.
    Journal,
    /// A queue of hints for the node named as owner.
    Hints,
    /// Terminal states of the hints for the node named as owner.
    Accounts,
    /// Hints for the node named as owner that were kept aside.
    Quarantine,
    /// Repair marks.
    Marks,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Journal => 1,
            Self::Hints => 2,
            Self::Accounts => 3,
            Self::Quarantine => 4,
            Self::Marks => 5,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Journal,
            2 => Self::Hints,
            3 => Self::Accounts,
            4 => Self::Quarantine,
            5 => Self::Marks,
            _ => return None,
        })
    }
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is part of.
    pub kind: Kind,
    /// The node it belongs to or is for; 0 where neither applies.
    pub owner: u64,
    /// Its number, which is also its file name; never reused.
    pub number: u64,
    /// The sequence of its first record.
    pub first_sequence: u64,
    /// The length of the whole file in bytes; 0 for a file that grows.
    pub capacity: u64,
    /// A random number that makes the checksums unpredictable.
    pub salt: u64,
}

/// What the first bytes of a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header of this version.
    Header(Header),
    /// A header of a later version.
    Newer(u16),
    /// Nothing was ever written: too short, or all zeros.
    Blank,
    /// Something else, or two damaged copies.
    Damaged,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(source) = bytes.get(at..at + N) {
        field.copy_from_slice(source);
    }
    field
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = *from);
}

impl Header {
    /// The checksummed part of one copy.
    fn body(&self) -> [u8; CHECKED] {
        let mut body = [0; CHECKED];
        put(&mut body, 0, &MAGIC);
        put(&mut body, 4, &VERSION.to_le_bytes());
        put(&mut body, 6, &[self.kind.code()]);
        put(&mut body, 8, &self.owner.to_le_bytes());
        put(&mut body, 16, &self.number.to_le_bytes());
        put(&mut body, 24, &self.first_sequence.to_le_bytes());
        put(&mut body, 32, &self.capacity.to_le_bytes());
        put(&mut body, 40, &self.salt.to_le_bytes());
        body
    }

    /// The checksum of the header, from which all others in the file continue.
    #[must_use]
    pub fn seed(&self) -> u32 {
        crc32fast::hash(&self.body())
    }

    /// Both copies.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH as usize] {
        let mut bytes = [0; LENGTH as usize];
        for at in [0, COPY] {
            put(&mut bytes, at, &self.body());
            put(&mut bytes, at + CHECKED, &self.seed().to_le_bytes());
        }
        bytes
    }

    /// Reads whichever copy is intact.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Parsed {
        let mut newer = None;
        for copy in bytes.chunks_exact(COPY).take(2) {
            match Self::parse_copy(copy) {
                Parsed::Header(header) => return Parsed::Header(header),
                Parsed::Newer(version) => newer = Some(version),
                Parsed::Blank | Parsed::Damaged => {}
            }
        }
        match newer {
            Some(version) => Parsed::Newer(version),
            None if bytes.len() < COPY || bytes.iter().all(|byte| *byte == 0) => Parsed::Blank,
            None => Parsed::Damaged,
        }
    }

    fn parse_copy(copy: &[u8]) -> Parsed {
        let (body, crc) = copy.split_at(CHECKED.min(copy.len()));
        if field(copy, 0) != MAGIC || u32::from_le_bytes(field(crc, 0)) != crc32fast::hash(body) {
            return Parsed::Damaged;
        }
        let version = u16::from_le_bytes(field(copy, 4));
        if version > VERSION {
            return Parsed::Newer(version);
        }
        let Some(kind) = Kind::from_code(field::<1>(copy, 6)[0]) else {
            return Parsed::Damaged;
        };
        let header = Self {
            kind,
            owner: u64::from_le_bytes(field(copy, 8)),
            number: u64::from_le_bytes(field(copy, 16)),
            first_sequence: u64::from_le_bytes(field(copy, 24)),
            capacity: u64::from_le_bytes(field(copy, 32)),
            salt: u64::from_le_bytes(field(copy, 40)),
        };
        // The seed is computed from the fields, so bytes that the fields do not hold must be 0.
        if header.body() == *body { Parsed::Header(header) } else { Parsed::Damaged }
    }

    /// Reads the header of a file.
    ///
    /// # Errors
    /// Any I/O error; what the bytes mean is in the result.
    pub fn read(file: &dyn DiskFile) -> io::Result<Parsed> {
        let mut bytes = [0; LENGTH as usize];
        let count = file.read_at(0, &mut bytes)?;
        Ok(Self::parse(bytes.get(..count).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        kind: Kind::Hints,
        owner: 3,
        number: 7,
        first_sequence: 100,
        capacity: 10 << 20,
        salt: 0x0123_4567_89ab_cdef,
    };

    #[test]
    fn any_flipped_bit_leaves_the_other_copy() {
        let bytes = HEADER.encode();
        assert_eq!(Header::parse(&bytes), Parsed::Header(HEADER));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&damaged), Parsed::Header(HEADER), "bit {bit}");
        }
    }

    #[test]
    fn short_blank_newer_and_foreign_files_are_told_apart() {
        let bytes = HEADER.encode();
        for length in 0..COPY {
            assert_eq!(Header::parse(&bytes[..length]), Parsed::Blank, "length {length}");
        }
        for length in COPY..bytes.len() {
            assert_eq!(Header::parse(&bytes[..length]), Parsed::Header(HEADER));
        }
        assert_eq!(Header::parse(&[0; 128]), Parsed::Blank);
        assert_eq!(Header::parse(&[b'x'; 128]), Parsed::Damaged);
        let mut newer = bytes;
        newer[4] = 2;
        let crc = crc32fast::hash(&newer[..60]).to_le_bytes();
        newer[60..64].copy_from_slice(&crc);
        newer[64] = 0;
        assert_eq!(Header::parse(&newer), Parsed::Newer(2));
    }

    #[test]
    fn successive_numbers_never_share_a_seed() {
        let mut seeds: Vec<_> =
            (0..10_000).map(|number| Header { number, ..HEADER }.seed()).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 10_000);
    }
}
