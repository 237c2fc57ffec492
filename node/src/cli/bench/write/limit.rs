//! What the machine can carry at best, measured just before the load.
//!
//! Invariant: the same measurements as `bench limits`, shorter.

use std::{path::Path, time::Duration};

use quorate_client::Env;

use crate::cli::{
    bench::{append, quic::Link},
    fail::Fail,
};

const TIME: Duration = Duration::from_secs(1);
/// About an encoded batch.
const APPEND: usize = 256 << 10;
/// About what a lane writes at once, and how many are under way.
const MESSAGE: (usize, usize) = (64 << 10, 32);

/// Bytes per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Appended and synced.
    pub(super) append: f64,
    /// Over QUIC, to another process of this machine.
    pub(super) quic: f64,
}

pub(super) async fn measure(dir: &Path, env: &Env) -> Result<Limit, Fail> {
    let disk = dir.join("limit");
    std::fs::create_dir(&disk).map_err(Fail::failed)?;
    let append = append::measure(&disk, append::State::Preallocated, APPEND, TIME);
    let append = append.map_err(Fail::failed)?.bytes_per_second();
    std::fs::remove_dir_all(&disk).map_err(Fail::failed)?;
    let link = Link::open(&dir.join("limit-pki"), env).await?;
    let (size, in_flight) = MESSAGE;
    let quic = link.measure(size, in_flight, TIME).await?.bytes_per_second();
    link.close().await?;
    Ok(Limit { append, quic })
}
