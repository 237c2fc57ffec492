//! `quorate bench write`: how fast a cluster takes points, and what it costs.
//!
//! Invariants: making the points is not on the clock; every row that was acknowledged is read back and
//! compared; the keys of the JSON object never change their meaning; child processes end and temporary
//! folders go, whatever happens.

mod drive;
mod fault;
mod feed;
mod figures;
mod limit;
mod scene;
mod verify;
mod watch;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use quorate_client::{Env, WriteOptions};
use quorate_protocol::consistency::Level;

use super::super::{
    connect::Connect, fail::Fail, output::Output, time::parse_positive, write::parse_rate,
};
use crate::fleet::{Shape, Table, Values};
use drive::Plan;
use fault::Fault;
use feed::Input;
use figures::Figures;
use scene::{Scene, Spread};
use verify::Checked;
use watch::Watch;

/// Values that are made beforehand at most; behind them the walk goes back and forth.
const MADE_ROWS: u64 = 2_000_000;
/// Text that is made beforehand at most.
const MADE_TEXT: u64 = 8 << 30;
/// Bytes of a line, and a bit.
const LINE: u64 = 360;
/// What is known about a batch takes a byte, and all of it is remembered.
const MOST_BATCHES: u64 = 1 << 30;
/// How long hints, and copies under way, are waited for.
const PATIENCE: Duration = Duration::from_secs(300);

const ABOUT: &str = "\
Writes the reports of a generated fleet (10 tags, 10 float fields, one report every 10 s) into a
cluster as fast as it takes them, or at --rate, and then reads every acknowledged row back. Without
--connect it starts --nodes nodes of its own on this machine, with data in a temporary folder.

  --input api      a Point per row, by the builder, into a Batch
  --input writer   a Point per row, pushed one by one into a Writer that all tasks share
  --input columns  rows by handles of a Layout, which are made once: the fast way
  --input lines    line protocol, made before the clock starts and parsed while it runs

Closed loop: each of --tasks tasks has one batch under way. With --rate each batch has a moment at
which it is due, and its latency is counted from there: waiting for a stall is part of it.

  --fault node-down     a node is killed before the load, and started again after it
  --fault node-stopped  a node is stopped (SIGSTOP) after a quarter of the rows, until all is sent
  --fault drain         a node is killed before, and started again after a third of the rows: it
                        gets its hints while the load goes on

disk_bytes_per_value is per copy, journals and what is not merged yet included, at the end of the
read-back; wire_bytes_per_value is what the client sent, per value and copy, as UDP payload;
limit_share is rows_per_s as a share of what the disk (append and sync) or bare QUIC could carry of
the same bytes, whichever is less, measured just before: with client and nodes on one machine the
processor is in the way long before that.

--shard-duration makes a new shard after so much of the rows' own time, of which a second holds a
tenth of --hosts rows, as they have in use: shards behind are rewritten densely while the load goes on.

--distinct makes long runs possible on a small disk: rows begin again from the first after so many,
the same points with newer versions. 'rows' counts all of them, 'verified_rows' each point once.";

const EXAMPLES: &str = "\
  quorate bench write
  quorate bench write --nodes 1 --rows 10M --hosts 100k
  quorate bench write --input lines --json | jq .rows_per_s
  quorate bench write --input writer --batch 1 --tasks 64 --rows 500k
  quorate bench write --rate 300k --rows 20M --fault drain
  quorate bench write --rate 1M --rows 1800M --shard-duration 1d --json > half-an-hour.json
  quorate bench write --connect 10.0.0.1:7101 --certs pki/me --tasks 16 --batch 1000";

/// Measure how fast a cluster takes points, and check that it has them
#[derive(Args, Debug)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Write {
    /// Series
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_count)]
    hosts: u64,
    /// Rows in all
    #[arg(long, value_name = "N", default_value = "1M", value_parser = parse_count)]
    rows: u64,
    /// Different rows; then the same again [default: all]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    distinct: Option<u64>,
    /// Rows per batch
    #[arg(long, value_name = "N", default_value_t = 5000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Tasks that write; in a closed loop, batches under way
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tasks: u32,
    /// Durable copies to wait for: any, one, quorum or all
    #[arg(long, value_name = "L", default_value = "quorum")]
    consistency: Level,
    /// How the points are given to the client
    #[arg(long, value_name = "KIND", default_value = "columns")]
    input: Input,
    /// What the values are rounded to
    #[arg(long, value_name = "KIND", default_value = "integer")]
    values: Rounding,
    /// Rows per second, as 50k or 1.5M; without it as many as go
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<u64>,
    /// What goes wrong meanwhile; needs nodes of its own
    #[arg(long, value_name = "KIND", default_value = "none")]
    fault: Fault,
    /// Nodes to start [default: 3 without --connect]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: Option<u32>,
    /// Copies of every row [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    replication: Option<u32>,
    /// Time range of one shard, as 1d [default: all rows in one]
    #[arg(long, value_name = "D", value_parser = parse_positive)]
    shard_duration: Option<u64>,
    /// Where the data of --nodes goes, in a folder of its own that is removed [default: the system's
    /// temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long a batch may take to reach its level
    #[arg(long, value_name = "D", default_value = "30s", value_parser = parse_positive)]
    timeout: u64,
    /// Decides the tags and values
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    connect: Connect,
}

/// What values are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rounding {
    /// Whole numbers
    Integer,
    /// Two decimals
    Decimal,
    /// Nothing: the low bits are noise
    Full,
}

