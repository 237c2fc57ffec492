//! `fleet`: the benchmarks' load as line protocol on standard output, for systems that take text.
//!
//! Used by `at_rest.sh`, and by whoever wants to give the same rows to something else.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use quorate_benches::fleet::{Lines, Shape, Values};

const USAGE: &str = "\
usage: fleet ROWS [--hosts N] [--values integer|decimal|full] [--seed N]
Writes ROWS lines of the fleet load to standard output, by time, then host.";

fn shape(args: &[String]) -> Option<(u64, Shape)> {
    let mut args = args.iter();
    let rows = args.next()?.parse().ok()?;
    let mut shape = Shape::default();
    while let Some(option) = args.next() {
        let value = args.next()?;
        match option.as_str() {
            "--hosts" => shape.hosts = value.parse().ok().filter(|hosts| *hosts > 0)?,
            "--values" => shape.values = Values::named(value)?,
            "--seed" => shape.seed = value.parse().ok()?,
            _ => return None,
        }
    }
    Some((rows, shape))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((mut rows, shape)) = shape(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (mut lines, mut text) = (Lines::new(shape), Vec::new());
    let mut out = io::stdout().lock();
    while rows > 0 {
        let some = rows.min(1_000);
        text.clear();
        lines.append(usize::try_from(some).unwrap_or(0), &mut text);
        if let Err(error) = out.write_all(&text) {
            eprintln!("fleet: cannot write to standard output: {error}");
            return ExitCode::FAILURE;
        }
        rows -= some;
    }
    ExitCode::SUCCESS
}
