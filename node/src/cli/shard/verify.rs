//! `quorate shard verify`: every checksum and every invariant of what is stored, on running nodes or
//! in a data directory.
//!
//! Invariants: nothing is changed; a directory is read only while no node has it. Every problem is
//! one line that says what to do.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{
    id::{NodeId, ShardId},
    message::Verified,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    cli::{
        connect::Connect,
        fail::Fail,
        findings::Findings,
        table::{bytes, grouped},
    },
    data::DataDir,
    disk::SystemDisk,
    query,
    shard::verify_dir,
};

/// How long one node may take for one shard.
const PATIENCE: Duration = Duration::from_secs(3600);

const ABOUT: &str = "\
Reads everything that is stored of the shards: each checksum, the order of rows, the statistics of
blocks, the tables of series and the index of tags. Nothing is changed.

  quorate shard verify                     all shards, each by all of its owners
  quorate shard verify 7 8 --json
  quorate shard verify --data /var/lib/quorate     a node that is stopped

Needs a certificate with role admin, or the data directory. Exit code 1: there are problems, or
something could not be read. Where a block is damaged the other owners answer reads in its place.";

/// Read and check everything that is stored of shards
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct VerifyArgs {
    /// Numbers of shards [default: all]
    #[arg(value_name = "SHARD")]
    shards: Vec<u64>,
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

/// Every owner of every shard, the owners of one shard at the same time.
async fn online(client: &Client, args: &VerifyArgs) -> Result<(), Fail> {
    let map = client.map();
    let mut shards: Vec<(ShardId, Vec<NodeId>)> = map
        .shards()
        .filter(|place| args.shards.is_empty() || args.shards.contains(&place.shard.id.0))
        .map(|place| (place.shard.id, place.shard.owners.clone()))
        .collect();
    shards.sort_unstable();
    let unknown = args.shards.iter().find(|id| !shards.iter().any(|(shard, _)| shard.0 == **id));
    if let Some(unknown) = unknown {
        return Err(Fail::failed(format!("there is no shard {unknown}; see 'quorate shard ls'")));
    }
    let steps = shards.iter().map(|(_, owners)| owners.len()).sum();
    let mut findings = Findings::new(args.connect.json, steps, &HEADER);
    for (shard, owners) in shards {
        let mut asked = JoinSet::new();
        for owner in owners {
            let client = client.clone();
            asked.spawn(async move { (owner, client.shard_verify(shard, owner, PATIENCE).await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(owner, _)| *owner);
        for (owner, answer) in answers {
            let name = map.node(owner).map_or_else(|| owner.to_string(), |node| node.name.clone());
            add(&mut findings, shard, &name, answer.map_err(|error| error.to_string()))?;
        }
    }
    findings.finish()
}

/// Every shard in a data directory that no node has.
fn offline(data: &Path, args: &VerifyArgs) -> Result<(), Fail> {
    let root = data.join("shards");
    let entries = std::fs::read_dir(&root).map_err(|error| {
        Fail::failed(format!(
            "cannot read {}: {error}; --data is the directory that 'quorate node --data' got",
            root.display()
        ))
    })?;
    let _locked = DataDir::open(data, Arc::new(SystemDisk)).map_err(Fail::failed)?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Fail::failed(format!("{}: {error}", root.display())))?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()) {
            found.push((ShardId(id), entry.path()));
        }
    }
    found.retain(|(id, _)| args.shards.is_empty() || args.shards.contains(&id.0));
    found.sort_unstable();
    let unknown = args.shards.iter().find(|id| !found.iter().any(|(shard, _)| shard.0 == **id));
    if let Some(unknown) = unknown {
        let root = root.display();
        return Err(Fail::failed(format!("there is no shard {unknown} in {root}")));
    }
    let mut findings = Findings::new(args.connect.json, found.len(), &HEADER);
    for (shard, path) in found {
        let answer = verify_dir(&path).map(query::verified).map_err(|error| error.to_string());
        add(&mut findings, shard, "", answer)?;
    }
    findings.finish()
}

/// Takes what one node, or the directory, has of one shard.
fn add(
    findings: &mut Findings,
    shard: ShardId,
    node: &str,
    answer: Result<Verified, String>,
) -> Result<(), Fail> {
    findings.step(format!("shard {shard}"));
    let place = match node {
        "" => format!("shard {shard}"),
        node => format!("shard {shard} on {node}"),
    };
    let report = match answer {
        Ok(report) => report,
        Err(why) => {
            let line = json!({ "shard": shard, "node": node, "error": why });
            return findings.unread(&place, &why, &line);
        }
    };
    let texts = report.problems.iter().map(|it| format!("{}: {}", it.kind, it.detail));
    findings.problems(&place, report.found, texts, ADVICE);
    let problems = report.problems.iter();
    let problems: Vec<_> =
        problems.map(|it| json!({ "kind": it.kind, "detail": it.detail })).collect();
    let line = json!({
        "shard": shard, "node": node, "series": report.series, "runs": report.runs,
        "blocks": report.blocks, "bytes": report.bytes, "rows": report.rows,
        "values": report.values, "garbage_blocks": report.garbage_blocks,
        "garbage_bytes": report.garbage_bytes, "found": report.found, "problems": problems,
    });
    let row = [
        shard.to_string(),
        node.to_owned(),
        grouped(report.series),
        grouped(report.runs),
        grouped(report.blocks),
        bytes(report.bytes),
        grouped(report.rows),
        grouped(report.values),
        grouped(report.found),
    ];
    findings.entry(&line, row)
}

const HEADER: [&str; 9] =
    [">shard", "node", ">series", ">runs", ">blocks", ">size", ">rows", ">values", ">problems"];

/// What to do about damage. There is one way: an owner that is sound has the points.
const ADVICE: &str = "write it again from another owner: \
                      'quorate export DB --node OTHER --from T --to T | quorate write DB'";
