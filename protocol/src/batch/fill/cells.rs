//! All values of a row that is added by handles.
//!
//! Invariant: nothing of a row is put before all of it has been checked. Used by
//! [`super::Filler::push`].

use bytes::Bytes;

use super::cell::sealed::Cell;
use crate::{batch::FieldColumn, point::PointError, schema::FieldType};

/// The values of a row in the order of its layout's columns: a tuple of up to sixteen
/// [cells](super::Cell), or an array or a slice of cells.
pub trait Cells: sealed::Cells {}

impl<T: sealed::Cells> Cells for T {}

/// Where the values of a row go.
#[derive(Debug)]
pub struct Target<'a> {
    pub(super) columns: &'a mut [FieldColumn],
    /// Per column of the layout, the column of the batch.
    pub(super) places: &'a [u32],
    pub(super) row: u32,
    pub(super) string_bytes: &'a mut usize,
}

impl Target<'_> {
    #[inline]
    fn put(&mut self, at: usize, cell: impl Cell) {
        let column = &mut self.columns[self.places[at] as usize];
        *self.string_bytes += cell.put(column, self.row);
    }
}

pub(super) mod sealed {
    use super::{Bytes, FieldType, PointError, Target};

    pub trait Cells {
        fn count(&self) -> usize;
        /// Whether there is a value; there are as many columns as cells.
        fn check(&self, columns: &[(Bytes, FieldType)]) -> Result<bool, PointError>;
        fn put(self, target: &mut Target<'_>);
    }
}

fn check<T: Cell>(cells: &[T], columns: &[(Bytes, FieldType)]) -> Result<bool, PointError> {
    let mut any = false;
    for (cell, (_, kind)) in cells.iter().zip(columns) {
        any |= cell.check(*kind)?;
    }
    Ok(any)
}

impl<T: Cell + Clone> sealed::Cells for &[T] {
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn check(&self, columns: &[(Bytes, FieldType)]) -> Result<bool, PointError> {
        check(self, columns)
    }

    #[inline]
    fn put(self, target: &mut Target<'_>) {
        self.iter().enumerate().for_each(|(at, cell)| target.put(at, cell.clone()));
    }
}

impl<T: Cell, const N: usize> sealed::Cells for [T; N] {
    fn count(&self) -> usize {
        N
    }

    #[inline]
    fn check(&self, columns: &[(Bytes, FieldType)]) -> Result<bool, PointError> {
        check(self, columns)
    }

    #[inline]
    fn put(self, target: &mut Target<'_>) {
        self.into_iter().enumerate().for_each(|(at, cell)| target.put(at, cell));
    }
}

/// For one number of cells after the other, up to all of them.
macro_rules! tuples {
    ([$($name:ident $at:tt)*]) => {};
    ([$($name:ident $at:tt)*] $next:ident $next_at:tt $($rest:ident $rest_at:tt)*) => {
        impl<$($name: Cell,)* $next: Cell> sealed::Cells for ($($name,)* $next,) {
            fn count(&self) -> usize {
                $next_at + 1
            }

            #[inline]
            fn check(&self, columns: &[(Bytes, FieldType)]) -> Result<bool, PointError> {
                let any = [
                    $(self.$at.check(columns[$at].1)?,)*
                    self.$next_at.check(columns[$next_at].1)?,
                ];
                Ok(any.contains(&true))
            }

            #[inline]
            fn put(self, target: &mut Target<'_>) {
                $(target.put($at, self.$at);)*
                target.put($next_at, self.$next_at);
            }
        }

        tuples!([$($name $at)* $next $next_at] $($rest $rest_at)*);
    };
}

tuples!([] A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11 M 12 N 13 O 14 P 15);
