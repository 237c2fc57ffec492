//! Subscriptions: every batch of a policy that its owners have synced, as it comes.
//!
//! ```no_run
//! # async fn example(client: quorate_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use quorate_client::Event;
//!
//! let mut subscription = client.subscribe("metrics", None).await?;
//! while let Some(event) = subscription.next().await {
//!     match event? {
//!         Event::Batch(batch) => {
//!             for (key, rows) in batch.series()? {
//!                 println!("{}: {} rows", String::from_utf8_lossy(&key), rows.len());
//!             }
//!         }
//!         // Whatever was missed can be read back by a query.
//!         Event::Gap(gap) => println!("shard {}: {}", gap.shard, gap.reason),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **What comes.** Everything that is stored after [`Client::subscribe`] has returned, in all shards of
//! the policy, those of later groups included: also what an owner gets late, as a hint. What was under
//! way to an owner meanwhile may come. Of each shard one owner sends the batches; they come in the order
//! in which that owner stored them, which is not the order of their versions. If another owner has one
//! for longer than [`SubscribeOptions::patience`] that does not come, it sends from then on.
//!
//! **How often.** At least once. A batch that comes again, because another owner is followed, is left
//! out as long as it is remembered ([`SubscribeOptions::remembered`]). [`Client::resend`] writes rows
//! once more as a batch of its own, which comes as one; versions tell which row is newer.
//!
//! **What is told instead.** A [`Gap`] comes where batches were left out or may have been. For a consumer
//! that is too slow, whole batches are left out, counted, and told: it never holds a write up. When the
//! owner that is followed goes down or falls silent, another one goes on. Nothing is missed then, and no
//! gap is told, since the other owners are followed by name all the time and what a new one sends begins
//! with whatever the one before had not told. A gap is told if that cannot be known to be whole:
//!
//! - the new owner was down, or unknown, when the shard began to be followed;
//! - something of what it has stored since the last batch that had come of all before it, it keeps no
//!   more: it restarted after it had folded that, or has stored more than its bound (`[feed]` of the nodes)
//!   while this client did not reach it;
//! - it has told more names that no followed owner ever sent than [`SubscribeOptions::pending`];
//! - the shard is new, and its first batches were folded before it was followed;
//! - its journal was damaged.
//!
//! A query from before the gap reads what was missed.
//!
//! Memory: [`SubscribeOptions::buffer_bytes`], about 100 bytes for each of `remembered`, and 40 for each
//! of `pending`, of every shard and owner, where owners differ that much.
//!
//! Invariants, beside these: `shards` decides and has no I/O, `stream` runs one stream per node, `direct`
//! follows map and connections; nothing waits for the consumer.

mod batch;
mod direct;
mod events;
mod seen;
mod shards;
mod stream;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorate_protocol::{
    code::Code,
    id::{DatabaseId, PolicyId},
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::{
    batch::StoredBatch,
    events::{Event, Gap, GapReason},
};
use self::{events::Events, shards::Shards};
use crate::{Client, core::Core, error::Error, topology};

/// Limits of a subscription.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// Bytes of batches that wait for [`Subscription::next`]. Default 16 MiB. More rides out longer pauses
    /// of the consumer; what does not fit is left out and told as a gap. A larger batch fits alone.
    pub buffer_bytes: usize,
    /// Batches that are remembered so that none comes twice, all shards together. Default 65,536. More
    /// outlasts owners that lag for longer.
    pub remembered: usize,
    /// Names of batches that one owner has and the followed one has not sent, per shard and owner.
    /// Default 4,096. More outlasts a followed owner that lags for longer without a gap.
    pub pending: usize,
    /// How long the owner that is followed may lack what another one has, before that one is followed.
    /// Default 2 s. Less brings sooner what comes to an owner as a hint; more changes owners less.
    pub patience: Duration,
    /// How long [`Client::subscribe`] waits for an owner of every shard. Default 10 s.
    pub start_timeout: Duration,
    /// How long a node may say nothing before it is asked for a sign of life. Default 500 ms; one that
    /// gives none is mute after the transport's `mute_after`. Less finds out sooner.
    pub silence: Duration,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            buffer_bytes: 16 << 20,
            remembered: 65_536,
            pending: 4_096,
            patience: Duration::from_secs(2),
            start_timeout: Duration::from_secs(10),
            silence: Duration::from_millis(500),
        }
    }
}

