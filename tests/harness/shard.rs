//! A shard store without a node around it: batches, and what a store holds as text.
//!
//! Invariant: the content of a batch depends on its shard and number only, so that a process that
//! writes and one that reads agree without talking. Used by tests of files and by the binary that
//! opens a store in a process of its own.

use std::{collections::BTreeMap, fs, path::Path};

use quorate_node::{
    config::NodeConfig,
    executor::Executor,
    shard::{Config, ScanError, ScanFilter, ShardError, ShardStore},
};
use quorate_protocol::{
    batch::{Batch, EncodedBatch, PartHeader, Selection, encode_part},
    id::{FieldId, ShardId, Version},
    point::{Point, text::write_value},
};

/// A store whose work is done where it is asked for.
///
/// # Errors
/// As [`ShardStore::open`].
pub fn open(config: Config, dir: &Path) -> Result<ShardStore, ShardError> {
    ShardStore::open(config, dir, Executor::Inline)
}

/// Little room for fresh data, and soon none to fold it into: before long a node of this kind says
/// "busy" to every write, and at once.
pub const fn no_room(config: &mut NodeConfig) {
    config.shard.fresh_bytes = 64 << 10;
    config.shard.map_bytes = 128 << 10;
    config.shard.max_map_bytes = 128 << 10;
    config.shard.slow_fresh_percent = 100;
    config.shard.fresh_wait_ms = 0;
}

/// One batch: `series` series of `rows` rows with two fields each, of the version `number`. Batches
/// with the same `times` have the same rows with other values.
#[must_use]
pub fn batch(shard: ShardId, number: u64, times: i64, series: u64, rows: i64) -> EncodedBatch {
    let mut batch = Batch::new();
    for series in 0..series {
        for row in 0..rows {
            let mix = (number ^ series << 20 ^ row.cast_unsigned() << 40 ^ shard.0 << 50)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let point = Point::builder("cpu")
                .tag("host", format!("{series}"))
                .field("f0", mix.cast_signed() >> 20)
                .field("f1", format!("text {}", mix % 100))
                .at(times * rows + row);
            batch.push(&point.unwrap());
        }
    }
    let header = PartHeader { shard, version: Version(number), ..PartHeader::default() };
    let id = |_: &[u8], field: &[u8], _| match field {
        b"f0" => Some(FieldId(1)),
        b"f1" => Some(FieldId(2)),
        _ => None,
    };
    EncodedBatch::parse(encode_part(&batch, &header, Selection::All, &id).unwrap()).unwrap()
}

/// Values by series, time and field; each with its version, as text.
pub type Content = BTreeMap<String, (Version, String)>;

/// Adds a value; the newest stays. No two batches of one version have the same rows here.
fn add(content: &mut Content, at: String, version: Version, value: String) {
    let old = content.entry(at).or_default();
    if old.0 <= version {
        *old = (version, value);
    }
}

/// Adds what a batch says.
pub fn add_batch(content: &mut Content, batch: &EncodedBatch) {
    for (key, _, rows) in batch.decode().unwrap().into_rows() {
        add_rows(content, &key, &rows);
    }
}

fn add_rows(content: &mut Content, key: &[u8], rows: &quorate_protocol::rows::Rows) {
    for column in &rows.columns {
        for row in 0..rows.len() {
            let Some(value) = column.get(row) else { continue };
            let mut text = Vec::new();
            write_value(&mut text, value);
            let at = format!("{} {} {}", key.escape_ascii(), rows.times[row], column.field.0);
            add(content, at, rows.versions[row], text.escape_ascii().to_string());
        }
    }
}

/// What a scan found, and how often it met damage.
#[derive(Debug, Default)]
pub struct Found {
    /// The values.
    pub content: Content,
    /// Blocks reported as damaged.
    pub damaged: usize,
}

/// Everything a shard has.
///
/// # Errors
/// Whatever ended the scan.
pub fn scan(store: &ShardStore, shard: ShardId) -> Result<Found, ScanError> {
    let mut found = Found::default();
    for item in store.scan(shard, ScanFilter::default())? {
        match item {
            Ok(item) => add_rows(&mut found.content, &item.key, &item.rows),
            Err(ScanError::Damaged { .. }) => found.damaged += 1,
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

/// The shards whose environments this process has open, by its file descriptors.
#[must_use]
pub fn open_shards(dir: &Path) -> Vec<u64> {
    let dir = dir.canonicalize().unwrap();
    let mut shards: Vec<u64> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|path| path.strip_prefix(&dir).ok()?.iter().next()?.to_str()?.parse().ok())
        .collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}
