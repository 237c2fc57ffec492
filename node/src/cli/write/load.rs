//! One run of `quorate write`: from its input to the last answer.
//!
//! Invariants: some batches are under way while the next are read; at a signal nothing new is sent, and
//! what is under way still gets its answer.

use super::{Sending, Write, input::Input, read, signals::Signals};
use crate::cli::fail::Fail;

/// Reads to the end, or until a signal comes, with some batches under way.
pub(super) async fn load(args: &Write, run: &mut Sending, input: Input) -> Result<(), Fail> {
    let name = input.name.clone();
    let cannot = |error| Fail::failed(format!("cannot watch for signals: {error}"));
    let mut signals = Signals::new().map_err(cannot)?;
    let lines = run.pace.map_or(args.batch as usize, |pace| pace.lines(args.batch as usize));
    let batches = read::start(input, lines, run.parsing);
    let mut batches =
        batches.map_err(|error| Fail::failed(format!("cannot start a thread: {error}")))?;
    let (mut broken, mut interrupted) = (None, false);
    loop {
        let next = tokio::select! {
            next = batches.recv() => next,
            () = signals.next() => {
                interrupted = true;
                run.hurry();
                None
            }
        };
        let parsed = match next {
            Some(Ok(parsed)) => parsed,
            Some(Err(error)) => {
                broken = Some(error);
                break;
            }
            None => break,
        };
        tokio::select! {
            sent = run.send(parsed) => sent?,
            () = signals.next() => {
                interrupted = true;
                run.hurry();
                break;
            }
        }
    }
    // What is under way gets its answer, within --timeout; who cannot wait for that asks again.
    tokio::select! {
        ended = run.finish() => ended?,
        () = signals.next() => {
            return Err(Fail::failed("interrupted twice: some batches have no answer yet"));
        }
    }
    let line = run.mark.line;
    if let Some(error) = broken {
        return Err(Fail::failed(format!(
            "cannot read {name}: {error}; what is before line {line} was read and sent"
        )));
    }
    if interrupted {
        let how = match run.keeper() {
            Some(_) => "the same command line goes on there".to_owned(),
            None => "with --state FILE a load can go on where it was interrupted".to_owned(),
        };
        return Err(Fail::failed(format!("interrupted before line {line}; {how}")));
    }
    run.all_done()
}
