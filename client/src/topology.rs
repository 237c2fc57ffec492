//! The cached cluster map: fetched once, then followed over one long stream from any node.
//!
//! Invariants: the map never goes back; the pool knows every node of the newest map; a write never
//! waits for the stream unless it needs something newer; news that do not follow on the map are not
//! used, and asked for again from where the map is; who comes as somebody else may be told of
//! other databases, and asks for all of the map. Changes are asked for here too, since their answer
//! carries what they made of the map.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use quorate_certs::Identity;
use quorate_protocol::{
    change::{Change, Outcome},
    code::{Class, Code},
    id::MetaIndex,
    map::{ClusterMap, UpdateError, apply_updates},
    message::{MetaChanged, MetaGet, MetaWatch, Propose, Proposed},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    connection::{Connection, RequestError},
    core::Core,
    error::Error,
    pool::Member,
};

const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a node may take to say what another one has spoken of, before another one is followed.
const PATIENCE: Duration = Duration::from_millis(500);

/// The newest map, and the newest index anybody has spoken of.
pub(crate) struct Topology {
    map: watch::Sender<Arc<ClusterMap>>,
    wanted: watch::Sender<MetaIndex>,
    /// As whom the map was told: each may be granted something else.
    told_to: Mutex<Option<Identity>>,
}

impl Topology {
    pub(crate) fn new() -> Self {
        Self {
            map: watch::Sender::new(Arc::new(ClusterMap::default())),
            wanted: watch::Sender::new(MetaIndex(0)),
            told_to: Mutex::default(),
        }
    }

    fn told_to(&self) -> MutexGuard<'_, Option<Identity>> {
        self.told_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody else was told the map.
    fn is_own(&self, own: &Identity) -> bool {
        self.told_to().as_ref().is_none_or(|told_to| told_to == own)
    }

    /// The map, or an empty one if somebody else was told it.
    fn map_of(&self, own: &Identity) -> Arc<ClusterMap> {
        if self.is_own(own) { self.map() } else { Arc::default() }
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

    /// Takes what a node says of its map to this one.
    fn update(&self, core: &Core, own: &Identity, updates: &[u8]) -> Result<(), UpdateError> {
        let old = self.map_of(own);
        let Some(map) = apply_updates(&old, updates)? else { return Ok(()) };
        let nodes: Vec<Member> = map.active_nodes().map(Member::from).collect();
        self.map.send_if_modified(|current| {
            let is_other = old.index < current.index;
            let newer = map.index > current.index || is_other && map.index == current.index;
            if newer {
                // First the pool, since whoever sees the map may want its nodes; and in here, so
                // that of two new maps the older one cannot have the last word.
                core.pool.update(nodes);
                *self.told_to() = Some(own.clone());
                *current = map;
            }
            newer
        });
        Ok(())
    }
}

/// Follows the map until the client is closed. Clients begin with different nodes, so that no node has
/// all of them to tell.
pub(crate) async fn follow(core: Arc<Core>) {
    let mut turn = usize::from(core.env.entropy.next_u64() as u16);
    let mut changes = core.pool.changes();
    loop {
        changes.mark_unchanged();
        let nobody = core.any(turn).is_none();
        tokio::select! {
            biased;
            () = core.cancel.cancelled() => return,
            () = listen(&core, turn) => {}
        }
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

/// Listens to one node for as long as it has something to say and is not behind the others.
async fn listen(core: &Core, turn: usize) {
    let Some(connection) = core.any(turn) else { return };
    let own = connection.own_identity();
    // It will be replaced soon, and the map was told already to who is dialling now.
    if *own != core.pool.dialer().identity() && !core.topology.is_own(own) {
        return;
    }
    let mut wanted = core.topology.wanted.subscribe();
    // This node seems to be behind if it does not say what somebody else has spoken of.
    let behind = async {
        loop {
            let lacks = |wanted: &MetaIndex| *wanted > core.topology.map().index;
            if wanted.wait_for(lacks).await.is_err() {
                return;
            }
            sleep(PATIENCE).await;
            if lacks(&wanted.borrow()) {
                return;
            }
        }
    };
    let heard = async {
        if let Err(why) = hear(core, &connection).await {
            metrics::counter!("quorate_client_map_watch_lost_total").increment(1);
            tracing::debug!(%why, "the cluster map is followed elsewhere");
        }
    };
    tokio::select! {
        biased;
        () = heard => {}
        () = behind => {}
        () = renewed(core, turn, &connection) => {}
    }
}

/// Returns when there is a connection with this side's new certificate: the old one would stay for as long
/// as the map is followed on it.
async fn renewed(core: &Core, turn: usize, old: &Connection) {
    core.pool.dialer().replaced(old.own()).await;
    let mut changes = core.pool.changes();
    while core.any(turn).is_none_or(|it| it.own() == old.own()) {
        if changes.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Takes what a node says of the map, until it says no more.
async fn hear(core: &Core, connection: &Arc<Connection>) -> Result<(), Unheard> {
    let is_first = core.topology.map().index.0 == 0;
    let request = MetaWatch { after: core.topology.map_of(connection.own_identity()).index };
    // A seed has told who the nodes are: one of them is followed from now on.
    let is_done = || is_first && core.topology.map().index.0 > 0;
    let deadline = Instant::now() + core.config.connect_timeout;
    let mut news = connection.open_stream(&request, Bytes::new(), deadline).await?;
    let most = core.config.transport.max_message as usize;
    let mut update = BytesMut::new();
    while !is_done()
        && let Some((MetaChanged { left, .. }, piece)) = news.next().await?
    {
        if update.len() + piece.len() > most {
            return Err(Unheard::TooLarge(most));
        }
        if left == 0 && update.is_empty() {
            core.topology.update(core, connection.own_identity(), &piece)?;
            continue;
        }
        update.extend_from_slice(&piece);
        if left == 0 {
            core.topology.update(core, connection.own_identity(), &update.split())?;
        }
    }
    Ok(())
}

/// Why nothing more is heard from a node.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error("the map is over {0} bytes (max_message)")]
    TooLarge(usize),
}

/// Asks one node once whether there is something newer.
pub(crate) async fn refresh(core: &Core, deadline: Instant) {
    let Some(connection) = core.any(0) else { return };
    let request = MetaGet { after: core.topology.map().index };
    let most = core.config.transport.max_message as usize;
    if let Ok((_, updates)) = connection.exchange(&request, Bytes::new(), deadline, most).await {
        take(core, &connection, &updates);
    }
}

/// Takes the updates of an answer. Those that cannot be used are no loss: the watched node has them.
fn take(core: &Core, connection: &Connection, updates: &[u8]) {
    if !core.topology.is_own(connection.own_identity()) {
        return;
    }
    if let Err(why) = core.topology.update(core, connection.own_identity(), updates) {
        tracing::debug!(%why, "an answer's map updates are not used");
    }
}

/// Asks for a change until it is done, refused, or the deadline has passed.
pub(crate) async fn propose(
    core: &Core,
    change: Change,
    deadline: Instant,
) -> Result<Proposed, Error> {
    let change = change.encode();
    let change = change.map_err(|why| Error::refused(Code::Internal, why.to_string()))?;
    let mut last = Error::refused(Code::NoLeader, "no node answered in time");
    let mut turn = 0usize;
    loop {
        if let Some(connection) = core.any(turn) {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = Propose {
                deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
                forwarded: false,
                after: core.topology.map().index,
            };
            let most = core.config.transport.max_message as usize;
            match connection.exchange(&request, change.clone(), deadline, most).await {
                Ok((proposed, updates)) => {
                    take(core, &connection, &updates);
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
