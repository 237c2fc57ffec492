//! What a line means, exactly.
//!
//! Invariant: the same lines are points, with the same keys, names, values and times, as in the
//! reference implementation, quirks included: where a line ends, where a name ends and what a
//! backslash escapes are three different rules there, and they are kept apart here. Deliberately
//! refused, where the reference stores something else than was written or nothing at all: empty
//! field names, and newlines in keys. Accepted in addition: the `u` suffix.

use std::{borrow::Cow, ops::Range};

use super::{Cell, Parser, Reason, number};
use crate::point::{MAX_STRING_LEN, Value, check_key_len, key};

/// What is wrong, and where in the text.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) at: usize,
}

fn fail<T>(reason: Reason, at: usize) -> Result<T, Failure> {
    Err(Failure { reason, at })
}

/// Where the line at `at` ends: a newline outside of quotes, or the end of the text. Quotes count
/// after the first space, in values only.
pub(super) fn line_end(text: &[u8], mut at: usize) -> usize {
    let (mut quoted, mut fields, mut equals, mut commas) = (false, false, 0, 0);
    while at < text.len() {
        match text[at] {
            b'\\' if at + 2 < text.len() => {
                at += 2;
                continue;
            }
            b' ' => fields = true,
            b'=' if fields && !quoted => equals += 1,
            b',' if fields && !quoted => commas += 1,
            b'"' if fields && equals > commas => quoted = !quoted,
            b'\n' if !quoted => break,
            _ => {}
        }
        at += 1;
    }
    at.min(text.len())
}

impl<'t> Parser<'_, 't> {
    /// Adds the line in this range of the text; `None` if it is blank or a comment.
    pub(super) fn strict(&mut self, range: Range<usize>) -> Result<Option<()>, Failure> {
        let Range { start, mut end } = range;
        // An unclosed quote at the end of the text takes the newline with it.
        if end > start && self.text[end - 1] == b'\n' {
            end -= 1;
        }
        let line = &self.text[..end];
        let start = skip_blanks(line, start);
        if start >= end || line[start] == b'#' {
            return Ok(None);
        }
        let (key, key_end) = series_key(line, start)?;
        if let Err(_too_long) = check_key_len(key.len(), 0) {
            return fail(Reason::KeyTooLong, start);
        }
        let fields = scan_fields(line, key_end)?;
        self.cells.clear();
        self.walk(line, fields.clone(), key.len())?;
        let time = self.scan_time(line, fields.end)?;
        let (measurement, series) = self.add_series(&key, &line[start..key_end]);
        self.measurement = Some(measurement);
        self.commit(measurement, series, time);
        Ok(Some(()))
    }

    pub(super) fn time_of_default(&self) -> Option<i64> {
        crate::point::check_time(self.default_time).ok().map(|()| self.default_time)
    }

    /// The optional time after the fields, and nothing behind it.
    fn scan_time(&self, line: &[u8], at: usize) -> Result<i64, Failure> {
        let start = skip_blanks(line, at);
        let mut end = start;
        while end < line.len() && !matches!(line[end], b' ' | b'\n') {
            if !(line[end].is_ascii_digit() || end == start && line[end] == b'-') {
                return fail(Reason::BadTimestamp, end);
            }
            end += 1;
        }
        if end == start {
            return self.time_of_default().map_or(fail(Reason::TimeOutOfRange, start), Ok);
        }
        // Digits and a sign: only "-" is no number, and only the range can be wrong.
        let digits = std::str::from_utf8(&line[start..end]).unwrap_or_default();
        if digits == "-" {
            return fail(Reason::BadTimestamp, start);
        }
        let time = digits.parse().ok().and_then(|units| self.time(units));
        let Some(time) = time else {
            return fail(Reason::TimeOutOfRange, start);
        };
        match line[end..].iter().position(|byte| *byte != b' ') {
            None => Ok(time),
            Some(after) => fail(Reason::TrailingCharacters, end + after),
        }
    }

    /// Takes the fields in a range apart into `self.cells`.
    fn walk(&mut self, line: &'t [u8], range: Range<usize>, key_len: usize) -> Result<(), Failure> {
        let mut at = range.start;
        let end = range.end;
        while at < end {
            let name_end = bare(&line[..end], at, at, b'=');
            // The reference wants one byte of value at least.
            if name_end + 1 >= end {
                return fail(Reason::InvalidFieldValue, at);
            }
            let name = &line[at..name_end];
            if name.is_empty() {
                return fail(Reason::MissingFieldKey, at);
            }
            let value_end = value_end(&line[..end], name_end + 1);
            if check_key_len(key_len, name.len()).is_err() {
                return fail(Reason::KeyTooLong, at);
            }
            let value = value(&line[name_end + 1..value_end])
                .map_err(|reason| Failure { reason, at: name_end + 1 })?;
            let name = if name.contains(&b'\\') {
                Cow::Owned(key::unescape_field(name))
            } else {
                Cow::Borrowed(name)
            };
            self.cells.push(Cell { name, column: None, value });
            at = value_end + 1;
        }
        if self.cells.is_empty() { fail(Reason::MissingFields, end) } else { Ok(()) }
    }
}

