//! Reading one measurement of a part.
//!
//! Invariant: memory is bounded before it is taken: rows and cells by [`Budget`], keys by
//! [`MAX_KEY_BYTES`], everything else by the bytes that are there.

use bytes::Bytes;

use super::{DecodedMeasurement, DecodedSeries};
use crate::{
    batch::{
        Column, DecodeError, MAX_CELLS, MAX_KEY_BYTES,
        codec::{Reader, column, packed, times},
        hashes::series_hashes,
    },
    point::{MAX_KEY_LEN, MAX_TIME, MIN_TIME, key},
};

/// What the part may still take.
pub(super) struct Budget {
    rows: usize,
    cells: usize,
    key_bytes: usize,
}

impl Budget {
    /// `rows` is the header's count.
    pub(super) const fn new(rows: usize) -> Self {
        Self { rows, cells: MAX_CELLS, key_bytes: MAX_KEY_BYTES }
    }
}

fn spend(budget: &mut usize, amount: usize, what: &'static str) -> Result<(), DecodeError> {
    *budget = budget.checked_sub(amount).ok_or(DecodeError::TooLarge(what))?;
    Ok(())
}

/// `block` is a slice of `part`.
pub(super) fn decode(
    part: &Bytes,
    block: &[u8],
    budget: &mut Budget,
) -> Result<DecodedMeasurement, DecodeError> {
    let mut reader = Reader::new(block);
    let escaped = reader.bytes()?;
    if !key::is_escaped_measurement(escaped) {
        return Err(DecodeError::Invalid("a measurement's name is not escaped"));
    }
    let series = usize::try_from(reader.varint()?).map_err(|_| DecodeError::Truncated)?;
    if series == 0 || series > budget.rows {
        return Err(DecodeError::Invalid("impossible series count"));
    }
    let keys = keys(&mut reader, escaped, series, budget)?;
    let counts = counts(&mut reader, series, budget)?;
    let times = times::decode(&mut reader, &counts)?;
    let mut start = 0_u32;
    let mut out = Vec::with_capacity(series);
    for ((key, hash), count) in keys.into_iter().zip(&counts) {
        // The budget keeps the sum of all counts within u32.
        let end = start + *count as u32;
        let of = &times[start as usize..end as usize];
        if !of.is_sorted_by(|a, b| a < b) {
            return Err(DecodeError::Invalid("times do not ascend within a series"));
        }
        if of.first().is_some_and(|t| *t < MIN_TIME) || of.last().is_some_and(|t| *t > MAX_TIME) {
            return Err(DecodeError::Invalid("a time is out of range"));
        }
        out.push(DecodedSeries { key, hash, rows: start..end });
        start = end;
    }
    let columns = columns(part, &mut reader, times.len(), budget)?;
    reader.finish()?;
    Ok(DecodedMeasurement {
        name: key::unescape_measurement(escaped).into(),
        escaped_name: part.slice_ref(escaped),
        series: out,
        times,
        columns,
    })
}

/// The number of rows of each series.
fn counts(
    reader: &mut Reader<'_>,
    series: usize,
    budget: &mut Budget,
) -> Result<Vec<usize>, DecodeError> {
    let mut counts = Vec::with_capacity(series);
    for count in packed::decode(reader, series)? {
        let count = usize::try_from(count).ok().filter(|count| *count > 0);
        let count = count.ok_or(DecodeError::Invalid("impossible row count"))?;
        spend(&mut budget.rows, count, "more rows than the header says")?;
        counts.push(count);
    }
    Ok(counts)
}

struct Tag<'a> {
    key: &'a [u8],
    dictionary: Vec<&'a [u8]>,
    indices: Vec<i64>,
}

impl<'a> Tag<'a> {
    fn decode(reader: &mut Reader<'a>, series: usize) -> Result<Self, DecodeError> {
        let key = reader.bytes()?;
        if !key::is_escaped_tag_key(key) {
            return Err(DecodeError::Invalid("a tag key is not escaped"));
        }
        let count = reader.count(2)?;
        if count == 0 || count > series {
            return Err(DecodeError::Invalid("impossible dictionary size"));
        }
        let mut dictionary = Vec::with_capacity(count);
        for _ in 0..count {
            let value = reader.bytes()?;
            if !key::is_escaped_tag_value(value) {
                return Err(DecodeError::Invalid("a tag value is not escaped"));
            }
            dictionary.push(value);
        }
        let indices = packed::decode(reader, series)?;
        if indices.iter().any(|index| *index < 0 || *index > count as i64) {
            return Err(DecodeError::Invalid("a dictionary index is out of range"));
        }
        Ok(Self { key, dictionary, indices })
    }

