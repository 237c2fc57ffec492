//! The series of one measurement while a batch is being filled.
//!
//! Invariant: every series has its canonical key, the hash of that key, computed once, and one
//! value (or none) per tag column. Used by [`super::MeasurementBuilder`] and [`super::Layout`].

use super::{hashes::hash_four, intern::Interner};
use crate::{
    hash::series_hash,
    point::{Part, PointError, check_key_len, key},
};

mod adopt;
mod spelled;

pub(super) use adopt::Adopted;

/// The series of a measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct SeriesTable {
    /// The measurement's name, escaped.
    escaped: Vec<u8>,
    /// Canonical keys, and other spellings of them that lines used.
    keys: Interner,
    /// The series of each entry of `keys`, and whether the spelling is plain: see
    /// [`Self::by_spelling`].
    key_series: Vec<(u32, bool)>,
    /// Per series, where `keys` has its canonical key.
    series: Vec<u32>,
    /// Per series, the hash of its key. The last ones may be missing while lines are being read:
    /// see [`Self::complete`].
    hashes: Vec<u64>,
    tags: Vec<TagColumn>,
    shape: Shape,
    /// The tags of the last line that brought a series.
    spelled: spelled::Shape,
    /// Where `keys` has the spelling of the line before, and how far that is behind the one before.
    last: (u32, u32),
    /// Reused for building keys, and for where their tag values are.
    scratch: Vec<u8>,
    values: Vec<(usize, usize, usize)>,
}

/// The tag keys that were given last: applications give the same ones in the same order again and
/// again, so that checking, escaping and sorting them need not be repeated.
#[derive(Clone, Debug, Default)]
struct Shape {
    /// Unescaped, as given.
    keys: Vec<Vec<u8>>,
    /// In key order: the position among `keys` and the tag column.
    sorted: Vec<(usize, usize)>,
}

impl Shape {
    fn fits<K: AsRef<[u8]>, V>(&self, tags: &[(K, V)]) -> bool {
        self.keys.len() == tags.len()
            && self.keys.iter().zip(tags).all(|(key, (tag, _))| key == tag.as_ref())
    }
}

/// One tag of a measurement, over its series.
#[derive(Clone, Debug)]
pub(super) struct TagColumn {
    /// Escaped.
    pub(super) key: Vec<u8>,
    /// Escaped.
    pub(super) values: Interner,
    /// Per series: the value's id + 1, or 0; series beyond the end do not have the tag.
    of_series: Vec<u32>,
}

impl TagColumn {
    pub(super) fn of(&self, series: u32) -> Option<u32> {
        self.of_series.get(series as usize)?.checked_sub(1)
    }

    fn add(&mut self, series: u32, value: &[u8]) {
        let value = self.values.intern(value).0;
        self.add_id(series, value);
    }

    fn add_id(&mut self, series: u32, value: u32) {
        self.of_series.resize(series as usize, 0);
        self.of_series.push(value + 1);
    }
}

impl SeriesTable {
    pub(super) fn new(escaped: &[u8]) -> Self {
        Self { escaped: escaped.to_vec(), ..Self::default() }
    }

    pub(super) fn escaped(&self) -> &[u8] {
        &self.escaped
    }

    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    pub(super) fn tags(&self) -> &[TagColumn] {
        &self.tags
    }

    /// The canonical key of a series.
    pub(super) fn key(&self, series: u32) -> &[u8] {
        self.keys.get(self.series[series as usize])
    }

    /// The hash of a series' key.
    pub(super) fn hash(&self, series: u32) -> u64 {
        let known = self.hashes.get(series as usize);
        known.copied().unwrap_or_else(|| series_hash(self.key(series)))
    }

    /// Computes the hashes that are missing, four at a time as far as possible.
    pub(super) fn complete(&mut self) {
        while let [a, b, c, d, ..] = self.series[self.hashes.len()..] {
            self.hashes.extend(hash_four([a, b, c, d].map(|key| self.keys.get(key))));
        }
        for at in self.hashes.len()..self.series.len() {
            self.hashes.push(series_hash(self.keys.get(self.series[at])));
        }
    }