fn skip_blanks(line: &[u8], mut at: usize) -> usize {
    while at < line.len() && matches!(line[at], b' ' | b'\t' | 0) {
        at += 1;
    }
    at
}

/// Where `stop` stands first from `at` on, not counting bytes right behind a backslash unless they
/// are the first of the section that begins at `start`; or the end.
fn bare(line: &[u8], start: usize, mut at: usize, stop: u8) -> usize {
    while at < line.len() && !(line[at] == stop && (at == start || line[at - 1] != b'\\')) {
        at += 1;
    }
    at
}

/// The canonical key of the line whose first byte is at `start`, and where its spelling ends.
pub(super) fn series_key(line: &[u8], start: usize) -> Result<(Cow<'_, [u8]>, usize), Failure> {
    if line.get(start).is_none_or(|byte| *byte == b',') {
        return fail(Reason::MissingMeasurement, start);
    }
    let mut at = start + 1;
    while at < line.len() && (line[at - 1] == b'\\' || !matches!(line[at], b',' | b' ')) {
        at += 1;
    }
    if at >= line.len() {
        return fail(Reason::MissingFields, at);
    }
    let name_end = at;
    let mut tags = Vec::new();
    while line[at] == b',' {
        let tag = scan_tag(line, at + 1)?;
        at = tag.end;
        tags.push(tag);
    }
    if let Some(newline) = bare_newline(&line[start..at]) {
        return fail(Reason::NewlineInKey, start + newline);
    }
    let name = |tag: &Tag| &line[tag.start..tag.equals];
    let duplicate = |tags: &[Tag]| {
        let two = tags.windows(2).find(|two| name(&two[0]) == name(&two[1]))?;
        Some(two[1].start)
    };
    if tags.is_sorted_by(|a, b| name(a) <= name(b)) {
        return match duplicate(&tags) {
            Some(tag) => fail(Reason::DuplicateTags, tag),
            None => Ok((Cow::Borrowed(&line[start..at]), at)),
        };
    }
    tags.sort_by(|a, b| name(a).cmp(name(b)));
    if let Some(tag) = duplicate(&tags) {
        return fail(Reason::DuplicateTags, tag);
    }
    let mut key = line[start..name_end].to_vec();
    for tag in &tags {
        key.push(b',');
        key.extend_from_slice(&line[tag.start..tag.end]);
    }
    Ok((Cow::Owned(key), at))
}

fn bare_newline(key: &[u8]) -> Option<usize> {
    (0..key.len()).find(|at| key[*at] == b'\n' && (*at == 0 || key[at - 1] != b'\\'))
}

struct Tag {
    start: usize,
    equals: usize,
    end: usize,
}

/// A tag at `start`; it ends at a comma or a space.
fn scan_tag(line: &[u8], start: usize) -> Result<Tag, Failure> {
    if line.get(start).is_none_or(|byte| matches!(byte, b' ' | b',' | b'=')) {
        return fail(Reason::MissingTagKey, start);
    }
    let special = |at: usize, byte: u8| line[at] == byte && line[at - 1] != b'\\';
    let mut equals = start + 1;
    loop {
        if equals >= line.len() || special(equals, b' ') || special(equals, b',') {
            return fail(Reason::MissingTagValue, equals);
        }
        if special(equals, b'=') {
            break;
        }
        equals += 1;
    }
    let mut end = equals + 1;
    if line.get(end).is_none_or(|byte| matches!(byte, b' ' | b',')) {
        return fail(Reason::MissingTagValue, end);
    }
    loop {
        end += 1;
        if end >= line.len() {
            return fail(Reason::MissingFields, end);
        }
        if special(end, b'=') {
            return fail(Reason::InvalidTagFormat, end);
        }
        if special(end, b',') || special(end, b' ') {
            return Ok(Tag { start, equals, end });
        }
    }
}

