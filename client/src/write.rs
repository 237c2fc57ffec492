//! `write`: resolve, split, encode once, send, and wait for the level of every shard.
//!
//! Invariants: every part is awaited, so the answer says what is durable where; rows that need
//! metadata wait for it while the others are on their way; rows whose fate was decided before
//! anything was sent are definite; rows of parts that are nowhere because their group has changed are
//! routed again by the newer map, with the version they have, as long as the deadline is not over. The
//! level itself is [`crate::part`]'s.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::{
    batch::{self, Batch, EncodeError, EncodedBatch, PartHeader, encode_part},
    change::{Change, Outcome},
    code::Code,
    frame::MAX_PAYLOAD,
    id::{DatabaseId, MetaIndex, PolicyId, Version},
    map::{ClusterMap, Database, Policy},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    config::WriteOptions,
    core::Core,
    error::{Certainty, Error, FailedRows, RowId, WriteError},
    gate::Gate,
    part::{self, Goal, Part, PartResult},
    receipt::{Dropped, PartReceipt, Receipt},
    route::{Routed, Selection, ShardRows, route},
    topology,
};

/// What a task of a part takes in memory, beside the part's bytes: small parts would take several times
/// their own size if it did not count. Measured, in a release build, with 10,000 parts under way.
const TASK_BYTES: usize = 2 << 10;

/// What a write does when the budget is full.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Waits for room until the deadline.
    Wait,
    /// Fails at once.
    Refuse,
}

/// Writes a batch, or these rows of it. The version is given here and kept by everything that carries the
/// batch.
pub(crate) async fn write(
    core: &Arc<Core>,
    database: &str,
    batch: &Batch,
    only: Option<&Selection>,
    options: &WriteOptions,
    full: Full,
) -> Result<Receipt, WriteError> {
    let started = Instant::now();
    let goal = Goal {
        level: options.consistency,
        hint_copies: options.hint_copies(),
        deadline: Instant::now() + options.timeout,
    };
    let mut call = Call {
        core,
        batch,
        goal,
        full,
        version: options.version.unwrap_or_else(|| core.next_version()),
        started: Vec::new(),
        parts: Vec::new(),
        failed: Vec::new(),
        dropped: None,
    };
    let map = match call.resolve(database, options.retention_policy.as_deref()).await {
        Ok((map, database, policy)) => {
            call.send_all(&map, database, policy, only).await;
            call.settle(map, database, policy).await
        }
        Err(error) => {
            let rows = only.map_or_else(|| all_rows(batch), row_ids);
            let code = error.code();
            let detail = match error {
                // Its text begins with the code, which stands beside it already.
                Error::Refused { detail, .. } => detail,
                other => other.to_string(),
            };
            call.fail(rows, code, detail);
            core.topology.map()
        }
    };
    let result = call.finish(map.index);
    let outcome = if result.is_ok() { "ok" } else { "error" };
    let level = options.consistency.name();
    metrics::counter!("quorate_client_writes_total", "level" => level, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("quorate_client_write_seconds", "level" => level).record(started.elapsed());
    result
}

struct Call<'a> {
    core: &'a Arc<Core>,
    batch: &'a Batch,
    goal: Goal,
    full: Full,
    version: Version,
    started: Vec<(Arc<Part>, oneshot::Receiver<PartResult>)>,
    parts: Vec<PartReceipt>,
    failed: Vec<FailedRows>,
    dropped: Option<Dropped>,
}

