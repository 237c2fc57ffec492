//! Points: what an application writes, one measurement at one instant.
//!
//! Invariant: a [`Point`] that exists is valid: it has a canonical series key, at least one field,
//! finite floats, no name twice, and a time that every part of the system can represent; and its
//! canonical line (see [`text`]) parses back to the same point. Batches take points as they are;
//! applications build them with [`Point::builder`].

use std::{cmp::Ordering, ops::Range};

use bytes::Bytes;

use crate::schema::FieldType;

pub mod key;
pub mod text;

/// The earliest time of a point, nanoseconds since the Unix epoch.
pub const MIN_TIME: i64 = i64::MIN + 2;
/// The latest time of a point, nanoseconds since the Unix epoch.
pub const MAX_TIME: i64 = i64::MAX - 1;
/// The largest series key, in bytes; with a field's name and [`FIELD_SEPARATOR_LEN`] as well.
pub const MAX_KEY_LEN: usize = 65_535;
/// What the key limit counts between a series key and a field's name, in bytes.
pub const FIELD_SEPARATOR_LEN: usize = 4;
/// The longest string value, in bytes.
pub const MAX_STRING_LEN: usize = 1 << 20;

/// A field's value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A finite IEEE 754 double.
    Float(f64),
    /// A signed integer.
    Integer(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// `true` or `false`.
    Boolean(bool),
    /// Bytes, usually UTF-8.
    String(Bytes),
}

/// A borrowed [`Value`].
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// A finite IEEE 754 double.
    Float(f64),
    /// A signed integer.
    Integer(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// `true` or `false`.
    Boolean(bool),
    /// Bytes, usually UTF-8.
    String(&'a [u8]),
}

impl Value {
    /// The type of the value.
    #[must_use]
    pub fn field_type(&self) -> FieldType {
        self.as_ref().field_type()
    }

    /// The same value, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Float(value) => ValueRef::Float(*value),
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Unsigned(value) => ValueRef::Unsigned(*value),
            Self::Boolean(value) => ValueRef::Boolean(*value),
            Self::String(value) => ValueRef::String(value),
        }
    }

    /// See [`ValueRef::canonical_cmp`].
    #[must_use]
    pub fn canonical_cmp(&self, other: &Self) -> Ordering {
        self.as_ref().canonical_cmp(other.as_ref())
    }
}

impl ValueRef<'_> {
    /// The type of the value.
    #[must_use]
    pub const fn field_type(self) -> FieldType {
        match self {
            Self::Float(_) => FieldType::Float,
            Self::Integer(_) => FieldType::Integer,
            Self::Unsigned(_) => FieldType::Unsigned,
            Self::Boolean(_) => FieldType::Boolean,
            Self::String(_) => FieldType::String,
        }
    }

    /// The order that breaks ties between values of equal version: the value's big-endian bits, or
    /// a string's bytes, as unsigned bytes. It is not a numeric order: negative integers come after
    /// positive ones. Values of different types, which one field never has, order by type.
    #[must_use]
    pub fn canonical_cmp(self, other: ValueRef<'_>) -> Ordering {
        match (self, other) {
            (Self::String(a), ValueRef::String(b)) => a.cmp(b),
            (a, b) => (a.field_type(), a.bits()).cmp(&(b.field_type(), b.bits())),
        }
    }

    /// An owned copy.
    #[must_use]
    pub fn to_value(self) -> Value {
        match self {
            Self::Float(value) => Value::Float(value),
            Self::Integer(value) => Value::Integer(value),
            Self::Unsigned(value) => Value::Unsigned(value),
            Self::Boolean(value) => Value::Boolean(value),
            Self::String(value) => Value::String(Bytes::copy_from_slice(value)),
        }
    }

    /// The bits as a number that orders as the big-endian bytes do; 0 for strings.
    fn bits(self) -> u64 {
        match self {
            Self::Float(value) => value.to_bits(),
            Self::Integer(value) => value.cast_unsigned(),
            Self::Unsigned(value) => value,
            Self::Boolean(value) => u64::from(value),
            Self::String(_) => 0,
        }
    }
}

