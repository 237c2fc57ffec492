//! The functions that a partial answers.
//!
//! Invariant: a result that its type cannot hold is an error, never a wrong number. Numbers have
//! all seven functions; booleans and strings have count, first and last only. Called by whoever
//! shows aggregates.

use super::{Partial, Sum};
use crate::{point::Value, schema::FieldType};

/// What to say of the values in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// How many there are: an integer.
    Count,
    /// Their sum, in the field's type.
    Sum,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Their arithmetic mean: a float.
    Mean,
    /// The value of the earliest time.
    First,
    /// The value of the latest time.
    Last,
}

/// The sum of a window does not fit into the field's type; for floats: it was beyond their range at
/// some point of the addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {function:?} of {count} values exceeds the type {}; ask for shorter windows", .kind.name())]
pub struct SumOverflow {
    /// Which function.
    pub function: Function,
    /// The type that was exceeded.
    pub kind: FieldType,
    /// The number of values.
    pub count: u64,
}

impl Function {
    /// The type of the result; none if values of this type have no such function.
    #[must_use]
    pub const fn result(self, kind: FieldType) -> Option<FieldType> {
        let number = matches!(kind, FieldType::Float | FieldType::Integer | FieldType::Unsigned);
        match self {
            Self::Count => Some(FieldType::Integer),
            Self::First | Self::Last => Some(kind),
            Self::Mean if number => Some(FieldType::Float),
            Self::Sum | Self::Min | Self::Max if number => Some(kind),
            Self::Mean | Self::Sum | Self::Min | Self::Max => None,
        }
    }
}

impl Partial {
    /// The function's result; `None` if values of this type have none.
    ///
    /// # Errors
    /// The sum, or the sum that a mean of floats needs, does not fit into its type.
    pub fn result(&self, function: Function) -> Result<Option<Value>, SumOverflow> {
        let kind = self.kind();
        let over = |kind| SumOverflow { function, kind, count: self.count };
        let Some(result) = function.result(kind) else {
            return Ok(None);
        };
        Ok(Some(match function {
            Function::Count => Value::Integer(i64::try_from(self.count).map_err(|_| over(result))?),
            Function::Sum => match (self.sum, kind) {
                (Sum::Integer(sum), FieldType::Integer) => {
                    Value::Integer(i64::try_from(sum).map_err(|_| over(kind))?)
                }
                (Sum::Integer(sum), FieldType::Unsigned) => {
                    Value::Unsigned(u64::try_from(sum).map_err(|_| over(kind))?)
                }
                (sum, _) => Value::Float(sum.to_f64().ok_or(over(kind))?),
            },
            Function::Mean => {
                Value::Float(self.sum.to_f64().ok_or(over(result))? / self.count as f64)
            }
            Function::Min => self.min.clone(),
            Function::Max => self.max.clone(),
            Function::First => self.first.1.clone(),
            Function::Last => self.last.1.clone(),
        }))
    }
}
