//! The knobs of the metadata group.
//!
//! Invariant: [`MetaConfig::check`] accepts only settings under which an election can succeed.
//! Read once, when [`Meta`](super::Meta) opens.

use serde::{Deserialize, Serialize};

use super::MetaError;

/// Number of different election timeouts; as many as there may be voters by default, so that
/// neighbouring ids never share one.
const SLOTS: u64 = 5;

/// Settings of the metadata group. All members should have the same ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetaConfig {
    /// How often the leader shows that it lives, and how long one of its messages may take, in
    /// ms. Default 250. Shorter notices a dead leader sooner and wakes idle nodes more often.
    pub heartbeat_ms: u64,
    /// Shortest election timeout in ms. Default 1,500. A follower campaigns after twice its
    /// timeout without a leader (lease and timeout), a candidate again after once.
    pub election_timeout_ms: u64,
    /// Added to the election timeout per step of the node's id (five steps, then again from none),
    /// in ms. Default 375, a little more than the library's tick: two nodes then never campaign in
    /// the same tick for long, and elections need no randomness.
    pub election_stagger_ms: u64,
    /// How long sending and installing one snapshot may take, in ms. Default 30,000.
    pub snapshot_timeout_ms: u64,
    /// Commands after which a snapshot is taken and the log before it purged. Default 4,096.
    pub snapshot_after: u64,
    /// Log entries kept behind a snapshot, so that a member briefly away needs no snapshot.
    /// Default 1,024.
    pub log_keep: u64,
    /// Entries a follower may be behind before it is sent a snapshot instead of the log. Default
    /// 8,192; more than `snapshot_after`, else a snapshot would not help it.
    pub lag_threshold: u64,
    /// Voters at most; further members only follow. Default 5.
    pub max_voters: u32,
    /// Largest encoded command in bytes. Default 1 MiB; with `append_bytes` it must fit a frame.
    pub command_bytes: u32,
    /// Largest run of log entries sent at once, in bytes, beyond a first entry. Default 1 MiB.
    pub append_bytes: u32,
    /// Entries sent at once at most. Default 256.
    pub append_entries: u64,
    /// How often the leader compares members with the map if nothing wakes it, in ms. Default
    /// 5,000.
    pub reconcile_ms: u64,
    /// Longest wait after a failed change of members, in ms; the first is the heartbeat's, doubled
    /// each time. Default 8,000.
    pub retry_max_ms: u64,
    /// Bytes of the newest changes of the map, encoded, that a node keeps for watchers which are
    /// behind; who is further behind gets the whole map. Default 1 MiB.
    pub delta_bytes: u32,
    /// Largest size of the metadata's environment in bytes; address space only until it is used.
    /// Default 4 GiB.
    pub map_size: u64,
}

impl Default for MetaConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 250,
            election_timeout_ms: 1_500,
            election_stagger_ms: 375,
            snapshot_timeout_ms: 30_000,
            snapshot_after: 4_096,
            log_keep: 1_024,
            lag_threshold: 8_192,
            max_voters: 5,
            command_bytes: 1 << 20,
            append_bytes: 1 << 20,
            append_entries: 256,
            reconcile_ms: 5_000,
            retry_max_ms: 8_000,
            delta_bytes: 1 << 20,
            map_size: 4 << 30,
        }
    }
}

impl MetaConfig {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// [`MetaError::Config`] names the setting.
    pub fn check(&self) -> Result<(), MetaError> {
        let refuse = |what| Err(MetaError::Config { what });
        if self.heartbeat_ms == 0 {
            return refuse("heartbeat_ms must not be 0");
        }
        if self.election_timeout_ms < self.heartbeat_ms.saturating_mul(3) {
            return refuse("election_timeout_ms must be at least three times heartbeat_ms");
        }
        if self.snapshot_after == 0 || self.append_entries == 0 || self.max_voters == 0 {
            return refuse("snapshot_after, append_entries and max_voters must not be 0");
        }
        if self.lag_threshold <= self.snapshot_after {
            return refuse("lag_threshold must be larger than snapshot_after");
        }
        if self.reconcile_ms == 0 || self.retry_max_ms == 0 {
            return refuse("reconcile_ms and retry_max_ms must not be 0");
        }
        if self.command_bytes == 0 || u64::from(self.command_bytes) > self.map_size / 16 {
            return refuse("command_bytes must be from 1 to a sixteenth of map_size");
        }
        Ok(())
    }

    /// The library's settings for one node. Minimum and maximum of the election timeout are one
    /// apart: the library draws from `min..max`, so its thread-local randomness decides nothing.
    pub(super) fn raft(&self, node: u64) -> openraft::Config {
        let slot = node.saturating_sub(1) % SLOTS;
        let election = self.election_timeout_ms + slot * self.election_stagger_ms;
        openraft::Config {
            cluster_name: "quorate".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: election,
            election_timeout_max: election + 1,
            install_snapshot_timeout: self.snapshot_timeout_ms,
            max_payload_entries: self.append_entries,
            replication_lag_threshold: self.lag_threshold,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            max_in_snapshot_log_to_keep: self.log_keep,
            ..openraft::Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_ids_have_different_timeouts() {
        let config = MetaConfig::default();
        config.check().unwrap();
        let timeouts: Vec<u64> = (1..=6)
            .map(|node| config.raft(node).validate().unwrap().election_timeout_min)
            .collect();
        assert_eq!(timeouts, [1_500, 1_875, 2_250, 2_625, 3_000, 1_500]);
    }

    #[test]
    fn settings_that_cannot_elect_are_refused() {
        let config = MetaConfig { election_timeout_ms: 500, ..MetaConfig::default() };
        assert!(matches!(config.check(), Err(MetaError::Config { .. })));
    }
}
