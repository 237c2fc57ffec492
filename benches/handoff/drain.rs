//! Draining into a node that has come back: small hints against the reference, one message and one
//! sync each; large ones as a share of what the same node takes as live writes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_benches::report::{Line, Summary};
use quorate_node::handoff::HandoffConfig;
use quorate_protocol::{
    batch::PartHeader,
    message::{Deliver, HintItem, Write},
};
use tokio::task::JoinSet;

use super::{
    Outcome, Plan, append,
    pair::{HOLDER, Pair, TARGET},
    ratio,
    reference::Queue,
    tell,
};

/// Time for one message.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows of large parts: about 64, 200 and 500 KiB.
const LARGE_ROWS: [u64; 3] = [800, 2_400, 6_000];
/// Live writes under way at the same time, as many messages as a drain has.
const WINDOW: usize = 4;

/// Puts parts into the holder's queue, restarts both nodes, and waits until all are delivered:
/// hints and bytes per second from the first delivery that is seen to the last.
async fn drain(pair: &mut Pair, parts: Vec<(PartHeader, Bytes)>) -> Outcome<(f64, f64)> {
    pair.stop(TARGET).await;
    pair.stop(HOLDER).await;
    let (count, bytes) =
        (parts.len() as u64, parts.iter().map(|(_, part)| part.len() as u64).sum::<u64>());
    let handoff = std::sync::Arc::new(append::open(pair.queues(), HandoffConfig::default())?);
    let before = handoff.totals().delivered;
    let now = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos())?;
    let mut tasks = JoinSet::new();
    for (header, part) in parts {
        let handoff = std::sync::Arc::clone(&handoff);
        tasks.spawn(async move { handoff.append(TARGET, header.shard, part, false, now).await });
        if tasks.len() >= 256
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
    pair.restart(HOLDER).await?;
    pair.restart(TARGET).await?;
    let mut first = None;
    loop {
        // While the nodes come back, the holder may not answer yet.
        let (delivered, pending) = pair.queue().await.unwrap_or((before, count));
        let done = delivered.saturating_sub(before);
        if done > 0 {
            let (at, from) = *first.get_or_insert((Instant::now(), done));
            if pending == 0 {
                let seconds = at.elapsed().as_secs_f64();
                let share = (done - from) as f64 / count as f64;
                return Ok((share * count as f64 / seconds, share * bytes as f64 / seconds));
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The reference: reads a record, sends it, waits, notes it, syncs. Records per second.
async fn one_by_one(plan: &Plan, pair: &Pair, parts: &[(PartHeader, Bytes)]) -> Outcome<f64> {
    let dir = plan.scratch()?;
    let queue = Queue::new(dir.path())?;
    for (_, part) in parts {
        queue.append(part)?;
    }
    let connection = pair.dial().await?;
    let mut sent = 0_u32;
    let begun = Instant::now();
    while let Some(block) = tokio::task::block_in_place(|| queue.current())? {
        let length = block.len();
        let (header, _) = parts.first().ok_or("no parts")?;
        let item = HintItem { shard: header.shard, length: u32::try_from(length)? };
        let request =
            Deliver { meta_index: header.meta_index, deadline_ms: 10_000, items: vec![item] };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let (delivered, _) = connection.request(&request, block.into(), deadline).await?;
        if let Some(error) = delivered.answers.iter().find_map(|answer| answer.error) {
            return Err(format!("a hint was refused: {error}").into());
        }
        tokio::task::block_in_place(|| queue.advance(length))?;
        sent += 1;
    }
    Ok(f64::from(sent) / begun.elapsed().as_secs_f64())
}

/// What the target takes from a coordinator, some messages under way: bytes per second.
async fn live(pair: &Pair, parts: Vec<(PartHeader, Bytes)>) -> Outcome<f64> {
    let connection = pair.dial().await?;
    let bytes: usize = parts.iter().map(|(_, part)| part.len()).sum();
    let mut under_way = JoinSet::new();
    let begun = Instant::now();
    let check = |ended: Result<Result<bool, String>, tokio::task::JoinError>| match ended {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("a write was refused".to_owned()),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(error.to_string()),
    };
    for (header, part) in parts {
        let connection = std::sync::Arc::clone(&connection);
        under_way.spawn(async move {
            let request = Write {
                shard: header.shard,
                epoch: header.epoch,
                meta_index: header.meta_index,
                deadline_ms: 10_000,
                store: true,
                any: false,
                hint_for: Vec::new(),
            };
            loop {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                let written = connection.request(&request, part.clone(), deadline).await;
                let (written, _) = written.map_err(|error| error.to_string())?;
                match written.copy {
                    Some(answer) if answer.error.is_none() => return Ok(true),
                    // Busy: as a client does, it comes again.
                    Some(answer) if answer.retry_after_ms > 0 => {
                        let pause = Duration::from_millis(answer.retry_after_ms.into());
                        tokio::time::sleep(pause).await;
                    }
                    _ => return Ok(false),
                }
            }
        });
        if under_way.len() >= WINDOW
            && let Some(ended) = under_way.join_next().await
        {
            check(ended)?;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        check(ended)?;
    }
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

/// Hints of one row.
pub(crate) async fn small(plan: &Plan, summary: &mut Summary) -> Outcome<String> {
    let (count, of_reference) = (plan.scale(100_000, 2_000), plan.scale(3_000, 100));
    for _ in 0..plan.runs {
        let mut pair = Pair::start(plan.scratch()?, 0).await?;
        let parts = |from: u64, count: u64| -> Outcome<Vec<_>> {
            (from..from + count).map(|number| pair.part(number, 1)).collect()
        };
        let (hints, singles) = (parts(1, count)?, parts(count + 1, of_reference)?);
        let rate = one_by_one(plan, &pair, &singles).await?;
        let line = |who| Line::new("small").case("queue", who);
        tell(summary, &line("reference").figure("per_s", rate));
        let each = hints.iter().map(|(_, part)| part.len()).sum::<usize>() as u64 / count;
        let (rate, _) = drain(&mut pair, hints).await?;
        let line = line("quorate").count("hints", count).count("bytes_each", each);
        tell(summary, &line.figure("per_s", rate));
        pair.finish().await;
    }
    let times = ratio(summary, "per_s", "small queue=quorate", "small queue=reference");
    Ok(Summary::goal("small_drain_over_reference", times, Some(20.0), None))
}

/// Hints of some hundred kilobytes.
pub(crate) async fn large(plan: &Plan, summary: &mut Summary) -> Outcome<String> {
    let count = plan.scale(1_500, 30);
    for _ in 0..plan.runs {
        let mut pair = Pair::start(plan.scratch()?, 0).await?;
        let parts = |from: u64| -> Outcome<Vec<_>> {
            let kinds = LARGE_ROWS.iter().cycle();
            (from..from + count).zip(kinds).map(|(number, rows)| pair.part(number, *rows)).collect()
        };
        let (first, second) = (parts(1)?, parts(count + 1)?);
        let rate = live(&pair, first).await?;
        tell(summary, &Line::new("large").case("as", "live").figure("mb_s", rate / 1e6));
        let (_, rate) = drain(&mut pair, second).await?;
        tell(summary, &Line::new("large").case("as", "hints").figure("mb_s", rate / 1e6));
        pair.finish().await;
    }
    let share = ratio(summary, "mb_s", "large as=hints", "large as=live");
    Ok(Summary::goal("large_drain_over_live", share, Some(0.6), None))
}
