//! Whether a node can do its work, for `/health`: load balancers, alarms, whoever restarts it.
//!
//! Invariant: answered from memory at once, without asking another node. A node without a leader
//! still takes writes into groups and fields that exist; it is called unhealthy all the same, since
//! it cannot tell for how long what it knows is true.

use std::sync::Weak;

use quorate_protocol::id::{MetaIndex, NodeId};
use serde::Serialize;

use crate::{core::Core, limits::Limits};

/// How a node is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    node: Option<NodeId>,
    role: Option<&'static str>,
    leader: Option<NodeId>,
    meta_index: Option<MetaIndex>,
    version: &'static str,
    reasons: Vec<Trouble>,
}

/// What keeps a node from being well, for programs and for people.
#[derive(Clone, Debug, Serialize)]
struct Trouble {
    reason: Reason,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Starting,
    Stopping,
    NoLeader,
    MetadataStopped,
    JournalStopped,
    ShardsStopped,
}

impl Health {
    /// Whether there is nothing to complain about.
    pub(crate) const fn is_ok(&self) -> bool {
        self.reasons.is_empty()
    }

    /// As one JSON object.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// Of a node that does not serve yet.
    pub(crate) fn starting() -> Self {
        let detail = "the node is starting: it replays its journal, or waits to join";
        Self::nobody(Reason::Starting, detail)
    }

    /// Of a node that does not serve any more.
    pub(crate) fn stopping() -> Self {
        Self::nobody(Reason::Stopping, "the node is stopping")
    }

    fn nobody(reason: Reason, detail: &str) -> Self {
        let reasons = vec![Trouble { reason, detail: detail.to_owned() }];
        Self::of(reasons)
    }

    /// With these troubles, of nobody in particular.
    fn of(reasons: Vec<Trouble>) -> Self {
        Self {
            status: if reasons.is_empty() { "ok" } else { "unavailable" },
            node: None,
            role: None,
            leader: None,
            meta_index: None,
            version: env!("CARGO_PKG_VERSION"),
            reasons,
        }
    }
}

/// Looks at a node from outside, and does not keep it open.
pub(crate) struct View {
    pub(crate) core: Weak<Core>,
    pub(crate) limits: Weak<Limits>,
}

impl View {
    /// How the node is now.
    pub(crate) fn health(&self) -> Health {
        self.core.upgrade().map_or_else(Health::stopping, |core| core.health())
    }

    /// Sets the gauges of what changes without an event that would set them.
    pub(crate) fn publish(&self) {
        if let Some(limits) = self.limits.upgrade() {
            limits.publish();
        }
        let Some(core) = self.core.upgrade() else { return };
        let set = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
        let log = core.meta.log();
        set("quorate_node_healthy", f64::from(u8::from(core.health().is_ok())));
        set("quorate_meta_has_leader", f64::from(u8::from(core.meta.leaderless().is_none())));
        set("quorate_meta_log_index", log.last as f64);
        set("quorate_meta_applied_index", log.applied as f64);
        let expires = core.pool.dialer().credentials().not_after();
        set("quorate_tls_certificate_expiry_timestamp_seconds", expires.0 as f64);
        core.feeds.publish();
        set("quorate_shard_fresh_bytes", core.shards.stats().fresh_bytes as f64);
    }
}

impl Core {
    /// How this node is now.
    pub(crate) fn health(&self) -> Health {
        if self.cancel.is_cancelled() {
            return Health::stopping();
        }
        let mut reasons = Vec::new();
        let mut say = |reason, detail| reasons.push(Trouble { reason, detail });
        let leaderless = self.meta.leaderless();
        let leader = self.meta.leader().filter(|_| leaderless.is_none());
        if let Some(failure) = self.meta.failure() {
            say(
                Reason::MetadataStopped,
                format!("{failure}; check the disk, then restart the node"),
            );
        } else if let Some(why) = leaderless {
            say(Reason::NoLeader, why.to_owned());
        }
        if let Err(stopped) = self.journal.poison().check() {
            say(Reason::JournalStopped, stopped.to_string());
        }
        match self.shards.stats().poisoned {
            0 => {}
            stopped => say(
                Reason::ShardsStopped,
                format!(
                    "{stopped} shards take no writes after disk failures; see 'quorate shard ls'"
                ),
            ),
        }
        Health {
            node: Some(self.node),
            role: Some(self.meta.role().name()),
            leader: leader.map(|peer| peer.id),
            meta_index: Some(self.directory.index()),
            ..Health::of(reasons)
        }
    }
}
