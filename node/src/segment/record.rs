//! One record: a 44-byte header, the payload, padding to 8 bytes, and an end mark.
//!
//! Invariant: records start at multiples of 8; header and payload have checksums of their own, so
//! that a flipped length does not decide where the next record is looked for. The end mark tells a
//! record that was damaged later from one that was never finished.

use bytes::Bytes;

/// Bytes before the payload.
pub const HEADER: usize = 44;
/// Records begin at multiples of this.
pub const ALIGNMENT: u64 = 8;
/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"QREC";
/// The smallest record: header and end mark.
pub const SMALLEST: u64 = total(0);
/// The highest sequence: more than will ever be appended, and there is room to count on behind it.
pub const MAX_SEQUENCE: u64 = i64::MAX as u64;
/// The largest payload the format can carry; limits in configurations are lower.
pub const MAX_PAYLOAD: usize = 1 << 30;

const CHECKED: usize = 40;
const MARK: usize = 4;

/// Bytes that a payload of `length` takes in a segment.
#[must_use]
pub const fn total(length: u64) -> u64 {
    (HEADER as u64 + length + MARK as u64).next_multiple_of(ALIGNMENT)
}

/// What a record says besides its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordMeta {
    /// Its place in the sequence of its log; grows by one from record to record.
    pub sequence: u64,
    /// The shard the payload belongs to; 0 where none applies.
    pub shard: u64,
    /// When it was appended, nanoseconds since the Unix epoch; 0 where nobody asks.
    pub stamp: u64,
    /// Meaning depends on the kind of segment.
    pub flags: u32,
}

/// An intact record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it starts in the file.
    pub offset: u64,
    /// What it says about itself.
    pub meta: RecordMeta,
    /// What was appended.
    pub payload: Bytes,
}

/// A record header whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it says.
    pub meta: RecordMeta,
    /// Bytes of payload it claims; not yet checked against the file.
    pub length: u32,
    /// The payload's checksum.
    pub payload_crc: u32,
}

/// A CRC-32 that continues from the segment's header.
#[must_use]
pub fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The end mark of every record of a segment; never zero, so that zeros are no end.
#[must_use]
pub fn end_mark(seed: u32) -> u32 {
    checksum(seed, b"QEND") | 1
}

/// Appends the stored form of a record to `out`.
pub fn encode(seed: u32, meta: &RecordMeta, payload: &[u8], out: &mut Vec<u8>) {
    encode_head(seed, meta, payload.len(), checksum(seed, payload), out);
    out.extend_from_slice(payload);
    encode_tail(seed, payload.len(), out);
}

/// Appends what stands before a payload of `length` bytes with this checksum.
pub fn encode_head(seed: u32, meta: &RecordMeta, length: usize, payload: u32, out: &mut Vec<u8>) {
    let start = out.len();
    // Callers bound payloads far below 4 GiB (see MAX_PAYLOAD).
    let length = length as u32;
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&meta.sequence.to_le_bytes());
    out.extend_from_slice(&meta.shard.to_le_bytes());
    out.extend_from_slice(&meta.stamp.to_le_bytes());
    out.extend_from_slice(&meta.flags.to_le_bytes());
    out.extend_from_slice(&payload.to_le_bytes());
    let header_crc = checksum(seed, out.get(start..start + CHECKED).unwrap_or_default());
    out.extend_from_slice(&header_crc.to_le_bytes());
}

/// Appends what stands behind a payload of `length` bytes.
pub fn encode_tail(seed: u32, length: usize, out: &mut Vec<u8>) {
    let zeros = total(length as u64) as usize - HEADER - length - MARK;
    out.resize(out.len() + zeros, 0);
    out.extend_from_slice(&end_mark(seed).to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// Reads a record header; `None` if it is not one of this segment.
#[must_use]
pub fn parse(seed: u32, bytes: &[u8]) -> Option<RecordHeader> {
    if bytes.get(..4)? != MAGIC {
        return None;
    }
    if u32_at(bytes, CHECKED)? != checksum(seed, bytes.get(..CHECKED)?) {
        return None;
    }
    Some(RecordHeader {
        length: u32_at(bytes, 4)?,
        meta: RecordMeta {
            sequence: u64_at(bytes, 8)?,
            shard: u64_at(bytes, 16)?,
            stamp: u64_at(bytes, 24)?,
            flags: u32_at(bytes, 32)?,
        },
        payload_crc: u32_at(bytes, 36)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_back_under_its_seed_only(
            seed: u32, other: u32, sequence: u64, shard: u64, stamp: u64, flags: u32,
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let meta = RecordMeta { sequence, shard, stamp, flags };
            let mut bytes = Vec::new();
            encode(seed, &meta, &payload, &mut bytes);
            prop_assert_eq!(bytes.len() as u64, total(payload.len() as u64));
            prop_assert_eq!(bytes.len() as u64 % ALIGNMENT, 0);
            let header = parse(seed, &bytes).unwrap();
            prop_assert_eq!(header.meta, meta);
            prop_assert_eq!(header.length as usize, payload.len());
            prop_assert_eq!(header.payload_crc, checksum(seed, &payload));
            prop_assert_eq!(&bytes[bytes.len() - 4..], &end_mark(seed).to_le_bytes());
            if other != seed {
                prop_assert_eq!(parse(other, &bytes), None);
            }
            for cut in 0..HEADER {
                prop_assert_eq!(parse(seed, &bytes[..cut]), None);
            }
        }

        #[test]
        fn bytes_are_no_record(seed: u32, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(parse(seed, &bytes), None);
        }
    }
}