impl Rounding {
    const fn values(self) -> Values {
        match self {
            Self::Integer => Values::Integer,
            Self::Decimal => Values::TwoDecimals,
            Self::Full => Values::Full,
        }
    }
}

/// Reads `500`, `20k` or `1.5M`.
fn parse_count(text: &str) -> Result<u64, String> {
    parse_rate(text).map_err(|_| format!("{text:?} is no count: use 500, 20k or 1.5M"))
}

impl Write {
    fn shape(&self) -> Result<Shape, Fail> {
        let most = 10_000_000;
        if self.hosts > most {
            return Err(Fail::usage(format!("--hosts is {most} at most")));
        }
        let distinct = self.distinct.unwrap_or(self.rows).min(self.rows);
        if distinct < self.rows && !distinct.is_multiple_of(u64::from(self.batch)) {
            return Err(Fail::usage(format!("--distinct must be whole batches of {}", self.batch)));
        }
        if self.rows / u64::from(self.batch) > MOST_BATCHES {
            return Err(Fail::usage(format!("--rows is {MOST_BATCHES} batches at most")));
        }
        let text = distinct.saturating_mul(LINE);
        if self.input == Input::Lines && text > MADE_TEXT {
            return Err(Fail::usage(format!(
                "--input lines makes all text beforehand: --rows, or --distinct, is {} at most",
                MADE_TEXT / LINE
            )));
        }
        let hosts = usize::try_from(self.hosts).map_err(Fail::failed)?;
        Ok(Shape { hosts, values: self.values.values(), seed: self.seed, ..Shape::default() })
    }

    fn plan(&self) -> Plan {
        let options = WriteOptions {
            timeout: Duration::from_nanos(self.timeout),
            ..WriteOptions::at(self.consistency)
        };
        let (rows, batch, tasks) = (self.rows, u64::from(self.batch), self.tasks as usize);
        let distinct = self.distinct.unwrap_or(rows).min(rows);
        Plan { rows, distinct, batch, tasks, rate: self.rate, input: self.input, options }
    }

    const fn spread(&self) -> Spread {
        Spread { replication: self.replication, shard_duration: self.shard_duration }
    }

    /// Whether nodes are to be started.
    fn own_nodes(&self) -> Option<usize> {
        let none = self.connect.connect.is_empty();
        self.nodes.or(none.then_some(3)).map(|nodes| nodes as usize)
    }
}

pub(super) async fn run(args: &Write, env: &Env) -> Result<(), Fail> {
    let shape = args.shape()?;
    let bar = ProgressBar::new(args.rows);
    let style = "{msg} {wide_bar} {human_pos}/{human_len} rows {rate}/s left {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
            // A bar has no way to tell of an error here, and none can come.
            let _ = write!(text, "{}", HumanCount(state.per_sec() as u64));
        };
        bar.set_style(style.with_key("rate", rate));
    }
    if args.connect.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_message("starting");
    let mut scene = match args.own_nodes() {
        Some(nodes) => {
            Scene::start(args.dir.as_deref(), nodes, args.spread(), args.fault, env).await?
        }
        None if args.fault != Fault::None => {
            return Err(Fail::usage("--fault needs --nodes: it kills only what it has started"));
        }
        None => Scene::connect(&args.connect, args.spread(), env).await?,
    };
    let measured = tokio::select! {
        biased;
        measured = measure(args, shape, &mut scene, &bar, env) => measured,
        ended = tokio::signal::ctrl_c() => {
            Err(ended.map_or_else(Fail::failed, |()| Fail::failed("interrupted")))
        }
    };
    bar.finish_and_clear();
    let ended = scene.end().await;
    let figures = measured?;
    ended?;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&figures.describe())?;
    } else {
        out.bytes(figures.text().as_bytes())?;
    }
    out.flush()?;
    figures.verdict()
}

async fn measure(
    args: &Write,
    shape: Shape,
    scene: &mut Scene,
    bar: &ProgressBar,
    env: &Env,
) -> Result<Figures, Fail> {
    let plan = args.plan();
    let limit = match scene.directory() {
        Some(dir) => {
            bar.set_message("measuring the machine");
            Some(limit::measure(dir, env).await?)
        }
        None => None,
    };
    bar.set_message("making points");
    let made = MADE_ROWS.min(args.rows).div_ceil(args.hosts);
    let table = Arc::new(Table::new(shape, usize::try_from(made).map_err(Fail::failed)?));
    let feeds = feed::feeds(&plan, &table, &scene.client, &scene.database)?;
    fault::before(args.fault, scene).await?;
    bar.set_message("writing");
    let watch = Watch::start(scene);
    let driving = drive::start(&plan, &scene.client, &scene.database, feeds, bar);
    let back = fault::amid(args.fault, scene, &driving, &watch).await?;
    let driven = driving.ended().await?;
    let load = watch.so_far();
    let grown = watch.line();
    bar.set_message("waiting for every copy");
    let drained = fault::after(args.fault, scene, &driven, &watch, back).await?;
    bar.set_message("reading back");
    let checked: Checked = verify::verify(scene, &table, &plan, &driven, bar).await?;
    let disk_bytes = scene.disk_bytes();
    Ok(Figures {
        plan,
        hosts: args.hosts,
        shard_duration: args.shard_duration,
        fault: args.fault,
        values: args.values,
        nodes: scene.nodes(),
        copies: scene.copies(),
        driven,
        load,
        grown,
        drained,
        checked,
        disk_bytes,
        limit,
    })
}
