//! Series keys: the escaped measurement, then `,key=value` per tag, sorted bytewise by escaped key.
//!
//! Invariant: one series has one key, whoever made it (a line, a [`super::PointBuilder`], a decoded
//! batch). In names as they stand in a key ("escaped") a comma, a space and, in tags, an equals
//! sign counts as text if and only if the byte before it is a backslash; every other backslash is
//! text as well. Called by the builder, the parser, the batch codec and queries.

use std::ops::Range;

use super::{MAX_KEY_LEN, Part, PointError};
use crate::find::find;

/// Appends a measurement name, escaped.
pub fn escape_measurement(out: &mut Vec<u8>, name: &[u8]) {
    escape(out, name, |byte| matches!(byte, b',' | b' '));
}

/// Appends a tag's key or value, escaped.
pub fn escape_tag(out: &mut Vec<u8>, name: &[u8]) {
    escape(out, name, |byte| matches!(byte, b',' | b' ' | b'='));
}

fn escape(out: &mut Vec<u8>, name: &[u8], special: impl Fn(u8) -> bool) {
    if !name.iter().any(|byte| special(*byte)) {
        out.extend_from_slice(name);
        return;
    }
    for &byte in name {
        if special(byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

/// The measurement name that people see for an escaped one.
#[must_use]
pub fn unescape_measurement(name: &[u8]) -> Vec<u8> {
    unescape(name, |byte| matches!(byte, b',' | b' '))
}

/// The tag key or value that people see for an escaped one.
#[must_use]
pub fn unescape_tag(name: &[u8]) -> Vec<u8> {
    unescape(name, |byte| matches!(byte, b',' | b' ' | b'='))
}

/// The field name that people see for one as it stands in a line, where quotes may be escaped too.
#[must_use]
pub fn unescape_field(name: &[u8]) -> Vec<u8> {
    unescape(name, |byte| matches!(byte, b',' | b' ' | b'=' | b'"'))
}

fn unescape(name: &[u8], special: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for (at, &byte) in name.iter().enumerate() {
        if byte == b'\\' && name.get(at + 1).is_some_and(|next| special(*next)) {
            continue;
        }
        out.push(byte);
    }
    out
}

/// The canonical key of a series, from unescaped names in any order.
///
/// # Errors
/// Names that are empty or cannot be said in a key, a tag given twice, a key that is too long.
pub fn series_key<K, V>(measurement: &[u8], tags: &[(K, V)]) -> Result<Vec<u8>, PointError>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    check_measurement(measurement)?;
    let mut key = Vec::with_capacity(measurement.len() + 32 * tags.len());
    escape_measurement(&mut key, measurement);
    append_tags(&mut key, tags)?;
    if key.len() > MAX_KEY_LEN {
        return Err(PointError::KeyTooLong { len: key.len() });
    }
    Ok(key)
}

/// Appends the tags of a series to its escaped measurement, sorted.
pub(crate) fn append_tags<K, V>(out: &mut Vec<u8>, tags: &[(K, V)]) -> Result<(), PointError>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let start = out.len();
    // Where each tag is behind `start`, its comma, and how long its key is.
    let mut pairs: Vec<(Range<usize>, usize)> = Vec::with_capacity(tags.len());
    for (key, value) in tags {
        check_tag(key.as_ref(), Part::TagKey)?;
        check_tag(value.as_ref(), Part::TagValue)?;
        let from = out.len();
        out.push(b',');
        escape_tag(out, key.as_ref());
        let len = out.len() - from - 1;
        out.push(b'=');
        escape_tag(out, value.as_ref());
        pairs.push((from - start..out.len() - start, len));
    }
    let given = &out[start..];
    let name = |pair: &(Range<usize>, usize)| &given[pair.0.start + 1..][..pair.1];
    let sorted = pairs.is_sorted_by(|a, b| name(a) < name(b));
    if sorted {
        return Ok(());
    }
    pairs.sort_by(|a, b| name(a).cmp(name(b)));
    for two in pairs.windows(2) {
        if name(&two[0]) == name(&two[1]) {
            return Err(PointError::DuplicateTag(unescape_tag(name(&two[0])).into()));
        }
    }
    let given = out.split_off(start);
    pairs.into_iter().for_each(|(range, _)| out.extend_from_slice(&given[range]));
    Ok(())
}

/// Refuses measurement names (unescaped) that a line cannot say.
pub(crate) fn check_measurement(name: &[u8]) -> Result<(), PointError> {
    if matches!(name.first(), Some(b'#' | b'\t' | 0)) {
        return Err(PointError::Leading(Part::Measurement));
    }
    check_tag(name, Part::Measurement)
}

/// Refuses tag keys and values (unescaped) that a key cannot say.
pub(crate) fn check_tag(name: &[u8], part: Part) -> Result<(), PointError> {
    if name.is_empty() {
        return Err(PointError::Empty(part));
    }
    if name.ends_with(b"\\") {
        return Err(PointError::TrailingBackslash(part));
    }
    if find(name, b'\n', b'\n').is_some() {
        return Err(PointError::Newline(part));
    }
    Ok(())
}

/// Refuses field names (unescaped) that a line cannot say.
pub(crate) fn check_field_name(name: &[u8]) -> Result<(), PointError> {
    check_tag(name, Part::Field)?;
    if matches!(name.first(), Some(b'\t' | 0)) {
        return Err(PointError::Leading(Part::Field));
    }
    let ambiguous = |two: &[u8]| two[0] == b'\\' && matches!(two[1], b',' | b'=' | b' ');
    if name.contains(&b'\\') && name.windows(2).any(ambiguous) {
        return Err(PointError::AmbiguousBackslash(Part::Field));
    }
    Ok(())
}

/// The escaped measurement of a key.
#[must_use]
pub fn measurement_of(key: &[u8]) -> &[u8] {
    &key[..end_of(key, 0, b',')]
}

/// The tags of a key, escaped, in key order.
pub fn tags_of(key: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = measurement_of(key).len();
    std::iter::from_fn(move || {
        if at >= key.len() {
            return None;
        }
        let start = at + 1;
        let equals = end_of(key, start, b'=');
        let value = (equals + 1).min(key.len());
        at = end_of(key, value, b',');
        Some((&key[start.min(equals)..equals], &key[value..at]))
    })
}

/// Measurement and tags of a series, unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesName {
    /// The measurement.
    pub measurement: Vec<u8>,
    /// The tags, in key order.
    pub tags: Vec<(Vec<u8>, Vec<u8>)>,
}

