//! Draining into a node that has come back: small hints against the reference, one message and one
//! sync each; large ones as a share of what the same node takes as live writes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_benches::report::{Line, Summary};
use quorate_protocol::{
    batch::PartHeader,
    message::{Deliver, HintItem},
};

use super::{Outcome, Plan, back::drain, live, ratio, reference::Queue, tell, world::World};

/// Time for one message.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows of large parts: about 64, 200 and 500 KiB.
pub(crate) const LARGE_ROWS: [u64; 3] = [2_700, 8_500, 21_000];

/// The reference: reads a record, sends it, waits, notes it, syncs. Records per second.
async fn one_by_one(plan: &Plan, world: &World, parts: &[(PartHeader, Bytes)]) -> Outcome<f64> {
    let dir = plan.scratch()?;
    let queue = Queue::new(dir.path())?;
    for (_, part) in parts {
        queue.append(part)?;
    }
    let connection = world.dial().await?;
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

/// Hints of one row.
pub(crate) async fn small(plan: &Plan, summary: &mut Summary) -> Outcome<String> {
    let (count, of_reference) = (plan.scale(100_000, 2_000), plan.scale(3_000, 100));
    for _ in 0..plan.runs {
        let mut world = World::start(plan.scratch()?, plan.hosts.clone(), 1).await?;
        let parts = |from: u64, count: u64| -> Outcome<Vec<_>> {
            (from..from + count).map(|number| world.part(number, 1)).collect()
        };
        let (hints, singles) = (parts(1, count)?, parts(count + 1, of_reference)?);
        let rate = one_by_one(plan, &world, &singles).await?;
        let line = |who| Line::new("small").case("queue", who);
        tell(summary, &line("reference").figure("per_s", rate));
        let each = hints.iter().map(|(_, part)| part.len()).sum::<usize>() as u64 / count;
        let rate = drain(&mut world, hints).await? * count as f64;
        let line = line("quorate").count("hints", count).count("bytes_each", each);
        tell(summary, &line.figure("per_s", rate));
        world.finish().await;
    }
    let times = ratio(summary, "per_s", "small queue=quorate", "small queue=reference");
    Ok(Summary::goal("small_drain_over_reference", times, Some(20.0), None))
}

/// Hints of some hundred kilobytes.
pub(crate) async fn large(plan: &Plan, summary: &mut Summary) -> Outcome<String> {
    let count = plan.scale(2_000, 30);
    for _ in 0..plan.runs {
        let mut world = World::start(plan.scratch()?, plan.hosts.clone(), 1).await?;
        let parts = |from: u64| -> Outcome<Vec<_>> {
            let kinds = LARGE_ROWS.iter().cycle();
            (from..from + count)
                .zip(kinds)
                .map(|(number, rows)| world.part(number, *rows))
                .collect()
        };
        let (first, second) = (parts(1)?, parts(count + 1)?);
        world.fold().await;
        let rate = live::all(&world, first).await?;
        tell(summary, &Line::new("large").case("as", "live").figure("mb_s", rate / 1e6));
        let bytes = second.iter().map(|(_, part)| part.len()).sum::<usize>();
        let rate = drain(&mut world, second).await? * bytes as f64;
        tell(summary, &Line::new("large").case("as", "hints").figure("mb_s", rate / 1e6));
        world.finish().await;
    }
    let share = ratio(summary, "mb_s", "large as=hints", "large as=live");
    Ok(Summary::goal("large_drain_over_live", share, Some(0.6), None))
}
