//! What rows lack in metadata, and having it made.
//!
//! Invariants: rows that lack nothing are on their way before anybody is asked; a write waits for at most
//! one question of another write, and for half of its time at most, before it asks by itself.

use std::mem;

use quorate_protocol::{
    change::{Change, Outcome},
    code::Code,
    id::{DatabaseId, PolicyId},
    map::ClusterMap,
};
use tokio::time::{Instant, timeout_at};

use super::{Call, rows::row_ids};
use crate::{
    asking::Asked,
    history::Step,
    receipt::Dropped,
    route::{Routed, Selection},
    topology,
};

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
        if lacks_nothing(&rest) {
            return;
        }
        let question = match core.asking.begin((database, policy)) {
            Ok(question) => Some(question),
            Err(asked) => {
                self.hear(asked).await;
                let map = core.topology.map();
                rest = self.send_known(&map, database, policy, Some(&rest.waiting)).await;
                if lacks_nothing(&rest) {
                    return;
                }
                None
            }
        };
        let left_out = self.ask(database, policy, &mut rest).await;
        drop(question);
        let map = core.topology.map();
        let rest = self.send_known(&map, database, policy, Some(&rest.waiting)).await;
        let (code, detail) = left_out.unwrap_or_else(|| {
            (Code::StaleMeta, "the database or policy changed during the write".to_owned())
        });
        self.fail(row_ids(&rest.waiting), code, detail);
    }

    /// Sends rows that lack nothing by this map. The others, and what they lack.
    async fn send_known(
        &mut self,
        map: &ClusterMap,
        database: DatabaseId,
        policy: PolicyId,
        only: Option<&Selection>,
    ) -> Routed {
        self.settled().await;
        let mut routed = self.route(map, database, policy, only);
        self.refuse(mem::take(&mut routed.refused));
        // Even those that waited: the policy may have been shortened meanwhile.
        if let Some(dropped) = routed.dropped.take() {
            Dropped::join(&mut self.dropped, dropped);
        }
        self.send(map, database, policy, mem::take(&mut routed.shards)).await;
        routed
    }

    /// Waits for another write's question, which most often is the same one.
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
        rest: &mut Routed,
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

fn lacks_nothing(routed: &Routed) -> bool {
    routed.waiting.iter().all(Vec::is_empty)
}

fn count(outcome: &'static str, begun: Instant) {
    metrics::counter!("quorate_client_meta_waits_total", "outcome" => outcome).increment(1);
    metrics::histogram!("quorate_client_meta_wait_seconds").record(begun.elapsed());
}
