//! Making a query step by step, and telling what is wrong with one before anything is sent.
//!
//! Invariant: whatever [`Query::check`] lets pass is answered by rows or by a failure to read, never by a node
//! that cannot make sense of it. Used by applications and by [`crate::Client::query`].

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use quorate_protocol::{consistency::Level, id::NodeId, message::TagMatch};

use super::{
    Query,
    pattern::{self, PatternError},
};

/// Bytes of names, values and patterns of one query together: a request's header has 64 KiB.
const MAX_QUERY_BYTES: usize = 60_000;
/// What a name or value takes beside its own bytes, at most.
const OVERHEAD: usize = 8;

/// Why something is no query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// A name is empty.
    #[error("a query's {0} needs a name")]
    EmptyName(&'static str),
    /// A condition on a tag has no value to compare with; an empty value is one.
    #[error("the condition on tag {key:?} names no value")]
    NoValues {
        /// The tag's key.
        key: String,
    },
    /// A condition on a tag has values and a pattern.
    #[error("the condition on tag {key:?} has both values and a pattern; make it two")]
    ValuesAndPattern {
        /// The tag's key.
        key: String,
    },
    /// A condition on a tag has a pattern that cannot be used.
    #[error("the condition on tag {key:?}: {reason}")]
    Pattern {
        /// The tag's key.
        key: String,
        /// Why not.
        reason: PatternError,
    },
    /// No time is in the range.
    #[error("no time is from {from} on and before {to}")]
    EmptyRange {
        /// The first time, in ns.
        from: i64,
        /// The time behind the last, in ns.
        to: i64,
    },
    /// At most no rows are asked for.
    #[error("a limit of 0 rows asks for nothing")]
    ZeroLimit,
    /// Names, values and patterns are more than a request can carry.
    #[error(
        "names, values and patterns take {bytes} bytes, at most {MAX_QUERY_BYTES} fit; ask twice"
    )]
    TooLarge {
        /// What they take.
        bytes: usize,
    },
}

impl Query {
    /// Begins a query of everything in a database's default policy, at level quorum.
    ///
    /// ```
    /// use quorate_client::{Level, Query};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let query = Query::builder("metrics")
    ///     .measurement("cpu")
    ///     .tag("host", "web1")
    ///     .tag_in("region", ["eu", "us"])
    ///     .tag_matches("rack", "^r[0-9]+$")
    ///     .field("usage")
    ///     .range(1_700_000_000_000_000_000..)
    ///     .limit(1_000)
    ///     .level(Level::Quorum)
    ///     .build()?;
    /// assert_eq!(query.limit, Some(1_000));
    /// assert!(Query::builder("metrics").tag_matches("host", "web(").build().is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(database: impl Into<String>) -> QueryBuilder {
        QueryBuilder { query: Self::all(database) }
    }

    /// Says whether this can be asked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.database.is_empty() {
            return Err(QueryError::EmptyName("database"));
        }
        if self.measurement.as_ref().is_some_and(Bytes::is_empty) {
            return Err(QueryError::EmptyName("measurement"));
        }
        if self.fields.iter().any(Bytes::is_empty) {
            return Err(QueryError::EmptyName("field"));
        }
        self.tags.iter().try_for_each(check_tag)?;
        if self.from >= self.to && self.to != i64::MAX {
            return Err(QueryError::EmptyRange { from: self.from, to: self.to });
        }
        if self.limit == Some(0) {
            return Err(QueryError::ZeroLimit);
        }
        let bytes = self.bytes();
        if bytes > MAX_QUERY_BYTES { Err(QueryError::TooLarge { bytes }) } else { Ok(()) }
    }

    /// What names, values and patterns take in a request.
    fn bytes(&self) -> usize {
        let of = |names: &[Bytes]| names.iter().map(|name| name.len() + OVERHEAD).sum::<usize>();
        let tags = self.tags.iter().map(|tag| {
            tag.key.len() + tag.pattern.as_ref().map_or(0, String::len) + of(&tag.values) + OVERHEAD
        });
        let measurement = self.measurement.as_ref().map_or(0, Bytes::len);
        measurement + of(&self.fields) + tags.sum::<usize>()
    }
}

fn check_tag(tag: &TagMatch) -> Result<(), QueryError> {
    let key = || String::from_utf8_lossy(&tag.key).into_owned();
    match &tag.pattern {
        _ if tag.key.is_empty() => Err(QueryError::EmptyName("tag")),
        None if tag.values.is_empty() => Err(QueryError::NoValues { key: key() }),
        None => Ok(()),
        Some(_) if !tag.values.is_empty() => Err(QueryError::ValuesAndPattern { key: key() }),
        Some(text) => match pattern::compile(text) {
            Ok(_) => Ok(()),
            Err(reason) => Err(QueryError::Pattern { key: key(), reason }),
        },
    }
}

/// A query that is being made; [`Query::builder`] begins one. Names and values are unescaped.
#[derive(Clone, Debug)]
#[must_use = "a builder asks nothing by itself"]
pub struct QueryBuilder {
    query: Query,
}

impl QueryBuilder {
    /// Another retention policy than the default one.
    pub fn policy(mut self, name: impl Into<String>) -> Self {
        self.query.policy = Some(name.into());
        self
    }

