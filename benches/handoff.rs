//! Hint queues against the discipline of the system this one descends from, in one run.
//!
//! `cargo bench -p quorate-benches --bench handoff -- [PART]... [--full | --quick] [--runs N] [--dir DIR]`
//!
//! Parts: `append`, `small` and `large` (drains), `nine` (holders into one node), `open`; all of them unless some are named. The parts
//! that compare do both in turn, run by run. Prints `RES` lines of every run, then medians (`MED`)
//! and goals (`GOAL`). `--full` does what the goals are measured by, five times. Without it everything
//! is a tenth of that, once; with `--quick` it shows no more than that the benchmark works.

#[path = "handoff/append.rs"]
mod append;
#[path = "handoff/back.rs"]
mod back;
#[path = "handoff/drain.rs"]
mod drain;
#[path = "handoff/live.rs"]
mod live;
#[path = "handoff/nine.rs"]
mod nine;
#[path = "handoff/open.rs"]
mod open;
#[path = "handoff/reference.rs"]
mod reference;
#[path = "handoff/watch.rs"]
mod watch;
#[path = "handoff/world.rs"]
mod world;

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
};

use quorate_benches::{
    report::{Line, Summary},
    scale::Scale,
};
use tempfile::TempDir;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PARTS: [&str; 5] = ["append", "small", "large", "nine", "open"];
const USAGE: &str = "\
usage: handoff [PART]... [--full | --quick] [--runs N] [--dir DIR]
parts: append small large nine open";

/// What was asked for.
#[derive(Clone, Debug)]
struct Plan {
    parts: Vec<String>,
    runs: usize,
    scale: Scale,
    dir: PathBuf,
    hosts: world::Hosts,
}

impl Plan {
    fn read(args: &[String], hosts: world::Hosts) -> Option<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("handoff-bench");
        let mut plan = Self { parts: Vec::new(), runs: 1, scale: Scale::Short, dir, hosts };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // What cargo adds.
                "--bench" => {}
                "--quick" => plan.scale = Scale::Quick,
                "--full" => (plan.scale, plan.runs) = (Scale::Full, 5),
                "--runs" => plan.runs = args.next()?.parse().ok()?,
                "--dir" => plan.dir = args.next()?.into(),
                part if PARTS.contains(&part) => plan.parts.push(part.to_owned()),
                _ => return None,
            }
        }
        if plan.parts.is_empty() {
            plan.parts = PARTS.map(str::to_owned).into();
        }
        Some(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }

    /// A size, or a small one.
    const fn scale(&self, full: u64, quick: u64) -> u64 {
        self.scale.of(full, quick)
    }

    /// A folder of a run's own.
    fn scratch(&self) -> Outcome<TempDir> {
        Ok(tempfile::tempdir_in(&self.dir)?)
    }
}

/// Shows a result and sums it up.
fn tell(summary: &mut Summary, line: &Line) {
    println!("{line}");
    summary.add(line);
}

/// How many times as much as `under` the figure of `over` is, both of the same part.
fn ratio(summary: &Summary, figure: &str, over: &str, under: &str) -> Option<f64> {
    Some(summary.median(over, figure)? / summary.median(under, figure)?)
}

async fn run(plan: &Plan) -> Outcome<()> {
    let mut summary = Summary::default();
    let mut goals = String::new();
    if plan.wants("append") {
        goals.push_str(&append::run(plan, &mut summary).await?);
    }
    if plan.wants("small") {
        goals.push_str(&drain::small(plan, &mut summary).await?);
    }
    if plan.wants("large") {
        goals.push_str(&drain::large(plan, &mut summary).await?);
    }
    if plan.wants("nine") {
        let watch = watch::Watch::install()?;
        goals.push_str(&nine::run(plan, &watch, &mut summary).await?);
    }
    if plan.wants("open") {
        goals.push_str(&open::run(plan, &mut summary).await?);
    }
    print!("{}{goals}", summary.text());
    Ok(())
}

fn main() -> Outcome<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = Plan::read(&args, world::Hosts::new()?) else {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    std::fs::create_dir_all(&plan.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run(&plan));
    // Every run has removed its own folder.
    let _ = std::fs::remove_dir(&plan.dir);
    ended.map(|()| ExitCode::SUCCESS)
}
