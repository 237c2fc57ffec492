//! Line protocol, the text front door: `key fields [time]` per line, into a [`Batch`].
//!
//! Invariant: what a text means, and which lines are refused, is what the reference implementation
//! says (see `SPEC.md`); a refused line leaves nothing in the batch and costs its neighbours nothing.
//! `strict` is that meaning; `fast` reads the lines that are plain, which is nearly all of them,
//! and leaves every other line to `strict`. Clients parse; nodes never see text.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    batch::{Batch, ColumnRef, MeasurementBuilder, SeriesRef},
    point::{MAX_TIME, MIN_TIME, Value},
    schema::FieldType,
};

mod fast;
mod number;
mod plain;
mod strict;

/// The unit of the times in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// `n` or `ns`.
    #[default]
    Nanoseconds,
    /// `u` or `us`.
    Microseconds,
    /// `ms`.
    Milliseconds,
    /// `s`.
    Seconds,
    /// `m`.
    Minutes,
    /// `h`.
    Hours,
}

impl Precision {
    /// Nanoseconds per unit.
    #[must_use]
    pub const fn nanoseconds(self) -> i64 {
        match self {
            Self::Nanoseconds => 1,
            Self::Microseconds => 1_000,
            Self::Milliseconds => 1_000_000,
            Self::Seconds => 1_000_000_000,
            Self::Minutes => 60_000_000_000,
            Self::Hours => 3_600_000_000_000,
        }
    }
}

/// A name that is no precision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision {0:?}; use ns, n, us, u, ms, s, m or h")]
pub struct UnknownPrecision(String);

impl std::str::FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "n" | "ns" => Self::Nanoseconds,
            "u" | "us" => Self::Microseconds,
            "ms" => Self::Milliseconds,
            "s" => Self::Seconds,
            "m" => Self::Minutes,
            "h" => Self::Hours,
            _ => return Err(UnknownPrecision(name.to_owned())),
        })
    }
}

/// How to read a text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The unit of times in the text.
    pub precision: Precision,
    /// The time of lines without one, nanoseconds since the Unix epoch; truncated to `precision`.
    pub default_time: i64,
}

/// What became of a text.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Lines that were neither blank nor comments.
    pub lines: usize,
    /// Points added to the batch.
    pub points: usize,
    /// The other lines.
    pub errors: Vec<LineError>,
}

/// A line that was refused; nothing of it is in the batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} column {column}: {reason}")]
pub struct LineError {
    /// From 1; a newline inside a string counts.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// Where the raw line stands in the text, without its newline.
    pub range: Range<usize>,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The line begins with a comma.
    #[error("missing measurement")]
    MissingMeasurement,
    /// The line ends before its fields.
    #[error("missing fields")]
    MissingFields,
    /// Nothing before an equals sign, or nothing after a comma.
    #[error("missing tag key")]
    MissingTagKey,
    /// Nothing after an equals sign, or no equals sign.
    #[error("missing tag value")]
    MissingTagValue,
    /// An equals sign in a tag value needs a backslash.
    #[error("invalid tag format; escape an equals sign in a tag value")]
    InvalidTagFormat,
    /// The same tag twice.
    #[error("duplicate tags")]
    DuplicateTags,
    /// A newline in the measurement or in a tag.
    #[error("newline in the series key")]
    NewlineInKey,
    /// Series key and field name are too long.
    #[error("series key and field name are longer than 65535 bytes")]
    KeyTooLong,
    /// Nothing before an equals sign.
    #[error("missing field key")]
    MissingFieldKey,
    /// Nothing after an equals sign.
    #[error("missing field value")]
    MissingFieldValue,
    /// Something that is not `name=value,name=value`.
    #[error("invalid field format")]
    InvalidFieldFormat,
    /// A field without a value behind odd quotes or backslashes.
    #[error("invalid field value")]
    InvalidFieldValue,
    /// Not a number.
    #[error("invalid number")]
    InvalidNumber,
    /// An integer that does not fit 64 bits.
    #[error("integer out of range")]
    IntegerOutOfRange,
    /// A float that is malformed or not finite.
    #[error("invalid float")]
    InvalidFloat,
    /// Not a number, a quoted string, or one of t, T, true, True, TRUE, f, F, false, False, FALSE.
    #[error("invalid boolean")]
    InvalidBoolean,
    /// A string without its end.
    #[error("unbalanced quotes")]
    UnbalancedQuotes,
    /// A string value beyond [`crate::point::MAX_STRING_LEN`].
    #[error("string longer than 1 MiB")]
    StringTooLong,
    /// Not an integer.
    #[error("bad timestamp")]
    BadTimestamp,
    /// A time outside [`MIN_TIME`]..=[`MAX_TIME`].
    #[error("time out of range")]
    TimeOutOfRange,
    /// Something after the time.
    #[error("characters after the timestamp")]
    TrailingCharacters,
}

