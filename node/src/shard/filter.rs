//! Which rows a scan wants.
//!
//! Invariant: a filter says the same about a series whether it is looked at in a fresh batch or in
//! a run: it sees the canonical key only. Built by whoever answers a scan request, used by
//! [`super::read`].

use std::borrow::Cow;

use bytes::Bytes;
use quorate_protocol::{
    point::key::{escape_measurement, measurement_of, tags_of, unescape_tag},
    rows::Rows,
};
use regex::bytes::Regex;

/// What a tag's unescaped value must be. A series without the tag has the empty value.
#[derive(Clone, Debug)]
pub enum TagTest {
    /// One of these.
    In(Vec<Bytes>),
    /// Something the expression matches, anywhere in the value.
    Matches(Regex),
}

/// A condition on one tag.
#[derive(Clone, Debug)]
pub struct TagFilter {
    /// The tag's unescaped key.
    pub key: Bytes,
    /// What its value must be.
    pub test: TagTest,
}

impl TagFilter {
    fn matches(&self, series: &[u8]) -> bool {
        let value = tags_of(series).find(|(key, _)| *unescaped(key) == *self.key);
        let value = value.map_or(Cow::Borrowed(&b""[..]), |(_, value)| unescaped(value));
        self.test.matches(&value)
    }
}

impl TagTest {
    /// Whether an unescaped value passes.
    pub(super) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::In(values) => values.iter().any(|wanted| **wanted == *value),
            Self::Matches(pattern) => pattern.is_match(value),
        }
    }
}

fn unescaped(name: &[u8]) -> Cow<'_, [u8]> {
    if name.contains(&b'\\') { unescape_tag(name).into() } else { name.into() }
}

/// Which rows a scan wants; all conditions hold together.
#[derive(Clone, Debug)]
pub struct ScanFilter {
    /// Unescaped name of one measurement, or all of them.
    pub measurement: Option<Bytes>,
    /// Conditions on tags.
    pub tags: Vec<TagFilter>,
    /// Unescaped names of fields; empty for all of them.
    pub fields: Vec<Bytes>,
    /// The first time, in ns.
    pub from: i64,
    /// The time behind the last, in ns.
    pub to: i64,
    /// Only series whose key is behind this one.
    pub after: Option<Bytes>,
}

impl Default for ScanFilter {
    /// Everything.
    fn default() -> Self {
        Self {
            measurement: None,
            tags: Vec::new(),
            fields: Vec::new(),
            from: i64::MIN,
            to: i64::MAX,
            after: None,
        }
    }
}

impl ScanFilter {
    /// The measurement as it stands in keys.
    pub(super) fn escaped_measurement(&self) -> Option<Vec<u8>> {
        self.measurement.as_ref().map(|name| {
            let mut out = Vec::with_capacity(name.len() + 8);
            escape_measurement(&mut out, name);
            out
        })
    }

    /// Whether the tags of a series of the right measurement are right.
    pub(super) fn tags_match(&self, key: &[u8]) -> bool {
        self.tags.iter().all(|tag| tag.matches(key))
    }

    /// Whether a series is wanted; `measurement` is [`Self::escaped_measurement`].
    pub(super) fn key_matches(&self, measurement: Option<&[u8]>, key: &[u8]) -> bool {
        measurement.is_none_or(|wanted| measurement_of(key) == wanted) && self.tags_match(key)
    }

    /// The wanted times and fields of rows.
    pub(super) fn apply(&self, mut rows: Rows) -> Rows {
        if let Some((first, last)) = rows.time_range()
            && (first < self.from || last >= self.to)
        {
            rows = rows.slice(self.from, self.to);
        }
        if !self.fields.is_empty() && rows.columns.iter().any(|c| !self.fields.contains(&c.name)) {
            let wanted = rows.columns.iter().filter(|c| self.fields.contains(&c.name));
            let wanted: Vec<_> = wanted.map(|column| column.field).collect();
            rows = rows.select(&wanted);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &'static str, test: TagTest) -> ScanFilter {
        let tag = TagFilter { key: key.into(), test };
        ScanFilter { tags: vec![tag], ..ScanFilter::default() }
    }

    #[test]
    fn measurements_and_tags_are_compared_unescaped() {
        let key = br"my\ disk,host=a\,b,path=/x\=y";
        let filter = ScanFilter { measurement: Some("my disk".into()), ..ScanFilter::default() };
        let escaped = filter.escaped_measurement().unwrap();
        assert!(filter.key_matches(Some(&escaped), key));
        assert!(!filter.key_matches(Some(&escaped), br"my\ disk2,host=a"));
        assert!(filter.key_matches(Some(&escaped), br"my\ disk"));

        let one_of = |values: &[&'static str]| {
            TagTest::In(values.iter().map(|value| Bytes::from_static(value.as_bytes())).collect())
        };
        assert!(tag("host", one_of(&["z", "a,b"])).key_matches(None, key));
        assert!(!tag("host", one_of(&[r"a\,b"])).key_matches(None, key));
        assert!(tag("path", TagTest::Matches(Regex::new("^/x=").unwrap())).key_matches(None, key));
        assert!(!tag("path", TagTest::Matches(Regex::new("^x").unwrap())).key_matches(None, key));
        assert!(tag("rack", one_of(&[""])).key_matches(None, key));
        assert!(!tag("rack", one_of(&["a,b"])).key_matches(None, key));
    }
}