/// A running subscription. Dropping it ends everything at once. It keeps its client alive;
/// [`Client::close`] ends it.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    _client: Client,
    _ends: DropGuard,
}

impl Subscription {
    /// What comes next; waits for it. May be dropped and called again. None when the client was closed,
    /// or after an error.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::DatabaseNotFound`] or [`Code::PolicyNotFound`] when it was dropped;
    /// with [`Code::Unauthorised`] and the like if all owners of a shard refuse for good.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(next) = self.shared.events().next() {
                return next;
            }
            self.shared.came.notified().await;
        }
    }

    /// What is here already, or nothing.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn try_next(&mut self) -> Option<Result<Event, Error>> {
        self.shared.events().next().flatten()
    }
}

/// What the tasks of a subscription share.
struct Shared {
    core: Arc<Core>,
    database: DatabaseId,
    policy: PolicyId,
    options: SubscribeOptions,
    shards: Mutex<Shards>,
    events: Mutex<Events>,
    /// Something has come.
    came: Notify,
    /// Something is to be decided again.
    changed: Notify,
    /// A shard has begun, or a node has failed.
    progress: Notify,
}

impl Shared {
    fn shards(&self) -> MutexGuard<'_, Shards> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more comes.
    fn end(&self, why: Option<Error>) {
        self.events().end(why);
        self.came.notify_one();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Starts a subscription, and returns when every shard is followed.
pub(crate) async fn start(
    client: &Client,
    database: &str,
    policy: Option<&str>,
    options: SubscribeOptions,
) -> Result<Subscription, Error> {
    let core = &client.core;
    if core.cancel.is_cancelled() {
        return Err(Error::Closed);
    }
    let deadline = Instant::now() + options.start_timeout;
    topology::refresh(core, deadline).await;
    core.settled(deadline).await;
    let map = core.topology.map();
    let found = map.database_named(database).ok_or_else(|| {
        let detail = format!("{database:?}; 'quorate db ls' lists what there is");
        Error::refused(Code::DatabaseNotFound, detail)
    })?;
    let policy = found.policy_named(policy).ok_or_else(|| {
        let detail = format!("{policy:?} in database {database:?}");
        Error::refused(Code::PolicyNotFound, detail)
    })?;
    let shared = Arc::new(Shared {
        core: Arc::clone(core),
        database: found.id,
        policy: policy.id,
        shards: Mutex::new(Shards::new(&options)),
        events: Mutex::new(Events::new(options.buffer_bytes)),
        options,
        came: Notify::new(),
        changed: Notify::new(),
        progress: Notify::new(),
    });
    let stop = core.cancel.child_token();
    let subscription = Subscription {
        shared: Arc::clone(&shared),
        _client: client.clone(),
        _ends: stop.clone().drop_guard(),
    };
    core.tasks.spawn(run(Arc::clone(&shared), stop));
    begun(&shared, deadline).await?;
    shared.shards().begun();
    Ok(subscription)
}

async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = direct::run(&shared, &stop) => {}
    }
    // What was told before stays first.
    shared.end(None);
    stop.cancel();
}

/// Waits until every shard is followed.
async fn begun(shared: &Shared, deadline: Instant) -> Result<(), Error> {
    loop {
        let progress = shared.progress.notified();
        let Some(waits) = shared.shards().waits(|node| shared.core.is_live(node)) else {
            return Ok(());
        };
        if let Some(end) = shared.events().ended() {
            return Err(end);
        }
        if waits.hopeless || timeout_at(deadline, progress).await.is_err() {
            return match waits.refused() {
                Some(error) => Err(error),
                // Only by name: whoever is late then counts as late.
                None => Ok(()),
            };
        }
    }
}
