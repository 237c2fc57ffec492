//! Everything a node can be told: the content of `--config FILE` and what the flags overwrite.
//!
//! Invariant: every limit has a unit, a default and its trade-off beside it; unknown keys are
//! refused, so that a misspelt limit is never silently the default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use quorate_client::config::{CertificatesConfig, TransportConfig};
use quorate_protocol::hlc::MAX_CLOCK_SKEW_NS;
use serde::{Deserialize, Serialize};

pub use crate::{
    feed::FeedConfig,
    handoff::{DrainConfig, HandoffConfig},
    http::HttpConfig,
    journal::{Durability, JournalConfig},
    leaving::LeavingConfig,
    limits::LimitsConfig,
    meta::MetaConfig,
    shard::Config as ShardConfig,
};

const YEAR: u64 = 365 * 24 * 3600;

/// One node's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The data directory; made if it is missing.
    pub data: PathBuf,
    /// The UDP address to serve on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others dial this node, `HOST:PORT`; the listen address if not given, which must not be
    /// a wildcard then.
    pub advertise: Option<String>,
    /// Where `/metrics` and `/health` are served over HTTP, if anywhere; a loopback address, since
    /// there is no TLS. Port 0 takes a free one.
    pub http: Option<SocketAddr>,
    /// The failure domain this node is in; replicas are spread over zones.
    pub zone: Option<String>,
    /// How far ahead of this node's clock a live write's version may be, in seconds. Default 60.
    /// More tolerates worse clocks; less keeps a broken one from winning for long.
    pub max_clock_skew_s: u64,
    /// How far in the future a point's time may be, in seconds. Default 10 years. Catches times in
    /// the wrong unit before they make groups.
    pub future_limit_s: u64,
    /// How long `--join` tries to reach a member, in seconds. Default 60.
    pub join_timeout_s: u64,
    /// How often folded journal segments are released and dropped shards removed, in seconds.
    /// Default 5.
    pub housekeeping_s: u64,
    /// How often hints are looked at for their age, in seconds. Default 60.
    pub expiry_s: u64,
    /// How long ahead of a shard group's end the next one is made, if it is written to, in seconds; at
    /// most half of the group. Default 1,800. Longer outlasts a longer loss of the metadata's majority.
    pub precreate_lead_s: u64,
    /// How often that is looked at, in seconds. Default 10.
    pub precreate_check_s: u64,
    /// How long shard groups stay when all their points are beyond the retention, in seconds. Default
    /// 600. More than clocks are apart.
    pub retention_grace_s: u64,
    /// How often that is looked at, in seconds. Default 60.
    pub retention_check_s: u64,
    /// How long shard groups that were deleted are listed by 'quorate rp groups --deleted', in seconds.
    /// Default 86,400. Of one policy no more than 200 are.
    pub tombstone_keep_s: u64,
    /// How long 'quorate rp truncate' waits for every node, in seconds. Default 10. Until then writes behind
    /// the new end of a group wait; then the group stays as it was.
    pub truncate_patience_s: u64,
    /// Hints that were received and not yet answered, of all holders together, in bytes; default
    /// 32 MiB. With more, holders hear "busy" and slow down. Bounds the memory that any number of nodes
    /// can take by draining into this one at once.
    pub hint_receive_bytes: u32,
    /// Received hints that are with the journal at the same time, in bytes; default 1 MiB. Live writes
    /// share their syncs and wait for them; more delivers faster, less disturbs them less.
    pub hint_store_bytes: u32,
    /// How long hints rest after each of these messages while clients write to this node, in percent of
    /// the time that storing it took; default 100. With more, live writes notice less of nodes that
    /// drain into this one, and it lags for longer.
    pub hint_pause_percent: u32,
    /// When a write is answered: `"commit"`, the default, after a sync; `"interval(50ms)"` once the
    /// operating system has it, with a sync at most that much later. An interval saves the time of
    /// the sync; a power cut or a system crash then costs what was answered since the last one, and
    /// receipts say `Buffered`. The end of the process alone costs nothing. Hints, deliveries of
    /// hints and metadata are synced before they are answered in any case.
    pub durability: Durability,
    /// This node's certificates.
    pub certificates: CertificatesConfig,
    /// Connections, lanes, credit and windows.
    pub transport: TransportConfig,
    /// What peers may take.
    pub limits: LimitsConfig,
    /// The journal.
    pub journal: JournalConfig,
    /// The shard store.
    pub shard: ShardConfig,
    /// Followers of shards.
    pub feed: FeedConfig,
    /// The hint queues.
    pub handoff: HandoffConfig,
    /// Delivering hints.
    pub drain: DrainConfig,
    /// The Raft group of the metadata.
    pub meta: MetaConfig,
    /// What a node does that is no member any more.
    pub leaving: LeavingConfig,
    /// Limits of what is served at `http`.
    pub http_limits: HttpConfig,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data: PathBuf::from("quorate-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7100)),
            advertise: None,
            http: None,
            zone: None,
            max_clock_skew_s: MAX_CLOCK_SKEW_NS / 1_000_000_000,
            future_limit_s: 10 * YEAR,
            join_timeout_s: 60,
            housekeeping_s: 5,
            expiry_s: 60,
            precreate_lead_s: 1_800,
            precreate_check_s: 10,
            retention_grace_s: 600,
            retention_check_s: 60,
            tombstone_keep_s: 86_400,
            truncate_patience_s: 10,
            hint_receive_bytes: 32 << 20,
            hint_store_bytes: 1 << 20,
            hint_pause_percent: 100,
            durability: Durability::Commit,
            certificates: CertificatesConfig::default(),
            transport: TransportConfig::default(),
            limits: LimitsConfig::default(),
            journal: JournalConfig::default(),
            shard: ShardConfig::default(),
            feed: FeedConfig::default(),
            handoff: HandoffConfig::default(),
            drain: DrainConfig::default(),
            meta: MetaConfig::default(),
            leaving: LeavingConfig::default(),
            http_limits: HttpConfig::default(),
        }
    }
}

