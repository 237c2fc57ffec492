//! Reading an encoded part.
//!
//! Invariant: what [`EncodedBatch::decode`] returns obeys every rule of the format; anything else
//! is a typed error, found within memory bounded by [`super::MAX_ROWS`] and [`super::MAX_CELLS`].
//! Nodes parse on the ack path (header and checksum only) and decode when they read or compact.

use std::ops::Range;

use bytes::Bytes;

use self::measurement::Budget;
use super::{BatchHeader, Column, DecodeError, HEADER_LEN, codec::Reader};
use crate::rows::Rows;

mod measurement;

/// The bytes of one part, their checksum verified.
#[derive(Clone, Debug)]
pub struct EncodedBatch {
    bytes: Bytes,
    header: BatchHeader,
}

impl EncodedBatch {
    /// Verifies header and checksum; keeps the bytes as they are.
    ///
    /// # Errors
    /// The bytes are damaged, cut off, or of another format.
    pub fn parse(bytes: Bytes) -> Result<Self, DecodeError> {
        let header = BatchHeader::parse(&bytes)?;
        Ok(Self { bytes, header })
    }

    /// As [`parse`](Self::parse), without its checksum: for bytes that were parsed before and have
    /// been under another checksum, or in memory, since.
    ///
    /// # Errors
    /// The header is no batch's.
    pub fn parse_verified(bytes: Bytes) -> Result<Self, DecodeError> {
        let header = BatchHeader::read(&bytes)?.0;
        header.check()?;
        Ok(Self { bytes, header })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The checksum in the header, of everything behind it.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        // There is a header, or this would not exist.
        BatchHeader::read(&self.bytes).map_or(0, |(_, checksum)| checksum)
    }

    /// The bytes, header included.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Decodes and verifies everything.
    ///
    /// # Errors
    /// The part breaks a rule of the format.
    pub fn decode(&self) -> Result<DecodedBatch, DecodeError> {
        let mut reader = Reader::new(self.bytes.get(HEADER_LEN..).unwrap_or_default());
        let mut budget = Budget::new(self.header.rows as usize);
        let count = reader.count_check(self.header.measurements as usize, 4)?;
        let mut measurements = Vec::with_capacity(count);
        for _ in 0..count {
            let len = reader.u32()? as usize;
            let block = reader.take(len)?;
            measurements.push(measurement::decode(&self.bytes, block, &mut budget)?);
        }
        reader.finish()?;
        let decoded = DecodedBatch { header: self.header, measurements };
        decoded.check()?;
        Ok(decoded)
    }
}

/// A verified part.
#[derive(Clone, Debug)]
pub struct DecodedBatch {
    /// The header.
    pub header: BatchHeader,
    /// The measurements, each once.
    pub measurements: Vec<DecodedMeasurement>,
}

/// One measurement of a verified part.
#[derive(Clone, Debug)]
pub struct DecodedMeasurement {
    /// The name, unescaped.
    pub name: Bytes,
    /// The name as it stands in keys.
    pub escaped_name: Bytes,
    /// The series, each once, in row order.
    pub series: Vec<DecodedSeries>,
    /// The time of every row; strictly ascending within a series.
    pub times: Vec<i64>,
    /// The fields, by id; every row has at least one.
    pub columns: Vec<Column>,
}

/// One series of a verified part.
#[derive(Clone, Debug)]
pub struct DecodedSeries {
    /// The canonical key. It shares memory with the other keys of the part: copy what is kept.
    pub key: Bytes,
    /// The hash of the key.
    pub hash: u64,
    /// The rows of the series.
    pub rows: Range<u32>,
}

impl DecodedBatch {
    /// What only the whole part can tell.
    fn check(&self) -> Result<(), DecodeError> {
        let times = || self.measurements.iter().flat_map(|m| m.times.iter().copied());
        if times().count() != self.header.rows as usize {
            return Err(DecodeError::Invalid("the header has another row count"));
        }
        let range = times().fold((i64::MAX, i64::MIN), |(a, b), time| (a.min(time), b.max(time)));
        if range != (self.header.min_time, self.header.max_time) {
            return Err(DecodeError::Invalid("the header has another time range"));
        }
        let mut names: Vec<&[u8]> = self.measurements.iter().map(|m| &m.escaped_name[..]).collect();
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) {
            return Err(DecodeError::Invalid("a measurement occurs twice"));
        }
        Ok(())
    }

    /// Key, hash and versioned rows of every series.
    pub fn into_rows(self) -> impl Iterator<Item = (Bytes, u64, Rows)> {
        let version = self.header.part.version;
        self.measurements.into_iter().flat_map(move |measurement| {
            (0..measurement.series.len()).filter_map(move |at| {
                let series = measurement.series.get(at)?;
                Some((series.key.clone(), series.hash, measurement.rows(series, version)))
            })
        })
    }
}

impl DecodedMeasurement {
    /// The rows of one of this measurement's series, all of one version.
    #[must_use]
    pub fn rows(&self, series: &DecodedSeries, version: crate::id::Version) -> Rows {
        let range = series.rows.start as usize..series.rows.end as usize;
        Rows {
            times: self.times[range.clone()].to_vec(),
            versions: vec![version; range.len()],
            columns: self
                .columns
                .iter()
                .map(|column| column.slice(range.clone()))
                .filter(|column| column.present.any())
                .collect(),
        }
    }
}
