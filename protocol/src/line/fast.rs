//! Plain lines, read in one pass.
//!
//! Invariant: a line is read here only if [`super::strict`] would read the same point from it;
//! otherwise nothing is changed but the guess which series comes next. Plain means: no leading or
//! double blanks, no two backslashes in a row in the key, no backslashes or quotes in field names, a
//! newline or the end right after the last value. A series that was seen before costs one comparison
//! of its key, if series come in the order in which they came first, and else a search before it.

use super::{Parser, number, plain::PlainCell, strict};
use crate::{
    batch::{ColumnRef, MeasurementBuilder, SeriesRef},
    find::find,
    point::{check_key_len, key},
};

impl<'t> Parser<'_, 't> {
    /// Adds the line at `start` and returns where it ends, if it is plain.
    pub(super) fn fast(&mut self, start: usize) -> Option<usize> {
        let line = &self.text[start..];
        if matches!(line.first()?, b' ' | b'\t' | 0 | b'#' | b',' | b'\n') {
            return None;
        }
        let (key_len, measurement, series) = match self.next_series(line) {
            Some((len, measurement, series)) => (len, Some(measurement), Some(series)),
            None => {
                let key = &line[..key_end(line)?];
                let measurement = self.find_measurement(key);
                let series = measurement
                    .and_then(|at| self.batch.measurement_mut(at).series_by_spelling(key));
                (key.len(), measurement, series)
            }
        };
        let key = &line[..key_len];
        let escaped = series.is_none() && key.contains(&b'\\');
        // The rules for the end of a line and for the end of a name agree only without these.
        if escaped && key.windows(2).any(|two| two == b"\\\\") {
            return None;
        }
        self.plain.clear();
        let end = self.fields(line, key_len + 1, measurement)?;
        let longest = self.plain.iter().map(|cell| cell.name.len()).max()?;
        check_key_len(key_len, longest).ok()?;
        let (end, time) = self.rest(line, end)?;
        let (measurement, series) = match (measurement, series) {
            (Some(measurement), Some(series)) => (measurement, series),
            _ => {
                let usual = if escaped { None } else { measurement };
                self.new_series(usual, &line[..=key_len])?
            }
        };
        self.measurement = Some(measurement);
        self.commit_plain(measurement, series, time);
        Some(start + end)
    }

    /// Key length, measurement and series of a line, if it has the series that comes next.
    fn next_series(&mut self, line: &[u8]) -> Option<(usize, usize, SeriesRef)> {
        let measurement = self.measurement?;
        let (series, len) = self.batch.measurement_mut(measurement).next_series(line)?;
        Some((len, measurement, series))
    }

    /// The measurement of a key, if the batch has it.
    fn find_measurement(&self, key: &[u8]) -> Option<usize> {
        if let Some(last) = self.measurement {
            let name = self.batch.measurements()[last].escaped_name();
            // The name does not end with a backslash, so what follows it is not escaped.
            if key.starts_with(name) && matches!(key.get(name.len()), None | Some(b',')) {
                return Some(last);
            }
        }
        self.batch.find_measurement(key::measurement_of(key))
    }

    /// Takes in a spelling of a key that is new; `text` is the key and the space after it. It is of
    /// the measurement that is given, and has no backslash then.
    #[cold]
    fn new_series(
        &mut self,
        measurement: Option<usize>,
        text: &[u8],
    ) -> Option<(usize, SeriesRef)> {
        if let Some(at) = measurement {
            let key = &text[..text.len() - 1];
            if let Some(series) = self.batch.measurement_mut(at).series_by_spelled_tags(key) {
                return Some((at, series));
            }
        }
        let (canonical, end) = strict::series_key(text, 0).ok()?;
        if end + 1 != text.len() {
            return None;
        }
        let (measurement, series) = self.add_series(&canonical, &text[..end]);
        self.batch.measurement_mut(measurement).learn_spelling(&text[..end]);
        Some((measurement, series))
    }

    /// The series with a canonical key, which a line may have spelled otherwise.
    pub(super) fn add_series(&mut self, canonical: &[u8], spelling: &[u8]) -> (usize, SeriesRef) {
        let name = key::measurement_of(canonical);
        let measurement = self.batch.measurement_by_escaped(name);
        let series = measurement.series_by_key(canonical);
        if canonical != spelling {
            measurement.add_spelling(spelling, series);
        }
        // It has just been found or added.
        (self.batch.find_measurement(name).unwrap_or_default(), series)
    }

    /// Reads the fields at `at` into `self.plain`; returns where they end.
    fn fields(
        &mut self,
        line: &'t [u8],
        mut at: usize,
        measurement: Option<usize>,
    ) -> Option<usize> {
        let measurement = measurement.map(|at| &self.batch.measurements()[at]);
        let mut next = 0;
        loop {
            let (name, column) = match expected(measurement, next, &line[at..]) {
                Some(name) => (name, Some(ColumnRef(next))),
                None => (plain_name(&line[at..])?, None),
            };
            next += 1;
            at += name.len() + 1;
            let (cell, len) = PlainCell::read(name, column, &line[at..])?;
            at += len;
            self.plain.push(cell);
            match line.get(at) {
                Some(b',') => at += 1,
                None | Some(b' ' | b'\n') => return Some(at),
                Some(_) => return None,
            }
        }
    }

    /// Reads the time at `at`, if there is one; returns where the line ends.
    fn rest(&self, line: &[u8], at: usize) -> Option<(usize, i64)> {
        if line.get(at) != Some(&b' ') {
            return Some((at, self.time_of_default()?));
        }
        let negative = line.get(at + 1) == Some(&b'-');
        let (number, end) = number::whole(line, at + 1 + usize::from(negative))?;
        if !matches!(line.get(end), None | Some(b'\n')) {
            return None;
        }
        Some((end, self.time(if negative { -number } else { number })?))
    }
}

/// The name of the column that lines of this measurement usually have next, if it is there.
#[inline]
fn expected<'t>(
    measurement: Option<&MeasurementBuilder>,
    next: u32,
    text: &'t [u8],
) -> Option<&'t [u8]> {
    let name = measurement?.columns().get(next as usize)?.plain_name()?;
    (text.get(name.len()) == Some(&b'=') && text.starts_with(name)).then(|| &text[..name.len()])
}

/// A field name without anything special, up to its equals sign.
fn plain_name(text: &[u8]) -> Option<&[u8]> {
    let special = |byte: &u8| matches!(byte, b'=' | b',' | b' ' | b'"' | b'\\' | b'\n' | b'\t' | 0);
    let len = text.iter().position(special)?;
    (len > 0 && text[len] == b'=').then(|| &text[..len])
}

/// Where the key at the beginning of a line ends: the first space that no backslash precedes.
fn key_end(line: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += find(&line[at..], b' ', b'\n')?;
        if line[at] == b'\n' {
            return None;
        }
        if at > 0 && line[at - 1] != b'\\' {
            return Some(at);
        }
        at += 1;
    }
}
