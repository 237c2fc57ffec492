//! What can be set about the HTTP server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of `/metrics` and `/health`. Heads are limited besides, to 8 KiB in 64 lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Connections served at the same time. Default 64. Others wait in the kernel's queue; more costs
    /// up to 8 KiB each, and lets more monitors ask at once.
    pub max_connections: u32,
    /// Time for a request's head, in milliseconds. Default 2,000. Less frees the place of a client that
    /// sends nothing sooner.
    pub head_timeout_ms: u64,
    /// Time for a request and its answer, in milliseconds. Default 5,000. Less than a monitor waits.
    pub timeout_ms: u64,
    /// How often samples are summed up, in milliseconds. Default 5,000. Bounds their memory while
    /// nobody asks for them.
    pub upkeep_ms: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { max_connections: 64, head_timeout_ms: 2_000, timeout_ms: 5_000, upkeep_ms: 5_000 }
    }
}

impl HttpConfig {
    pub(super) const fn head_timeout(&self) -> Duration {
        Duration::from_millis(self.head_timeout_ms)
    }

    pub(super) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn upkeep(&self) -> Duration {
        Duration::from_millis(self.upkeep_ms.max(1))
    }
}