impl Call<'_> {
    /// The newest map that has the database and the policy; asks once if the cached one has not.
    async fn resolve(
        &self,
        database: &str,
        policy: Option<&str>,
    ) -> Result<(Arc<ClusterMap>, DatabaseId, PolicyId), Error> {
        let map = self.core.topology.map();
        if let Ok((database, policy)) = find(&map, database, policy) {
            return Ok((map, database, policy));
        }
        topology::refresh(self.core, self.goal.deadline).await;
        let map = self.core.topology.map();
        let (database, policy) = find(&map, database, policy)?;
        Ok((map, database, policy))
    }

    /// Sends what can go, of all rows or of these; then asks metadata for what the rest needs, and sends
    /// the rest.
    async fn send_all(
        &mut self,
        map: &ClusterMap,
        database: DatabaseId,
        policy: PolicyId,
        only: Option<&Selection>,
    ) {
        self.core.settled(self.patience()).await;
        let routed = self.route(map, database, policy, only);
        let Routed { shards, waiting, new_fields, new_times, refused, dropped } = routed;
        self.failed.extend(refused);
        if let Some(dropped) = dropped {
            Dropped::join(&mut self.dropped, dropped);
        }
        self.send(map, database, policy, shards).await;
        if waiting.iter().all(Vec::is_empty) {
            return;
        }
        let mut changes = Vec::new();
        if !new_fields.is_empty() {
            changes.push(Change::RegisterFields { database, fields: new_fields });
        }
        if !new_times.is_empty() {
            changes.push(Change::CreateGroups { policy, times: new_times });
        }
        let deadline = self.goal.deadline.min(Instant::now() + self.core.config.meta_timeout);
        let mut left_out = None;
        for change in changes {
            match topology::propose(self.core, change, deadline).await {
                Ok(proposed) => {
                    if let Outcome::Partly { code, detail } = proposed.outcome {
                        left_out.get_or_insert((code, detail));
                    }
                }
                // Rows that need only the other change can still go.
                Err(error) => {
                    left_out.get_or_insert((error.code(), error.to_string()));
                }
            }
        }
        let map = self.core.topology.map();
        self.core.settled(self.patience()).await;
        let routed = self.route(&map, database, policy, Some(&waiting));
        self.failed.extend(routed.refused);
        // The policy may have been shortened meanwhile.
        if let Some(more) = routed.dropped {
            Dropped::join(&mut self.dropped, more);
        }
        self.send(&map, database, policy, routed.shards).await;
        let (code, detail) = left_out.unwrap_or_else(|| {
            (Code::StaleMeta, "the database or policy changed during the write".to_owned())
        });
        self.fail(row_ids(&routed.waiting), code, detail);
    }

    /// How long the first dials of nodes may hold this write up: half of its time, so that a node
    /// that swallows everything leaves the others enough.
    fn patience(&self) -> Instant {
        let now = Instant::now();
        now + self.goal.deadline.saturating_duration_since(now) / 2
    }

    fn route(
        &self,
        map: &ClusterMap,
        database: DatabaseId,
        policy: PolicyId,
        only: Option<&Selection>,
    ) -> Routed {
        let found = map.database(database).and_then(|db| Some((db, db.policy(policy)?)));
        match found {
            Some((database, policy)) => route(database, policy, self.batch, self.version, only),
            None => Routed { waiting: only.cloned().unwrap_or_default(), ..Routed::default() },
        }
    }

    /// Encodes and starts the parts of these shards.
    async fn send(
        &mut self,
        map: &ClusterMap,
        database: DatabaseId,
        policy: PolicyId,
        shards: Vec<ShardRows>,
    ) {
        let Some(schema) = map.database(database) else { return };
        for shard in shards {
            let mut todo = split(self.batch, shard.selection, self.core.config.max_part_rows);
            while let Some(selection) = todo.pop() {
                let header = PartHeader {
                    batch: self.core.next_batch_id(),
                    version: self.version,
                    meta_index: map.index,
                    database,
                    policy,
                    shard: shard.shard,
                    epoch: shard.epoch,
                };
                let rows = row_ids(&selection);
                let bytes = match encode(self.batch, &header, &selection, schema) {
                    Ok(bytes) if bytes.len() <= MAX_PAYLOAD => bytes,
                    Ok(_) | Err(EncodeError::TooLarge { .. }) if rows.len() > 1 => {
                        let pieces = split(self.batch, selection, rows.len() / 2);
                        if pieces.len() > 1 {
                            todo.extend(pieces);
                        } else {
                            // All of one series and time: they are one row on the wire.
                            let detail = "rows of one series and time exceed a frame together";
                            self.fail(rows, Code::TooLarge, detail.to_owned());
                        }
                        continue;
                    }
                    Ok(bytes) => {
                        let detail = format!("one row takes {} bytes encoded", bytes.len());
                        self.fail(rows, Code::TooLarge, detail);
                        continue;
                    }
                    Err(error) => {
                        self.fail(rows, Code::TooLarge, error.to_string());
                        continue;
                    }
                };
                let tasks = 1 + shard.owners.len();
                let Some(permit) = self.room(bytes.len() + tasks * TASK_BYTES).await else {
                    let detail = "the client's budget is full; wait or raise budget_bytes";
                    self.fail(rows, Code::Busy, detail.to_owned());
                    continue;
                };
                let (from, to) = time_range(&bytes);
                let part = Arc::new(Part {
                    batch: header.batch,
                    shard: shard.shard,
                    epoch: shard.epoch,
                    meta_index: map.index,
                    owners: shard.owners.clone(),
                    bytes,
                    rows,
                    from,
                    to,
                    gate: Gate::default(),
                });
                let result = part::start(self.core, Arc::clone(&part), self.goal, permit);
                self.started.push((part, result));
            }
        }
    }

    /// A share of the budget, or none if there is no room in time.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let budget = &self.core.budget;
        let share = u32::try_from(bytes.min(self.core.config.budget_bytes)).unwrap_or(u32::MAX);
        if self.full == Full::Refuse {
            return Arc::clone(budget).try_acquire_many_owned(share).ok();
        }
        timeout_at(self.goal.deadline, Arc::clone(budget).acquire_many_owned(share))
            .await
            .ok()?
            .ok()
    }

    fn fail(&mut self, rows: Vec<RowId>, code: Code, detail: String) {
        if !rows.is_empty() {
            let certainty = Certainty::Definite;
            self.failed.push(FailedRows { rows, shard: None, code, certainty, detail });
        }
    }

    /// Waits for every part, and routes again what its group has moved away from under it. Ends: each
    /// turn goes by a newer map than the one before. The map of the last turn.
    async fn settle(
        &mut self,
        mut map: Arc<ClusterMap>,
        database: DatabaseId,
        policy: PolicyId,
    ) -> Arc<ClusterMap> {
        loop {
            let (moved, Some(index)) = self.collect().await else { return map };
            let newer = self.core.topology.reach(index, self.goal.deadline).await;
            let exists = |map: &Arc<ClusterMap>| {
                map.database(database).is_some_and(|database| database.policy(policy).is_some())
            };
            let in_time = Instant::now() < self.goal.deadline;
            let Some(newer) = newer.filter(|newer| in_time && exists(newer)) else {
                for (receipt, failed) in moved {
                    self.parts.push(receipt);
                    self.failed.push(failed);
                }
                return map;
            };
            metrics::counter!("quorate_client_rerouted_total").increment(1);
            let rows = selection(self.batch, moved.iter().flat_map(|(_, failed)| &failed.rows));
            self.send_all(&newer, database, policy, Some(&rows)).await;
            map = newer;
        }
    }

    /// Waits for every part that was started. Gives those back that may be routed again, and by the map
    /// of which index.
    async fn collect(&mut self) -> (Vec<(PartReceipt, FailedRows)>, Option<MetaIndex>) {
        let (mut moved, mut newest) = (Vec::new(), None);
        for (part, result) in std::mem::take(&mut self.started) {
            // A collector that vanished without an answer was stopped by `close`.
            let Ok(PartResult { receipt, failure }) = result.await else {
                self.failed.push(FailedRows {
                    rows: part.rows.clone(),
                    shard: Some(part.shard),
                    code: Code::ShuttingDown,
                    certainty: Certainty::Indefinite,
                    detail: "the client was closed".to_owned(),
                });
                continue;
            };
            let Some(failure) = failure else {
                self.parts.push(receipt);
                continue;
            };
            let failed = FailedRows {
                rows: part.rows.clone(),
                shard: Some(part.shard),
                code: failure.code,
                certainty: failure.certainty,
                detail: failure.detail,
            };
            if failure.moved.is_some() {
                newest = newest.max(failure.moved);
                moved.push((receipt, failed));
            } else {
                self.parts.push(receipt);
                self.failed.push(failed);
            }
        }
        (moved, newest)
    }

    fn finish(self, meta_index: MetaIndex) -> Result<Receipt, WriteError> {
        let receipt = Receipt {
            version: self.version,
            meta_index,
            level: self.goal.level,
            parts: self.parts,
            dropped: self.dropped,
        };
        if self.failed.is_empty() {
            Ok(receipt)
        } else {
            Err(WriteError { receipt: Box::new(receipt), failed: self.failed })
        }
    }
}

