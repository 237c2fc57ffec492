//! What a queue looks like from outside: for `quorate hints ls`, `status` and the metrics.

use metrics::{counter, gauge};
use quorate_protocol::id::{NodeId, ShardId};
use serde::Serialize;

use super::accounts::Accounts;
use super::terminal::Terminal;

/// The figures of one queue, or of all together. Always
/// `accepted = delivered + pending + quarantined + expired + discarded`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// Hints ever accepted.
    pub accepted: u64,
    /// Hints the target has.
    pub delivered: u64,
    /// Hints that wait.
    pub pending: u64,
    /// Hints kept aside.
    pub quarantined: u64,
    /// Hints given up at the age limit, each with a repair mark.
    pub expired: u64,
    /// Hints that were not needed any more.
    pub discarded: u64,
    /// Bytes that wait; what has not been read since the start counts with its free space.
    pub bytes: u64,
    /// Bytes of segment files.
    pub disk_bytes: u64,
    /// When the oldest pending hint was appended, nanoseconds since the Unix epoch.
    pub oldest_appended_at: Option<u64>,
    /// Everything that was not delivered, by way of ending and shard.
    pub reasons: Vec<Reason>,
}

/// How many hints of a shard ended in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The way.
    pub terminal: Terminal,
    /// The shard; 0 where it is not known.
    pub shard: ShardId,
    /// How many.
    pub count: u64,
}

impl QueueStats {
    pub(super) fn of(accounts: &Accounts) -> Self {
        let pending = accounts.pending();
        let mut stats = Self { accepted: accounts.accepted(), pending, ..Self::default() };
        for (terminal, shard, count) in accounts.tallies() {
            match terminal {
                Terminal::Delivered => stats.delivered += count,
                Terminal::Quarantined(_) => stats.quarantined += count,
                Terminal::Expired => stats.expired += count,
                Terminal::Discarded(_) => stats.discarded += count,
            }
            if terminal != Terminal::Delivered {
                stats.reasons.push(Reason { terminal, shard: ShardId(shard), count });
            }
        }
        stats
    }

    /// Adds another queue's figures; reasons stay with their queues.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.pending += other.pending;
        self.quarantined += other.quarantined;
        self.expired += other.expired;
        self.discarded += other.discarded;
        self.bytes += other.bytes;
        self.disk_bytes += other.disk_bytes;
        let both = self.oldest_appended_at.into_iter().chain(other.oldest_appended_at);
        self.oldest_appended_at = both.min();
    }

    pub(super) fn publish(&self, target: NodeId) {
        let target = target.to_string();
        let set = |name: &'static str, value: u64| {
            counter!(name, "target" => target.clone()).absolute(value);
        };
        set("quorate_hints_accepted_total", self.accepted);
        set("quorate_hints_delivered_total", self.delivered);
        set("quorate_hints_quarantined_total", self.quarantined);
        set("quorate_hints_expired_total", self.expired);
        set("quorate_hints_discarded_total", self.discarded);
        gauge!("quorate_hints_pending", "target" => target.clone()).set(self.pending as f64);
        gauge!("quorate_hints_size_bytes", "target" => target.clone()).set(self.disk_bytes as f64);
    }
}
