//! `quorate hints ls`: the queues and their books, or the repair marks.

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{
    id::NodeId,
    message::{MarkInfo, QueueStatus},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    cli::{
        connect::Connect,
        fail::Fail,
        output::Output,
        survey::{PATIENCE, Survey, accounting},
        table::{Table, bytes},
        time::format_time,
    },
    handoff::MarkReason,
};

const ABOUT: &str = "\
A repair mark says that an owner may lack something of a shard between two times: its hint grew too
old or was refused, or its copy was given up. Marks are kept until they are repaired.

  quorate hints ls --marks
  quorate hints ls --marks --json | jq 'select(.owner_name == \"n3\")'";

/// List the queues, or the repair marks
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct LsArgs {
    /// The repair marks of all nodes, instead of the queues
    #[arg(long)]
    marks: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: LsArgs, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let survey = Survey::take(&client).await;
    let marks = if args.marks { marks(&client, &survey).await } else { Ok(Vec::new()) };
    client.close().await;
    if args.marks {
        list_marks(&survey, &marks?, args.connect.json)?;
    } else {
        list_queues(&survey, args.connect.json)?;
    }
    if survey.complete() {
        return Ok(());
    }
    let down = survey.nodes.iter().filter(|(_, answer)| answer.is_none());
    let down: Vec<String> = down.map(|(id, _)| survey.name(*id)).collect();
    let what = if args.marks { "marks" } else { "queues" };
    Err(Fail::failed(format!("no answer from {}; its {what} are not listed", down.join(", "))))
}

fn list_queues(survey: &Survey, json: bool) -> Result<(), Fail> {
    let mut out = Output::new();
    let header = [
        "on",
        "for",
        ">accepted",
        ">delivered",
        ">pending",
        ">quarant.",
        ">expired",
        ">discard.",
        ">size",
        "oldest",
    ];
    let mut table = Table::new(&header);
    for (holder, queue) in survey.queues() {
        if json {
            out.json(&queue_object(survey, holder, queue))?;
            continue;
        }
        let oldest = match i64::try_from(queue.oldest_ns) {
            Ok(0) | Err(_) => String::new(),
            Ok(oldest) => format_time(oldest - oldest % 1_000_000_000),
        };
        table.row([
            survey.name(holder),
            survey.name(queue.target),
            queue.accepted.to_string(),
            queue.delivered.to_string(),
            queue.pending.to_string(),
            queue.quarantined.to_string(),
            queue.expired.to_string(),
            queue.discarded.to_string(),
            bytes(queue.bytes),
            oldest,
        ]);
    }
    if !json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}

fn queue_object(survey: &Survey, holder: NodeId, queue: &QueueStatus) -> Value {
    let mut object = json!({
        "node": holder,
        "node_name": survey.name(holder),
        "target": queue.target,
        "target_name": survey.name(queue.target),
        "bytes": queue.bytes,
        "oldest_ns": queue.oldest_ns,
    });
    if let (Some(object), Some(counts)) = (object.as_object_mut(), accounting(queue).as_object()) {
        object.extend(counts.clone());
    }
    object
}

/// The marks of every node that has answered.
async fn marks(client: &Client, survey: &Survey) -> Result<Vec<(NodeId, MarkInfo)>, Fail> {
    let mut asked = JoinSet::new();
    for id in survey.answers().map(|node| node.node) {
        let client = client.clone();
        asked.spawn(async move { (id, client.marks(id, PATIENCE).await) });
    }
    let mut all = Vec::new();
    for (node, marks) in asked.join_all().await {
        all.extend(marks?.into_iter().map(|mark| (node, mark)));
    }
    all.sort_by_key(|(node, mark)| (mark.shard, mark.owner, mark.reason, *node));
    Ok(all)
}

fn list_marks(survey: &Survey, marks: &[(NodeId, MarkInfo)], json: bool) -> Result<(), Fail> {
    let mut out = Output::new();
    let mut table = Table::new(&[">shard", "owner", "reason", "from", "to", "on"]);
    for (node, mark) in marks {
        let reason = MarkReason::from_code(mark.reason.into());
        if json {
            out.json(&json!({
                "shard": mark.shard,
                "owner": mark.owner,
                "owner_name": survey.name(mark.owner),
                "reason": reason.map_or_else(|| json!(mark.reason), |reason| json!(reason)),
                "from": mark.from,
                "to": mark.to,
                "node": node,
                "node_name": survey.name(*node),
            }))?;
            continue;
        }
        table.row([
            mark.shard.to_string(),
            survey.name(mark.owner),
            reason.map_or_else(|| mark.reason.to_string(), |reason| reason.to_string()),
            edge(mark.from),
            edge(mark.to),
            survey.name(*node),
        ]);
    }
    if !json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}

/// The edge of a range; a mark whose times are not known covers them all.
fn edge(time: i64) -> String {
    if matches!(time, i64::MIN | i64::MAX) { "any".to_owned() } else { format_time(time) }
}