/// Finds the fields behind the key and checks their shape. Here a backslash takes whatever byte
/// follows it along.
fn scan_fields(line: &[u8], key_end: usize) -> Result<Range<usize>, Failure> {
    let start = skip_blanks(line, key_end);
    let (mut at, mut quoted, mut equals, mut commas) = (start, false, 0, 0);
    while at < line.len() {
        match line[at] {
            b'\\' if at + 1 < line.len() => {
                at += 2;
                continue;
            }
            b'"' if equals > commas => quoted = !quoted,
            b'=' if !quoted => {
                equals += 1;
                // The key and a space stand before the fields, so there are two bytes before this.
                if matches!(line[at - 1], b' ' | b',') && line[at - 2] != b'\\' {
                    return fail(Reason::MissingFieldKey, at);
                }
                match line.get(at + 1) {
                    None | Some(b',' | b' ') => return fail(Reason::MissingFieldValue, at + 1),
                    Some(b'"') => {}
                    Some(b'0'..=b'9' | b'.' | b'-' | b'N' | b'n') => {
                        let end = token_end(line, at + 1);
                        numeric(&line[at + 1..end])
                            .map_err(|reason| Failure { reason, at: at + 1 })?;
                        at = end;
                        continue;
                    }
                    Some(_) => {
                        let end = token_end(line, at + 1);
                        if boolean(&line[at + 1..end]).is_none() {
                            return fail(Reason::InvalidBoolean, at + 1);
                        }
                        at = end;
                        continue;
                    }
                }
            }
            b',' if !quoted => commas += 1,
            b' ' if !quoted => break,
            _ => {}
        }
        at += 1;
    }
    if quoted {
        return fail(Reason::UnbalancedQuotes, at.min(line.len()));
    }
    if equals == 0 || commas != equals - 1 {
        return fail(Reason::InvalidFieldFormat, at.min(line.len()));
    }
    Ok(start..at.min(line.len()))
}

fn token_end(line: &[u8], at: usize) -> usize {
    line[at..]
        .iter()
        .position(|byte| matches!(byte, b',' | b' '))
        .map_or(line.len(), |len| at + len)
}

/// Where the value at `at` ends: a comma outside of quotes, where only quotes and backslashes can
/// be escaped.
fn value_end(line: &[u8], mut at: usize) -> usize {
    let mut quoted = false;
    while at < line.len() {
        match line[at] {
            b'\\' if matches!(line.get(at + 1), Some(b'"' | b'\\')) => at += 1,
            b'"' => quoted = !quoted,
            b',' if !quoted => break,
            _ => {}
        }
        at += 1;
    }
    at
}

/// The value that a text says.
fn value(text: &[u8]) -> Result<Value, Reason> {
    match text.first() {
        None => Err(Reason::MissingFieldValue),
        Some(b'"') => {
            // What stands between the first and the last byte, whatever the last byte is.
            let inner = text.get(1..text.len() - 1).ok_or(Reason::UnbalancedQuotes)?;
            let string = unescape_string(inner);
            if string.len() > MAX_STRING_LEN {
                return Err(Reason::StringTooLong);
            }
            Ok(Value::String(string.into()))
        }
        Some(b'0'..=b'9' | b'-' | b'.' | b'n' | b'N') => numeric(text),
        Some(_) => boolean(text).map(Value::Boolean).ok_or(Reason::InvalidBoolean),
    }
}

fn numeric(text: &[u8]) -> Result<Value, Reason> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let integer = |suffix: u8| {
        let digits = digits.strip_suffix(&[suffix])?;
        let number = text.strip_suffix(&[suffix])?;
        let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        Some(if valid { std::str::from_utf8(number).ok() } else { None })
    };
    if let Some(number) = integer(b'i') {
        let number = number.ok_or(Reason::InvalidNumber)?;
        return number.parse().map(Value::Integer).map_err(|_| Reason::IntegerOutOfRange);
    }
    if let Some(number) = integer(b'u') {
        let number = number.filter(|number| !number.starts_with('-'));
        let number = number.ok_or(Reason::InvalidNumber)?;
        return number.parse().map(Value::Unsigned).map_err(|_| Reason::IntegerOutOfRange);
    }
    let float = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    if !text.iter().all(float) || !digits.iter().any(u8::is_ascii_digit) {
        return Err(Reason::InvalidNumber);
    }
    number::float(text).map(Value::Float).ok_or(Reason::InvalidFloat)
}

/// The ways to say true and false.
pub(super) fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Some(true),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

/// A string value: only `\"` and `\\` are escapes.
pub(super) fn unescape_string(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escape = byte == b'\\';
        out.push(match bytes.next_if(|next| escape && matches!(next, b'"' | b'\\')) {
            Some(escaped) => escaped,
            None => byte,
        });
    }
    out
}
