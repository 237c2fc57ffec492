//! `quorate write`: line protocol from a file or standard input into a database.
//!
//! Invariants: memory is flat whatever the size of the input; a bad line or a failed batch never
//! costs the others; every line read is counted as written, rejected, dropped or failed.

mod chunk;
mod dry;
mod read;
mod rejects;
mod send;
mod tally;

use std::{path::PathBuf, time::Duration};

use clap::Args;
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
    time::parse_positive,
};
pub(crate) use chunk::{Chunk, Cutter};
use read::Input;
pub(crate) use read::Parsed;
pub(crate) use rejects::Rejects;
pub(crate) use send::{Sending, Target};
pub(crate) use tally::{Tally, round};

/// Batches under way at the same time.
const IN_FLIGHT: usize = 4;

const EXAMPLES: &str = "\
  quorate write metrics data.lp
  generate | quorate write metrics --precision s --rejects bad.lp
  echo 'room,floor=2 temperature=21.5,open=false' | quorate write metrics
  quorate write metrics data.lp --dry-run | head

A line is MEASUREMENT[,TAG=VALUE...] FIELD=VALUE[,FIELD=VALUE...] [TIME]. Values are 1.5 (float),
1i (integer), 1u (unsigned), true, or \"text\". Writing a line twice is harmless.";

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
    /// File for lines that were not written, with reasons
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Contact nobody; print the canonical lines that would be written
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Write {
    fn options(&self, env: &Env) -> Options {
        let now = i64::try_from(env.clock.wall_ns()).unwrap_or(i64::MAX);
        Options { precision: self.precision, default_time: self.default_time.unwrap_or(now) }
    }

    fn write_options(&self) -> WriteOptions {
        WriteOptions {
            timeout: Duration::from_nanos(self.timeout),
            retention_policy: self.rp.clone(),
            ..WriteOptions::at(self.consistency)
        }
    }
}

pub(crate) async fn run(args: Write, env: Env) -> Result<(), Fail> {
    let input = Input::open(args.file.as_deref())?;
    if args.dry_run {
        return dry::run(&args, input, &env).await;
    }
    let rejects = Rejects::open(args.rejects.as_deref())?;
    let client = args.connect.open(&env).await?;
    map_with(&client, &args.database).await?;
    let started = Instant::now();
    let target = Target {
        client: Some(client.clone()),
        database: args.database.clone(),
        options: args.write_options(),
        in_flight: IN_FLIGHT,
    };
    let mut run = Sending::new(target, args.options(&env), rejects, input.size);
    let ended = all(&args, &mut run, input).await;
    let ended = ended.and(run.rejects.finish());
    run.bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    client.close().await;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&run.tally.describe(seconds))?;
    } else {
        out.line(&run.tally.sentence(seconds))?;
    }
    out.flush()?;
    ended?;
    verdict(&run.tally, &run.rejects)
}

/// Reads to the end, with some batches under way.
async fn all(args: &Write, run: &mut Sending, input: Input) -> Result<(), Fail> {
    let batches = read::start(input, args.batch as usize, run.parsing);
    let mut batches =
        batches.map_err(|error| Fail::failed(format!("cannot start a thread: {error}")))?;
    let mut ended = Ok(());
    while let Some(parsed) = batches.recv().await {
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                ended = Err(Fail::failed(format!("cannot read the input: {error}")));
                break;
            }
        };
        let bytes: usize = parsed.chunks.iter().map(|chunk| chunk.text.len()).sum();
        run.bar.inc(bytes as u64);
        run.send(parsed).await?;
    }
    run.finish().await?;
    ended
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
