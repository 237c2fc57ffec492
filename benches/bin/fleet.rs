//! `fleet`: the benchmarks' load as line protocol on standard output, for systems that take text.
//!
//! Used by `at_rest.sh` and `compare.sh`, and by whoever wants to give the same rows to something else.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use quorate_benches::fleet::{Lines, Shape, Values};

const USAGE: &str = "\
usage: fleet ROWS [--hosts N] [--values integer|decimal|full] [--seed N] [--framed N]
Writes ROWS lines of the fleet load to standard output, by time, then host; with --framed in batches of
N lines, each behind two little-endian u32: how many lines, and how many bytes they are.";

struct Plan {
    rows: u64,
    shape: Shape,
    framed: Option<u64>,
}

fn plan(args: &[String]) -> Option<Plan> {
    let mut args = args.iter();
    let rows = args.next()?.parse().ok()?;
    let (mut shape, mut framed) = (Shape::default(), None);
    while let Some(option) = args.next() {
        let value = args.next()?;
        match option.as_str() {
            "--hosts" => shape.hosts = value.parse().ok().filter(|hosts| *hosts > 0)?,
            "--values" => shape.values = Values::named(value)?,
            "--seed" => shape.seed = value.parse().ok()?,
            "--framed" => framed = Some(value.parse().ok().filter(|rows| *rows > 0)?),
            _ => return None,
        }
    }
    Some(Plan { rows, shape, framed })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(Plan { mut rows, shape, framed }) = plan(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (mut lines, mut text) = (Lines::new(shape), Vec::new());
    let mut out = io::stdout().lock();
    while rows > 0 {
        let some = rows.min(framed.unwrap_or(1_000));
        text.clear();
        lines.append(usize::try_from(some).unwrap_or(0), &mut text);
        let head = [some as u32, text.len() as u32].map(u32::to_le_bytes).concat();
        let head = if framed.is_some() { head.as_slice() } else { &[] };
        if let Err(error) = out.write_all(head).and_then(|()| out.write_all(&text)) {
            eprintln!("fleet: cannot write to standard output: {error}");
            return ExitCode::FAILURE;
        }
        rows -= some;
    }
    ExitCode::SUCCESS
}
