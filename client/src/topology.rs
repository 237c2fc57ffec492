//! The cached cluster map: fetched once, then followed by a long poll that any node answers.
//!
//! Invariants: the map never goes back; the pool knows every node of the newest map; a write never
//! waits for the poll unless it needs something newer. Changes are asked for here too, since their
//! answer carries the map they made.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_protocol::{
    change::{Change, Outcome},
    code::{Class, Code},
    id::MetaIndex,
    map::ClusterMap,
    message::{MetaGet, Propose, Proposed},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    connection::{Connection, RequestError},
    core::Core,
    error::Error,
};

const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The newest map, and the newest index anybody has spoken of.
pub(crate) struct Topology {
    map: watch::Sender<Arc<ClusterMap>>,
    wanted: watch::Sender<MetaIndex>,
}

impl Topology {
    pub(crate) fn new() -> Self {
        Self {
            map: watch::Sender::new(Arc::new(ClusterMap::default())),
            wanted: watch::Sender::new(MetaIndex(0)),
        }
    }

    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// Somebody has spoken of this index: a poll that does not deliver it is asked again.
    pub(crate) fn want(&self, index: MetaIndex) {
        self.wanted.send_if_modified(|wanted| {
            let newer = index > *wanted;
            if newer {
                *wanted = index;
            }
            newer
        });
    }

    /// Waits for a map at or beyond `index`.
    pub(crate) async fn reach(
        &self,
        index: MetaIndex,
        deadline: Instant,
    ) -> Option<Arc<ClusterMap>> {
        self.want(index);
        let mut watch = self.map.subscribe();
        let reached = watch.wait_for(|map| map.index >= index);
        let map = timeout_at(deadline, reached).await.ok()?.ok()?;
        Some(Arc::clone(&map))
    }

    fn install(&self, core: &Core, map: ClusterMap) {
        let nodes: Vec<_> = map.active_nodes().map(|node| (node.id, node.addr.clone())).collect();
        let map = Arc::new(map);
        self.map.send_if_modified(|current| {
            let newer = map.index > current.index;
            if newer {
                // First the pool, since whoever sees the map may want its nodes; and in here, so
                // that of two new maps the older one cannot have the last word.
                core.pool.update(nodes);
                *current = map;
            }
            newer
        });
    }
}

/// Follows the map until the client is closed.
pub(crate) async fn follow(core: Arc<Core>) {
    let mut turn = 0usize;
    let mut changes = core.pool.changes();
    loop {
        changes.mark_unchanged();
        let nobody = core.any(turn).is_none();
        let polled = tokio::select! {
            biased;
            () = core.cancel.cancelled() => return,
            polled = poll(&core, turn) => polled,
        };
        if polled.is_none() {
            turn = turn.wrapping_add(1);
            tokio::select! {
                biased;
                () = core.cancel.cancelled() => return,
                // The first connection is asked at once: somebody waits for the first map.
                Ok(()) = changes.changed(), if nobody => {}
                () = sleep(RETRY_PAUSE) => {}
            }
        }
    }
}

/// One long poll; none if it failed and another node should be asked.
async fn poll(core: &Core, turn: usize) -> Option<()> {
    let connection = core.any(turn)?;
    let after = core.topology.map().index;
    let mut wanted = core.topology.wanted.subscribe();
    let wait = core.config.poll_wait;
    let deadline = Instant::now() + wait + Duration::from_secs(5);
    // This node seems to be behind the others if it holds back what somebody has spoken of.
    let behind = async {
        if wanted.wait_for(|wanted| *wanted > after).await.is_ok() {
            sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        biased;
        fetched = fetch(core, &connection, after, wait, deadline) => {
            if let Some(map) = fetched.ok()? {
                core.topology.install(core, map);
            }
            Some(())
        }
        () = behind => None,
    }
}

/// Asks one node for a map newer than `after`.
async fn fetch(
    core: &Core,
    connection: &Arc<Connection>,
    after: MetaIndex,
    wait: Duration,
    deadline: Instant,
) -> Result<Option<ClusterMap>, RequestError> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let request = MetaGet { after, wait_ms };
    let most = core.config.transport.max_message as usize;
    let (_, payload) = connection.exchange(&request, Bytes::new(), deadline, most).await?;
    Ok(decode_map(&payload))
}

/// Asks one node once whether there is something newer.
pub(crate) async fn refresh(core: &Core, deadline: Instant) {
    let Some(connection) = core.any(0) else { return };
    let after = core.topology.map().index;
    if let Ok(Some(map)) = fetch(core, &connection, after, Duration::ZERO, deadline).await {
        core.topology.install(core, map);
    }
}

fn decode_map(payload: &[u8]) -> Option<ClusterMap> {
    if payload.is_empty() {
        return None;
    }
    postcard::take_from_bytes(payload).ok().map(|(map, _)| map)
}

/// Asks for a change until it is done, refused, or the deadline has passed.
pub(crate) async fn propose(
    core: &Core,
    change: Change,
    deadline: Instant,
) -> Result<Proposed, Error> {
    let mut last = Error::refused(Code::NoLeader, "no node answered in time");
    let mut turn = 0usize;
    loop {
        if let Some(connection) = core.any(turn) {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = Propose {
                deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
                forwarded: false,
                change: change.clone(),
            };
            let most = core.config.transport.max_message as usize;
            match connection.exchange(&request, Bytes::new(), deadline, most).await {
                Ok((proposed, payload)) => {
                    if let Some(map) = decode_map(&payload) {
                        core.topology.install(core, map);
                    }
                    if let Outcome::Refused { code, detail } = proposed.outcome {
                        return Err(Error::Refused { code, detail });
                    }
                    if core.topology.reach(proposed.index, deadline).await.is_some() {
                        return Ok(proposed);
                    }
                }
                Err(RequestError::Failure(failure)) if failure.code.class() == Class::Never => {
                    return Err(Error::refused(failure.code, failure.detail));
                }
                Err(RequestError::Failure(failure)) => {
                    last = Error::refused(failure.code, failure.detail);
                }
                Err(error) => last = Error::refused(Code::NoLeader, error.to_string()),
            }
        }
        turn = turn.wrapping_add(1);
        if Instant::now() + RETRY_PAUSE >= deadline {
            return Err(last);
        }
        sleep(RETRY_PAUSE).await;
    }
}
