//! How a folder of certificates is followed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// Settings of a process's own certificates. Nodes and clients have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatesConfig {
    /// How often the files are looked at, by their times and lengths. Default 30 s; at least 100 ms.
    /// Bounds how long a revocation takes to count once the list is here; a look is four stats.
    #[serde(with = "duration")]
    pub poll: Duration,
    /// How long before the certificate ends the log warns of it, once a day. Default 30 days.
    #[serde(with = "duration")]
    pub warn_before: Duration,
}

impl Default for CertificatesConfig {
    fn default() -> Self {
        Self { poll: Duration::from_secs(30), warn_before: Duration::from_secs(30 * 24 * 3600) }
    }
}
