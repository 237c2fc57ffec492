//! The metadata's LMDB environment: what is kept where, and on which thread.
//!
//! Invariants: every commit is fully synced before it is reported; every record carries its crc32
//! and a bad one is an error, never a value. One environment holds the Raft log, Raft's and the
//! node's state, and the cluster map in rows. The log and the machine of this module's siblings use
//! it.
//!
//! ```text
//! log    index u64 BE             -> crc32 u32 LE | postcard(entry)
//! state  "format" "identity" "vote" "purged" "applied" "membership" -> crc32 | postcard
//! map    row key (see rows.rs)    -> crc32 u32 LE | postcard(row)
//! ```

use std::path::Path;

use heed::{
    CommitOrAbort, Database, Env, RoTxn, RwTxn, WithoutTls,
    byteorder::BE,
    types::{Bytes, Str, U64},
};
use serde::{Serialize, de::DeserializeOwned};

use super::error::StoreError;
use crate::{executor::Executor, shard::env::open_env};

/// Version of the layout above.
const FORMAT: u16 = 2;

/// The open environment.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) env: Env<WithoutTls>,
    pub(super) log: Database<'static, U64<BE>, Bytes>,
    pub(super) state: Database<'static, Str, Bytes>,
    pub(super) map: Database<'static, Bytes, Bytes>,
    executor: Executor,
}

impl Store {
    pub(super) fn open(
        dir: &Path,
        map_size: usize,
        executor: Executor,
    ) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)?;
        let env = open_env(dir, map_size, 3)?;
        let txn = env.write_txn()?;
        let opened = env.create_databases_and_commit(txn, |opener, txn| {
            let log = opener.create_database(txn, Some("log"))?;
            let state = opener.create_database(txn, Some("state"))?;
            let map = opener.create_database(txn, Some("map"))?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((log, state, map)))
        })?;
        let (log, state, map) = opened.unwrap_commit();
        let store = Self { env, log, state, map, executor };
        store.check_format()?;
        Ok(store)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        match self.get::<u16>("format")? {
            Some(FORMAT) => Ok(()),
            Some(found) => Err(StoreError::Format { found, expected: FORMAT }),
            None => self.write(|store, txn| store.put(txn, "format", &FORMAT)),
        }
    }

    /// Runs `work` where this store's commits run.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        self.executor.run(move || work(&store)).await?
    }

    /// Runs `work` in one transaction and commits it, synced.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&Self, &mut RwTxn<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut txn = self.env.write_txn()?;
        let result = work(self, &mut txn)?;
        txn.commit()?;
        Ok(result)
    }

    /// A record of the `state` database.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let txn = self.env.read_txn()?;
        self.get_in(&txn, key)
    }

    pub(super) fn get_in<T: DeserializeOwned>(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        key: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let record = self.state.get(txn, key)?;
        record.map(|record| unseal(key, record)).transpose()
    }

    pub(super) fn put<T: Serialize>(
        &self,
        txn: &mut RwTxn<'_>,
        key: &'static str,
        value: &T,
    ) -> Result<(), StoreError> {
        Ok(self.state.put(txn, key, &seal(key, value)?)?)
    }
}

/// A value as it is stored: the crc32 of its encoding, then the encoding.
pub(super) fn seal<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    let record = postcard::to_extend(value, vec![0; 4])
        .map_err(|source| StoreError::Codec { what, source })?;
    Ok(stamp(record))
}

fn stamp(mut record: Vec<u8>) -> Vec<u8> {
    if let Some((head, body)) = record.split_first_chunk_mut::<4>() {
        *head = crc32fast::hash(body).to_le_bytes();
    }
    record
}

/// Reads what [`seal`] wrote.
pub(super) fn unseal<T: DeserializeOwned>(
    what: &'static str,
    record: &[u8],
) -> Result<T, StoreError> {
    unseal_part(what, record).map(|(value, _)| value)
}

/// As [`unseal`], with what stands behind the value.
pub(super) fn unseal_part<'r, T: DeserializeOwned>(
    what: &'static str,
    record: &'r [u8],
) -> Result<(T, &'r [u8]), StoreError> {
    let corrupt = StoreError::Corrupt { what };
    let Some((head, body)) = record.split_first_chunk::<4>() else {
        return Err(corrupt);
    };
    if crc32fast::hash(body) != u32::from_le_bytes(*head) {
        return Err(corrupt);
    }
    postcard::take_from_bytes(body).map_err(|source| StoreError::Codec { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_an_error_not_a_value() {
        let record = seal("test", &(7u64, "seven")).unwrap();
        assert_eq!(unseal::<(u64, String)>("test", &record).unwrap().0, 7);
        for bit in 0..record.len() * 8 {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<(u64, String)>("test", &bad).is_err(), "bit {bit}");
        }
        assert!(unseal::<(u64, String)>("test", &record[..3]).is_err());
    }
}
