//! A holder that comes back with hints for the target.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use quorate_node::{
    disk::SystemDisk,
    executor::Executor,
    handoff::{Handoff, HandoffConfig},
};
use quorate_protocol::{batch::PartHeader, id::NodeId};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Outcome,
    world::{HOLDER, TARGET, World},
};

/// How often the holder is asked.
const LOOK: Duration = Duration::from_millis(2);

/// Opens queues.
pub(crate) fn open(path: PathBuf, config: HandoffConfig) -> Outcome<Handoff> {
    Ok(Handoff::open(config, path, 1, Arc::new(SystemDisk), Executor::Thread)?.0)
}

/// Puts parts into a holder's queue for the target. The holder must be down.
pub(crate) async fn fill(
    world: &World,
    holder: NodeId,
    parts: Vec<(PartHeader, Bytes)>,
) -> Outcome<()> {
    let handoff = open(world.queues(holder), HandoffConfig::default())?;
    let handoff = Arc::new(handoff);
    let now = u64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_nanos())?;
    let mut tasks = JoinSet::new();
    for (header, part) in parts {
        let handoff = Arc::clone(&handoff);
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
    Ok(())
}

/// Restarts the holder with these parts in its queue, lets them go, and waits until all are
/// delivered: how much of them per second, 1 for all.
pub(crate) async fn drain(world: &mut World, parts: Vec<(PartHeader, Bytes)>) -> Outcome<f64> {
    let count = parts.len() as u64;
    world.stop(HOLDER).await;
    fill(world, HOLDER, parts).await?;
    world.restart(HOLDER).await?;
    world.fold().await;
    // The first message goes at any rate.
    let waiting = loop {
        match world.queue(HOLDER).await {
            Ok((delivered, pending)) if delivered > 0 => break pending,
            _ => sleep(LOOK).await,
        }
    };
    let begun = Instant::now();
    world.let_go(0);
    while world.queue(HOLDER).await?.1 > 0 {
        sleep(LOOK).await;
    }
    Ok(waiting as f64 / count as f64 / begun.elapsed().as_secs_f64())
}
