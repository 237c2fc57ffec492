//! Which shard each row of a batch goes to, by one snapshot of the map.
//!
//! Pure: a map, a batch and a version in; rows per shard out, beside those that are dropped, refused
//! or wait for metadata. Invariants: each row has exactly one fate; a row with one conflicting field
//! is refused as a whole, before anything of it is sent; whether a row is dropped depends on its
//! time, the version and the policy alone, so a resend decides the same.

use std::collections::HashMap;

use quorate_protocol::{
    batch::{Batch, MeasurementBuilder},
    change::NewField,
    code::Code,
    id::{Epoch, GroupId, NodeId, ShardId, Version},
    map::{Database, Group, Policy},
    placement::group_bounds,
};

use crate::{
    error::{Certainty, FailedRows, RowId},
    receipt::Dropped,
};

/// Row positions per measurement, ascending.
pub(crate) type Selection = Vec<Vec<u32>>;

/// Rows of one shard.
#[derive(Debug)]
pub(crate) struct ShardRows {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) owners: Vec<NodeId>,
    pub(crate) selection: Selection,
}

/// What became of the rows.
#[derive(Debug, Default)]
pub(crate) struct Routed {
    pub(crate) shards: Vec<ShardRows>,
    /// Rows that need fields or groups the map does not have.
    pub(crate) waiting: Selection,
    pub(crate) new_fields: Vec<NewField>,
    /// One time per missing group.
    pub(crate) new_times: Vec<i64>,
    pub(crate) refused: Vec<FailedRows>,
    pub(crate) dropped: Option<Dropped>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Go,
    Wait,
    Refused,
}

/// Routes all rows of `batch`, or only those in `only`.
pub(crate) fn route(
    database: &Database,
    policy: &Policy,
    batch: &Batch,
    version: Version,
    only: Option<&Selection>,
) -> Routed {
    let measurements = batch.measurements().len();
    let mut router = Router {
        policy,
        horizon: i128::from(version.0) - i128::from(policy.duration),
        groups: Vec::new(),
        by_id: HashMap::new(),
        last: 0,
        missing: Vec::new(),
        measurements,
        out: Routed { waiting: vec![Vec::new(); measurements], ..Routed::default() },
    };
    for (index, measurement) in batch.measurements().iter().enumerate() {
        let fates = fates(database, measurement, index, only, &mut router.out);
        let mut wanted = only.map(|only| only[index].iter().copied().peekable());
        for (row, (_, series, time)) in (0u32..).zip(measurement.rows()) {
            if let Some(wanted) = &mut wanted
                && wanted.next_if_eq(&row).is_none()
            {
                continue;
            }
            let fate = fates.as_ref().map_or(Fate::Go, |fates| fates[row as usize]);
            router.row(index, row, measurement.series_hash(series), time, fate);
        }
    }
    router.out
}

/// Which rows wait for fields or have conflicting ones; none if all can go.
fn fates(
    database: &Database,
    measurement: &MeasurementBuilder,
    index: usize,
    only: Option<&Selection>,
    out: &mut Routed,
) -> Option<Vec<Fate>> {
    let known = database.measurement(measurement.name());
    let mut fates: Option<Vec<Fate>> = None;
    for column in measurement.columns().iter().filter(|column| !column.is_empty()) {
        let field = known.and_then(|known| known.field(column.name()));
        let fate = match field {
            Some(field) if field.kind == column.kind() => continue,
            Some(_) => Fate::Refused,
            None => Fate::Wait,
        };
        let fates = fates.get_or_insert_with(|| vec![Fate::Go; measurement.len()]);
        let mut rows = Vec::new();
        for row in column.rows() {
            if fates[row] == Fate::Refused {
                continue;
            }
            fates[row] = fate;
            let wanted = only.is_none_or(|only| only[index].binary_search(&(row as u32)).is_ok());
            if fate == Fate::Refused && wanted {
                rows.push(RowId { measurement: index as u32, row: row as u32 });
            }
        }
        match field {
            Some(field) if !rows.is_empty() => out.refused.push(FailedRows {
                rows,
                shard: None,
                code: Code::TypeConflict,
                certainty: Certainty::Definite,
                detail: format!(
                    "field {:?} of {:?} is {}, not {}",
                    String::from_utf8_lossy(column.name()),
                    String::from_utf8_lossy(measurement.name()),
                    field.kind.name(),
                    column.kind().name()
                ),
            }),
            Some(_) => {}
            None => {
                let new = NewField {
                    measurement: measurement.name().clone(),
                    field: column.name().clone(),
                    kind: column.kind(),
                };
                // The first type in the batch is the one asked for; the other will conflict.
                let same = |f: &NewField| f.measurement == new.measurement && f.field == new.field;
                if !out.new_fields.iter().any(same) {
                    out.new_fields.push(new);
                }
            }
        }
    }
    fates
}

