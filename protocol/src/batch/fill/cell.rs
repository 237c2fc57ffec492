//! One value of a row that is added by handles.
//!
//! Invariant: `check` is asked before `put`, and what it allowed can be put. Used by [`super::cells`]
//! for rows and by [`super::slice`] for columns.

use bytes::Bytes;

use super::FieldColumn;
use crate::{
    point::{MAX_STRING_LEN, PointError, Value, ValueRef, check_value},
    schema::FieldType,
};

/// A value in a column of its type: `f64` or `f32`, `i64` or `i32`, `u64` or `u32`, `bool`, a string
/// (`&str`, `String`, `&[u8]`, `Vec<u8>`, [`Bytes`]), a [`Value`] or [`ValueRef`] where the type is
/// known at run time only, and an `Option` of any of these, which is absent if it is `None`.
pub trait Cell: sealed::Cell {}

impl<T: sealed::Cell> Cell for T {}

pub(super) mod sealed {
    use super::{FieldColumn, FieldType, PointError};

    pub trait Cell {
        /// An error if the value cannot stand in a column of this type; whether there is one.
        fn check(&self, kind: FieldType) -> Result<bool, PointError>;

        /// Whether there is a value.
        fn has(&self) -> bool {
            true
        }

        /// Puts the value; says how many bytes of string it has.
        fn put(self, column: &mut FieldColumn, row: u32) -> usize;

        /// Puts many in rows one behind another.
        fn put_all(all: &[Self], column: &mut FieldColumn, row: u32) -> usize
        where
            Self: Clone,
        {
            (row..).zip(all).map(|(row, cell)| cell.clone().put(column, row)).sum()
        }
    }
}

const fn expect(column: FieldType, given: FieldType) -> Result<bool, PointError> {
    if column as u8 == given as u8 {
        Ok(true)
    } else {
        Err(PointError::WrongType { column, given })
    }
}

macro_rules! plain {
    ($($type:ty, $kind:ident, $set:ident, $extend:ident;)*) => {$(
        impl sealed::Cell for $type {
            #[inline]
            fn check(&self, kind: FieldType) -> Result<bool, PointError> {
                plain!(@finite $kind self);
                expect(kind, FieldType::$kind)
            }

            #[inline]
            fn put(self, column: &mut FieldColumn, row: u32) -> usize {
                let set = column.store.$set(row, self);
                debug_assert!(set.is_ok());
                0
            }

            fn put_all(all: &[Self], column: &mut FieldColumn, row: u32) -> usize {
                let set = column.store.$extend(row, all);
                debug_assert!(set.is_ok());
                0
            }
        }
    )*};
    (@finite Float $value:ident) => {
        if !$value.is_finite() {
            return Err(PointError::NotFinite);
        }
    };
    (@finite $kind:ident $value:ident) => {};
}

plain! {
    f64, Float, set_float, extend_float;
    i64, Integer, set_integer, extend_integer;
    u64, Unsigned, set_unsigned, extend_unsigned;
    bool, Boolean, set_boolean, extend_boolean;
}

macro_rules! widened {
    ($($narrow:ty => $type:ty;)*) => {$(
        impl sealed::Cell for $narrow {
            #[inline]
            fn check(&self, kind: FieldType) -> Result<bool, PointError> {
                <$type>::from(*self).check(kind)
            }

            #[inline]
            fn put(self, column: &mut FieldColumn, row: u32) -> usize {
                <$type>::from(self).put(column, row)
            }
        }
    )*};
}

widened! {
    f32 => f64;
    i32 => i64;
    u32 => u64;
}

macro_rules! strings {
    ($($type:ty, $to_bytes:expr;)*) => {$(
        impl sealed::Cell for $type {
            fn check(&self, kind: FieldType) -> Result<bool, PointError> {
                let len = self.len();
                if len > MAX_STRING_LEN {
                    return Err(PointError::StringTooLong { len });
                }
                expect(kind, FieldType::String)
            }

            fn put(self, column: &mut FieldColumn, row: u32) -> usize {
                let len = self.len();
                let set = column.store.set_string(row, $to_bytes(self));
                debug_assert!(set.is_ok());
                len
            }
        }
    )*};
}

strings! {
    Bytes, std::convert::identity;
    String, Bytes::from;
    Vec<u8>, Bytes::from;
    &str, |text: &str| Bytes::copy_from_slice(text.as_bytes());
    &[u8], Bytes::copy_from_slice;
}

impl sealed::Cell for Value {
    fn check(&self, kind: FieldType) -> Result<bool, PointError> {
        check_value(self.as_ref())?;
        expect(kind, self.field_type())
    }

    fn put(self, column: &mut FieldColumn, row: u32) -> usize {
        let len = if let Self::String(text) = &self { text.len() } else { 0 };
        let set = column.store.set(row, self);
        debug_assert!(set.is_ok());
        len
    }
}

impl sealed::Cell for ValueRef<'_> {
    fn check(&self, kind: FieldType) -> Result<bool, PointError> {
        check_value(*self)?;
        expect(kind, self.field_type())
    }

    fn put(self, column: &mut FieldColumn, row: u32) -> usize {
        self.to_value().put(column, row)
    }
}

impl<T: sealed::Cell> sealed::Cell for Option<T> {
    #[inline]
    fn check(&self, kind: FieldType) -> Result<bool, PointError> {
        self.as_ref().map_or(Ok(false), |cell| cell.check(kind))
    }

    fn has(&self) -> bool {
        self.as_ref().is_some_and(sealed::Cell::has)
    }

    #[inline]
    fn put(self, column: &mut FieldColumn, row: u32) -> usize {
        self.map_or(0, |cell| cell.put(column, row))
    }
}
