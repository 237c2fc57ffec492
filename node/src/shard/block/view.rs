//! Blocks to rows, as much of them as is wanted.
//!
//! Invariant: a [`View`] has a valid checksum, a valid head and sections that fill the block
//! exactly; each section is checked when it is decoded. Nothing is allocated for what was not asked
//! for.

use bytes::Bytes;
use quorate_protocol::{
    batch::{
        Column, Presence,
        codec::{Reader, packed},
    },
    id::{FieldId, Version},
    point::{MAX_KEY_LEN, MAX_TIME, MIN_TIME},
    schema::FieldType,
};

use super::{
    BlockError, MAX_CELLS, MAX_ROWS, RowGroup, Span, VersionTable, clock, columns, encode::range,
    statistics::Statistics, versions,
};

/// What the head of a block says of a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ColumnHead {
    /// The field.
    pub(crate) field: FieldId,
    /// Its name, unescaped.
    pub(crate) name: Bytes,
    /// Its type.
    pub(crate) kind: FieldType,
    /// Of its values; only in blocks of one series that have every time once.
    pub(crate) statistics: Option<Statistics>,
}

/// A block whose checksum and head were checked.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    rows: usize,
    range: (i64, i64),
    spans: Vec<Span>,
    shared_versions: bool,
    heads: Vec<ColumnHead>,
    times: &'a [u8],
    versions: &'a [u8],
    columns: Vec<&'a [u8]>,
}

impl<'a> View<'a> {
    /// Checks the checksum and reads the head.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, BlockError> {
        let mut reader = versions::open(bytes)?;
        let rows = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        if rows == 0 {
            return Err(BlockError::Invalid("a block has no rows"));
        }
        if rows > MAX_ROWS {
            return Err(BlockError::TooLarge("too many rows"));
        }
        let range = read_range(&mut reader)?;
        let spans = read_spans(&mut reader, rows)?;
        let shared_versions = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(BlockError::Invalid("a kind of versions is unknown")),
        };
        let (times, versions) = (reader.varint()?, reader.varint()?);
        // The least that a column takes: id, type, name, statistics, length.
        let count = reader.count(9)?;
        if count == 0 {
            return Err(BlockError::Invalid("a block has no columns"));
        }
        if count.saturating_mul(rows) > MAX_CELLS {
            return Err(BlockError::TooLarge("too many cells"));
        }
        let solo = (spans.len() == 1).then_some(range);
        let mut heads: Vec<ColumnHead> = Vec::with_capacity(count);
        let mut lengths = Vec::with_capacity(count);
        for _ in 0..count {
            let head = read_head(&mut reader, rows, solo)?;
            let key = |head: &ColumnHead| (head.field, head.kind);
            if heads.last().is_some_and(|last| key(last) >= key(&head)) {
                return Err(BlockError::Invalid("columns do not ascend"));
            }
            heads.push(head);
            lengths.push(reader.varint()?);
        }
        let mut section = |len: u64| {
            let len = usize::try_from(len).map_err(|_| BlockError::Truncated)?;
            Ok::<_, BlockError>(reader.take(len)?)
        };
        let (times, versions) = (section(times)?, section(versions)?);
        let columns = lengths.into_iter().map(section).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { rows, range, spans, shared_versions, heads, times, versions, columns })
    }

    /// The series and their rows, ascending.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The number of rows, at least 1.
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// The earliest and the latest time of any row.
    pub(crate) const fn time_range(&self) -> (i64, i64) {
        self.range
    }

    /// Whether it needs nothing but itself: it has its versions in a table of its own.
    pub(crate) const fn is_self_contained(&self) -> bool {
        !self.shared_versions
    }

    /// The columns, in ascending order of (field, type).
    pub(crate) fn heads(&self) -> &[ColumnHead] {
        &self.heads
    }

    /// The time of each row.
    pub(crate) fn times(&self) -> Result<Vec<i64>, BlockError> {
        let out = clock::decode(self.times, &self.spans, self.rows)?;
        if range(&out) != self.range {
            return Err(BlockError::Invalid("times are not in the range that the head says"));
        }
        Ok(out)
    }

    /// The version of each row; `table` is that of the block's run, if it has one.
    pub(crate) fn versions(
        &self,
        table: Option<&VersionTable>,
    ) -> Result<Vec<Version>, BlockError> {
        let shared = match (self.shared_versions, table) {
            (false, _) => None,
            (true, Some(table)) => Some(table.versions()),
            (true, None) => return Err(BlockError::NoVersionTable),
        };
        versions::decode_rows(self.versions, self.rows, shared)
    }

    /// The column at a place of [`Self::heads`].
    pub(crate) fn column(&self, at: usize) -> Result<Column, BlockError> {
        let (Some(head), Some(section)) = (self.heads.get(at), self.columns.get(at)) else {
            return Err(BlockError::Invalid("a column is not there"));
        };
        let column = columns::decode(section, head, self.rows)?;
        let count = column.present.count() as u64;
        if head.statistics.as_ref().is_some_and(|statistics| statistics.count != count) {
            return Err(BlockError::Invalid("statistics count other values"));
        }
        Ok(column)
    }

    /// The rows with the columns that are wanted; the rows are all there, those without any wanted
    /// value too.
    pub(crate) fn decode(
        &self,
        table: Option<&VersionTable>,
        wanted: &dyn Fn(&ColumnHead) -> bool,
    ) -> Result<RowGroup, BlockError> {
        let times = self.times()?;
        let versions = self.versions(table)?;
        let ascends = |at: &usize| (times[at - 1], versions[at - 1]) < (times[*at], versions[*at]);
        for span in &self.spans {
            if !(span.range().start + 1..span.range().end).all(|at| ascends(&at)) {
                return Err(BlockError::Invalid("rows do not ascend by time and version"));
            }
        }
        let wanted = (0..self.heads.len()).filter(|at| wanted(&self.heads[*at]));
        let columns: Vec<Column> = wanted.map(|at| self.column(at)).collect::<Result<_, _>>()?;
        if columns.len() == self.heads.len() && !every_row(&columns, self.rows) {
            return Err(BlockError::Invalid("a row has no values"));
        }
        Ok(RowGroup { spans: self.spans.clone(), times, versions, columns })
    }
}

