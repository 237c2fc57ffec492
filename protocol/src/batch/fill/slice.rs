//! All values of a column over many rows that are added by handles.
//!
//! Invariant: as for single values: `check_all` is asked before `put_all`. Used by
//! [`super::Filler::push_columns`] and [`super::Filler::push_series`].

use super::{FieldColumn, FillError, cell::sealed::Cell};
use crate::schema::FieldType;

/// The values of one column over many rows: a slice, an array or a `Vec` of
/// [cells](super::Cell).
pub trait CellSlice: sealed::CellSlice {}

impl<T: sealed::CellSlice + ?Sized> CellSlice for T {}

pub(super) mod sealed {
    use super::{FieldColumn, FieldType, FillError};

    pub trait CellSlice {
        fn rows(&self) -> usize;
        /// Whether every row has a value.
        fn check_all(&self, kind: FieldType) -> Result<bool, FillError>;
        fn has(&self, row: usize) -> bool;
        /// See [`crate::batch::Cell`].
        fn put_all(&self, column: &mut FieldColumn, row: u32) -> usize;
    }
}

fn check_all<T: Cell>(cells: &[T], kind: FieldType) -> Result<bool, FillError> {
    let mut full = true;
    for (row, cell) in cells.iter().enumerate() {
        full &= Cell::check(cell, kind).map_err(|reason| FillError::Row { row, reason })?;
    }
    Ok(full)
}

macro_rules! slices {
    ($([$($generics:tt)*] $type:ty;)*) => {$(
        impl<$($generics)*> sealed::CellSlice for $type {
            fn rows(&self) -> usize {
                self.len()
            }

            fn check_all(&self, kind: FieldType) -> Result<bool, FillError> {
                check_all(&self[..], kind)
            }

            fn has(&self, row: usize) -> bool {
                // The type has been checked.
                self.get(row).is_some_and(Cell::has)
            }

            fn put_all(&self, column: &mut FieldColumn, row: u32) -> usize {
                <T as Cell>::put_all(self, column, row)
            }
        }
    )*};
}

slices! {
    [T: Cell + Clone] &[T];
    [T: Cell + Clone] Vec<T>;
    [T: Cell + Clone, const N: usize] [T; N];
}
