//! One aggregate of one field over one window.
//!
//! Invariant: the result does not depend on how rows are split into pieces; sums of integers are
//! exact, and a result that its type cannot hold is an error, never a wrong number.

use clap::ValueEnum;
use quorate_protocol::{
    point::{Value, ValueRef},
    schema::FieldType,
};

/// What to compute per window and field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
    Mean,
    First,
    Last,
}

impl Aggregate {
    /// The type of the result; none if values of this type have no such aggregate.
    pub(crate) const fn result(self, kind: FieldType) -> Option<FieldType> {
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

/// What has been seen of a field in a window.
#[derive(Clone, Debug)]
pub(crate) struct Accumulator {
    aggregate: Aggregate,
    count: u64,
    whole: i128,
    float: f64,
    kept: Option<Value>,
}

impl Accumulator {
    pub(crate) const fn new(aggregate: Aggregate) -> Self {
        Self { aggregate, count: 0, whole: 0, float: 0.0, kept: None }
    }

    /// Takes the next value, in order of time.
    pub(crate) fn add(&mut self, value: ValueRef<'_>) {
        self.count += 1;
        match value {
            ValueRef::Float(value) => self.float += value,
            ValueRef::Integer(value) => self.whole += i128::from(value),
            ValueRef::Unsigned(value) => self.whole += i128::from(value),
            ValueRef::Boolean(_) | ValueRef::String(_) => {}
        }
        let kept = self.kept.as_ref().map(Value::as_ref);
        let keep = match (self.aggregate, kept) {
            (Aggregate::Last, _) => true,
            (Aggregate::First | Aggregate::Min | Aggregate::Max, None) => true,
            (Aggregate::Min, Some(kept)) => less(value, kept),
            (Aggregate::Max, Some(kept)) => less(kept, value),
            _ => false,
        };
        if keep {
            self.kept = Some(value.to_value());
        }
    }

    /// The window's result; none if it had no value, or why there is none.
    pub(crate) fn finish(self, kind: FieldType) -> Result<Option<Value>, &'static str> {
        if self.count == 0 {
            return Ok(None);
        }
        let float = |value: f64| {
            if value.is_finite() { Ok(Value::Float(value)) } else { Err("exceeds a float") }
        };
        let value = match (self.aggregate, kind) {
            (Aggregate::Count, _) => {
                Value::Integer(i64::try_from(self.count).map_err(|_| "exceeds an integer")?)
            }
            (Aggregate::Sum, FieldType::Float) => float(self.float)?,
            (Aggregate::Sum, FieldType::Integer) => {
                Value::Integer(i64::try_from(self.whole).map_err(|_| "exceeds an integer")?)
            }
            (Aggregate::Sum, FieldType::Unsigned) => {
                Value::Unsigned(u64::try_from(self.whole).map_err(|_| "exceeds an unsigned")?)
            }
            (Aggregate::Mean, FieldType::Float) => float(self.float / self.count as f64)?,
            (Aggregate::Mean, FieldType::Integer | FieldType::Unsigned) => {
                float(self.whole as f64 / self.count as f64)?
            }
            _ => return Ok(self.kept),
        };
        Ok(Some(value))
    }
}

/// Numeric order; other types are never compared.
fn less(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (ValueRef::Float(a), ValueRef::Float(b)) => a < b,
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a < b,
        (ValueRef::Unsigned(a), ValueRef::Unsigned(b)) => a < b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(aggregate: Aggregate, values: &[Value]) -> Result<Option<Value>, &'static str> {
        let mut accumulator = Accumulator::new(aggregate);
        values.iter().for_each(|value| accumulator.add(value.as_ref()));
        accumulator.finish(values.first().map_or(FieldType::Float, Value::field_type))
    }

    #[test]
    fn numbers() {
        let values = [3i64, -1, 4].map(Value::from);
        let expected: [(Aggregate, Value); 7] = [
            (Aggregate::Count, Value::from(3i64)),
            (Aggregate::Sum, Value::from(6i64)),
            (Aggregate::Min, Value::from(-1i64)),
            (Aggregate::Max, Value::from(4i64)),
            (Aggregate::Mean, Value::from(2.0)),
            (Aggregate::First, Value::from(3i64)),
            (Aggregate::Last, Value::from(4i64)),
        ];
        for (aggregate, expected) in expected {
            assert_eq!(over(aggregate, &values), Ok(Some(expected)), "{aggregate:?}");
        }
        assert_eq!(over(Aggregate::Mean, &[1.0, 2.0].map(Value::from)), Ok(Some(Value::from(1.5))));
        assert_eq!(over(Aggregate::Sum, &[]), Ok(None));
    }

    #[test]
    fn large_sums_are_exact_or_refused() {
        let huge = [i64::MAX, i64::MAX, -i64::MAX].map(Value::from);
        assert_eq!(over(Aggregate::Sum, &huge), Ok(Some(Value::from(i64::MAX))));
        assert!(over(Aggregate::Sum, &huge[..2]).is_err());
        assert_eq!(over(Aggregate::Sum, &[Value::from(u64::MAX)]), Ok(Some(Value::from(u64::MAX))));
        assert!(over(Aggregate::Sum, &[f64::MAX, f64::MAX].map(Value::from)).is_err());
    }

    #[test]
    fn text_and_booleans_have_a_first_and_a_last_only() {
        let values = ["b", "a"].map(Value::from);
        assert_eq!(over(Aggregate::First, &values), Ok(Some(Value::from("b"))));
        assert_eq!(over(Aggregate::Count, &values), Ok(Some(Value::from(2i64))));
        assert_eq!(Aggregate::Sum.result(FieldType::String), None);
        assert_eq!(Aggregate::Max.result(FieldType::Boolean), None);
        assert_eq!(Aggregate::Last.result(FieldType::Boolean), Some(FieldType::Boolean));
    }
}
