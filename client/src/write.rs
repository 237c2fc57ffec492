//! `write`: resolve, split, encode once, send, and wait for the level of every shard.
//!
//! Invariants: every part is awaited, so the answer says what is durable where; rows that need
//! metadata wait for it while the others are on their way; rows whose fate was decided before
//! anything was sent are definite; rows of parts that are nowhere because their group has changed are
//! routed again by the newer map, with the version they have, as long as the deadline is not over. The
//! level itself is [`crate::part`]'s.

mod lacking;
mod room;
mod rows;

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::{
    batch::{self, Batch, EncodeError, EncodedBatch, PartHeader, encode_part},
    code::Code,
    frame::MAX_PAYLOAD,
    id::{DatabaseId, MetaIndex, PolicyId, ShardId, Version},
    map::{ClusterMap, Database, Policy},
};
use tokio::{sync::oneshot, time::Instant};
use tracing::{Instrument, field::Empty};

pub(crate) use self::rows::selection;
use self::rows::{all_rows, row_ids, split};
use crate::{
    config::WriteOptions,
    core::Core,
    error::{Certainty, Error, FailedRows, RowId, WriteError},
    gate::Gate,
    history::{Notes, Step},
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
    let rows = || only.map_or_else(|| batch.rows(), |only| only.iter().map(Vec::len).sum());
    let level = options.consistency.name();
    let span = tracing::info_span!(
        "write",
        db = database,
        rows = rows(),
        level,
        parts = Empty,
        outcome = Empty,
        duration_us = Empty,
    );
    let started = Instant::now();
    let call = Call {
        core,
        batch,
        goal: Goal {
            level: options.consistency,
            hint_copies: options.hint_copies(),
            deadline: started + options.timeout,
        },
        full,
        version: options.version.unwrap_or_else(|| core.next_version()),
        notes: Notes::new(options.history_bytes, database, options.consistency, rows),
        started: Vec::new(),
        parts: Vec::new(),
        failed: Vec::new(),
        dropped: None,
    };
    let run = call.run(database, options.retention_policy.as_deref(), only);
    let result = run.instrument(span.clone()).await;
    let outcome = match &result {
        Ok(_) => "ok",
        Err(error) => error.kind().name(),
    };
    let parts = result.as_ref().map_or_else(|error| &error.receipt.parts, |receipt| &receipt.parts);
    span.record("parts", parts.len()).record("outcome", outcome);
    span.record("duration_us", u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    count(level, &result);
    metrics::histogram!("quorate_client_write_seconds", "level" => level).record(started.elapsed());
    result
}

fn count(level: &'static str, result: &Result<Receipt, WriteError>) {
    let outcome = if result.is_ok() { "ok" } else { "error" };
    metrics::counter!("quorate_client_writes_total", "level" => level, "outcome" => outcome)
        .increment(1);
    let Err(error) = result else { return };
    for FailedRows { rows, code, certainty, .. } in &error.failed {
        let certainty = match certainty {
            Certainty::Definite => "definite",
            Certainty::Indefinite => "indefinite",
        };
        let labels = [("code", code.name()), ("certainty", certainty)];
        metrics::counter!("quorate_client_failed_rows_total", &labels).increment(rows.len() as u64);
    }
}

struct Call<'a> {
    core: &'a Arc<Core>,
    batch: &'a Batch,
    goal: Goal,
    full: Full,
    version: Version,
    notes: Notes,
    started: Vec<Started>,
    parts: Vec<PartReceipt>,
    failed: Vec<FailedRows>,
    dropped: Option<Dropped>,
}

/// A part under way. Its rows stay with the write, which alone can name them; the part may outlive it.
struct Started {
    shard: ShardId,
    rows: Selection,
    result: oneshot::Receiver<PartResult>,
}

