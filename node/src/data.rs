//! The data directory: whose it is, and that only one process uses it.
//!
//! `identity.json` is written before the node first speaks to anybody and never changes its name or
//! instance afterwards; `LOCK` is held while the node runs; `version` keeps the highest version
//! that was accepted when the journal last gave records up. Invariant: a directory is only ever
//! opened by the node it was made for.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use quorate_protocol::id::{ClusterId, NodeId, Version};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, Open};

/// Format of the data directory as a whole.
const FORMAT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The system said no.
    #[error("cannot use data directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("data directory {0} is in use by another process; stop it or choose another --data")]
    Locked(PathBuf),
    /// It was made by another node.
    #[error(
        "data directory {path} belongs to node {found:?}, this certificate is for {expected:?}; \
         use that node's certificate or an empty directory"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wanted it.
        expected: String,
    },
    /// It belongs to another cluster.
    #[error(
        "data directory {path} belongs to cluster {found:?}, this certificate is of {expected:?}; \
         use a certificate of that cluster or an empty directory"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster it belongs to.
        found: String,
        /// The certificate's cluster.
        expected: String,
    },
    /// It was written by a later version.
    #[error(
        "data directory {path} has format {found}, this version knows {FORMAT}; upgrade quorate"
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// The format in it.
        found: u32,
    },
    /// The identity cannot be read.
    #[error("{path} cannot be read: {reason}; restore it from a backup of this node")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    format: u32,
    pub(crate) cluster_name: String,
    pub(crate) name: String,
    /// Drawn once; hexadecimal, since JSON has no integers of this size.
    instance: String,
    /// 0 until the node has bootstrapped or joined.
    pub(crate) node: NodeId,
    cluster: String,
    /// Whether this node made the cluster.
    pub(crate) founder: bool,
    /// Whether it has left the cluster, or was removed from it.
    #[serde(default)]
    pub(crate) left: bool,
}

impl Identity {
    pub(crate) fn new(cluster_name: String, name: String, instance: u128) -> Self {
        Self {
            format: FORMAT,
            cluster_name,
            name,
            instance: format!("{instance:032x}"),
            node: NodeId(0),
            cluster: format!("{:032x}", 0),
            founder: false,
            left: false,
        }
    }

    pub(crate) fn instance(&self) -> u128 {
        u128::from_str_radix(&self.instance, 16).unwrap_or(0)
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        ClusterId(u128::from_str_radix(&self.cluster, 16).unwrap_or(0))
    }

    pub(crate) fn set_member(&mut self, cluster: ClusterId, node: NodeId) {
        self.cluster = format!("{:032x}", cluster.0);
        self.node = node;
    }
}

/// A locked data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    disk: std::sync::Arc<dyn Disk>,
    /// The lock goes with the file.
    _lock: File,
}

impl DataDir {
    /// Locks the directory, making it if it is missing.
    pub(crate) fn open(path: &Path, disk: std::sync::Arc<dyn Disk>) -> Result<Self, DataError> {
        let failed = |source| DataError::Io { path: path.to_owned(), source };
        disk.create_directory(path).map_err(failed)?;
        // Locks are the operating system's, not the disk's: this one file is outside the seam.
        let lock = File::create(path.join("LOCK")).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), disk, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataError::Locked(path.to_owned())),
            Err(error) => Err(failed(error.into())),
        }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The identity, if the directory has one; refused unless it is this name's and cluster's.
    pub(crate) fn identity(
        &self,
        cluster: &str,
        name: &str,
    ) -> Result<Option<Identity>, DataError> {
        let path = self.join("identity.json");
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        let damaged = |reason: String| DataError::Damaged { path: path.clone(), reason };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if format.format > FORMAT {
            return Err(DataError::NewerFormat { path: self.path.clone(), found: format.format });
        }
        let identity: Identity =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if identity.cluster_name != cluster {
            return Err(DataError::OtherCluster {
                path: self.path.clone(),
                found: identity.cluster_name,
                expected: cluster.to_owned(),
            });
        }
        if identity.name != name {
            return Err(DataError::OtherNode {
                path: self.path.clone(),
                found: identity.name,
                expected: name.to_owned(),
            });
        }
        Ok(Some(identity))
    }

    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<(), DataError> {
        let path = self.join("identity.json");
        let text = serde_json::to_vec_pretty(identity);
        let text = text.map_err(|e| self.failed(io::Error::other(e)))?;
        self.replace(&path, &text)
    }

    /// Writes down for good that this node has left its cluster.
    pub(crate) fn save_left(&self) -> Result<(), DataError> {
        let path = self.join("identity.json");
        let damaged = |reason: String| DataError::Damaged { path: path.clone(), reason };
        let bytes = self.read(&path)?.unwrap_or_default();
        let identity = serde_json::from_slice(&bytes);
        let mut identity: Identity = identity.map_err(|error| damaged(error.to_string()))?;
        identity.left = true;
        self.save_identity(&identity)
    }

    /// The highest version accepted before the journal last gave records up; 0 if none.
    pub(crate) fn highest_version(&self) -> Result<Version, DataError> {
        let bytes = self.read(&self.join("version"))?.unwrap_or_default();
        // Damage only means that fewer versions are known, which clocks make good.
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        Ok(Version(text.trim().parse().unwrap_or(0)))
    }

    pub(crate) fn save_highest_version(&self, version: Version) -> Result<(), DataError> {
        self.replace(&self.join("version"), format!("{version}\n").as_bytes())
    }

    fn failed(&self, source: io::Error) -> DataError {
        DataError::Io { path: self.path.clone(), source }
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, DataError> {
        let file = match self.disk.open(path, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let read = || {
            let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(0).min(1 << 20)];
            let length = file.read_at(0, &mut bytes)?;
            bytes.truncate(length);
            Ok(bytes)
        };
        read().map(Some).map_err(|error| self.failed(error))
    }

    /// Replaces a small file so that a crash leaves the old or the new one.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DataError> {
        let temporary = path.with_extension("new");
        let write = || {
            let file = self.disk.open(&temporary, Open::Create)?;
            file.set_length(0)?;
            file.write_at(0, bytes)?;
            file.sync_data()?;
            self.disk.rename(&temporary, path)?;
            self.disk.sync_directory(&self.path)
        };
        write().map_err(|error| self.failed(error))
    }
}
