//! One node's stream of a subscription.
//!
//! Invariants: what is asked for is what [`super::direct`] wants of the node now; every answer is
//! verified before it is taken; a node that says nothing is asked for a sign of life, so that a mute one is
//! found out; nothing here waits for the consumer.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::{
    batch::EncodedBatch,
    code::Code,
    id::NodeId,
    message::{Follow, Followed, Ping},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{Shared, StoredBatch, shards::Wanted};
use crate::connection::{Connection, RequestError};

/// Follows a node until nobody wants anything of it any more.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId, mut wanted: watch::Receiver<Wanted>) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let heard = async {
            if now.is_empty() {
                return std::future::pending().await;
            }
            let Err(why) = hear(&shared, node, &now).await else { return };
            tracing::debug!(%node, %why, "its shards are followed elsewhere");
            shared.shards().failed(node, why.code(), why.of(node), Instant::now());
            shared.changed.notify_one();
            shared.progress.notify_one();
            // It is wanted of somebody else next.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            changed = wanted.changed() => if changed.is_err() { return },
            () = heard => {}
        }
    }
}

/// Why a node is not followed any more.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("it is down")]
    Down,
    #[error("it ended the answer")]
    Ended,
    #[error("it sent a batch that is not what it says")]
    Wrong,
}

impl Unheard {
    /// What people are told.
    fn of(&self, node: NodeId) -> String {
        match self.code() {
            Code::Unsupported => format!("node {node} knows no subscriptions yet; upgrade it"),
            _ => format!("node {node}: {self}"),
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Request(error) => error.code(),
            Self::Down => Code::Unavailable,
            Self::Ended | Self::Wrong => Code::Internal,
        }
    }
}

/// Takes what a node tells, until it has to be asked again.
async fn hear(shared: &Arc<Shared>, node: NodeId, wanted: &Wanted) -> Result<(), Unheard> {
    let core = &shared.core;
    let connection = core.connection(node).ok_or(Unheard::Down)?;
    let meta_index = core.topology.map().index;
    let shards = shared.shards().request(node, wanted);
    let request = Follow { meta_index, shards };
    let deadline = Instant::now() + core.config.connect_timeout;
    let mut stream = connection.open_stream(&request, Bytes::new(), deadline).await?;
    loop {
        let (told, body) = tokio::select! {
            biased;
            next = stream.next() => next?.ok_or(Unheard::Ended)?,
            () = sleep(shared.options.silence) => {
                probe(shared, &connection);
                continue;
            }
        };
        if take(shared, node, &told, body)? {
            return Ok(());
        }
    }
}

/// Asks for a sign of life; whoever gives none is given up as mute, and the stream fails.
pub(super) fn probe(shared: &Shared, connection: &Arc<Connection>) {
    let connection = Arc::clone(connection);
    let deadline = Instant::now() + 2 * shared.core.config.transport.mute_after;
    shared.core.tasks.spawn(async move {
        let _ = connection.request(&Ping {}, Bytes::new(), deadline).await;
    });
}

/// Takes an answer; whether to ask again.
fn take(shared: &Shared, node: NodeId, told: &Followed, body: Bytes) -> Result<bool, Unheard> {
    let batch = match body.is_empty() {
        true => None,
        // Of its own memory: what waits must not hold whatever was received with it.
        false => Some(parse(node, told, Bytes::copy_from_slice(&body))?),
    };
    let mut shards = shared.shards();
    let taken = shards.take(node, told, batch.is_some(), Instant::now());
    // Under the same lock, so that what two nodes send comes in the order in which it was taken.
    let mut events = shared.events();
    if let Some(gap) = taken.gap {
        events.gap(gap);
    }
    if let Some(batch) = batch.filter(|_| taken.deliver) {
        events.batch(batch);
    }
    drop((events, shards));
    if taken.gap.is_some() || taken.deliver {
        shared.came.notify_one();
    }
    if taken.begun {
        shared.progress.notify_one();
    }
    Ok(taken.again)
}

fn parse(node: NodeId, told: &Followed, body: Bytes) -> Result<StoredBatch, Unheard> {
    let encoded = EncodedBatch::parse(body).map_err(|_| Unheard::Wrong)?;
    let part = encoded.header().part;
    let length = u32::try_from(encoded.bytes().len()).ok();
    if (part.batch, part.shard, Some(told.length)) != (told.batch, told.shard, length)
        || encoded.checksum() != told.checksum
    {
        return Err(Unheard::Wrong);
    }
    Ok(StoredBatch { encoded, node, sequence: told.sequence })
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{id::MetaIndex, message::Failure};

    use super::*;

    #[test]
    fn a_node_that_is_too_old_is_named_with_what_to_do() {
        let failure = |code| Failure {
            code,
            retry_after_ms: 0,
            meta_index: MetaIndex(0),
            detail: "op 0x0036".to_owned(),
        };
        let why = |code| Unheard::from(RequestError::Failure(failure(code)));
        assert_eq!(why(Code::Unsupported).code(), Code::Unsupported);
        assert!(why(Code::Unsupported).of(NodeId(3)).contains("node 3 knows no subscriptions"));
        assert!(why(Code::Busy).of(NodeId(3)).contains("op 0x0036"));
    }
}
