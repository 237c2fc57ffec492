//! Where the rows of a batch come from, and how they are given to the client.
//!
//! Invariant: all kinds give the same points for the same rows. Each writing task has a feed of its own;
//! what can be shared is.

use std::{ops::Range, sync::Arc};

use clap::ValueEnum;
use quorate_client::{
    Batch, Client, Layout, LineOptions, Point, PointError, Receipt, Series, WriteError,
};

use super::drive::Plan;
use crate::{
    cli::fail::Fail,
    fleet::{FIELDS, MEASUREMENT, Table, tags},
};

/// How points are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Input {
    /// Points
    Api,
    /// Handles of series, values by column
    Columns,
    /// Line protocol
    Lines,
}

impl Input {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Columns => "columns",
            Self::Lines => "lines",
        }
    }
}

/// Fills batches and writes them.
pub(super) struct Feed {
    table: Arc<Table>,
    kind: Kind,
    batch: Batch,
}

#[derive(Clone)]
enum Kind {
    /// The tags of every host.
    Api(Arc<Vec<[(&'static str, String); 10]>>),
    Columns(Layout, Arc<Vec<Series>>),
    /// The text of every batch, and which is next.
    Lines(Arc<Vec<Vec<u8>>>, usize),
}

/// One for each task.
pub(super) fn feeds(plan: &Plan, table: &Arc<Table>) -> Result<Vec<Feed>, Fail> {
    let kind = match plan.input {
        Input::Api => {
            let hosts = (0..table.shape().hosts).map(|host| tags(table.shape().seed, host));
            Kind::Api(Arc::new(hosts.collect()))
        }
        Input::Columns => columns(table).map_err(Fail::failed)?,
        Input::Lines => Kind::Lines(Arc::new(lines(plan, table)), 0),
    };
    let feed = || Feed { table: Arc::clone(table), kind: kind.clone(), batch: Batch::new() };
    Ok((0..plan.tasks).map(|_| feed()).collect())
}

fn columns(table: &Table) -> Result<Kind, PointError> {
    let layout =
        FIELDS.iter().fold(Layout::builder(MEASUREMENT), |layout, field| layout.float(field));
    let layout = layout.build()?;
    let seed = table.shape().seed;
    let series = (0..table.shape().hosts).map(|host| layout.series(&tags(seed, host)));
    let series = series.collect::<Result<Vec<Series>, _>>()?;
    Ok(Kind::Columns(layout, Arc::new(series)))
}

fn lines(plan: &Plan, table: &Table) -> Vec<Vec<u8>> {
    let heads = table.heads();
    let batches = (0..plan.batches()).map(|number| {
        let mut text = Vec::new();
        for row in plan.range(number) {
            let (step, host) = place(table, row);
            table.append_line(&heads, step, host, &mut text);
        }
        text.shrink_to_fit();
        text
    });
    batches.collect()
}

/// The step and the host of a row.
pub(super) fn place(table: &Table, row: u64) -> (usize, usize) {
    let hosts = table.shape().hosts as u64;
    // Rows are counted before they are made, so both fit.
    ((row / hosts) as usize, (row % hosts) as usize)
}

impl Feed {
    /// Makes the rows of a batch ready, as far as that is not what is measured.
    pub(super) fn fill(&mut self, number: u64, rows: Range<u64>) -> Result<(), Fail> {
        let Self { table, kind, batch } = self;
        match kind {
            Kind::Api(hosts) => {
                *batch = Batch::new();
                for row in rows {
                    let (step, host) = place(table, row);
                    let mut point = Point::builder(MEASUREMENT);
                    for (key, value) in &hosts[host] {
                        point = point.tag(*key, value);
                    }
                    for (field, value) in FIELDS.iter().zip(table.values(step, host)) {
                        point = point.field(*field, value);
                    }
                    batch.push(&point.at(table.time(step)).map_err(Fail::failed)?);
                }
            }
            Kind::Columns(layout, series) => {
                batch.clear_rows();
                let mut filler = batch.fill(layout);
                for row in rows {
                    let (step, host) = place(table, row);
                    let pushed =
                        filler.push(&series[host], table.time(step), table.values(step, host));
                    pushed.map_err(Fail::failed)?;
                }
            }
            Kind::Lines(_, next) => *next = usize::try_from(number).map_err(Fail::failed)?,
        }
        Ok(())
    }

    /// Writes what was made ready.
    pub(super) async fn write(
        &self,
        client: &Client,
        database: &str,
        plan: &Plan,
    ) -> Result<Receipt, WriteError> {
        match &self.kind {
            Kind::Lines(texts, next) => {
                let options = LineOptions::from(&plan.options);
                let written = client.write_lines(database, &texts[*next], &options).await;
                written.map(|written| written.receipt).map_err(|error| error.write)
            }
            _ => client.write(database, &self.batch, &plan.options).await,
        }
    }
}
