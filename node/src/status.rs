//! How this node is: for `quorate status`, and for whoever decides by it.

use quorate_protocol::message::{NodeStatus, QueueStatus, ShardState};

use crate::core::Core;

impl Core {
    pub(crate) fn status(&self) -> NodeStatus {
        let log = self.meta.log();
        let leader = self.meta.leader().filter(|_| self.meta.leaderless().is_none());
        NodeStatus {
            node: self.node,
            role: self.meta.role(),
            leader: leader.map(|peer| peer.id),
            meta_index: self.directory.index(),
            poisoned: self.journal.poison().is_set(),
            fresh_bytes: self.shards.stats().fresh_bytes,
            journal_bytes: self.journal.stats().bytes,
            queues: self.queues(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sync_interval_ms: self.config.durability.interval_ms(),
            log_index: log.last,
            applied_index: log.applied,
            certificate_expires_s: self.certificate_expires_s(),
        }
    }

    fn certificate_expires_s(&self) -> u64 {
        u64::try_from(self.pool.dialer().credentials().not_after().0).unwrap_or(0)
    }

    /// How much there is of every shard.
    pub(crate) fn shard_states(&self) -> Vec<ShardState> {
        let state = |size: crate::shard::ShardSize| ShardState {
            shard: size.shard,
            series: size.series,
            runs: size.runs,
            bytes: size.bytes,
            fresh_bytes: size.fresh_bytes,
            damaged: size.damaged,
            poisoned: size.poisoned,
        };
        self.shards.sizes().into_iter().map(state).collect()
    }

    fn queues(&self) -> Vec<QueueStatus> {
        let stats = self.handoff.stats();
        stats
            .iter()
            .map(|(target, queue)| QueueStatus {
                target: *target,
                accepted: queue.accepted,
                delivered: queue.delivered,
                pending: queue.pending,
                quarantined: queue.quarantined,
                expired: queue.expired,
                discarded: queue.discarded,
                bytes: queue.disk_bytes,
                oldest_ns: queue.oldest_appended_at.unwrap_or(0),
            })
            .collect()
    }
}
