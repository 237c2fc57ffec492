//! Values of a fleet that are made beforehand, so that making them is not on anybody's clock.
//!
//! Invariants: the first steps are those of [`Rows`]; behind them the walk goes back and forth over
//! what was made, so that it has no end and no jump; rounded values take as little memory as they can,
//! since the memory of a client is measured beside them.

use super::{FIELDS, INTERVAL, Rows, Shape, Values, append_line, head};

/// The values of some steps of all hosts.
pub struct Table {
    shape: Shape,
    steps: usize,
    values: Compact,
}

/// In order of (step, host, field).
enum Compact {
    Whole(Vec<u8>),
    Hundredths(Vec<u16>),
    Full(Vec<f64>),
}

impl Table {
    /// The first `steps` steps.
    #[must_use]
    pub fn new(shape: Shape, steps: usize) -> Self {
        let steps = steps.max(1);
        let rows = Rows::new(shape).take(steps * shape.hosts);
        let values = rows.flat_map(|row| row.values);
        // Walks stay between 0 and 100.
        let values = match shape.values {
            Values::Integer => Compact::Whole(values.map(|value| value as u8).collect()),
            Values::TwoDecimals => {
                Compact::Hundredths(values.map(|value| (value * 100.0).round() as u16).collect())
            }
            Values::Full => Compact::Full(values.collect()),
        };
        Self { shape, steps, values }
    }

    /// Which fleet it is.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The time of a step.
    #[must_use]
    pub const fn time(&self, step: usize) -> i64 {
        self.shape.start + step as i64 * INTERVAL
    }

    /// What a host reports at a step, however late.
    #[must_use]
    pub fn values(&self, step: usize, host: usize) -> [f64; FIELDS.len()] {
        let turn = step % (2 * self.steps);
        let made = if turn < self.steps { turn } else { 2 * self.steps - 1 - turn };
        let first = (made * self.shape.hosts + host) * FIELDS.len();
        std::array::from_fn(|field| match &self.values {
            Compact::Whole(values) => f64::from(values[first + field]),
            Compact::Hundredths(values) => f64::from(values[first + field]) / 100.0,
            Compact::Full(values) => values[first + field],
        })
    }

    /// What every line of each host begins with.
    #[must_use]
    pub fn heads(&self) -> Vec<Vec<u8>> {
        (0..self.shape.hosts).map(|host| head(self.shape.seed, host)).collect()
    }

    /// Appends one report as a line; `heads` are this table's.
    pub fn append_line(&self, heads: &[Vec<u8>], step: usize, host: usize, out: &mut Vec<u8>) {
        append_line(&heads[host], &self.values(step, host), self.time(step), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Lines, START};

    #[test]
    fn a_table_says_what_the_rows_say_and_goes_back_and_forth() {
        for values in [Values::Integer, Values::TwoDecimals, Values::Full] {
            let shape = Shape { hosts: 3, values, seed: 5, start: START };
            let table = Table::new(shape, 20);
            for (at, row) in Rows::new(shape).take(60).enumerate() {
                assert_eq!(
                    (table.time(at / 3), table.values(at / 3, at % 3)),
                    (row.time, row.values)
                );
            }
            for (step, again) in [(20, 19), (39, 0), (40, 0), (59, 19), (60, 19)] {
                assert_eq!(table.values(step, 2), table.values(again, 2));
                assert!(table.time(step) > table.time(again));
            }
            let (mut lines, mut own) = (Vec::new(), Vec::new());
            Lines::new(shape).append(60, &mut lines);
            let heads = table.heads();
            (0..60).for_each(|at| table.append_line(&heads, at / 3, at % 3, &mut own));
            assert_eq!(own, lines);
        }
    }
}
