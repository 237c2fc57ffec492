//! Where the rows of a batch come from, and how they are given to the client.
//!
//! Invariant: all kinds give the same points for the same rows. Each writing task has a feed of its own;
//! what can be shared is.

use std::{ops::Range, sync::Arc};

use clap::ValueEnum;
use quorate_client::{
    Batch, Client, Layout, LineOptions, Point, PointError, PushError, Series, WriteError, Writer,
    WriterConfig,
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
    /// Points that are pushed one by one into a Writer, which all tasks share
    Writer,
    /// Handles of series, values by column
    Columns,
    /// Line protocol
    Lines,
}

impl Input {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Writer => "writer",
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

/// The tags of every host.
type Hosts = Arc<Vec<[(&'static str, String); 10]>>;

#[derive(Clone)]
enum Kind {
    Api(Hosts),
    /// And the points of the next batch.
    Writer(Hosts, Writer, Vec<Point>),
    Columns(Layout, Arc<Vec<Series>>),
    /// The text of every batch, and which is next.
    Lines(Arc<Vec<Vec<u8>>>, usize),
}

/// One for each task.
pub(super) fn feeds(
    plan: &Plan,
    table: &Arc<Table>,
    client: &Client,
    database: &str,
) -> Result<Vec<Feed>, Fail> {
    let hosts = || -> Hosts {
        let hosts = (0..table.shape().hosts).map(|host| tags(table.shape().seed, host));
        Arc::new(hosts.collect())
    };
    let kind = match plan.input {
        Input::Api => Kind::Api(hosts()),
        Input::Writer => {
            let config = WriterConfig { options: plan.options.clone(), ..WriterConfig::default() };
            Kind::Writer(hosts(), client.writer(database, config), Vec::new())
        }
        Input::Columns => columns(table).map_err(Fail::failed)?,
        Input::Lines => Kind::Lines(Arc::new(lines(plan, table)), 0),
    };
    let feed = |_| {
        let mut feed = Feed { table: Arc::clone(table), kind: kind.clone(), batch: Batch::new() };
        feed.meet(plan)?;
        Ok(feed)
    };
    (0..plan.tasks).map(feed).collect()
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
    let batches = (0..plan.turn()).map(|number| {
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
    /// Makes a batch that keeps its series know all of them, so that its memory is there before the
    /// load begins and is not taken for the client's.
    fn meet(&mut self, plan: &Plan) -> Result<(), Fail> {
        if matches!(self.kind, Kind::Columns(..)) {
            let all = (self.table.shape().hosts as u64).min(plan.distinct);
            for number in 0..all.div_ceil(plan.batch) {
                self.fill(number, plan.range(number))?;
            }
        }
        Ok(())
    }

    /// Makes the rows of a batch ready, as far as that is not what is measured.
    pub(super) fn fill(&mut self, number: u64, rows: Range<u64>) -> Result<(), Fail> {
        let Self { table, kind, batch } = self;
        match kind {
            Kind::Api(hosts) => {
                *batch = Batch::new();
                for row in rows {
                    batch.push(&point(table, hosts, row).map_err(Fail::failed)?);
                }
            }
            Kind::Writer(hosts, _, points) => {
                let made = rows.map(|row| point(table, hosts, row));
                *points = made.collect::<Result<_, _>>().map_err(Fail::failed)?;
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
            Kind::Lines(texts, next) => {
                *next =
                    usize::try_from(number % texts.len().max(1) as u64).map_err(Fail::failed)?;
            }
        }
        Ok(())
    }

    /// Writes what was made ready, and returns how many parts that made; a writer does not say.
    pub(super) async fn write(
        &self,
        client: &Client,
        database: &str,
        plan: &Plan,
    ) -> Result<usize, Unwritten> {
        let receipt = match &self.kind {
            Kind::Writer(_, writer, points) => {
                let mut pending = Vec::with_capacity(points.len());
                for point in points {
                    pending.push(writer.push(point).await?);
                }
                for outcome in pending {
                    outcome.await?;
                }
                return Ok(1);
            }
            Kind::Lines(texts, next) => {
                let options = LineOptions::from(&plan.options);
                let written = client.write_lines(database, &texts[*next], &options).await;
                written.map(|written| written.receipt).map_err(|error| error.write)
            }
            _ => client.write(database, &self.batch, &plan.options).await,
        };
        Ok(receipt?.parts.len())
    }
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwritten {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Push(#[from] PushError),
}

fn point(table: &Table, hosts: &Hosts, row: u64) -> Result<Point, PointError> {
    let (step, host) = place(table, row);
    let mut point = Point::builder(MEASUREMENT);
    for (key, value) in &hosts[host] {
        point = point.tag(*key, value);
    }
    for (field, value) in FIELDS.iter().zip(table.values(step, host)) {
        point = point.field(*field, value);
    }
    point.at(table.time(step))
}
