//! What cannot be served: kept aside for people, never deleted by the node.
//!
//! Invariant: an item is durable here before whatever referred to it is forgotten. Written by
//! [`super::fold`] (batches that break the rules) and [`super::read`] (damaged blocks).

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use super::{directory, error::ShardError};

/// The directory below a shard's.
const NAME: &str = "quarantine";

/// Keeps `bytes` as `quarantine/NAME`, and why as `quarantine/NAME.why`. Whether it is new there.
pub(super) fn keep(shard: &Path, name: &str, bytes: &[u8], why: &str) -> Result<bool, ShardError> {
    let dir = shard.join(NAME);
    let path = dir.join(name);
    if path.exists() {
        return Ok(false);
    }
    fs::create_dir_all(&dir).map_err(directory::io_error("create", &dir))?;
    directory::sync(shard)?;
    write(&dir, &format!("{name}.why"), format!("{why}\n").as_bytes())?;
    write(&dir, name, bytes)?;
    directory::sync(&dir)?;
    Ok(true)
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), ShardError> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = File::create(&draft).map_err(directory::io_error("create", &draft))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(directory::io_error("write", &draft))?;
    fs::rename(&draft, dir.join(name)).map_err(directory::io_error("rename", &draft))
}