    fn of(&self, series: usize) -> Option<&'a [u8]> {
        let index = usize::try_from(*self.indices.get(series)?).ok()?.checked_sub(1)?;
        self.dictionary.get(index).copied()
    }
}

/// Key and hash of every series.
fn keys(
    reader: &mut Reader<'_>,
    escaped: &[u8],
    series: usize,
    budget: &mut Budget,
) -> Result<Vec<(Bytes, u64)>, DecodeError> {
    let count = reader.count(4)?;
    // Each tag column has an index per series: bound them all before reading the first.
    spend(&mut budget.cells, count.saturating_mul(series), "too many tags")?;
    let mut tags = Vec::with_capacity(count);
    for _ in 0..count {
        tags.push(Tag::decode(reader, series)?);
    }
    if !tags.is_sorted_by(|a, b| a.key < b.key) {
        return Err(DecodeError::Invalid("tag keys do not ascend"));
    }
    let mut ends = Vec::with_capacity(series);
    let mut total = 0;
    for at in 0..series {
        let pairs = tags.iter().filter_map(|tag| Some(tag.key.len() + tag.of(at)?.len() + 2));
        let len = escaped.len() + pairs.sum::<usize>();
        if len > MAX_KEY_LEN {
            return Err(DecodeError::Invalid("a series key is too long"));
        }
        total += len;
        spend(&mut budget.key_bytes, len, "too many bytes of series keys")?;
        ends.push(total);
    }
    let mut all = Vec::with_capacity(total);
    for at in 0..series {
        all.extend_from_slice(escaped);
        for tag in &tags {
            if let Some(value) = tag.of(at) {
                all.push(b',');
                all.extend_from_slice(tag.key);
                all.push(b'=');
                all.extend_from_slice(value);
            }
        }
    }
    let hashes = series_hashes(&all, &ends);
    let all = Bytes::from(all);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let slices = starts.zip(&ends).map(|(start, end)| all.slice(start..*end));
    let keys: Vec<(Bytes, u64)> = slices.zip(hashes).collect();
    distinct(&keys)?;
    Ok(keys)
}

/// Refuses a key that occurs twice.
fn distinct(keys: &[(Bytes, u64)]) -> Result<(), DecodeError> {
    let mut hashes: Vec<u64> = keys.iter().map(|(_, hash)| *hash).collect();
    hashes.sort_unstable();
    if hashes.windows(2).all(|two| two[0] != two[1]) {
        return Ok(());
    }
    // Equal hashes are rare, and equal keys with them; sorting the keys bounds the time.
    let mut sorted: Vec<&Bytes> = keys.iter().map(|(key, _)| key).collect();
    sorted.sort_unstable();
    if sorted.windows(2).any(|two| two[0] == two[1]) {
        return Err(DecodeError::Invalid("a series occurs twice"));
    }
    Ok(())
}

fn columns(
    part: &Bytes,
    reader: &mut Reader<'_>,
    rows: usize,
    budget: &mut Budget,
) -> Result<Vec<Column>, DecodeError> {
    // Id, name, type, presence, encoding and values take at least ten bytes.
    let count = reader.count(10)?;
    if count == 0 {
        return Err(DecodeError::Invalid("a measurement has no fields"));
    }
    spend(&mut budget.cells, count.saturating_mul(rows), "too many cells")?;
    let mut columns: Vec<Column> = Vec::with_capacity(count);
    for _ in 0..count {
        let column = column::decode(reader, rows, &|bytes| part.slice_ref(bytes))?;
        if columns.last().is_some_and(|last| last.field >= column.field) {
            return Err(DecodeError::Invalid("field ids do not ascend"));
        }
        columns.push(column);
    }
    column::every_row(&columns, rows)?;
    Ok(columns)
}
