//! Opening queues that hold gigabytes: the time, and the memory it takes.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use quorate_benches::{
    probe::{Peak, memory},
    report::{Line, Summary},
};
use quorate_node::handoff::HandoffConfig;
use quorate_protocol::id::{NodeId, ShardId};
use tokio::task::JoinSet;

use super::{Outcome, Plan, back, tell};

const TARGETS: u64 = 3;
const MIB: u64 = 1 << 20;

pub(crate) async fn run(plan: &Plan, summary: &mut Summary) -> Outcome<String> {
    let hints = plan.scale(10 << 10, 64);
    let config = HandoffConfig {
        max_bytes: 20 << 30,
        max_total_bytes: 40 << 30,
        ..HandoffConfig::default()
    };
    let dir = plan.scratch()?;
    let path = dir.path().join("handoff");
    let handoff = Arc::new(back::open(path.clone(), config.clone())?);
    let payload = Bytes::from(vec![7; MIB as usize]);
    let mut tasks = JoinSet::new();
    for number in 0..hints {
        let (handoff, payload) = (Arc::clone(&handoff), payload.clone());
        let target = NodeId(2 + number % TARGETS);
        tasks.spawn(async move { handoff.append(target, ShardId(1), payload, false, 1).await });
        if tasks.len() >= 32
            && let Some(ended) = tasks.join_next().await
        {
            ended??;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    handoff.close().await;
    drop(handoff);
    let case = Line::new("open").case("mib", hints);
    for _ in 0..plan.runs {
        let (before, peak, begun) = (memory().anon, Peak::watch(), Instant::now());
        let handoff = tokio::task::block_in_place(|| back::open(path.clone(), config.clone()))?;
        let seconds = begun.elapsed().as_secs_f64();
        let grown = peak.stop().saturating_sub(before);
        if handoff.totals().pending != hints {
            return Err(format!("{} hints are back", handoff.totals().pending).into());
        }
        handoff.close().await;
        let line = case.clone().figure("seconds", seconds).count("anon_growth_bytes", grown);
        tell(summary, &line);
    }
    let seconds = summary.median(&case.case, "seconds");
    let grown = summary.median(&case.case, "anon_growth_bytes");
    Ok([
        Summary::goal("open_seconds", seconds, None, Some(2.0)),
        Summary::goal("open_anon_growth_mib", grown.map(|b| b / MIB as f64), None, Some(64.0)),
    ]
    .concat())
}
