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
use quorate_client::{Client, Env};
use quorate_protocol::{id::NodeId, map::ClusterMap, message::QueueVerified};
use serde_json::json;
use tokio::task::JoinSet;

use super::holders::stopped;
use crate::cli::{connect::Connect, fail::Fail, findings::Findings, table::grouped};

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
    let mut findings = Findings::new(args.connect.json, asked.len(), &HEADER);
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        findings.step(String::new());
        answers.push(answer.map_err(Fail::failed)?);
    }
    answers.sort_by_key(|(node, _)| *node);
    for (node, answer) in answers {
        let name = name(&map, node);
        match answer {
            Ok(queues) => {
                for queue in &queues {
                    let target = self::name(&map, queue.target);
                    add(&mut findings, Some((node, &name)), &target, queue)?;
                }
            }
            Err(error) => {
                let why = error.to_string();
                let line = json!({ "node": node, "node_name": name, "error": why });
                findings.unread(&name, &why, &line)?;
            }
        }
    }
    findings.finish()
}

/// Every queue in a data directory that no node has.
fn offline(data: &Path, args: &VerifyArgs) -> Result<(), Fail> {
    let (found, _locked) = stopped(data)?;
    let targets = found.targets();
    let mut findings = Findings::new(args.connect.json, targets.len() + 1, &HEADER);
    add(&mut findings, None, "", &found.verify_marks())?;
    for target in targets {
        findings.step(String::new());
        add(&mut findings, None, &target.to_string(), &found.verify(target))?;
    }
    findings.finish()
}

fn name(map: &ClusterMap, id: NodeId) -> String {
    map.node(id).map_or_else(|| id.to_string(), |node| node.name.clone())
}

/// Takes what a node, or the directory, has for one target; of target 0, its marks.
fn add(
    findings: &mut Findings,
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
    findings.problems(&place, queue.found, queue.problems.iter().cloned(), ADVICE);
    let line = json!({
        "node": on.map(|(node, _)| node), "node_name": on.map(|(_, name)| name),
        "target": queue.target, "target_name": target, "marks": marks,
        "segments": queue.segments, "records": queue.records, "pending": queue.pending,
        "aside": queue.aside, "damaged": queue.damaged, "unknown": queue.unknown,
        "torn": queue.torn, "accepted": queue.accepted, "balanced": queue.balanced,
        "found": queue.found, "problems": queue.problems,
    });
    let row = [
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
    ];
    findings.entry(&line, row)
}

const HEADER: [&str; 10] = [
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

/// What to do about damage: what a hint would have brought, another owner has.
const ADVICE: &str = "what cannot be read is quarantined by the drain; 'quorate shard digest' tells \
                      what owners lack then";
