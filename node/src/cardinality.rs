//! The limit on series: `max_series_per_database`, kept per shard group.
//!
//! Invariants: below the limit a write costs one sum over the few shards of its group that this
//! node owns, and nothing is decoded; at the limit a part is refused as a whole if it would add a
//! series to the group, and everything else goes on. Hints that were delivered are never held
//! against it: another owner has the same points, and replicas must not differ. Asked by
//! [`crate::write`]; the housekeeping keeps the metric.

use std::collections::BTreeMap;

use quorate_protocol::{
    batch::EncodedBatch,
    code::Code,
    id::{GroupId, ShardId},
};

use crate::{
    core::Core,
    directory::Snapshot,
    shard::{LookupError, ShardStore},
};

/// Series of a database in its largest group, in the shards of that group which this node owns.
const SERIES: &str = "quorate_shard_series";

impl Core {
    /// Why a live write is refused for the series in it, if this node owns its shard.
    pub(crate) async fn refuses_series(
        &self,
        snapshot: &Snapshot,
        batch: &EncodedBatch,
    ) -> Option<Code> {
        let place = snapshot.shard(batch.header().part.shard)?;
        let limit = self.config.shard.max_series_per_database;
        if !place.owners.contains(&self.node) || sum(&self.shards, &place.beside) < limit {
            return None;
        }
        match self.shards.brings_series(batch.clone()).await {
            Ok(true) => Some(Code::SeriesLimit),
            Ok(false) => None,
            Err(LookupError::Batch(_)) => Some(Code::Corrupt),
            Err(error) => {
                // What the limit protects is memory and disk, not the points in it.
                tracing::debug!(%error, "taken without a look at its series");
                None
            }
        }
    }
}

fn sum(shards: &ShardStore, ids: &[ShardId]) -> u64 {
    ids.iter().map(|shard| shards.series(*shard)).sum()
}

/// The series of every database, from one look to the next.
#[derive(Default)]
pub(crate) struct SeriesWatch {
    /// By name; whether it was at the limit.
    databases: BTreeMap<String, bool>,
}

impl SeriesWatch {
    /// Sets the metric and tells the log when a database reaches the limit.
    pub(crate) fn note(&mut self, core: &Core) {
        let snapshot = core.directory.current();
        let mut groups: BTreeMap<GroupId, (&str, u64)> = BTreeMap::new();
        for place in snapshot.map.shards() {
            let (_, series) = groups.entry(place.group.id).or_insert((&place.database.name, 0));
            if place.shard.owners.contains(&core.node) {
                *series += core.shards.series(place.shard.id);
            }
        }
        let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
        for (database, series) in groups.into_values() {
            let known = largest.entry(database).or_default();
            *known = series.max(*known);
        }
        self.databases.retain(|name, _| {
            let live = largest.contains_key(name.as_str());
            if !live {
                metrics::gauge!(SERIES, "database" => name.clone()).set(0.0);
            }
            live
        });
        let limit = core.config.shard.max_series_per_database;
        for (database, series) in largest {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!(SERIES, "database" => database.to_owned()).set(series as f64);
            let full = series >= limit;
            if self.databases.insert(database.to_owned(), full) != Some(full) && full {
                tracing::warn!(
                    database,
                    series,
                    limit,
                    "the database has all the series it may have; writes that bring more are \
                     refused: look for a tag with too many values, or raise \
                     max_series_per_database in [shard]"
                );
            }
        }
    }
}
