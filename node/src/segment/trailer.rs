//! The last eight bytes of a hint segment: how far it has been read.
//!
//! Invariant: only a hint. It is rewritten in place and not synced; if its checksum fails or it
//! does not point at a record, reading starts at the first record, and the accounts tell what was
//! delivered already.

use std::io;

use super::header::{self, Header};
use super::record::checksum;
use crate::disk::DiskFile;

/// Bytes at the end of the file.
pub const LENGTH: u64 = 8;

/// The stored form.
#[must_use]
pub fn encode(seed: u32, offset: u32) -> [u8; LENGTH as usize] {
    let offset = offset.to_le_bytes();
    let crc = checksum(seed, &offset).to_le_bytes();
    let mut bytes = [0; LENGTH as usize];
    bytes.iter_mut().zip(offset.iter().chain(&crc)).for_each(|(to, from)| *to = *from);
    bytes
}

/// Reads the stored form.
#[must_use]
pub fn parse(seed: u32, bytes: [u8; LENGTH as usize]) -> Option<u64> {
    let [a, b, c, d, crc @ ..] = bytes;
    let offset = [a, b, c, d];
    (u32::from_le_bytes(crc) == checksum(seed, &offset))
        .then(|| u64::from(u32::from_le_bytes(offset)))
}

/// Notes that everything before `offset` has been read.
///
/// # Errors
/// Any I/O error; nothing depends on the note.
pub fn write(file: &dyn DiskFile, header: &Header, offset: u64) -> io::Result<()> {
    match (u32::try_from(offset), header.capacity.checked_sub(LENGTH)) {
        (Ok(offset), Some(place)) => file.write_at(place, &encode(header.seed(), offset)),
        _ => Ok(()),
    }
}

/// Where reading should go on; the first record if the note is missing or cannot be right.
///
/// # Errors
/// Any I/O error.
pub fn read(file: &dyn DiskFile, header: &Header) -> io::Result<u64> {
    let Some(place) = header.capacity.checked_sub(LENGTH) else {
        return Ok(header::LENGTH);
    };
    let mut bytes = [0; LENGTH as usize];
    let count = file.read_at(place, &mut bytes)?;
    let offset = parse(header.seed(), bytes).filter(|offset| {
        count == bytes.len()
            && (header::LENGTH..=place).contains(offset)
            && offset % super::record::ALIGNMENT == 0
    });
    Ok(offset.unwrap_or(header::LENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_and_flipped_bits_are_no_trailer() {
        for seed in [1, 0xdead_beef] {
            assert_eq!(parse(seed, [0; 8]), None);
            let bytes = encode(seed, 4096);
            assert_eq!(parse(seed, bytes), Some(4096));
            for bit in 0..64 {
                let mut damaged = bytes;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse(seed, damaged), None);
            }
        }
    }
}
