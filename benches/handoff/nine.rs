//! Nine holders that drain into one node at once, while clients write to it: what that does to the
//! acknowledgements of live writes, and how much the node takes in at a time.
//!
//! Writes are sent by a clock, and their time counts from when they were due. The holders run at the
//! lowest priority, as if they had processors of their own; the target and the writer share one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quorate_benches::report::{Line, Summary, percentile};
use quorate_node::config::{DrainConfig, NodeConfig};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Outcome, Plan, back::fill, drain::LARGE_ROWS, live, ratio, tell, watch::Watch, world::World,
};

const HOLDERS: u64 = 9;
/// A write is due this often.
const EVERY: Duration = Duration::from_millis(10);
const ROWS: u64 = 5_000;

/// Writes by the clock until `stop`: microseconds of each write, and how many were sent.
async fn writes(world: &World, from: u64, stop: &AtomicBool) -> Outcome<Vec<u64>> {
    let connection = world.dial().await?;
    let mut under_way = JoinSet::new();
    let mut times = Vec::new();
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in from.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let part = world.part(number, ROWS)?;
        let due: Instant = clock.tick().await;
        let connection = Arc::clone(&connection);
        under_way.spawn(async move {
            live::write(connection, part).await?;
            Outcome::Ok(u64::try_from(due.elapsed().as_micros())?)
        });
        while let Some(ended) = under_way.try_join_next() {
            times.push(ended??);
        }
    }
    while let Some(ended) = under_way.join_next().await {
        times.push(ended??);
    }
    Ok(times)
}

/// Hints that are pending with all holders.
async fn pending(world: &World) -> u64 {
    let mut all = 0;
    for holder in world.holders() {
        // Who does not answer is not done.
        all += world.queue(holder).await.map_or(1, |(_, pending)| pending);
    }
    all
}

fn milliseconds(times: &mut [u64], percent: usize) -> f64 {
    percentile(times, percent) as f64 / 1e3
}

pub(crate) async fn run(plan: &Plan, watch: &Watch, summary: &mut Summary) -> Outcome<String> {
    let (hints, alone) = (plan.scale(200, 6), Duration::from_millis(plan.scale(10_000, 300)));
    let budget = f64::from(NodeConfig::default().hint_receive_bytes) / f64::from(1 << 20);
    for run in 0..plan.runs as u64 {
        let mut world = World::start(plan.scratch()?, plan.hosts.far(), HOLDERS).await?;
        let mut bytes = 0;
        for holder in world.holders() {
            let base = (run * HOLDERS + holder.0) * 1_000_000;
            let kinds = LARGE_ROWS.iter().cycle();
            let parts = (base..base + hints).zip(kinds);
            let parts: Vec<_> =
                parts.map(|(number, rows)| world.part(number, *rows)).collect::<Outcome<_>>()?;
            bytes += parts.iter().map(|(_, part)| part.len()).sum::<usize>();
            world.stop(holder).await;
            fill(&world, holder, parts).await?;
            world.restart(holder).await?;
        }
        world.fold().await;
        let number = (run + 1) * 1_000_000_000;
        let stop = AtomicBool::new(false);
        let (times, ()) = tokio::join!(writes(&world, number, &stop), async {
            sleep(alone).await;
            stop.store(true, Ordering::Relaxed);
        });
        let mut times = times?;
        let line = |case| Line::new("nine").case("drains", case);
        let quiet = line("held").count("writes", times.len() as u64);
        let quiet = quiet.figure("ack_p50_ms", milliseconds(&mut times, 50));
        tell(summary, &quiet.figure("ack_p99_ms", milliseconds(&mut times, 99)));

        stop.store(false, Ordering::Relaxed);
        watch.reset();
        let begun = Instant::now();
        world.let_go(DrainConfig::default().rate_limit);
        let (times, seconds) = tokio::join!(writes(&world, number + 500_000_000, &stop), async {
            while pending(&world).await > 0 {
                sleep(Duration::from_millis(20)).await;
            }
            stop.store(true, Ordering::Relaxed);
            begun.elapsed().as_secs_f64()
        });
        let mut times = times?;
        let busy = line("going").count("writes", times.len() as u64);
        let busy = busy.figure("ack_p50_ms", milliseconds(&mut times, 50));
        let busy = busy.figure("ack_p99_ms", milliseconds(&mut times, 99));
        let busy = busy.figure("drained_mb_s", bytes as f64 / 1e6 / seconds);
        tell(summary, &busy.figure("received_mib", watch.most() / f64::from(1 << 20)));
        world.finish().await;
    }
    let slower = ratio(summary, "ack_p99_ms", "nine drains=going", "nine drains=held");
    let received = summary.median("nine drains=going", "received_mib");
    Ok([
        Summary::goal("nine_holders_ack_p99", slower, None, Some(2.0)),
        Summary::goal("nine_holders_received_mib", received, None, Some(budget)),
    ]
    .concat())
}