fn find(
    map: &ClusterMap,
    database: &str,
    policy: Option<&str>,
) -> Result<(DatabaseId, PolicyId), Error> {
    let found: &Database = map.database_named(database).ok_or_else(|| {
        let detail = format!("{database:?}; create it with 'quorate db create {database}'");
        Error::refused(Code::DatabaseNotFound, detail)
    })?;
    let policy: &Policy = found.policy_named(policy).ok_or_else(|| {
        let name = policy.unwrap_or("the default one");
        Error::refused(Code::PolicyNotFound, format!("{name:?} in database {database:?}"))
    })?;
    Ok((found.id, policy.id))
}

fn encode(
    batch: &Batch,
    header: &PartHeader,
    selection: &Selection,
    schema: &Database,
) -> Result<Bytes, EncodeError> {
    encode_part(batch, header, batch::Selection::Rows(selection), &|measurement, field, kind| {
        schema.field(measurement, field).filter(|known| known.kind == kind).map(|known| known.id)
    })
}

fn time_range(bytes: &Bytes) -> (i64, i64) {
    EncodedBatch::parse(bytes.clone())
        .map_or((i64::MIN, i64::MAX), |batch| (batch.header().min_time, batch.header().max_time))
}

/// Cuts a selection into pieces of at most `limit` rows, but never between two rows of the same
/// series and time, since the later of those must win within one part.
fn split(batch: &Batch, selection: Selection, limit: usize) -> Vec<Selection> {
    let total: usize = selection.iter().map(Vec::len).sum();
    if total <= limit {
        return vec![selection];
    }
    let empty = || vec![Vec::new(); selection.len()];
    let (mut pieces, mut piece, mut count) = (Vec::new(), empty(), 0);
    for (index, rows) in selection.iter().enumerate() {
        let places: Vec<_> =
            batch.measurements()[index].rows().map(|(_, series, time)| (series, time)).collect();
        let mut rows = rows.clone();
        rows.sort_by_key(|row| (places[*row as usize], *row));
        for equal in rows.chunk_by(|a, b| places[*a as usize] == places[*b as usize]) {
            if count > 0 && count + equal.len() > limit {
                pieces.push(std::mem::replace(&mut piece, empty()));
                count = 0;
            }
            piece[index].extend_from_slice(equal);
            count += equal.len();
        }
    }
    pieces.push(piece);
    for piece in &mut pieces {
        piece.iter_mut().for_each(|rows| rows.sort_unstable());
    }
    pieces
}