/// A field of a line.
struct Cell<'t> {
    /// Unescaped.
    name: std::borrow::Cow<'t, [u8]>,
    /// Where the name was expected and found.
    column: Option<ColumnRef>,
    value: Value,
}

/// Adds the points of a text to a batch.
pub fn parse_into(batch: &mut Batch, text: &[u8], options: Options) -> Outcome {
    Parser::new(batch, text, options).run(true)
}

struct Parser<'b, 't> {
    batch: &'b mut Batch,
    text: &'t [u8],
    options: Options,
    /// The time of lines without one.
    default_time: i64,
    /// The measurement of the line before.
    measurement: Option<usize>,
    /// The fields of the line that is being read.
    cells: Vec<Cell<'t>>,
    plain: Vec<plain::PlainCell<'t>>,
}

impl<'b, 't> Parser<'b, 't> {
    fn new(batch: &'b mut Batch, text: &'t [u8], options: Options) -> Self {
        let unit = options.precision.nanoseconds();
        let default_time = options.default_time.div_euclid(unit).saturating_mul(unit);
        Self {
            batch,
            text,
            options,
            default_time,
            measurement: None,
            cells: Vec::new(),
            plain: Vec::new(),
        }
    }

    fn run(mut self, fast: bool) -> Outcome {
        let mut outcome = Outcome::default();
        let mut at = 0;
        // Line numbers are counted only up to errors.
        let (mut counted, mut line) = (0, 1);
        while at < self.text.len() {
            if fast && let Some(end) = self.fast(at) {
                outcome.lines += 1;
                outcome.points += 1;
                at = end + 1;
                continue;
            }
            let end = strict::line_end(self.text, at);
            match self.strict(at..end) {
                Ok(None) => {}
                Ok(Some(())) => {
                    outcome.lines += 1;
                    outcome.points += 1;
                }
                Err(strict::Failure { reason, at: position }) => {
                    outcome.lines += 1;
                    line += newlines(&self.text[counted..at]);
                    counted = at;
                    let column = position.saturating_sub(at) + 1;
                    outcome.errors.push(LineError { line, column, range: at..end, reason });
                }
            }
            at = end + 1;
        }
        self.batch.complete_hashes();
        outcome
    }

    /// Adds the row of `self.cells`; of fields with the same name the last one counts.
    fn commit(&mut self, measurement: usize, series: SeriesRef, time: i64) {
        let measurement = self.batch.measurement_mut(measurement);
        for cell in &mut self.cells {
            cell.column = Some(column_of(measurement, cell));
        }
        if measurement.has_mixed_fields() {
            // The same name with another type has another column, where it would survive.
            let mut last = BTreeMap::new();
            for (at, cell) in self.cells.iter().enumerate() {
                last.insert(cell.name.clone(), at);
            }
            let mut at = 0;
            self.cells.retain(|cell| {
                at += 1;
                last.get(&cell.name) == Some(&(at - 1))
            });
        }
        let row = measurement.add_row(series, time);
        for cell in self.cells.drain(..) {
            let set = cell.column.map(|column| measurement.set(row, column, cell.value));
            // The column was chosen for the value, and the value checked by its parser.
            debug_assert!(matches!(set, Some(Ok(()))));
        }
    }

    fn time(&self, units: i64) -> Option<i64> {
        let time = units.checked_mul(self.options.precision.nanoseconds())?;
        (MIN_TIME..=MAX_TIME).contains(&time).then_some(time)
    }
}

fn column_of(measurement: &mut MeasurementBuilder, cell: &Cell<'_>) -> ColumnRef {
    let kind: FieldType = cell.value.field_type();
    let guess = cell.column.filter(|guess| measurement.columns()[guess.0 as usize].kind() == kind);
    guess
        .or_else(|| measurement.find_column(&cell.name, kind))
        .unwrap_or_else(|| measurement.add_column(&cell.name, kind))
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests;