struct Router<'a> {
    policy: &'a Policy,
    /// Earlier times are dropped, if the policy has a duration.
    horizon: i128,
    /// The groups that rows go to.
    groups: Vec<Target<'a>>,
    /// Where each stands in `groups`.
    by_id: HashMap<GroupId, usize>,
    /// Where the group of the row before stands: most often it is that of the next one too.
    last: usize,
    /// Bounds of groups that are missing, as a new group would have them.
    missing: Vec<(i64, i64)>,
    measurements: usize,
    out: Routed,
}

/// A group that rows go to.
struct Target<'a> {
    group: &'a Group,
    /// Where its shards stand in [`Routed::shards`], those that have rows.
    shards: Vec<Option<usize>>,
}

impl Router<'_> {
    fn row(&mut self, measurement: usize, row: u32, hash: u64, time: i64, fate: Fate) {
        if fate == Fate::Refused {
            return;
        }
        if self.policy.duration > 0 && i128::from(time) < self.horizon {
            return Dropped::add(&mut self.out.dropped, time);
        }
        let known = self.find(time);
        if !known && !self.missing.iter().any(|(start, end)| (*start..*end).contains(&time)) {
            self.missing.push(group_bounds(time, self.policy.group_duration));
            self.out.new_times.push(time);
        }
        if known && fate == Fate::Go {
            let at = self.shard(hash);
            self.out.shards[at].selection[measurement].push(row);
        } else {
            self.out.waiting[measurement].push(row);
        }
    }

    /// Makes the group of this time the last one; whether there is one.
    fn find(&mut self, time: i64) -> bool {
        let same = |target: &Target<'_>| (target.group.start..target.group.end).contains(&time);
        if self.groups.get(self.last).is_some_and(same) {
            return true;
        }
        let Some(group) = self.policy.group_at(time) else { return false };
        self.last = *self.by_id.entry(group.id).or_insert_with(|| {
            let shards = vec![None; group.shards.len().max(1)];
            self.groups.push(Target { group, shards });
            self.groups.len() - 1
        });
        true
    }

    /// The position in [`Routed::shards`] of the last group's shard for this series.
    fn shard(&mut self, hash: u64) -> usize {
        let Target { group, shards } = &mut self.groups[self.last];
        // Below the number of shards, which is a usize.
        let index = (hash % shards.len() as u64) as usize;
        *shards[index].get_or_insert_with(|| {
            // A group without shards cannot be written to; its rows fail by having no owners.
            let shard = group.shards.get(index);
            self.out.shards.push(ShardRows {
                shard: shard.map(|shard| shard.id).unwrap_or_default(),
                epoch: shard.map(|shard| shard.epoch).unwrap_or_default(),
                owners: shard.map(|shard| shard.owners.clone()).unwrap_or_default(),
                selection: vec![Vec::new(); self.measurements],
            });
            self.out.shards.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_protocol::{
        id::{DatabaseId, FieldId, PolicyId},
        map::{Field, Measurement, Shard},
        point::{Point, Value},
        schema::FieldType,
    };

    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn database(duration: u64) -> Database {
        let shard = |id| Shard { id: ShardId(id), epoch: Epoch(1), owners: vec![NodeId(id)] };
        let group = |id: u64, start: i64| Group {
            id: GroupId(id),
            start,
            end: start + HOUR,
            shards: vec![shard(id * 10), shard(id * 10 + 1)],
            truncation: None,
        };
        Database {
            id: DatabaseId(1),
            name: "db".into(),
            default_policy: PolicyId(1),
            policies: vec![Arc::new(Policy {
                id: PolicyId(1),
                name: "default".into(),
                duration,
                group_duration: HOUR as u64,
                replication: 1,
                groups: vec![group(1, 0).into(), group(2, 2 * HOUR).into()],
                deleted: Vec::new(),
            })],
            measurements: vec![Arc::new(Measurement {
                name: "m".into(),
                fields: vec![Field { id: FieldId(1), name: "f".into(), kind: FieldType::Float }],
            })],
        }
    }

    fn batch(points: &[(&str, &str, Value, i64)]) -> Batch {
        let mut batch = Batch::new();
        for (host, field, value, time) in points {
            let point = Point::builder("m").tag("host", *host).field(*field, value.clone());
            batch.push(&point.at(*time).unwrap());
        }
        batch
    }

    fn run(database: &Database, batch: &Batch, version: u64) -> Routed {
        route(database, &database.policies[0], batch, Version(version), None)
    }

    #[test]
    fn every_row_has_one_fate() {
        let database = database(0);
        let batch = batch(&[
            ("a", "f", Value::Float(1.0), 5),
            ("b", "f", Value::Integer(1), 5),
            ("c", "g", Value::Float(1.0), 5),
            ("d", "f", Value::Float(1.0), HOUR),
            ("e", "f", Value::Float(1.0), 2 * HOUR),
        ]);
        let routed = run(&database, &batch, 10);
        let sent: usize = routed.shards.iter().map(|s| s.selection[0].len()).sum();
        assert_eq!(sent, 2);
        assert_eq!(routed.waiting, vec![vec![2, 3]]);
        assert_eq!(routed.new_times, vec![HOUR]);
        assert_eq!(routed.new_fields.len(), 1);
        assert_eq!(routed.refused.len(), 1);
        assert_eq!(routed.refused[0].code, Code::TypeConflict);
        assert_eq!(routed.refused[0].rows, vec![RowId { measurement: 0, row: 1 }]);
        assert!(routed.dropped.is_none());
    }

    #[test]
    fn a_series_lands_on_the_shard_of_its_hash() {
        let database = database(0);
        let hosts: Vec<String> = (0..50).map(|host| format!("h{host}")).collect();
        let points: Vec<_> =
            hosts.iter().map(|host| (host.as_str(), "f", Value::Float(0.0), 1)).collect();
        let batch = batch(&points);
        for shard in run(&database, &batch, 1).shards {
            for row in &shard.selection[0] {
                let (_, _, hash, _) = batch.rows_iter().nth(*row as usize).unwrap();
                assert_eq!(shard.shard, ShardId(10 + hash % 2));
            }
        }
    }

    #[test]
    fn dropping_depends_on_time_version_and_policy_alone() {
        let database = database(100);
        let batch = batch(&[
            ("a", "f", Value::Float(1.0), 49),
            ("a", "f", Value::Float(1.0), 50),
            ("b", "f", Value::Float(1.0), 48),
        ]);
        let routed = run(&database, &batch, 150);
        let dropped = routed.dropped.unwrap();
        assert_eq!((dropped.points, dropped.min_time, dropped.max_time), (2, 48, 49));
        let sent: usize = routed.shards.iter().map(|s| s.selection[0].len()).sum();
        assert_eq!(sent, 1);
    }

    #[test]
    fn a_second_pass_routes_only_what_waited() {
        let database = database(0);
        let batch = batch(&[
            ("a", "f", Value::Float(1.0), 5),
            ("b", "f", Value::Integer(1), 5),
            ("c", "f", Value::Float(1.0), 6),
        ]);
        let only = vec![vec![2]];
        let policy = &database.policies[0];
        let routed = route(&database, policy, &batch, Version(1), Some(&only));
        let sent: Vec<u32> = routed.shards.iter().flat_map(|s| s.selection[0].clone()).collect();
        assert_eq!(sent, vec![2]);
        assert!(routed.refused.is_empty(), "reported by the first pass");
    }
}
