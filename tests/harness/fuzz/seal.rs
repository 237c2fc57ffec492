//! Checksums set right, so that changed bytes get to what reads behind them.
//!
//! Invariant: nothing but checksums and end marks is changed. A checksum of a segment's record that is 0
//! stays so, since damaged records between good ones matter too.

use quorate_node::segment::{
    header::{COPY, Header, LENGTH, Parsed},
    record::{self, ALIGNMENT, HEADER, MAGIC},
};

/// Bytes whose checksum at `at` covers all that follows it.
pub(super) fn sealed(input: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    if let Some((head, rest)) = bytes.split_at_mut_checked(at + 4) {
        head[at..].copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
    }
    bytes
}

/// A segment of which the header and the records are intact where they look so.
pub(super) fn segment(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let Some(copy) = bytes.first_chunk_mut::<COPY>() else { return bytes };
    let crc = crc32fast::hash(&copy[..COPY - 4]);
    copy[COPY - 4..].copy_from_slice(&crc.to_le_bytes());
    let Parsed::Header(header) = Header::parse(copy) else { return bytes };
    let mut at = LENGTH as usize;
    while at + HEADER <= bytes.len() {
        let whole = bytes[at..].starts_with(&MAGIC);
        at += if whole { seal_record(header.seed(), &mut bytes[at..]) } else { ALIGNMENT as usize };
    }
    bytes
}

/// Seals the record that the bytes begin with, and says how far it reaches.
fn seal_record(seed: u32, bytes: &mut [u8]) -> usize {
    let put = |at: usize, crc: u32, bytes: &mut [u8]| {
        if bytes[at..at + 4] != [0; 4] {
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    };
    let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let total = usize::try_from(record::total(u64::from(length))).unwrap();
    let fits = total <= bytes.len();
    if fits {
        put(36, record::checksum(seed, &bytes[HEADER..HEADER + length as usize]), bytes);
        put(total - 4, record::end_mark(seed), bytes);
    }
    put(40, record::checksum(seed, &bytes[..40]), bytes);
    if fits { total } else { ALIGNMENT as usize }
}
