//! Sums that do not depend on the order of their summands, as far as anybody can see.
//!
//! Invariants: integers are exact; of floats, what `high` cannot hold stands in `low`, which is
//! smaller than half of `high`'s last bit; a sum of floats that left their range is `high` =
//! infinity and `low` = 0, and stays that. Part of every [`super::Partial`].

use crate::point::ValueRef;

/// The sum of the values of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sum {
    /// Booleans and strings have none.
    None,
    /// Of floats: `high + low`.
    Float {
        /// The sum as a double; infinity once it was beyond the range of doubles.
        high: f64,
        /// What is missing in `high`.
        low: f64,
    },
    /// Of integers and unsigned integers, exact.
    Integer(i128),
}

/// `a + b` as a double, and what it is short of the exact sum.
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_virtual = sum - a;
    (sum, (a - (sum - b_virtual)) + (b - b_virtual))
}

impl Sum {
    /// Of one value.
    #[must_use]
    pub fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Float(value) => Self::float(value, 0.0),
            ValueRef::Integer(value) => Self::Integer(value.into()),
            ValueRef::Unsigned(value) => Self::Integer(value.into()),
            ValueRef::Boolean(_) | ValueRef::String(_) => Self::None,
        }
    }

    /// The sum of two doubles, brought into the one form it has.
    #[must_use]
    pub fn float(high: f64, low: f64) -> Self {
        let (high, low) = two_sum(high, low);
        if high.is_finite() && low.is_finite() {
            Self::Float { high, low }
        } else {
            Self::Float { high: f64::INFINITY, low: 0.0 }
        }
    }

    /// Adds another sum of the same kind of values.
    pub fn merge(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::Float { high, low }, Self::Float { high: more, low: rest }) => {
                let (high, error) = two_sum(high, more);
                Self::float(high, (low + rest) + error)
            }
            // More than 2^63 summands would be needed to leave the range.
            (Self::Integer(a), Self::Integer(b)) => Self::Integer(a.saturating_add(b)),
            (known, _) => known,
        };
    }

    /// As a double, if it has one.
    #[must_use]
    pub fn to_f64(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Float { high, .. } => high.is_finite().then_some(high),
            Self::Integer(sum) => Some(sum as f64),
        }
    }
}