/// Equal bits, so that `-0.0 != 0.0`: what replicas compare.
impl PartialEq for ValueRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.canonical_cmp(*other).is_eq()
    }
}

impl Eq for ValueRef<'_> {}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Value {}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

value_from! {
    f64 => Float, f32 => Float,
    i64 => Integer, i32 => Integer,
    u64 => Unsigned, u32 => Unsigned,
    bool => Boolean,
    Bytes => String, String => String, &'static str => String, Vec<u8> => String,
}

/// Why something cannot be a point. Nothing of the point is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// A point needs at least one field.
    #[error("the point has no fields; give it at least one")]
    NoFields,
    /// A measurement, tag key, tag value or field name is empty.
    #[error("empty {0}")]
    Empty(Part),
    /// A name ends with a backslash, which would escape what follows it in a series key.
    #[error("a {0} must not end with a backslash")]
    TrailingBackslash(Part),
    /// A backslash stands right before a character that needs escaping; a line could not say it.
    #[error("a {0} must not have a backslash right before a comma, an equals sign or a space")]
    AmbiguousBackslash(Part),
    /// Names are parts of lines.
    #[error("a {0} must not contain a newline")]
    Newline(Part),
    /// The first byte would be taken for a comment or for white space.
    #[error("a {0} must not begin with a number sign, a tab or a zero byte")]
    Leading(Part),
    /// The same tag twice.
    #[error("duplicate tag {}", .0.escape_ascii())]
    DuplicateTag(Bytes),
    /// The same field twice.
    #[error("duplicate field {}", .0.escape_ascii())]
    DuplicateField(Bytes),
    /// Series key and field name are longer than [`MAX_KEY_LEN`].
    #[error("series key and field name take {len} bytes, more than {MAX_KEY_LEN}")]
    KeyTooLong {
        /// The length in bytes.
        len: usize,
    },
    /// A string value is longer than [`MAX_STRING_LEN`].
    #[error("a string value takes {len} bytes, more than {MAX_STRING_LEN}")]
    StringTooLong {
        /// The length in bytes.
        len: usize,
    },
    /// NaN and the infinities cannot be stored.
    #[error("the value is not a finite number")]
    NotFinite,
    /// The time lies outside [`MIN_TIME`]..=[`MAX_TIME`].
    #[error("the time {0} lies outside {MIN_TIME}..={MAX_TIME}")]
    TimeOutOfRange(i64),
    /// A value of another type than its column's.
    #[error("a value of type {} was given for a column of type {}", .given.name(), .column.name())]
    WrongType {
        /// The type of the column.
        column: FieldType,
        /// The type of the value.
        given: FieldType,
    },
}

/// A part of a point, for error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The measurement's name.
    Measurement,
    /// A tag's key.
    TagKey,
    /// A tag's value.
    TagValue,
    /// A field's name.
    Field,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Measurement => "measurement",
            Self::TagKey => "tag key",
            Self::TagValue => "tag value",
            Self::Field => "field name",
        })
    }
}

/// A valid point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    key: Bytes,
    fields: Vec<(Bytes, Value)>,
    time: i64,
}

impl Point {
    /// Starts a point of a measurement, named as people write it (unescaped).
    #[must_use]
    pub fn builder(measurement: impl AsRef<[u8]>) -> PointBuilder {
        PointBuilder {
            measurement: measurement.as_ref().to_vec(),
            tag_names: Vec::with_capacity(128),
            tags: Vec::with_capacity(8),
            field_names: Vec::with_capacity(64),
            fields: Vec::with_capacity(4),
        }
    }

