//! Row groups to blocks.
//!
//! Invariant: the block of a valid group is valid, whatever the group holds; a group is valid if it
//! keeps the rules of [`RowGroup`], has a row, a value in every row, and stays within the limits.

use quorate_protocol::batch::codec::{packed, put_bytes, put_varint};

use super::{
    Density, FORMAT, RowGroup, VersionTable, clock, columns, statistics::Statistics, versions,
};

/// Buffers that are reused from block to block.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(super) integers: Vec<i64>,
    pub(super) floats: Vec<f64>,
    sections: Vec<u8>,
}

/// Appends a self-contained checksummed block. Columns without values are left out. If a version is
/// not in `table`, or there is none, the block gets a table of its own.
pub(crate) fn encode(
    group: &RowGroup,
    table: Option<&VersionTable>,
    density: Density,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(FORMAT);
    let (first, last) = range(&group.times);
    put_varint(out, group.times.len() as u64);
    out.extend_from_slice(&first.to_le_bytes());
    put_varint(out, last.wrapping_sub(first).cast_unsigned());
    put_spans(out, group, &mut scratch.integers);

    let mut sections = std::mem::take(&mut scratch.sections);
    sections.clear();
    clock::encode(&mut sections, &group.times, &group.spans, density, &mut scratch.integers);
    let times_len = sections.len();
    let shared = versions::encode_rows(&mut sections, &group.versions, table, density, scratch);
    out.push(u8::from(shared));
    put_varint(out, times_len as u64);
    put_varint(out, (sections.len() - times_len) as u64);

    let solo = group.spans.len() == 1 && group.times.is_sorted_by(|a, b| a < b);
    let columns = || group.columns.iter().filter(|column| column.present.any());
    put_varint(out, columns().count() as u64);
    for column in columns() {
        out.extend_from_slice(&column.field.0.to_le_bytes());
        out.push(column.kind() as u8);
        put_bytes(out, &column.name);
        let statistics = if solo { Statistics::of(column, &group.times) } else { None };
        out.push(u8::from(statistics.is_some()));
        if let Some(statistics) = statistics {
            statistics.encode(out, (first, last));
        }
        let from = sections.len();
        columns::encode(&mut sections, column, density, scratch);
        put_varint(out, (sections.len() - from) as u64);
    }
    out.extend_from_slice(&sections);
    scratch.sections = sections;
    let checksum = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// The earliest and the latest time.
pub(super) fn range(times: &[i64]) -> (i64, i64) {
    let fold = |(least, most): (i64, i64), time: &i64| (least.min(*time), most.max(*time));
    times.iter().fold((i64::MAX, i64::MIN), fold)
}

fn put_spans(out: &mut Vec<u8>, group: &RowGroup, numbers: &mut Vec<i64>) {
    put_varint(out, group.spans.len() as u64);
    numbers.clear();
    numbers.extend(group.spans.iter().map(|span| span.series.cast_signed()));
    packed::encode(out, numbers);
    numbers.clear();
    numbers.extend(group.spans.iter().map(|span| span.rows.len() as i64));
    packed::encode(out, numbers);
}