impl NodeConfig {
    /// Names of top-level settings that another configuration has otherwise, those aside that can
    /// change while a node runs.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let table = |config: &Self| toml::Table::try_from(config).unwrap_or_default();
        let (ours, theirs) = (table(self), table(other));
        let mut names: Vec<String> = ours.keys().chain(theirs.keys()).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| name != "drain" && ours.get(name) != theirs.get(name));
        names
    }

    pub(crate) const fn max_clock_skew_ns(&self) -> u64 {
        self.max_clock_skew_s.saturating_mul(1_000_000_000)
    }

    pub(crate) const fn future_limit_ns(&self) -> u64 {
        self.future_limit_s.saturating_mul(1_000_000_000)
    }

    pub(crate) const fn join_timeout(&self) -> Duration {
        Duration::from_secs(self.join_timeout_s)
    }

    pub(crate) fn expiry(&self) -> Duration {
        Duration::from_secs(self.expiry_s.max(1))
    }

    pub(crate) const fn precreate_lead_ns(&self) -> u64 {
        self.precreate_lead_s.saturating_mul(1_000_000_000)
    }

    pub(crate) fn precreate_check(&self) -> Duration {
        Duration::from_secs(self.precreate_check_s.max(1))
    }

    pub(crate) const fn retention_grace_ns(&self) -> u64 {
        self.retention_grace_s.saturating_mul(1_000_000_000)
    }

    pub(crate) fn retention_check(&self) -> Duration {
        Duration::from_secs(self.retention_check_s.max(1))
    }

    pub(crate) const fn tombstone_keep_ns(&self) -> u64 {
        self.tombstone_keep_s.saturating_mul(1_000_000_000)
    }

    pub(crate) const fn truncate_patience_ns(&self) -> u64 {
        self.truncate_patience_s.saturating_mul(1_000_000_000)
    }

    pub(crate) const fn idle_trim(&self) -> Duration {
        Duration::from_millis(self.journal.idle_trim_ms)
    }

    pub(crate) fn housekeeping(&self) -> Duration {
        Duration::from_secs(self.housekeeping_s.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_cannot_change_is_named() {
        let old = NodeConfig::default();
        let mut new = old.clone();
        assert!(old.differences(&new).is_empty());
        new.drain.rate_limit += 1;
        assert!(old.differences(&new).is_empty());
        (new.zone, new.handoff.max_bytes) = (Some("a".to_owned()), 5);
        assert_eq!(old.differences(&new), ["handoff", "zone"]);
        assert_eq!(new.differences(&old), ["handoff", "zone"]);
    }

    #[test]
    fn times_of_leaving_and_limits_of_http_are_read_from_the_file() {
        let text = "[leaving]\nask_ms = 5\n[http_limits]\nmax_connections = 3\n";
        let read: NodeConfig = toml::from_str(text).unwrap();
        assert_eq!((read.leaving.ask_ms, read.http_limits.max_connections), (5, 3));
        assert_eq!(read.leaving.dropped_ms, LeavingConfig::default().dropped_ms);
        assert!(toml::from_str::<NodeConfig>("[leaving]\nask = 5\n").is_err());
    }

    #[test]
    fn durability_is_read_from_the_file_and_a_wrong_one_says_what_is_right() {
        let read = |text: &str| toml::from_str::<NodeConfig>(text);
        assert_eq!(read("").unwrap().durability, Durability::Commit);
        let every = Durability::Interval(Duration::from_millis(50));
        assert_eq!(read("durability = \"interval(50ms)\"").unwrap().durability, every);
        let error = read("durability = \"never\"").unwrap_err().to_string();
        assert!(error.contains("interval(50ms)"), "{error}");
    }
}
