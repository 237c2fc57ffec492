//! Appending from many writers at once: hints per second, each acknowledged after its sync.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_benches::report::{Line, Summary};
use quorate_node::handoff::HandoffConfig;
use quorate_protocol::id::{NodeId, ShardId};

use super::{Outcome, Plan, back::open, ratio, reference::Queue, tell};

const WRITERS: u64 = 64;
const BYTES: usize = 5_000;

fn payload() -> Vec<u8> {
    (0..BYTES as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

async fn ours(plan: &Plan, span: Duration) -> Outcome<f64> {
    let dir = plan.scratch()?;
    let handoff = Arc::new(open(dir.path().join("handoff"), HandoffConfig::default())?);
    let payload = Bytes::from(payload());
    let begun = Instant::now();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (handoff, payload) = (Arc::clone(&handoff), payload.clone());
            tokio::spawn(async move {
                let mut count = 0_u64;
                while begun.elapsed() < span {
                    handoff.append(NodeId(2), ShardId(writer), payload.clone(), false, 1).await?;
                    count += 1;
                }
                Ok::<_, quorate_node::handoff::HandoffError>(count)
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await??;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    handoff.close().await;
    Ok(rate)
}

fn theirs(plan: &Plan, span: Duration) -> Outcome<f64> {
    let dir = plan.scratch()?;
    let (queue, count) = (Queue::new(dir.path())?, AtomicU64::new(0));
    // A block has its shard in front.
    let block = [&7_u64.to_be_bytes()[..], &payload()].concat();
    let begun = Instant::now();
    let ends: Vec<std::io::Result<()>> = std::thread::scope(|threads| {
        let writer = || {
            while begun.elapsed() < span {
                queue.append(&block)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| threads.spawn(writer)).collect();
        writers.into_iter().filter_map(|writer| writer.join().ok()).collect()
    });
    ends.into_iter().collect::<std::io::Result<()>>()?;
    Ok(count.into_inner() as f64 / begun.elapsed().as_secs_f64())
}

pub(crate) async fn run(plan: &Plan, summary: &mut Summary) -> Outcome<String> {
    let span = Duration::from_millis(plan.scale(3_000, 200));
    for _ in 0..plan.runs {
        let line = |who| Line::new("append").case("queue", who).case("writers", WRITERS);
        let rate = ours(plan, span).await?;
        tell(summary, &line("quorate").figure("per_s", rate));
        let rate = tokio::task::block_in_place(|| theirs(plan, span))?;
        tell(summary, &line("reference").figure("per_s", rate));
    }
    let case = |who: &str| format!("append queue={who} writers={WRITERS}");
    let times = ratio(summary, "per_s", &case("quorate"), &case("reference"));
    Ok(Summary::goal("append_over_reference", times, Some(20.0), None))
}
