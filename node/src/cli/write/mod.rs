//! `quorate write`: line protocol from a file or standard input into a database.
//!
//! Invariants: memory is flat whatever the size of the input; a bad line or a failed batch never
//! costs the others; every line read is counted as written, rejected, dropped or failed.

mod attempts;
mod chunk;
mod dry;
mod input;
mod keep;
mod load;
mod lock;
mod pace;
mod progress;
mod read;
mod rejects;
mod send;
mod signals;
mod state;
mod tally;
mod trace;
mod unpack;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use indicatif::ProgressDrawTarget;
use quorate_client::{Env, WriteOptions};
use quorate_protocol::{
    consistency::Level,
    line::{Options, Precision},
};
use tokio::time::Instant;

use super::{
    connect::{Connect, map_with},
    fail::Fail,
    output::Output,
    table::count,
    tell,
    time::{parse_duration, parse_positive},
};
pub(crate) use attempts::Patience;
pub(crate) use chunk::{Chunk, Cutter};
use input::Input;
use keep::{Begun, Keeper};
use pace::Pace;
pub(crate) use pace::parse_rate;
pub(crate) use read::Parsed;
pub(crate) use rejects::Rejects;
pub(crate) use send::{Sending, Target};
use state::Plan;
pub(crate) use tally::{Tally, round};
use trace::Trace;

/// How long a load with a state waits for a cluster that takes nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Batches under way at the same time.
const IN_FLIGHT: usize = 4;

const EXAMPLES: &str = "\
  quorate write metrics data.lp
  generate | quorate write metrics --precision s --rejects bad.lp
  echo 'room,floor=2 temperature=21.5,open=false' | quorate write metrics
  quorate write metrics big.lp.zst --state big.state --rate 200k
  quorate write metrics data.lp --trace=200ms    tells where slow batches waited
  quorate write metrics data.lp --dry-run | head

A line is MEASUREMENT[,TAG=VALUE...] FIELD=VALUE[,FIELD=VALUE...] [TIME]. Values are 1.5 (float),
1i (integer), 1u (unsigned), true, or \"text\". Writing a line twice is harmless.

Input compressed by gzip or zstd is known by its first bytes, also on standard input. Data that is
cut off or damaged ends the load with an error; whole lines before that are written. zstd windows
above 128 MiB (--long=28 and more) are refused.

An interrupted load (Ctrl-C, kill, a lost machine) goes on with the same --state: batches that have
an answer are not sent again, a few others are, which changes nothing, unless someone else has
written the same points since: a batch that is sent again is a new write, and the later write wins.
A batch that fails because nodes are down, say, is sent again for --retry, as the same write; then the
load stops there, and goes on there later. With --retry 0 it is passed by, and --rejects keeps its lines.
The input must begin with the same bytes, which are read again and compared; standard input can be
given again too. Lines without a time keep the time of the first start. One load at a time may use
a state.";

/// Write line protocol
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Write {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// File to read; '-' or nothing for standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The retention policy [default: the database's default one]
    #[arg(long, value_name = "POLICY")]
    rp: Option<String>,
    /// Unit of the times: ns, n, us, u, ms, s, m or h
    #[arg(long, value_name = "P", default_value = "ns")]
    precision: Precision,
    /// Time of lines without one, in ns [default: now]
    #[arg(long, value_name = "NS", allow_hyphen_values = true)]
    default_time: Option<i64>,
    /// Durable copies to wait for: any, one, quorum or all
    #[arg(long, value_name = "L", default_value = "quorum")]
    consistency: Level,
    /// Lines per batch
    #[arg(long, value_name = "N", default_value_t = 5000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// How long a batch may take to reach its level
    #[arg(long, value_name = "D", default_value = "10s", value_parser = parse_positive)]
    timeout: u64,
    /// Send a batch that failed again for so long, if its reason may pass; 0 for not at all
    /// [default: 1m with --state, otherwise 0]
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    retry: Option<u64>,
    /// File for lines that were not written, with reasons
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Points per second at most: 500, 20k, 1.5M
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Remember in FILE how far the load got, and go on there
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Tell step by step, on standard error, of batches that failed or took longer than D
    #[arg(long, value_name = "D", num_args = 0..=1, require_equals = true,
          default_missing_value = "1s", value_parser = parse_positive)]
    trace: Option<u64>,
    /// Contact nobody; print the canonical lines that would be written
    #[arg(long, conflicts_with_all = ["rate", "state", "retry", "trace"])]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Write {
    fn options(&self, env: &Env) -> Options {
        let now = i64::try_from(env.clock.wall_ns()).unwrap_or(i64::MAX);
        Options { precision: self.precision, default_time: self.default_time.unwrap_or(now) }
    }

    fn plan(&self) -> Plan {
        Plan {
            database: self.database.clone(),
            policy: self.rp.clone(),
            unit_ns: self.precision.nanoseconds(),
            rejects: self.rejects.clone(),
        }
    }

    fn patience(&self) -> Duration {
        let otherwise = if self.state.is_some() { PATIENCE } else { Duration::ZERO };
        self.retry.map_or(otherwise, Duration::from_nanos)
    }

    fn write_options(&self) -> WriteOptions {
        let options = WriteOptions {
            timeout: Duration::from_nanos(self.timeout),
            retention_policy: self.rp.clone(),
            ..WriteOptions::at(self.consistency)
        };
        if self.trace.is_some() { options.with_history() } else { options }
    }
}

