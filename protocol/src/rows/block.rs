//! Rows as a checksummed block: what scans send.
//!
//! Invariant: a block that decodes obeys the rules of [`Rows`], apart from which values win, which
//! only a merge can tell. Versions stand in a small table, each row names one by its index.

use bytes::Bytes;

use super::Rows;
use crate::{
    batch::{
        Column, DecodeError, MAX_CELLS, MAX_ROWS,
        codec::{
            Reader,
            column::{self, Head, Scratch},
            packed, put_varint, times,
        },
    },
    id::Version,
    point::{MAX_TIME, MIN_TIME},
};

/// The version of the format.
const FORMAT: u8 = 1;

/// Why bytes are not a valid row block. Nothing of them may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A format this build does not know.
    #[error("row block format {0} is not known here; upgrade this node or client")]
    UnknownFormat(u8),
    /// Damaged, cut off, or against the rules.
    #[error("row block: {0}")]
    Format(#[from] DecodeError),
}

pub(super) fn encode(rows: &Rows, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(FORMAT);
    put_varint(out, rows.len() as u64);
    if !rows.is_empty() {
        times::encode(out, &rows.times, &[rows.len() as i64]);
        encode_versions(out, &rows.versions);
        put_varint(out, rows.columns.len() as u64);
        let mut scratch = Scratch::default();
        for column in &rows.columns {
            let head = Head { field: column.field, name: &column.name, present: &column.present };
            if column.present.is_all() {
                column::encode(out, &head, &column.values, &mut scratch);
            } else {
                column::encode(out, &head, &column::squeeze(column), &mut scratch);
            }
        }
    }
    let checksum = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn encode_versions(out: &mut Vec<u8>, versions: &[Version]) {
    let mut table: Vec<Version> = versions.to_vec();
    table.sort_unstable();
    table.dedup();
    put_varint(out, table.len() as u64);
    let numbers: Vec<i64> = table.iter().map(|version| version.0.cast_signed()).collect();
    packed::encode(out, &numbers);
    if table.len() > 1 {
        let index = |version: &Version| table.partition_point(|other| other < version) as i64;
        let indices: Vec<i64> = versions.iter().map(index).collect();
        packed::encode(out, &indices);
    }
}

pub(super) fn decode(block: &[u8]) -> Result<Rows, BlockError> {
    let mut reader = Reader::new(block);
    let checksum = reader.u32()?;
    if crc32fast::hash(block.get(4..).unwrap_or_default()) != checksum {
        return Err(DecodeError::BadChecksum.into());
    }
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(BlockError::UnknownFormat(format));
    }
    let rows = decode_rows(&mut reader)?;
    reader.finish()?;
    Ok(rows)
}

fn decode_rows(reader: &mut Reader<'_>) -> Result<Rows, DecodeError> {
    let len = usize::try_from(reader.varint()?).map_err(|_| DecodeError::Truncated)?;
    if len > MAX_ROWS {
        return Err(DecodeError::TooLarge("too many rows"));
    }
    if len == 0 {
        return Ok(Rows::default());
    }
    let times = times::decode(reader, &[len])?;
    if times.iter().any(|time| !(MIN_TIME..=MAX_TIME).contains(time)) {
        return Err(DecodeError::Invalid("a time is out of range"));
    }
    let versions = decode_versions(reader, len)?;
    let ascend = |at: usize| (times[at - 1], versions[at - 1]) < (times[at], versions[at]);
    if !(1..len).all(ascend) {
        return Err(DecodeError::Invalid("rows do not ascend by time and version"));
    }
    let count = reader.count(10)?;
    if count == 0 {
        return Err(DecodeError::Invalid("a row block has no fields"));
    }
    if count.saturating_mul(len) > MAX_CELLS {
        return Err(DecodeError::TooLarge("too many cells"));
    }
    let mut columns: Vec<Column> = Vec::with_capacity(count);
    for _ in 0..count {
        let column = column::decode(reader, len, &Bytes::copy_from_slice)?;
        let key = |column: &Column| (column.field, column.kind());
        if columns.last().is_some_and(|last| key(last) >= key(&column)) {
            return Err(DecodeError::Invalid("columns do not ascend"));
        }
        columns.push(column);
    }
    column::every_row(&columns, len)?;
    Ok(Rows { times, versions, columns })
}

fn decode_versions(reader: &mut Reader<'_>, len: usize) -> Result<Vec<Version>, DecodeError> {
    let count = usize::try_from(reader.varint()?).map_err(|_| DecodeError::Truncated)?;
    if count == 0 || count > len {
        return Err(DecodeError::Invalid("impossible version count"));
    }
    let table: Vec<Version> = packed::decode(reader, count)?
        .into_iter()
        .map(|number| Version(number.cast_unsigned()))
        .collect();
    if !table.is_sorted_by(|a, b| a < b) {
        return Err(DecodeError::Invalid("versions do not ascend"));
    }
    if let [only] = table[..] {
        return Ok(vec![only; len]);
    }
    packed::decode(reader, len)?
        .into_iter()
        .map(|index| usize::try_from(index).ok().and_then(|index| table.get(index).copied()))
        .collect::<Option<_>>()
        .ok_or(DecodeError::Invalid("a version index is out of range"))
}

#[cfg(test)]
mod tests;
