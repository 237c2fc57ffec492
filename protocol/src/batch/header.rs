//! The fixed-width head of an encoded part, and what can be wrong with a part.
//!
//! Invariant: the layout of `SPEC.md`, little-endian throughout; the checksum covers every byte
//! after itself. Written by [`super::encode_part`], read by [`super::EncodedBatch::parse`], which is
//! all that a node needs before it acknowledges a part.

use crate::{
    id::{BatchId, DatabaseId, Epoch, MetaIndex, PolicyId, ShardId, Version},
    point::{MAX_TIME, MIN_TIME},
};

/// The first bytes of a part.
pub(super) const MAGIC: [u8; 4] = *b"QBAT";
/// The version of the format.
pub(super) const FORMAT: u16 = 1;
/// The length of the header, in bytes.
pub const HEADER_LEN: usize = 88;
/// Where the bytes begin that the checksum covers.
pub(super) const CHECKED_FROM: usize = 8;

/// What the writer of a part says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartHeader {
    /// The write this is part of.
    pub batch: BatchId,
    /// The version of all rows.
    pub version: Version,
    /// The metadata the part was resolved at.
    pub meta_index: MetaIndex,
    /// The database.
    pub database: DatabaseId,
    /// The retention policy.
    pub policy: PolicyId,
    /// The shard.
    pub shard: ShardId,
    /// The owner epoch of the shard.
    pub epoch: Epoch,
}

/// The header of a part: what its writer said, and what its rows amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What the writer said.
    pub part: PartHeader,
    /// The earliest time, nanoseconds since the Unix epoch.
    pub min_time: i64,
    /// The latest time.
    pub max_time: i64,
    /// The number of rows; at least 1.
    pub rows: u32,
    /// The number of measurements; at least 1.
    pub measurements: u32,
}

/// Why bytes are not a valid part or a valid column. Nothing of them may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the batch ends too early; it was cut off or is damaged")]
    Truncated,
    /// The bytes are no batch at all.
    #[error("this is not a batch")]
    BadMagic,
    /// A format this build does not know.
    #[error("batch format {0} is not known here; upgrade this node or client")]
    UnknownFormat(u16),
    /// Flag bits that are not defined.
    #[error("batch flags {0:#06x} are not known here; upgrade this node or client")]
    UnknownFlags(u16),
    /// The checksum does not match.
    #[error("the checksum does not match; the batch is damaged")]
    BadChecksum,
    /// A rule of the format is broken.
    #[error("the batch breaks a rule of its format: {0}")]
    Invalid(&'static str),
    /// Counts beyond [`super::MAX_ROWS`] or [`super::MAX_CELLS`].
    #[error("the batch is too large: {0}")]
    TooLarge(&'static str),
}

impl BatchHeader {
    /// The header's bytes, the checksum still zero.
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&0_u32.to_le_bytes());
        put(&FORMAT.to_le_bytes());
        put(&0_u16.to_le_bytes());
        put(&self.part.batch.0.to_le_bytes());
        put(&self.part.version.0.to_le_bytes());
        put(&self.part.meta_index.0.to_le_bytes());
        put(&self.part.database.0.to_le_bytes());
        put(&self.part.policy.0.to_le_bytes());
        put(&self.part.shard.0.to_le_bytes());
        put(&self.part.epoch.0.to_le_bytes());
        put(&self.min_time.to_le_bytes());
        put(&self.max_time.to_le_bytes());
        put(&self.rows.to_le_bytes());
        put(&self.measurements.to_le_bytes());
        out
    }

    /// Reads the header and verifies the checksum of the whole part.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (header, checksum) = Self::read(bytes)?;
        // That there is a header proves that there are bytes from CHECKED_FROM on.
        if crc32fast::hash(bytes.get(CHECKED_FROM..).unwrap_or_default()) != checksum {
            return Err(DecodeError::BadChecksum);
        }
        header.check()?;
        Ok(header)
    }

    /// Reads the header and the checksum it names.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, u32), DecodeError> {
        let mut reader = Fixed(bytes);
        if reader.take::<4>()? != MAGIC {
            return Err(DecodeError::BadMagic);
        }
        let checksum = u32::from_le_bytes(reader.take()?);
        let format = u16::from_le_bytes(reader.take()?);
        if format != FORMAT {
            return Err(DecodeError::UnknownFormat(format));
        }
        let flags = u16::from_le_bytes(reader.take()?);
        if flags != 0 {
            return Err(DecodeError::UnknownFlags(flags));
        }
        let header = Self {
            part: PartHeader {
                batch: BatchId(u128::from_le_bytes(reader.take()?)),
                version: Version(u64::from_le_bytes(reader.take()?)),
                meta_index: MetaIndex(u64::from_le_bytes(reader.take()?)),
                database: DatabaseId(u32::from_le_bytes(reader.take()?)),
                policy: PolicyId(u32::from_le_bytes(reader.take()?)),
                shard: ShardId(u64::from_le_bytes(reader.take()?)),
                epoch: Epoch(u32::from_le_bytes(reader.take()?)),
            },
            min_time: i64::from_le_bytes(reader.take()?),
            max_time: i64::from_le_bytes(reader.take()?),
            rows: u32::from_le_bytes(reader.take()?),
            measurements: u32::from_le_bytes(reader.take()?),
        };
        Ok((header, checksum))
    }

    /// Holds the counts and times against the rules; [`super::EncodedBatch::decode`] takes memory by them.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        if self.rows == 0 || self.measurements == 0 || self.measurements > self.rows {
            return Err(DecodeError::Invalid("impossible row or measurement count"));
        }
        if self.rows as usize > super::MAX_ROWS {
            return Err(DecodeError::TooLarge("too many rows"));
        }
        if self.min_time > self.max_time || self.min_time < MIN_TIME || self.max_time > MAX_TIME {
            return Err(DecodeError::Invalid("impossible time range"));
        }
        Ok(())
    }
}

struct Fixed<'a>(&'a [u8]);

impl Fixed<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }
}
