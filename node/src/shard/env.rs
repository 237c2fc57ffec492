//! Opens LMDB environments: the only unsafe code of the node.
//!
//! Invariant: default flags only (full sync, no writable map), and one environment per path in a
//! process, which heed enforces. Called by the shard store and by the metadata store.

use std::path::Path;

use heed::{Env, EnvOpenOptions, WithoutTls};

/// Opens or creates the environment in the directory `path`, which must exist. `map_size` is the
/// largest size in bytes, a multiple of the page size; only address space until it is used.
#[allow(unsafe_code)]
pub(crate) fn open_env(
    path: &Path,
    map_size: usize,
    max_dbs: u32,
) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_size).max_dbs(max_dbs);
    // SAFETY: the map is undefined behaviour only if something else than LMDB writes to the file
    // while it is open. It lies in the node's data directory, which one node locks for itself, and
    // LMDB's own lock file keeps a second opener of the same environment consistent.
    unsafe { options.open(path) }
}
