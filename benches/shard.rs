//! The shard store and its journal, through their public API, against the goals of `README.md`.
//!
//! `cargo bench -p quorate-benches --bench shard -- [PART]... [--full | --quick] [--runs N] [--minutes M] [--dir DIR]`
//!
//! Parts: `ingest`, `rest` (with scans and aggregates), `space`, `sustained`; all of them unless some are named.
//! Every run of a part is a process of its own, so that memory and CPU time are that run's alone; its
//! load is made beforehand and read from a file. Prints `RES` lines of every run, then medians
//! (`MED`) and goals (`GOAL`). `--full` does what the goals are measured by, five times: an hour and a half. Without it
//! everything is a tenth of that, once; with `--quick` it shows no more than that the benchmark works.

#[path = "shard/engine.rs"]
mod engine;
#[path = "shard/ingest.rs"]
mod ingest;
#[path = "shard/rest.rs"]
mod rest;
#[path = "shard/space.rs"]
mod space;
#[path = "shard/spool.rs"]
mod spool;
#[path = "shard/sustained.rs"]
mod sustained;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use quorate_benches::{
    report::{Line, Summary},
    scale::Scale,
};

const PARTS: [&str; 4] = ["ingest", "rest", "space", "sustained"];
const USAGE: &str = "\
usage: shard [PART]... [--full | --quick] [--runs N] [--minutes M] [--dir DIR]
parts: ingest rest space sustained";

/// What was asked for.
#[derive(Clone, Debug)]
struct Plan {
    parts: Vec<String>,
    runs: usize,
    scale: Scale,
    minutes: f64,
    dir: PathBuf,
}

impl Plan {
    fn read(args: &[String]) -> Option<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shard-bench");
        let mut plan = Self { parts: Vec::new(), runs: 1, scale: Scale::Short, minutes: 0.5, dir };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // What cargo adds.
                "--bench" => {}
                "--quick" => (plan.scale, plan.minutes) = (Scale::Quick, 0.05),
                "--full" => (plan.scale, plan.runs, plan.minutes) = (Scale::Full, 5, 10.0),
                "--runs" => plan.runs = args.next()?.parse().ok()?,
                "--minutes" => plan.minutes = args.next()?.parse().ok()?,
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
    const fn scale(&self, full: usize, quick: usize) -> usize {
        self.scale.of(full as u64, quick as u64) as usize
    }

    /// Runs a part in a process of its own, shows what it says and sums its results up.
    fn child(&self, summary: &mut Summary, args: &[String]) {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .arg("--child")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process can be started");
        let output = child.stdout.take().expect("it was piped");
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            if let Some(line) = Line::parse(&line) {
                summary.add(&line);
            }
        }
        let status = child.wait().expect("it was started");
        assert!(status.success(), "{args:?} ended with {status}");
    }
}

/// An argument of a child, by its position.
fn number(args: &[String], at: usize) -> usize {
    args.get(at).and_then(|arg| arg.parse().ok()).unwrap_or_else(|| panic!("no number in {args:?}"))
}

fn child(args: &[String]) {
    let (part, args) = args.split_first().expect("a part is named");
    let dir = Path::new(args.first().expect("a folder is named"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("threads can be started");
    match part.as_str() {
        "ingest" => runtime.block_on(ingest::run(dir, number(args, 1), number(args, 2))),
        "rest" => runtime.block_on(rest::write(dir, &args[1], number(args, 2), number(args, 3))),
        "scan" => runtime.block_on(rest::scan(dir, &args[1])),
        "space" => runtime.block_on(space::run(dir, number(args, 1), number(args, 2))),
        "peak" => runtime.block_on(sustained::peak(dir, number(args, 1))),
        "bare" | "full" => {
            let (rate, millis) = (number(args, 1), number(args, 2));
            runtime.block_on(sustained::load(dir, rate, millis, part == "full"));
        }
        other => panic!("no part is named {other}"),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "--child") {
        child(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let Some(plan) = Plan::read(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    std::fs::create_dir_all(&plan.dir).expect("the folder can be made");
    let mut summary = Summary::default();
    let mut goals = String::new();
    if plan.wants("ingest") {
        goals.push_str(&ingest::parent(&plan, &mut summary));
    }
    if plan.wants("rest") {
        goals.push_str(&rest::parent(&plan, &mut summary));
    }
    if plan.wants("space") {
        goals.push_str(&space::parent(&plan, &mut summary));
    }
    if plan.wants("sustained") {
        goals.push_str(&sustained::parent(&plan, &mut summary));
    }
    print!("{}{goals}", summary.text());
    // The load is made again next time; everything else is gone already.
    let _ = std::fs::remove_dir_all(&plan.dir);
    ExitCode::SUCCESS
}