pub(crate) async fn run(args: Write, env: Env) -> Result<(), Fail> {
    let mut input = Input::open(args.file.as_deref())?;
    if args.dry_run {
        return dry::run(&args, input, &env).await;
    }
    let mut parsing = args.options(&env);
    let (rejects, keeper) = match &args.state {
        None => (Rejects::open(args.rejects.as_deref())?, None),
        Some(path) => {
            let begun = Keeper::begin(&args, path, parsing, &mut input)?;
            if begun.finished {
                return already(&args, &begun);
            }
            parsing.default_time = begun.keeper.default_time();
            (begun.rejects, Some(begun.keeper))
        }
    };
    let patience = Patience::new(args.patience(), env.clone());
    let client = args.connect.open(&env).await?;
    map_with(&client, &args.database).await?;
    let started = Instant::now();
    let target = Target {
        client: Some(client.clone()),
        database: args.database.clone(),
        options: args.write_options(),
        in_flight: IN_FLIGHT,
        patience,
    };
    let mut run = Sending::new(target, parsing, rejects, input.size);
    if args.connect.json {
        run.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    run.pace = args.rate.map(Pace::new);
    run.trace = args.trace.map(|slow| Trace { slow: Duration::from_nanos(slow) });
    run.mark = input.mark.clone();
    progress::begin_at(&run.bar, input.stored.bytes());
    if let Some(keeper) = keeper {
        run.go_on(keeper);
    }
    let ended = load::load(&args, &mut run, input).await;
    let ended = ended.and(run.rejects.finish());
    run.bar.finish_and_clear();
    client.close().await;
    report(&args, &run.tally, run.keeper(), started.elapsed())?;
    ended?;
    verdict(&run.tally, &run.rejects)
}

fn report(args: &Write, tally: &Tally, keeper: Option<&Keeper>, run: Duration) -> Result<(), Fail> {
    let seconds = keeper.map_or(run.as_secs_f64(), |keeper| keeper.seconds(run));
    let mut out = Output::new();
    if args.connect.json {
        let mut object = tally.describe(seconds);
        if let (Some(keeper), Some(object)) = (keeper, object.as_object_mut()) {
            object.insert("state".to_owned(), keeper.describe());
        }
        out.json(&object)?;
    } else {
        out.line(&tally.sentence(seconds))?;
    }
    out.flush()
}

/// The end of a run that found everything done.
fn already(args: &Write, begun: &Begun) -> Result<(), Fail> {
    let keeper = &begun.keeper;
    let path = keeper.path().display();
    tell(&format!("{path}: this load is finished; remove that file to load it again"));
    report(args, keeper.tally(), Some(keeper), Duration::ZERO)?;
    verdict(keeper.tally(), &begun.rejects)
}

/// The end of a run that read everything.
pub(crate) fn verdict(tally: &Tally, rejects: &Rejects) -> Result<(), Fail> {
    if tally.complete() {
        return Ok(());
    }
    let lost = count(tally.rejected + tally.dropped + tally.errors, "line", "lines");
    let place = match rejects.path() {
        // What was dropped would be dropped again, so it is not in the file.
        _ if tally.rejected + tally.errors == 0 => "the policy keeps nothing as old".to_owned(),
        Some(path) => format!("lines and reasons are in {}", path.display()),
        None => "--rejects FILE keeps lines and reasons".to_owned(),
    };
    Err(Fail::failed(format!("{lost} not written; {place}")))
}
