//! What rows lack in metadata, and having it made.
//!
//! Invariants: rows that lack nothing are on their way before anybody is asked; a write waits for other writes'
//! questions about what it lacks as long as each brings some of it, and asks for the rest by itself.

use std::mem;

use quorate_protocol::{
    change::{Change, NewField, Outcome},
    code::Code,
    id::{DatabaseId, PolicyId},
    map::ClusterMap,
    placement::group_bounds,
};
use tokio::time::{Instant, timeout_at};

use super::{Call, rows::row_ids};
use crate::{
    asking::{Asked, Lack},
    history::Step,
    receipt::Dropped,
    route::{Routed, Selection},
    topology,
};

/// Rows that could not go, and what they lack.
struct Rest {
    rows: Selection,
    lacks: Vec<Lack>,
    new_fields: Vec<NewField>,
    /// One time of each group.
    new_times: Vec<i64>,
}

impl Call<'_> {
    /// Sends what can go, of all rows or of these; then has metadata asked for what the rest needs, and
    /// sends the rest.
    pub(super) async fn send_all(
        &mut self,
        map: &ClusterMap,
        database: DatabaseId,
        policy: PolicyId,
        only: Option<&Selection>,
    ) {
        let core = self.core;
        let mut rest = self.send_known(map, database, policy, only).await;
        let mut lacked = usize::MAX;
        let question = loop {
            if rest.rows.iter().all(Vec::is_empty) {
                return;
            }
            if rest.lacks.len() >= lacked {
                break None;
            }
            lacked = rest.lacks.len();
            match core.asking.begin(mem::take(&mut rest.lacks)) {
                Ok(question) => break Some(question),
                Err(asked) => self.hear(asked).await,
            }
            let map = core.topology.map();
            rest = self.send_known(&map, database, policy, Some(&rest.rows)).await;
        };
        let left_out = self.ask(database, policy, &mut rest).await;
        drop(question);
        let map = core.topology.map();
        let rest = self.send_known(&map, database, policy, Some(&rest.rows)).await;
        let (code, detail) = left_out.unwrap_or_else(|| {
            (Code::StaleMeta, "the database or policy changed during the write".to_owned())
        });
        self.fail(row_ids(&rest.rows), code, detail);
    }

    /// Sends rows that lack nothing by this map. The others, and what they lack.
    async fn send_known(
        &mut self,
        map: &ClusterMap,
        database: DatabaseId,
        policy: PolicyId,
        only: Option<&Selection>,
    ) -> Rest {
        self.settled().await;
        let routed = self.route(map, database, policy, only);
        let Routed { shards, waiting, new_fields, new_times, refused, dropped } = routed;
        self.refuse(refused);
        // Even those that waited: the policy may have been shortened meanwhile.
        if let Some(dropped) = dropped {
            Dropped::join(&mut self.dropped, dropped);
        }
        self.send(map, database, policy, shards).await;
        let known = map.database(database).and_then(|database| database.policy(policy));
        let duration = known.map_or(0, |policy| policy.group_duration);
        let groups = new_times.iter().map(|time| group_bounds(*time, duration).0);
        let groups = groups.map(|start| Lack::Group(policy, start));
        let fields = new_fields.iter().map(|new| (new.measurement.clone(), new.field.clone()));
        let fields = fields.map(|(measurement, name)| Lack::Field(database, measurement, name));
        Rest { rows: waiting, lacks: fields.chain(groups).collect(), new_fields, new_times }
    }

    /// Waits for the end of another write's question, for half of the time that is left at most.
    async fn hear(&self, asked: Asked) {
        let begun = Instant::now();
        // If it takes too long, asking is all that is left.
        let _ = timeout_at(self.patience(), asked.over()).await;
        let took = begun.elapsed();
        self.notes.add(|| Step::MetaAwaited { took });
        count("awaited", begun);
    }

    /// Has metadata make what these rows lack; what of it was not made, and why.
    async fn ask(
        &self,
        database: DatabaseId,
        policy: PolicyId,
        rest: &mut Rest,
    ) -> Option<(Code, String)> {
        let (fields, times) = (mem::take(&mut rest.new_fields), mem::take(&mut rest.new_times));
        let counts = (fields.len(), times.len());
        self.notes.add(|| Step::MetaAsked { fields: counts.0, groups: counts.1 });
        let begun = Instant::now();
        let mut changes = Vec::new();
        if !fields.is_empty() {
            changes.push(Change::RegisterFields { database, fields });
        }
        if !times.is_empty() {
            changes.push(Change::CreateGroups { policy, times });
        }
        let deadline = self.goal.deadline.min(begun + self.core.config.meta_timeout);
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
        let refused = left_out.as_ref().map(|(code, _)| *code);
        self.notes.add(|| Step::MetaAnswered { refused });
        count(if refused.is_none() { "done" } else { "refused" }, begun);
        left_out
    }
}

fn count(outcome: &'static str, begun: Instant) {
    metrics::counter!("quorate_client_meta_waits_total", "outcome" => outcome).increment(1);
    metrics::histogram!("quorate_client_meta_wait_seconds").record(begun.elapsed());
}