fn every_row(columns: &[Column], rows: usize) -> bool {
    if columns.iter().any(|column| column.present.is_all()) {
        return true;
    }
    let mut has = Presence::none(rows);
    columns.iter().for_each(|column| has.union(&column.present));
    has.is_all()
}

fn read_range(reader: &mut Reader<'_>) -> Result<(i64, i64), BlockError> {
    let first = i64::from_le_bytes(reader.array()?);
    let last = first.checked_add_unsigned(reader.varint()?);
    match last {
        Some(last) if first >= MIN_TIME && last <= MAX_TIME => Ok((first, last)),
        _ => Err(BlockError::Invalid("a time is out of range")),
    }
}

fn read_spans(reader: &mut Reader<'_>, rows: usize) -> Result<Vec<Span>, BlockError> {
    let count = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
    if count == 0 || count > rows {
        return Err(BlockError::Invalid("impossible series count"));
    }
    let series = packed::decode(reader, count)?;
    let counts = packed::decode(reader, count)?;
    let mut spans: Vec<Span> = Vec::with_capacity(count);
    let (mut end, mut last) = (0, 0);
    for (series, count) in series.into_iter().zip(counts) {
        let series = series.cast_unsigned();
        if series <= last {
            return Err(BlockError::Invalid("series do not ascend"));
        }
        last = series;
        let left = rows as u64 - u64::from(end);
        let count = u64::try_from(count).ok().filter(|count| (1..=left).contains(count));
        let count = count.ok_or(BlockError::Invalid("impossible row count of a series"))?;
        // Not more than all rows, which are at most `MAX_ROWS`.
        let start = end;
        end += count as u32;
        spans.push(Span { series, rows: start..end });
    }
    if end as usize == rows {
        Ok(spans)
    } else {
        Err(BlockError::Invalid("rows belong to no series"))
    }
}

fn read_head(
    reader: &mut Reader<'_>,
    rows: usize,
    solo: Option<(i64, i64)>,
) -> Result<ColumnHead, BlockError> {
    let field = FieldId(reader.u32()?);
    let kind = FieldType::from_u8(reader.u8()?);
    let kind = kind.ok_or(BlockError::Invalid("a field type is unknown"))?;
    let name = reader.bytes()?;
    if name.is_empty() || name.len() > MAX_KEY_LEN {
        return Err(BlockError::Invalid("a field's name is empty or too long"));
    }
    let name = Bytes::copy_from_slice(name);
    let statistics = match (reader.u8()?, solo) {
        (0, _) => None,
        (1, Some(range)) => Some(Statistics::decode(reader, kind, rows, range)?),
        _ => return Err(BlockError::Invalid("statistics are not expected")),
    };
    Ok(ColumnHead { field, name, kind, statistics })
}
