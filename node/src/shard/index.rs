//! The index of tags: which series of a measurement have which value of a tag.
//!
//! Invariants: what is written stands in `SPEC.md`, section 13. A series is in the index no later
//! than its id is in the table of ids, so that the index never misses a series; it may have ids that
//! were reserved by a fold that never finished, which no series ever gets. Names that are too long
//! for a key are cut and hashed, so what the index selects is a superset: the series' key decides.
//! Written by [`super::enrol`] and [`super::dense`], read by [`select`].

use std::borrow::Cow;

use quorate_protocol::point::key::{measurement_of, tags_of, unescape_tag};

mod chunk;
mod postings;
pub(super) mod select;
pub(super) mod set;

pub(super) use self::postings::Postings;
use super::series::SeriesId;

/// The longest ordered form of a name that stands in full.
const NAME_MAX: usize = 150;
/// What is left of the ordered form of a longer name, before its hash.
const NAME_CUT: usize = 132;
/// Ends a name that stands in full, as in the table of keys.
const END: [u8; 2] = [0, 1];
/// Ends a name that was cut; its hash follows.
const CUT: [u8; 2] = [0, 2];
const ZERO: u8 = 0xff;

/// Appends a name in the form that orders as the name does, as long as it is not cut.
fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    let start = out.len();
    for &byte in name {
        out.push(byte);
        if byte == 0 {
            out.push(ZERO);
        }
        if out.len() - start > NAME_MAX - END.len() {
            out.truncate(start + NAME_CUT);
            // A zero byte and its companion stay together, else the end would not be found.
            if out.last() == Some(&0) {
                out.push(ZERO);
            }
            out.extend(CUT);
            out.extend(xxhash_rust::xxh3::xxh3_128(name).to_be_bytes());
            return;
        }
    }
    out.extend(END);
}

/// Takes a name off the front: the name, unless it was cut, and the rest.
fn take_name(form: &[u8]) -> Option<(Option<Vec<u8>>, &[u8])> {
    let mut name = Vec::new();
    let mut rest = form;
    loop {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        if byte != 0 {
            name.push(byte);
            continue;
        }
        let (&kind, tail) = rest.split_first()?;
        rest = tail;
        match [0, kind] {
            END => return Some((Some(name), rest)),
            CUT => return Some((None, rest.get(16..)?)),
            [_, ZERO] => name.push(0),
            _ => return None,
        }
    }
}

/// Whether a name stands in full in the index, so that what is said of it is exact.
fn is_exact(name: &[u8]) -> bool {
    let zeros = name.iter().filter(|byte| **byte == 0).count();
    name.len() + zeros <= NAME_MAX - END.len()
}

/// What the keys of all chunks of a tag begin with; `measurement` is escaped, `tag` is not. The
/// empty tag stands for all series of the measurement, with the empty value.
fn tag_prefix(measurement: &[u8], tag: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(measurement.len() + tag.len() + 16);
    put_name(&mut out, measurement);
    put_name(&mut out, tag);
    out
}

/// What the keys of all chunks of a value of a tag, unescaped, begin with.
fn value_prefix(tag: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = tag.to_vec();
    put_name(&mut out, value);
    out
}

/// The key of a chunk.
fn chunk_key(prefix: &[u8], first: SeriesId) -> Vec<u8> {
    [prefix, &first.to_be_bytes()].concat()
}

/// The lists that a series is in, as the beginnings of their chunks' keys.
pub(super) fn lists_of(key: &[u8], mut each: impl FnMut(&[u8])) {
    let measurement = measurement_of(key);
    let all = value_prefix(&tag_prefix(measurement, b""), b"");
    each(&all);
    for (tag, value) in tags_of(key) {
        let tag = tag_prefix(measurement, &unescaped(tag));
        each(&value_prefix(&tag, &unescaped(value)));
    }
}

/// The list that a chunk belongs to and its ids; `None` if it is damaged.
pub(super) fn read_chunk<'a>(key: &'a [u8], value: &[u8]) -> Option<(&'a [u8], Vec<SeriesId>)> {
    let (list, first) = key.split_last_chunk()?;
    let (_, tag) = take_name(list)?;
    let (_, of_value) = take_name(tag)?;
    let (_, rest) = take_name(of_value)?;
    let ids = chunk::decode(SeriesId::from_be_bytes(*first), value)?;
    rest.is_empty().then_some((list, ids))
}

fn unescaped(name: &[u8]) -> Cow<'_, [u8]> {
    if name.contains(&b'\\') { unescape_tag(name).into() } else { name.into() }
}

#[cfg(test)]
mod tests;