impl SeriesName {
    /// Takes a canonical key apart.
    #[must_use]
    pub fn parse(key: &[u8]) -> Self {
        Self {
            measurement: unescape_measurement(measurement_of(key)),
            tags: tags_of(key).map(|(k, v)| (unescape_tag(k), unescape_tag(v))).collect(),
        }
    }

    /// The value of a tag.
    #[must_use]
    pub fn tag(&self, key: &[u8]) -> Option<&[u8]> {
        self.tags.iter().find(|(k, _)| k == key).map(|(_, v)| &v[..])
    }
}

/// Where the first `stop` stands that no backslash precedes, not counting the byte at `from`
/// itself (the first byte of a name is always text), or the end.
fn end_of(key: &[u8], from: usize, stop: u8) -> usize {
    let mut at = from + 1;
    while at < key.len() {
        if key[at] == stop && key[at - 1] != b'\\' {
            return at;
        }
        at += 1;
    }
    key.len()
}

/// Whether this is a measurement as it may stand in a key.
pub(crate) fn is_escaped_measurement(name: &[u8]) -> bool {
    !matches!(name.first(), None | Some(b',' | b' ')) && no_bare(name, |b| matches!(b, b',' | b' '))
}

/// Whether this is a tag key as it may stand in a key.
pub(crate) fn is_escaped_tag_key(name: &[u8]) -> bool {
    let special = |byte| matches!(byte, b',' | b' ' | b'=');
    !name.first().is_none_or(|byte| special(*byte)) && no_bare(name, special)
}

/// Whether this is a tag value as it may stand in a key. Its first byte may be an equals sign.
pub(crate) fn is_escaped_tag_value(name: &[u8]) -> bool {
    let special = |byte| matches!(byte, b',' | b' ' | b'=');
    !matches!(name.first(), None | Some(b',' | b' ')) && no_bare(name, special)
}

fn no_bare(name: &[u8], special: impl Fn(u8) -> bool) -> bool {
    let mut previous = 0;
    for (at, &byte) in name.iter().enumerate() {
        if byte == b'\n' && previous != b'\\' {
            return false;
        }
        if at > 0 && previous != b'\\' && special(byte) {
            return false;
        }
        previous = byte;
    }
    previous != b'\\'
}