    /// Only this measurement.
    pub fn measurement(mut self, name: impl AsRef<[u8]>) -> Self {
        self.query.measurement = Some(Bytes::copy_from_slice(name.as_ref()));
        self
    }

    /// Only series with this tag; an empty value is that of series without it. All conditions must hold.
    pub fn tag(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.tag_in(key, [value])
    }

    /// Only series whose tag has one of these values.
    pub fn tag_in<V: AsRef<[u8]>>(
        mut self,
        key: impl AsRef<[u8]>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values = values.into_iter().map(|value| Bytes::copy_from_slice(value.as_ref()));
        let (key, values) = (Bytes::copy_from_slice(key.as_ref()), values.collect());
        self.query.tags.push(TagMatch { key, values, pattern: None });
        self
    }

    /// Only series whose tag's value this regular expression matches, anywhere unless it is anchored. The
    /// syntax is that of the `regex` crate; at most 4,096 bytes.
    pub fn tag_matches(mut self, key: impl AsRef<[u8]>, pattern: impl Into<String>) -> Self {
        let (key, pattern) = (Bytes::copy_from_slice(key.as_ref()), Some(pattern.into()));
        self.query.tags.push(TagMatch { key, values: Vec::new(), pattern });
        self
    }

    /// Only this field, and others that are named so; rows without any of them are left out.
    pub fn field(self, name: impl AsRef<[u8]>) -> Self {
        self.fields([name])
    }

    /// Only these fields, and others that are named so.
    pub fn fields<F: AsRef<[u8]>>(mut self, names: impl IntoIterator<Item = F>) -> Self {
        let names = names.into_iter().map(|name| Bytes::copy_from_slice(name.as_ref()));
        self.query.fields.extend(names);
        self
    }

    /// Only these times, in ns: `from..to`, `from..`, `..=last`.
    pub fn range(mut self, times: impl RangeBounds<i64>) -> Self {
        self.query.from = match times.start_bound() {
            Bound::Unbounded => i64::MIN,
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
        };
        self.query.to = match times.end_bound() {
            Bound::Unbounded => i64::MAX,
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
        };
        self
    }

    /// At most so many rows, in order of (series key, time); of windows, if the query is aggregated.
    pub const fn limit(mut self, rows: usize) -> Self {
        self.query.limit = Some(rows);
        self
    }

    /// How many owners must agree to be read. Default quorum.
    pub const fn level(mut self, level: Level) -> Self {
        self.query.level = level;
        self
    }

    /// Only what this node has on its own disk.
    pub const fn node(mut self, node: NodeId) -> Self {
        self.query.node = Some(node);
        self
    }

    /// The query.
    ///
    /// # Errors
    /// What is wrong with it; nothing is sent.
    pub fn build(self) -> Result<Query, QueryError> {
        self.query.check()?;
        Ok(self.query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_in_the_query() {
        let query = Query::builder("db").policy("week").measurement("cpu").tag("host", "a");
        let query = query.tag_in("region", ["eu", "us"]).tag_matches("rack", "^r").field("f");
        let query = query.fields(["g", "h"]).range(5..=9).limit(3).level(Level::One);
        let query = query.node(NodeId(2)).build().unwrap();
        assert_eq!((query.from, query.to, query.limit), (5, 10, Some(3)));
        assert_eq!((query.policy.as_deref(), query.node), (Some("week"), Some(NodeId(2))));
        assert_eq!((query.level, query.fields.len()), (Level::One, 3));
        assert_eq!(query.tags[0].values, [Bytes::from("a")]);
        assert_eq!(query.tags[1].values, [Bytes::from("eu"), Bytes::from("us")]);
        assert_eq!(query.tags[2].pattern.as_deref(), Some("^r"));
        let ends = |query: QueryBuilder| query.build().map(|query| (query.from, query.to));
        assert_eq!(ends(Query::builder("db").range(..)), Ok((i64::MIN, i64::MAX)));
        assert_eq!(ends(Query::builder("db").range(..=i64::MAX)), Ok((i64::MIN, i64::MAX)));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        use QueryError::{EmptyName, EmptyRange, NoValues, TooLarge, ZeroLimit};
        let new = || Query::builder("db");
        let none: [&str; 0] = [];
        let key = || "k".to_owned();
        for (builder, error) in [
            (Query::builder(""), EmptyName("database")),
            (new().measurement(""), EmptyName("measurement")),
            (new().field(""), EmptyName("field")),
            (new().tag("", "a"), EmptyName("tag")),
            (new().tag_in("k", none), NoValues { key: key() }),
            (new().range(7..7), EmptyRange { from: 7, to: 7 }),
            (new().limit(0), ZeroLimit),
            (new().fields(["f".repeat(70_000)]), TooLarge { bytes: 70_008 }),
        ] {
            assert_eq!(builder.build().unwrap_err(), error);
        }
        let pattern = new().tag_matches("k", "(").build().unwrap_err();
        let text = "the condition on tag \"k\": \"(\" is no regular expression: unclosed group";
        assert_eq!(pattern.to_string(), text);
    }
}
