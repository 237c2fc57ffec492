//! `quorate hints export`: the points in hints as canonical line protocol.
//!
//! Invariants: nothing is changed, and a directory is read only while no node has it; what is damaged
//! is a comment in its place and the end of the command says so. Batches tell everything about their
//! points but the names of database and policy.

use std::{io, path::PathBuf};

use bytes::Bytes;
use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{
    batch::{DecodeError, EncodedBatch},
    message::{HintBatch, HintInfo, Hints},
};

use super::holders::{Holders, called, place, stopped, stopped_target};
use crate::{
    cli::{
        connect::Connect, fail::Fail, output::Output, series::Series, survey::PATIENCE,
        table::count,
    },
    hints::info_of,
};

const ABOUT: &str = "\
  quorate hints export n3 > n3.lp
  quorate hints export n3 --quarantined
  quorate hints export --data /var/lib/quorate > rescued.lp     a node that is stopped

Lines are canonical, in the order in which hints were accepted. Comments name database and policy of
the lines that follow, or their ids where only a data directory is read: '# db=metrics rp=default'.
Two nodes may keep a hint of the same points, and writing points twice changes nothing.
Exit code 1: something was damaged, or could not be read.";

/// Write the points in hints out as line protocol
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct ExportArgs {
    /// For whom the hints are: the name or id of a node [default: all nodes]
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Only what this node keeps
    #[arg(long, value_name = "ID|NAME", conflicts_with = "data")]
    on: Option<String>,
    /// Hints that were kept aside, instead of pending ones
    #[arg(long)]
    quarantined: bool,
    /// The data directory of a node that is stopped, instead of a running cluster
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: ExportArgs, env: Env) -> Result<(), Fail> {
    if args.connect.json {
        return Err(Fail::usage("points are exported as line protocol only; leave --json out"));
    }
    if args.data.is_some() {
        return offline(&args).await;
    }
    let client = args.connect.open(&env).await?;
    let ended = online(&client, &args).await;
    client.close().await;
    ended
}

async fn online(client: &Client, args: &ExportArgs) -> Result<(), Fail> {
    let holders = Holders::find(client, args.target.as_deref(), args.on.as_deref()).await?;
    let mut lines = Lines::new();
    for (holder, target) in holders.pairs() {
        let origin = format!("on {} for {}", holders.name(holder), holders.name(target));
        let request = Hints { target, quarantined: args.quarantined, content: true, limit: 0 };
        let mut stream = client.hints(holder, request, PATIENCE).await?;
        while let Some(hint) = stream.next().await {
            let (info, batch) = hint?;
            let named = info.batch.as_ref().and_then(|batch| place(holders.map(), batch));
            lines.add(&info, batch, named, &origin)?;
        }
    }
    lines.finish()?;
    holders.complete()
}

async fn offline(args: &ExportArgs) -> Result<(), Fail> {
    let Some(data) = &args.data else { return Ok(()) };
    let only = args.target.as_deref().map(stopped_target).transpose()?;
    let (found, _locked) = stopped(data)?;
    let mut lines = Lines::new();
    for target in found.targets() {
        if only.is_some_and(|only| only != target) {
            continue;
        }
        let failed = |error: io::Error| {
            Fail::failed(format!("the queue for node {target} cannot be read: {error}"))
        };
        let Some(mut look) = found.look(target, args.quarantined).map_err(failed)? else {
            continue;
        };
        loop {
            let page = look.next(|seen| (info_of(&seen), seen.bytes)).await;
            let page = page.map_err(Fail::failed)?;
            if page.is_empty() {
                break;
            }
            for (info, batch) in page {
                lines.add(&info, batch, None, &format!("for node {target}"))?;
            }
        }
    }
    lines.finish()
}

/// Lines on their way out.
struct Lines {
    out: Output,
    buffer: Vec<u8>,
    /// The last comment that named a database and policy.
    place: String,
    damaged: usize,
}

impl Lines {
    fn new() -> Self {
        Self { out: Output::new(), buffer: Vec::new(), place: String::new(), damaged: 0 }
    }

    fn add(
        &mut self,
        info: &HintInfo,
        bytes: Bytes,
        named: Option<(String, String)>,
        origin: &str,
    ) -> Result<(), Fail> {
        let Some(batch) = &info.batch else {
            return self.damaged(info, origin);
        };
        let place = comment(batch, named);
        if self.place != place {
            self.out.line(&place)?;
            self.place = place;
        }
        self.buffer.clear();
        if write_lines(bytes, &mut self.buffer).is_err() {
            return self.damaged(info, origin);
        }
        self.out.bytes(&self.buffer)
    }

    fn damaged(&mut self, info: &HintInfo, origin: &str) -> Result<(), Fail> {
        let count = usize::try_from(info.count.max(1)).unwrap_or(usize::MAX);
        self.damaged = self.damaged.saturating_add(count);
        self.out.line(&format!("# damaged: {} {origin}, shard {}", called(info), info.shard))
    }

    fn finish(mut self) -> Result<(), Fail> {
        self.out.flush()?;
        match self.damaged {
            0 => Ok(()),
            damaged => Err(Fail::failed(format!(
                "{} damaged; 'quorate shard digest' tells whether owners differ",
                count(damaged, "hint is", "hints are")
            ))),
        }
    }
}

/// Names database and policy of the lines that follow.
fn comment(batch: &HintBatch, named: Option<(String, String)>) -> String {
    match named {
        Some((database, policy)) => format!("# db={database} rp={policy}"),
        None => format!("# db_id={} rp_id={}", batch.database, batch.policy),
    }
}

/// Appends the canonical line of every row.
fn write_lines(bytes: Bytes, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let decoded = EncodedBatch::parse(bytes)?.decode()?;
    for (key, _, rows) in decoded.into_rows() {
        let mut columns = rows.columns;
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        Series { key, times: rows.times, columns }.write_lines(out);
    }
    Ok(())
}
