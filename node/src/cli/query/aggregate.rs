//! `--agg`: what to say of each window, and windows as rows to show.
//!
//! Invariants: a row stands at the start of its window and has every field that has a value in it; a
//! sum that its type cannot hold is an error, never a wrong number. What a function is lies in the
//! protocol, so that it does not matter who computed the window.

use clap::ValueEnum;
use quorate_client::{SeriesWindows, WindowStream};
use quorate_protocol::{aggregate::Function, batch::Column, schema::FieldType};

use crate::cli::{fail::Fail, fields::FieldNames, series::Series};

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
    const fn function(self) -> Function {
        match self {
            Self::Count => Function::Count,
            Self::Sum => Function::Sum,
            Self::Min => Function::Min,
            Self::Max => Function::Max,
            Self::Mean => Function::Mean,
            Self::First => Function::First,
            Self::Last => Function::Last,
        }
    }

    /// The type of the result; none if values of this type have no such aggregate.
    pub(crate) const fn result(self, kind: FieldType) -> Option<FieldType> {
        self.function().result(kind)
    }
}

/// The next windows that have a result, as rows; none at the end.
pub(crate) async fn next(
    stream: &mut WindowStream,
    aggregate: Aggregate,
    names: &mut FieldNames,
) -> Result<Option<Series>, Fail> {
    loop {
        let Some(windows) = stream.next().await.transpose()? else { return Ok(None) };
        let series = rows(windows, aggregate, names)?;
        if !series.times.is_empty() {
            return Ok(Some(series));
        }
    }
}

fn rows(
    windows: SeriesWindows,
    aggregate: Aggregate,
    names: &mut FieldNames,
) -> Result<Series, Fail> {
    let function = aggregate.function();
    let mut fields = windows.fields;
    fields.retain(|field| function.result(field.kind).is_some());
    let starts = fields.iter().flat_map(|field| field.windows.iter().map(|(start, _)| *start));
    let mut times: Vec<i64> = starts.collect();
    times.sort_unstable();
    times.dedup();
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(kind) = function.result(field.kind) else { continue };
        let mut column = Column::new(field.field, field.name, kind);
        let mut rest = field.windows.iter().peekable();
        for time in &times {
            let Some((_, partial)) = rest.next_if(|(start, _)| start == time) else {
                column.push_absent();
                continue;
            };
            let value = partial.result(function).map_err(|error| {
                let name = String::from_utf8_lossy(&column.name).into_owned();
                Fail::failed(format!("field {name:?}: {error}"))
            })?;
            // The type is the column's: it follows from the field's and the function.
            if value.is_some_and(|value| column.values.push(value)) {
                column.present.push(true);
            } else {
                column.push_absent();
            }
        }
        columns.push(column);
    }
    Series::new(windows.key, times, columns, names)
}
