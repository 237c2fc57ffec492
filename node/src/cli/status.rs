//! `quorate status`: nodes, leader, shards and hint queues, as each node answers right now.
//!
//! Invariant: `--wait` ends with 0 only if one survey, taken after the command began, saw the state
//! that was waited for on every member.

use std::time::Duration;

use clap::{Args, ValueEnum};
use quorate_client::{Client, Env};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    connect::Connect,
    fail::Fail,
    output::Output,
    survey::{Survey, accounting, role_name},
    table::{Table, bytes},
    time::{format_duration, parse_positive},
};

/// Between two surveys of `--wait`.
const POLL: Duration = Duration::from_millis(200);
/// Between two pictures of `--watch`.
const REFRESH: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
  quorate status
  quorate status --wait healthy --timeout 30s      after starting nodes
  quorate status --wait drained                    before comparing replicas
  quorate status --json | jq .hints.pending";

/// Nodes, leader, shards and hint queues
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {
    /// Wait until all nodes are up under one leader (healthy), or until no hint is pending (drained)
    #[arg(long, value_name = "STATE")]
    wait: Option<Wait>,
    /// How long to wait
    #[arg(long, value_name = "D", default_value = "60s", value_parser = parse_positive)]
    timeout: u64,
    /// Show it again every two seconds until stopped
    #[arg(long, conflicts_with = "wait")]
    watch: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wait {
    Healthy,
    Drained,
}

impl Wait {
    /// What is still missing.
    fn missing(self, survey: &Survey) -> Option<String> {
        match self {
            Self::Healthy => survey.complaint(),
            Self::Drained => survey.undrained(),
        }
    }
}

pub(crate) async fn run(args: Status, env: Env) -> Result<(), Fail> {
    if let Some(wait) = args.wait {
        return wait_for(wait, &args, &env).await;
    }
    let client = args.connect.open(&env).await?;
    let mut out = Output::new();
    loop {
        let survey = Survey::take(&client).await;
        show(&survey, &args.connect, &mut out)?;
        if !args.watch {
            break;
        }
        sleep(REFRESH).await;
        if !args.connect.json {
            out.line("")?;
        }
    }
    client.close().await;
    Ok(())
}

async fn wait_for(wait: Wait, args: &Status, env: &Env) -> Result<(), Fail> {
    let deadline = Instant::now() + Duration::from_nanos(args.timeout);
    // Mistakes on the command line are told at once; a cluster that is not up yet is waited for.
    args.connect.credentials(env)?;
    let mut missing = "no node has answered".to_owned();
    let mut client: Option<Client> = None;
    while Instant::now() < deadline {
        match &client {
            None => match args.connect.open(env).await {
                Ok(connected) => client = Some(connected),
                Err(Fail::Failed(text)) => missing = text,
                Err(other) => return Err(other),
            },
            Some(client) => {
                let survey = Survey::take(client).await;
                let Some(what) = wait.missing(&survey) else {
                    show(&survey, &args.connect, &mut Output::new())?;
                    client.close().await;
                    return Ok(());
                };
                missing = what;
            }
        }
        if client.is_some() {
            sleep(POLL).await;
        }
    }
    let limit = format_duration(args.timeout);
    Err(Fail::failed(format!("gave up after {limit}: {missing}; see 'quorate status'")))
}

fn show(survey: &Survey, connect: &Connect, out: &mut Output) -> Result<(), Fail> {
    if connect.json {
        out.json(&describe(survey))?;
    } else {
        out.bytes(picture(survey).as_bytes())?;
    }
    out.flush()
}

/// The survey as `--json` shows it.
fn describe(survey: &Survey) -> Value {
    let nodes: Vec<Value> = survey
        .map
        .active_nodes()
        .map(|node| {
            let answer = survey.answer(node.id);
            json!({
                "id": node.id,
                "name": node.name,
                "addr": node.addr,
                "state": if answer.is_some() { "alive" } else { "down" },
                "role": answer.map(|answer| role_name(answer.role)),
                "poisoned": answer.map(|answer| answer.poisoned),
                "meta_index": answer.map(|answer| answer.meta_index),
                "fresh_bytes": answer.map(|answer| answer.fresh_bytes),
                "journal_bytes": answer.map(|answer| answer.journal_bytes),
                "version": answer.map(|answer| answer.version.clone()),
                "sync_interval_ms": answer.map(|answer| answer.sync_interval_ms),
            })
        })
        .collect();
    let shards = survey.map.shards();
    let shards: Vec<Value> =
        shards.map(|place| json!({"id": place.shard.id, "owners": place.shard.owners})).collect();
    json!({
        "cluster": survey.map.name,
        "nodes": nodes,
        "leader": survey.leader(),
        "shards": shards,
        "hints": accounting(&survey.hints()),
    })
}

/// The survey for people.
fn picture(survey: &Survey) -> String {
    let mut nodes = Table::new(&[">id", "name", "address", "state", "role", ">fresh", ">journal"]);
    for node in survey.map.active_nodes() {
        let answer = survey.answer(node.id);
        let state = match answer {
            None => "down",
            Some(answer) if answer.poisoned => "poisoned",
            Some(_) => "alive",
        };
        let size = |count: Option<u64>| count.map_or_else(String::new, bytes);
        nodes.row([
            node.id.to_string(),
            node.name.clone(),
            node.addr.clone(),
            state.to_owned(),
            answer.map_or("", |answer| role_name(answer.role)).to_owned(),
            size(answer.map(|answer| answer.fresh_bytes)),
            size(answer.map(|answer| answer.journal_bytes)),
        ]);
    }
    let (mut total, mut bare, mut thin) = (0u64, 0u64, 0u64);
    for place in survey.map.shards() {
        let owners = &place.shard.owners;
        let alive = owners.iter().filter(|owner| survey.answer(**owner).is_some()).count();
        total += 1;
        bare += u64::from(alive <= owners.len() / 2);
        thin += u64::from(alive < owners.len());
    }
    let hints = survey.hints();
    let leader = survey.leader().map_or_else(|| "none".to_owned(), |id| survey.name(id));
    let late = survey.map.active_nodes().filter_map(|node| {
        let every = survey.answer(node.id)?.sync_interval_ms;
        let what = "answers writes before they are durable and syncs every";
        (every > 0).then(|| format!("note: node {} ({}) {what} {every} ms\n", node.id, node.name))
    });
    let late: String = late.collect();
    let unknown = if survey.complete() { "" } else { " (of the nodes that answered)" };
    format!(
        "cluster '{}', leader {leader}\n\n{}\n\
         shards: {total}, of which {thin} lack an owner that is up, {bare} lack a quorum\n\
         hints: {} pending, {} delivered of {} accepted{unknown}\n{late}",
        survey.map.name,
        nodes.render(),
        hints.pending,
        hints.delivered,
        hints.accepted,
    )
}
