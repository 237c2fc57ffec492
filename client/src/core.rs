//! What all calls of a client share: connections, the map, the clock, the budget, the tasks.

use std::sync::{Arc, Mutex, PoisonError};

use quorate_protocol::{
    hlc::HybridClock,
    id::{BatchId, MetaIndex, Version},
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    asking::Asking, backlog::Backlog, config::ClientConfig, env::Env, pool::Pool,
    topology::Topology,
};

pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) config: ClientConfig,
    pub(crate) pool: Pool,
    pub(crate) topology: Topology,
    /// Who asks for changes of it that writes need.
    pub(crate) asking: Asking,
    pub(crate) clock: Mutex<HybridClock>,
    /// Bytes of encoded parts that may still be under way.
    pub(crate) budget: Arc<Semaphore>,
    /// Which of these only slow owners hold.
    pub(crate) backlog: Arc<Backlog>,
    /// Somebody says that there are new certificates.
    pub(crate) certificates: Notify,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

impl Core {
    /// The version of a write that starts now, and the wall clock it was taken at.
    pub(crate) fn next_version(&self) -> Version {
        let wall = self.env.clock.wall_ns();
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).next(wall)
    }

    /// Takes note of what a node's reply says about versions and metadata. Whether later versions are
    /// higher than this one.
    pub(crate) fn observe(&self, version: Version, index: MetaIndex) -> bool {
        let wall = self.env.clock.wall_ns();
        self.topology.want(index);
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).observe(version, wall)
    }

    pub(crate) fn next_batch_id(&self) -> BatchId {
        let (high, low) = (self.env.entropy.next_u64(), self.env.entropy.next_u64());
        BatchId(u128::from(high) << 64 | u128::from(low))
    }
}