    /// The series with these tags, unescaped, in any order.
    pub(super) fn by_tags<K, V>(&mut self, tags: &[(K, V)]) -> Result<u32, PointError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&self.escaped);
        let series = if self.shape.fits(tags) {
            self.by_known_tags(tags, &mut scratch)
        } else {
            key::append_tags(&mut scratch, tags).and_then(|()| check_key_len(scratch.len(), 0)).map(
                |()| {
                    let series = self.by_key(&scratch);
                    self.learn(tags);
                    series
                },
            )
        };
        self.scratch = scratch;
        series
    }

    /// The same, for tags of the shape that is known.
    fn by_known_tags<K, V>(&mut self, tags: &[(K, V)], out: &mut Vec<u8>) -> Result<u32, PointError>
    where
        V: AsRef<[u8]>,
    {
        self.values.clear();
        for &(at, column) in &self.shape.sorted {
            let value = tags[at].1.as_ref();
            key::check_tag(value, Part::TagValue)?;
            out.push(b',');
            out.extend_from_slice(&self.tags[column].key);
            out.push(b'=');
            let start = out.len();
            key::escape_tag(out, value);
            self.values.push((column, start, out.len()));
        }
        check_key_len(out.len(), 0)?;
        let (series, new) = self.intern(out);
        if new {
            for &(column, start, end) in &self.values {
                self.tags[column].add(series, &out[start..end]);
            }
        }
        Ok(series)
    }

    /// Remembers the shape of tags that have just been taken in.
    fn learn<K: AsRef<[u8]>, V>(&mut self, tags: &[(K, V)]) {
        let escaped = |at: usize| {
            let mut escaped = Vec::new();
            key::escape_tag(&mut escaped, tags[at].0.as_ref());
            escaped
        };
        let mut sorted: Vec<(Vec<u8>, usize)> =
            (0..tags.len()).map(|at| (escaped(at), at)).collect();
        sorted.sort();
        self.shape = Shape {
            keys: tags.iter().map(|(key, _)| key.as_ref().to_vec()).collect(),
            sorted: sorted.into_iter().map(|(key, at)| (at, self.tag_column(&key))).collect(),
        };
    }

    /// The series with this canonical key, which begins with this measurement's escaped name.
    pub(super) fn by_key(&mut self, key: &[u8]) -> u32 {
        let (series, new) = self.intern(key);
        if new {
            self.add_tags(key, series);
        }
        series
    }

    /// Takes in the tags of a series that is new.
    fn add_tags(&mut self, key: &[u8], series: u32) {
        for (at, (tag, value)) in key::tags_of(key).enumerate() {
            let column = match self.tags.get(at) {
                Some(column) if column.key == tag => at,
                _ => self.tag_column(tag),
            };
            self.tags[column].add(series, value);
        }
    }

    /// The series of a canonical key, and whether it is new and still without its tags.
    fn intern(&mut self, key: &[u8]) -> (u32, bool) {
        let (series, new) = self.intern_late(key, is_plain(key));
        if new {
            self.complete_before(series);
            self.hashes.push(series_hash(key));
        }
        (series, new)
    }

    /// The same; if it is new, its hash is missing.
    fn intern_late(&mut self, key: &[u8], plain: bool) -> (u32, bool) {
        let (id, new) = self.keys.intern(key);
        if !new {
            return (self.key_series[id as usize].0, false);
        }
        let series = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        self.key_series.push((series, plain));
        self.series.push(id);
        (series, true)
    }

    fn complete_before(&mut self, series: u32) {
        for at in self.hashes.len()..series as usize {
            self.hashes.push(series_hash(self.keys.get(self.series[at])));
        }
    }

    fn tag_column(&mut self, tag: &[u8]) -> usize {
        self.tags.iter().position(|column| column.key == tag).unwrap_or_else(|| {
            let values = Interner::default();
            self.tags.push(TagColumn { key: tag.to_vec(), values, of_series: Vec::new() });
            self.tags.len() - 1
        })
    }

    /// Remembers another spelling of a key.
    pub(super) fn add_spelling(&mut self, spelling: &[u8], series: u32) {
        if self.keys.intern(spelling).1 {
            self.key_series.push((series, is_plain(spelling)));
        }
    }

    pub(super) fn approximate_bytes(&self) -> usize {
        let tag = |tag: &TagColumn| tag.values.approximate_bytes() + 4 * tag.of_series.len();
        let tags: usize = self.tags.iter().map(tag).sum();
        self.keys.approximate_bytes() + 12 * self.series.len() + tags
    }
}

/// Whether a key has no two backslashes in a row.
fn is_plain(key: &[u8]) -> bool {
    !key.contains(&b'\\') || !key.windows(2).any(|two| two == b"\\\\")
}
