//! Answering what is asked about a shard's content: scans, aggregates, digests, verifications.
//!
//! Invariants: an answer that ends without a failure is whole; every answer is of a map at or
//! beyond the asker's, by an owner; where something stored is damaged the answer is `Io`, so that
//! the asker turns to another owner; where only a slot to read it is missing, `Busy`. Here is what
//! the ops have in common, one file each beside it.

mod aggregate;
mod digest;
mod page;
mod scan;
mod verify;

pub(crate) use self::verify::verified;
use quorate_client::query::pattern::{PatternError, compile};
use quorate_protocol::{
    code::Code,
    id::{MetaIndex, ShardId},
    message::{Failure, TagMatch},
};

use crate::{
    core::Core,
    shard::{EnvError, ScanError, ShardError, TagFilter, TagTest},
};

impl Core {
    /// Refuses what is asked of a shard that this node does not own, or that is gone.
    async fn owned(&self, shard: ShardId, index: MetaIndex) -> Result<(), Failure> {
        let snapshot = self.snapshot_for(index).await;
        let snapshot = snapshot.map_err(|code| self.failure(code, ""))?;
        let Some(place) = snapshot.shard(shard) else {
            return Err(self.failure(Code::ShardGone, format!("shard {shard}")));
        };
        if !place.owners.contains(&self.node) {
            return Err(self.failure(Code::NotOwner, format!("shard {shard}")));
        }
        Ok(())
    }

    fn tag_filters(&self, tags: Vec<TagMatch>) -> Result<Vec<TagFilter>, Failure> {
        let tags = tags.into_iter().map(tag_filter).collect::<Result<_, _>>();
        tags.map_err(|error: PatternError| self.failure(Code::Invalid, error.to_string()))
    }

    /// Another owner has what is damaged here.
    fn scan_failure(&self, error: &ScanError) -> Failure {
        match error {
            ScanError::Shard(error) => self.shard_failure(error),
            damaged => self.failure(Code::Io, damaged.to_string()),
        }
    }

    fn shard_failure(&self, error: &ShardError) -> Failure {
        let code = code(error);
        let retry_after_ms = if code == Code::Busy { self.config.shard.busy_retry_ms } else { 0 };
        Failure { retry_after_ms, ..self.failure(code, error.to_string()) }
    }
}

const fn code(error: &ShardError) -> Code {
    match error {
        ShardError::Gone(_) => Code::ShardGone,
        ShardError::Closed => Code::ShuttingDown,
        ShardError::TooManyBuckets { .. } => Code::LimitExceeded,
        ShardError::Env(EnvError::ReadersFull { .. }) => Code::Busy,
        _ => Code::Io,
    }
}

fn tag_filter(wanted: TagMatch) -> Result<TagFilter, PatternError> {
    let test = match wanted.pattern {
        Some(pattern) => TagTest::Matches(compile(&pattern)?),
        None => TagTest::In(wanted.values),
    };
    Ok(TagFilter { key: wanted.key, test })
}

#[cfg(test)]
mod tests {
    use quorate_protocol::code::Class;

    use super::*;

    #[test]
    fn a_shard_without_a_free_reader_slot_is_busy_and_not_broken() {
        let path = std::path::PathBuf::from("shards/7");
        let full = code(&ShardError::Env(EnvError::ReadersFull { path: path.clone() }));
        assert_eq!((full, full.class()), (Code::Busy, Class::Retry));
        let source = std::io::Error::other("gone").into();
        assert_eq!(code(&ShardError::Env(EnvError::Lmdb { path, source })), Code::Io);
    }
}
