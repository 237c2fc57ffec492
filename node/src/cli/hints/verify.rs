//! `quorate hints verify`: every record and checksum of the hint queues, on running nodes or in a data
//! directory.
//!
//! Invariants: nothing is changed; a directory is read only while no node has it. Every problem is
//! one line that says what to do.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::{Client, Env};
use quorate_protocol::{id::NodeId, map::ClusterMap, message::QueueVerified};
use serde_json::json;
use tokio::task::JoinSet;

use super::holders::stopped;
use crate::cli::{
    connect::Connect,
    fail::Fail,
    output::Output,
    table::{Table, count, grouped},
};

/// How long one node may take.
const PATIENCE: Duration = Duration::from_secs(3600);

const ABOUT: &str = "\
Reads everything that is stored of the hint queues: each record of their segments, their accounts,
their quarantine and the repair marks. Nothing is changed, and deliveries go on.

  quorate hints verify                     all nodes
  quorate hints verify --data /var/lib/quorate     a node that is stopped

'books' says whether accepted = delivered + pending + quarantined + expired + discarded. A torn tail
is what a crash leaves of a hint that was never accepted; it is no problem, and neither are files
that are not a queue's, which are left alone.
Needs a certificate with role admin, or the data directory. Exit code 1: there are problems, or
something could not be read.";

/// Read and check everything that is stored of hint queues and repair marks
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct VerifyArgs {
    /// The data directory of a node that is stopped, instead of a running cluster
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: VerifyArgs, env: Env) -> Result<(), Fail> {
    if let Some(data) = &args.data {
        return offline(data, &args);
    }
    let client = args.connect.open(&env).await?;
    let ended = online(&client, &args).await;
    client.close().await;
    ended
}

/// All nodes at the same time.
async fn online(client: &Client, args: &VerifyArgs) -> Result<(), Fail> {
    let map = client.map();
    let mut asked = JoinSet::new();
    for node in map.active_nodes() {
        let (client, id) = (client.clone(), node.id);
        asked.spawn(async move { (id, client.hints_verify(id, PATIENCE).await) });
    }
    let mut report = Report::new(args.connect.json, asked.len());
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        report.bar.inc(1);
        answers.push(answer.map_err(Fail::failed)?);
    }
    answers.sort_by_key(|(node, _)| *node);
    for (node, answer) in answers {
        let name = name(&map, node);
        match answer {
            Ok(queues) => {
                for queue in &queues {
                    report.add(Some((node, &name)), &self::name(&map, queue.target), queue)?;
                }
            }
            Err(error) => report.unread(node, &name, &error.to_string())?,
        }
    }
    report.finish()
}

/// Every queue in a data directory that no node has.
fn offline(data: &Path, args: &VerifyArgs) -> Result<(), Fail> {
    let (found, _locked) = stopped(data)?;
    let targets = found.targets();
    let mut report = Report::new(args.connect.json, targets.len() + 1);
    report.add(None, "", &found.verify_marks())?;
    for target in targets {
        report.bar.inc(1);
        report.add(None, &target.to_string(), &found.verify(target))?;
    }
    report.finish()
}

fn name(map: &ClusterMap, id: NodeId) -> String {
    map.node(id).map_or_else(|| id.to_string(), |node| node.name.clone())
}

/// What was found, as it is shown.
struct Report {
    json: bool,
    out: Output,
    table: Table,
    /// One line each.
    problems: Vec<String>,
    found: u64,
    bar: ProgressBar,
}

impl Report {
    fn new(json: bool, steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} left {eta}") {
            bar.set_style(style);
        }
        let header = [
            "on",
            "for",
            ">segments",
            ">records",
            ">pending",
            ">aside",
            ">damaged",
            ">unknown",
            "tail",
            "books",
        ];
        let (table, problems) = (Table::new(&header), Vec::new());
        Self { json, out: Output::new(), table, problems, found: 0, bar }
    }

    /// Takes what a node, or the directory, has for one target; of target 0, its marks.
    fn add(
        &mut self,
        on: Option<(NodeId, &str)>,
        target: &str,
        queue: &QueueVerified,
    ) -> Result<(), Fail> {
        let marks = queue.target == NodeId(0);
        let target = if marks { "(marks)" } else { target };
        let place = match on {
            Some((_, on)) => format!("{on} for {target}"),
            None => format!("for {target}"),
        };
        self.found += queue.found;
        for problem in &queue.problems {
            let problem = problem.replace(['\n', '\r'], " ");
            self.problems.push(format!("{place}: {problem}; {ADVICE}"));
        }
        let untold = queue.found.saturating_sub(queue.problems.len() as u64);
        if untold > 0 {
            self.problems.push(format!("{place}: {} more; {ADVICE}", grouped(untold)));
        }
        if self.json {
            return self.out.json(&json!({
                "node": on.map(|(node, _)| node), "node_name": on.map(|(_, name)| name),
                "target": queue.target, "target_name": target, "marks": marks,
                "segments": queue.segments, "records": queue.records, "pending": queue.pending,
                "aside": queue.aside, "damaged": queue.damaged, "unknown": queue.unknown,
                "torn": queue.torn, "accepted": queue.accepted, "balanced": queue.balanced,
                "found": queue.found, "problems": queue.problems,
            }));
        }
        self.table.row([
            on.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            target.to_owned(),
            grouped(queue.segments),
            grouped(queue.records),
            grouped(queue.pending),
            grouped(queue.aside),
            grouped(queue.damaged),
            grouped(queue.unknown),
            if queue.torn { "torn" } else { "whole" }.to_owned(),
            if queue.balanced { "balance" } else { "wrong" }.to_owned(),
        ]);
        Ok(())
    }

    /// Takes note of a node that gave no report.
    fn unread(&mut self, node: NodeId, name: &str, why: &str) -> Result<(), Fail> {
        self.found += 1;
        self.problems.push(format!("{name}: not verified: {why}"));
        if self.json {
            self.out.json(&json!({ "node": node, "node_name": name, "error": why }))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Fail> {
        self.bar.finish_and_clear();
        if !self.json {
            self.out.bytes(self.table.render().as_bytes())?;
            for problem in &self.problems {
                self.out.line(problem)?;
            }
        }
        self.out.flush()?;
        match self.found {
            0 => Ok(()),
            found => {
                let found =
                    count(usize::try_from(found).unwrap_or(usize::MAX), "problem", "problems");
                Err(Fail::failed(format!("{found}; keep the other owners up until it is mended")))
            }
        }
    }
}

/// What to do about damage: what a hint would have brought, another owner has.
const ADVICE: &str = "what cannot be read is quarantined by the drain; 'quorate shard digest' tells \
                      what owners lack then";