impl Call<'_> {
    async fn run(
        mut self,
        database: &str,
        policy: Option<&str>,
        only: Option<&Selection>,
    ) -> Result<Receipt, WriteError> {
        let map = match self.resolve(database, policy).await {
            Ok((map, database, policy)) => {
                self.send_all(&map, database, policy, only).await;
                self.settle(map, database, policy).await
            }
            Err(error) => {
                let rows = only.map_or_else(|| all_rows(self.batch), row_ids);
                let code = error.code();
                let detail = match error {
                    // Its text begins with the code, which stands beside it already.
                    Error::Refused { detail, .. } => detail,
                    other => other.to_string(),
                };
                self.fail(rows, code, detail);
                self.core.topology.map()
            }
        };
        self.finish(map.index)
    }

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
        self.notes.add(|| Step::MapAsked);
        topology::refresh(self.core, self.goal.deadline).await;
        let map = self.core.topology.map();
        let (database, policy) = find(&map, database, policy)?;
        Ok((map, database, policy))
    }

    /// Waits for the first dials of nodes, for some time.
    async fn settled(&self) {
        let begun = Instant::now();
        self.core.settled(self.patience()).await;
        let took = begun.elapsed();
        self.notes.note(None, || (!took.is_zero()).then_some(Step::NodesAwaited { took }));
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
                let rows: usize = selection.iter().map(Vec::len).sum();
                let bytes = match encode(self.batch, &header, &selection, schema) {
                    Ok(bytes) if bytes.len() <= MAX_PAYLOAD => bytes,
                    Ok(_) | Err(EncodeError::TooLarge { .. }) if rows > 1 => {
                        let pieces = split(self.batch, selection.clone(), rows / 2);
                        if pieces.len() > 1 {
                            todo.extend(pieces);
                        } else {
                            // All of one series and time: they are one row on the wire.
                            let detail = "rows of one series and time exceed a frame together";
                            self.fail(row_ids(&selection), Code::TooLarge, detail.to_owned());
                        }
                        continue;
                    }
                    Ok(bytes) => {
                        let detail = format!("one row takes {} bytes encoded", bytes.len());
                        self.fail(row_ids(&selection), Code::TooLarge, detail);
                        continue;
                    }
                    Err(error) => {
                        self.fail(row_ids(&selection), Code::TooLarge, error.to_string());
                        continue;
                    }
                };
                let tasks = 1 + shard.owners.len();
                let Some(share) = self.room(bytes.len() + tasks * TASK_BYTES).await else {
                    let detail = "the client's budget is full; wait or raise budget_bytes";
                    self.fail(row_ids(&selection), Code::Busy, detail.to_owned());
                    continue;
                };
                let (from, to) = time_range(&bytes);
                let part = Part {
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
                    notes: self.notes.part(),
                };
                let result = part::start(self.core, part, self.goal, share);
                self.started.push(Started { shard: shard.shard, rows: selection, result });
            }
        }
    }

    fn refuse(&mut self, refused: Vec<FailedRows>) {
        for FailedRows { rows, code, .. } in &refused {
            self.notes.add(|| Step::RowsRefused { rows: rows.len(), code: *code });
        }
        self.failed.extend(refused);
    }

    fn fail(&mut self, rows: Vec<RowId>, code: Code, detail: String) {
        if !rows.is_empty() {
            let certainty = Certainty::Definite;
            self.refuse(vec![FailedRows { rows, shard: None, code, certainty, detail }]);
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
            self.notes.add(|| Step::Rerouted { index: newer.index });
            let rows = selection(self.batch, moved.iter().flat_map(|(_, failed)| &failed.rows));
            self.send_all(&newer, database, policy, Some(&rows)).await;
            map = newer;
        }
    }

    /// Waits for every part that was started. Gives those back that may be routed again, and by the map
    /// of which index.
    async fn collect(&mut self) -> (Vec<(PartReceipt, FailedRows)>, Option<MetaIndex>) {
        let (mut moved, mut newest) = (Vec::new(), None);
        for Started { shard, rows, result } in std::mem::take(&mut self.started) {
            // A collector that vanished without an answer was stopped by `close`.
            let Ok(PartResult { receipt, failure }) = result.await else {
                self.failed.push(FailedRows {
                    rows: row_ids(&rows),
                    shard: Some(shard),
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
                rows: row_ids(&rows),
                shard: Some(shard),
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
        self.notes.add(|| Step::Returned { reached: self.failed.is_empty() });
        let receipt = Receipt {
            version: self.version,
            meta_index,
            level: self.goal.level,
            parts: self.parts,
            dropped: self.dropped,
            history: self.notes.history(),
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