    /// The canonical series key: see [`key`].
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The fields, by name (bytewise), each once.
    #[must_use]
    pub fn fields(&self) -> &[(Bytes, Value)] {
        &self.fields
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub fn time(&self) -> i64 {
        self.time
    }

    /// The point as a canonical line, without a newline.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + 32 * self.fields.len());
        let fields = self.fields.iter().map(|(name, value)| (&name[..], value.as_ref()));
        text::write_line(&mut out, &self.key, fields, self.time);
        out
    }
}

/// A point being put together; all checks happen in [`PointBuilder::at`].
#[derive(Clone, Debug)]
pub struct PointBuilder {
    measurement: Vec<u8>,
    /// Keys and values of all tags, one behind another: a point is made in few allocations.
    tag_names: Vec<u8>,
    tags: Vec<(Range<usize>, Range<usize>)>,
    /// Names of all fields, one behind another.
    field_names: Vec<u8>,
    fields: Vec<(Range<usize>, Value)>,
}

/// Appends a name; where it stands.
fn append(names: &mut Vec<u8>, name: &[u8]) -> Range<usize> {
    let start = names.len();
    names.extend_from_slice(name);
    start..names.len()
}

impl PointBuilder {
    /// Adds a tag, both sides unescaped.
    #[must_use]
    pub fn tag(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let key = append(&mut self.tag_names, key.as_ref());
        self.tags.push((key, append(&mut self.tag_names, value.as_ref())));
        self
    }

    /// Adds a field, its name unescaped.
    #[must_use]
    pub fn field(mut self, name: impl AsRef<[u8]>, value: impl Into<Value>) -> Self {
        self.fields.push((append(&mut self.field_names, name.as_ref()), value.into()));
        self
    }

    /// Finishes the point at a time in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// The first thing about the point that breaks a rule.
    pub fn at(self, time: i64) -> Result<Point, PointError> {
        check_time(time)?;
        let name = |range: &Range<usize>| &self.tag_names[range.clone()];
        let tags = self.tags.iter().map(|(key, value)| (name(key), name(value)));
        let key = key::series_key(&self.measurement, &tags.collect::<Vec<_>>())?;
        if self.fields.is_empty() {
            return Err(PointError::NoFields);
        }
        let names = Bytes::from(self.field_names);
        let fields = self.fields.into_iter().map(|(name, value)| (names.slice(name), value));
        let mut fields: Vec<(Bytes, Value)> = fields.collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        for pair in fields.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(PointError::DuplicateField(pair[0].0.clone()));
            }
        }
        for (name, value) in &fields {
            key::check_field_name(name)?;
            check_key_len(key.len(), name.len())?;
            check_value(value.as_ref())?;
        }
        Ok(Point { key: key.into(), fields, time })
    }
}

/// Refuses times outside [`MIN_TIME`]..=[`MAX_TIME`].
///
/// # Errors
/// [`PointError::TimeOutOfRange`].
pub fn check_time(time: i64) -> Result<(), PointError> {
    if (MIN_TIME..=MAX_TIME).contains(&time) {
        Ok(())
    } else {
        Err(PointError::TimeOutOfRange(time))
    }
}

/// Refuses values that no field can have.
///
/// # Errors
/// [`PointError::NotFinite`] or [`PointError::StringTooLong`].
pub fn check_value(value: ValueRef<'_>) -> Result<(), PointError> {
    match value {
        ValueRef::Float(value) if !value.is_finite() => Err(PointError::NotFinite),
        ValueRef::String(value) if value.len() > MAX_STRING_LEN => {
            Err(PointError::StringTooLong { len: value.len() })
        }
        _ => Ok(()),
    }
}

/// Refuses a series key and a field name that are too long together.
///
/// # Errors
/// [`PointError::KeyTooLong`].
pub fn check_key_len(key: usize, field: usize) -> Result<(), PointError> {
    let len = key + FIELD_SEPARATOR_LEN + field;
    if len > MAX_KEY_LEN { Err(PointError::KeyTooLong { len }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
