//! Live writes, as a coordinator sends them: a part to one owner, again if that is busy.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_client::connection::Connection;
use quorate_protocol::{batch::PartHeader, message::Write};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Outcome, world::World};

/// Time for one message.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writes under way at the same time, as many messages as a drain has.
const WINDOW: usize = 4;

/// One write, until it is durable.
pub(crate) async fn write(
    connection: Arc<Connection>,
    (header, part): (PartHeader, Bytes),
) -> Outcome<()> {
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
        let deadline = Instant::now() + PATIENCE;
        let (written, _) = connection.request(&request, part.clone(), deadline).await?;
        match written.copy {
            Some(answer) if answer.error.is_none() => return Ok(()),
            Some(answer) if answer.retry_after_ms > 0 => {
                sleep(Duration::from_millis(answer.retry_after_ms.into())).await;
            }
            answer => return Err(format!("a write was refused: {answer:?}").into()),
        }
    }
}

/// What the target takes, some writes under way: bytes per second.
pub(crate) async fn all(world: &World, parts: Vec<(PartHeader, Bytes)>) -> Outcome<f64> {
    let connection = world.dial().await?;
    let bytes: usize = parts.iter().map(|(_, part)| part.len()).sum();
    let mut under_way = JoinSet::new();
    let begun = Instant::now();
    for part in parts {
        under_way.spawn(write(Arc::clone(&connection), part));
        if under_way.len() >= WINDOW
            && let Some(ended) = under_way.join_next().await
        {
            ended??;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        ended??;
    }
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}
