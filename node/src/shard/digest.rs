//! Digests of what a shard holds, per bucket of time, to find out whether two replicas agree.
//!
//! Invariants: a digest depends on the winning values alone (see [`Rows`]), not on batches, runs,
//! blocks or the order of arrival; it is a sum modulo 2^128 of a hash of each value, so that the
//! digests of parts add up. What is hashed stands in `SPEC.md`, section 13. Never computed on the
//! way of an acknowledgement. Called by sessions through [`ShardStore::digest`].

use std::collections::BTreeMap;

use quorate_protocol::{
    aggregate::Windows,
    id::{ShardId, Version},
    point::ValueRef,
    rows::Rows,
};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    ShardStore,
    error::{ScanError, ShardError},
    filter::ScanFilter,
    read::Scan,
};

/// What to digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestFilter {
    /// The first time, in ns.
    pub from: i64,
    /// The time behind the last, in ns.
    pub to: i64,
    /// The buckets, aligned as windows are.
    pub buckets: Windows,
    /// Values that win with a higher version are left out.
    pub up_to: Version,
}

/// The content of a bucket that has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketDigest {
    /// The bucket's first time, in ns; may lie before the first time asked for.
    pub start: i64,
    /// How many values there are.
    pub cells: u64,
    /// Of all of them together.
    pub digest: u128,
}

/// A digest being computed; see [`ShardStore::digest_begin`].
pub struct Digesting {
    scan: Scan,
    filter: DigestFilter,
    limit: usize,
    page_bytes: usize,
    /// The key of the last series and its hash.
    key: (bytes::Bytes, u128),
    cells: Cells,
    buckets: BTreeMap<i64, (u64, u128)>,
}

/// Hashes of single values.
#[derive(Default)]
struct Cells {
    buffer: Vec<u8>,
}

impl Cells {
    /// Starts with what the values of a row have in common.
    fn row(&mut self, key: u128, time: i64, version: Version) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&key.to_le_bytes());
        self.buffer.extend_from_slice(&time.to_le_bytes());
        self.buffer.extend_from_slice(&version.0.to_le_bytes());
    }

    /// The hash of one of them.
    fn hash(&mut self, field: u32, value: ValueRef<'_>) -> u128 {
        let row = self.buffer.len();
        self.put(field, value);
        let hash = xxh3_128(&self.buffer);
        self.buffer.truncate(row);
        hash
    }

    /// Appends what a value does not have in common with others.
    fn put(&mut self, field: u32, value: ValueRef<'_>) {
        self.buffer.extend_from_slice(&field.to_le_bytes());
        self.buffer.push(value.field_type() as u8);
        match value {
            ValueRef::Float(value) => self.buffer.extend_from_slice(&value.to_le_bytes()),
            ValueRef::Integer(value) => self.buffer.extend_from_slice(&value.to_le_bytes()),
            ValueRef::Unsigned(value) => self.buffer.extend_from_slice(&value.to_le_bytes()),
            ValueRef::Boolean(value) => self.buffer.push(u8::from(value)),
            ValueRef::String(value) => self.buffer.extend_from_slice(value),
        }
    }
}

impl Digesting {
    fn add(&mut self, key: &bytes::Bytes, rows: &Rows) {
        if self.key.0 != *key {
            self.key = (key.clone(), xxh3_128(key));
        }
        let mut bounds = (i64::MAX, i64::MIN);
        let mut bucket = (0_u64, 0_u128);
        for (row, (time, version)) in rows.times.iter().zip(&rows.versions).enumerate() {
            if *version > self.filter.up_to {
                continue;
            }
            if !(bounds.0 <= *time && *time < bounds.1) {
                self.close(bounds.0, bucket);
                (bounds, bucket) = (self.filter.buckets.bounds(*time), (0, 0));
            }
            self.cells.row(self.key.1, *time, *version);
            for column in &rows.columns {
                if let Some(value) = column.get(row) {
                    bucket.0 += 1;
                    bucket.1 = bucket.1.wrapping_add(self.cells.hash(column.field.0, value));
                }
            }
        }
        self.close(bounds.0, bucket);
    }

    fn close(&mut self, start: i64, (cells, digest): (u64, u128)) {
        if cells > 0 {
            let known = self.buckets.entry(start).or_default();
            *known = (known.0 + cells, known.1.wrapping_add(digest));
        }
    }

    /// Goes on for about a page of rows; the buckets when it is done.
    fn step(&mut self) -> Result<Option<Vec<BucketDigest>>, ScanError> {
        let mut bytes = 0;
        while bytes < self.page_bytes {
            let Some(item) = self.scan.next() else {
                let done = std::mem::take(&mut self.buckets).into_iter();
                let bucket = |(start, (cells, digest))| BucketDigest { start, cells, digest };
                return Ok(Some(done.map(bucket).collect()));
            };
            let item = item?;
            bytes += item.rows.approximate_bytes();
            self.add(&item.key, &item.rows);
            if self.buckets.len() > self.limit {
                return Err(ShardError::TooManyBuckets { limit: self.limit }.into());
            }
        }
        Ok(None)
    }
}

impl ShardStore {
    /// The digests of all buckets that have content, ascending. Blocks.
    ///
    /// # Errors
    /// The shard was dropped, a block of it is damaged, or there are more buckets than
    /// `digest_buckets`.
    pub fn digest(
        &self,
        shard: ShardId,
        filter: DigestFilter,
    ) -> Result<Vec<BucketDigest>, ScanError> {
        let mut digesting = self.digesting(shard, filter)?;
        loop {
            if let Some(done) = digesting.step()? {
                return Ok(done);
            }
        }
    }

    fn digesting(&self, shard: ShardId, filter: DigestFilter) -> Result<Digesting, ShardError> {
        let scan = ScanFilter { from: filter.from, to: filter.to, ..ScanFilter::default() };
        let config = &self.inner.config;
        Ok(Digesting {
            scan: self.scan(shard, scan)?,
            filter,
            limit: config.digest_buckets,
            page_bytes: config.scan_bytes,
            key: (bytes::Bytes::new(), xxh3_128(b"")),
            cells: Cells::default(),
            buckets: BTreeMap::new(),
        })
    }

    /// Begins [`Self::digest`] for tasks.
    ///
    /// # Errors
    /// The shard was dropped.
    pub async fn digest_begin(
        &self,
        shard: ShardId,
        filter: DigestFilter,
    ) -> Result<Digesting, ShardError> {
        let store = self.clone();
        self.inner.executor.run(move || store.digesting(shard, filter)).await?
    }

    /// Goes on for about a page of rows, for tasks; the buckets come with the last call.
    ///
    /// # Errors
    /// As [`Self::digest`], or the runtime is stopping.
    pub async fn digest_page(
        &self,
        mut digesting: Digesting,
    ) -> Result<(Digesting, Option<Vec<BucketDigest>>), ScanError> {
        let next = self.inner.executor.run(move || {
            let done = digesting.step();
            (digesting, done)
        });
        let (digesting, done) = next.await.map_err(ShardError::from)?;
        Ok((digesting, done?))
    }
}

#[cfg(test)]
mod tests;