fn row_ids(selection: &Selection) -> Vec<RowId> {
    let of = |(measurement, rows): (u32, &Vec<u32>)| {
        let rows = rows.clone();
        rows.into_iter().map(move |row| RowId { measurement, row })
    };
    (0u32..).zip(selection).flat_map(of).collect()
}

/// These rows of the batch.
pub(crate) fn selection<'r>(batch: &Batch, rows: impl Iterator<Item = &'r RowId>) -> Selection {
    let mut selection = vec![Vec::new(); batch.measurements().len()];
    for row in rows {
        if let Some(of) = selection.get_mut(row.measurement as usize) {
            of.push(row.row);
        }
    }
    selection.iter_mut().for_each(|rows| rows.sort_unstable());
    selection
}

fn all_rows(batch: &Batch) -> Vec<RowId> {
    let rows = batch.rows_iter();
    rows.map(|(measurement, row, _, _)| RowId { measurement: measurement as u32, row }).collect()
}

#[cfg(test)]
mod tests {
    use quorate_protocol::point::{Point, Value};

    use super::*;

    fn batch(times: &[i64]) -> Batch {
        let mut batch = Batch::new();
        for time in times {
            let point = Point::builder("m").field("f", Value::Float(1.0)).at(*time);
            batch.push(&point.unwrap());
        }
        batch
    }

    #[test]
    fn pieces_hold_every_row_once_and_keep_equal_places_together() {
        let batch = batch(&[1, 2, 1, 3, 2, 1]);
        let pieces = split(&batch, vec![(0..6).collect()], 2);
        assert_eq!(pieces, vec![vec![vec![0, 2, 5]], vec![vec![1, 4]], vec![vec![3]]]);
    }

    #[test]
    fn rows_of_one_place_cannot_be_cut() {
        // The caller must not try for ever.
        assert_eq!(split(&batch(&[7, 7]), vec![vec![0, 1]], 1).len(), 1);
    }
}
