//! What was measured, for scripts and for people.
//!
//! Invariants: keys of the JSON object never change their meaning; what was not measured is null.

use serde_json::{Value, json};

use super::{
    Rounding,
    drive::{Driven, Plan, STEP},
    fault::{Drained, Fault},
    limit::Limit,
    verify::Checked,
    watch::{Line, Load},
};
use crate::{
    cli::{fail::Fail, table::grouped, write::round},
    fleet::FIELDS,
};

/// All of a run.
pub(super) struct Figures {
    pub(super) plan: Plan,
    pub(super) hosts: u64,
    /// In ns, unless all rows go into one shard.
    pub(super) shard_duration: Option<u64>,
    pub(super) fault: Fault,
    pub(super) values: Rounding,
    pub(super) nodes: usize,
    pub(super) copies: usize,
    pub(super) driven: Driven,
    pub(super) load: Load,
    pub(super) grown: Line,
    pub(super) drained: Drained,
    pub(super) checked: Checked,
    pub(super) disk_bytes: Option<u64>,
    pub(super) limit: Option<Limit>,
}

impl Figures {
    fn rows_per_s(&self) -> f64 {
        self.driven.rows as f64 / self.driven.took.as_secs_f64().max(1e-9)
    }

    /// Values of so many rows, once for each copy.
    fn values(&self, rows: u64) -> f64 {
        (rows * FIELDS.len() as u64 * self.copies as u64).max(1) as f64
    }

    fn wire_bytes_per_value(&self) -> f64 {
        self.load.sent_bytes as f64 / self.values(self.driven.rows)
    }

    fn disk_bytes_per_value(&self) -> Option<f64> {
        Some(self.disk_bytes? as f64 / self.values(self.driven.distinct(&self.plan)))
    }

    fn latency_ms(&self, quantile: f64) -> f64 {
        self.driven.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Of what the machine can carry of the same bytes.
    fn limit_share(&self) -> Option<f64> {
        let Limit { append, quic } = self.limit?;
        let bytes_per_row = self.load.sent_bytes as f64 / self.driven.rows.max(1) as f64;
        Some(self.rows_per_s() * bytes_per_row / append.min(quic))
    }

    pub(super) fn describe(&self) -> Value {
        let list = |values: &[f64], digits| -> Value {
            values.iter().map(|value| round(*value, digits)).collect()
        };
        let rate = self.rows_per_s();
        json!({
            "rows": self.driven.rows,
            "seconds": round(self.driven.took.as_secs_f64(), 6),
            "rows_per_s": rate.round(),
            "values_per_s": (rate * FIELDS.len() as f64).round(),
            "ack_p50_ms": self.latency_ms(0.5),
            "ack_p99_ms": self.latency_ms(0.99),
            "ack_p999_ms": self.latency_ms(0.999),
            "wire_bytes_per_value": round(self.wire_bytes_per_value(), 3),
            "disk_bytes_per_value": self.disk_bytes_per_value().map(|bytes| round(bytes, 3)),
            "client_cpu_s": round(self.load.client_cpu_s, 2),
            "node_cpu_s": list(&self.load.node_cpu_s, 2),
            "client_rss_anon_mb": round(self.load.client_rss_anon_mb, 1),
            "node_rss_anon_mb": list(&self.load.node_rss_anon_mb, 1),
            "errors": self.driven.failed,
            "hints_accepted": self.drained.hints.accepted,
            "hints_delivered": self.drained.hints.delivered,
            "drain_rows_per_s": self.drained.rows_per_s.map(f64::round),
            "verified_rows": self.checked.verified,
            "missing_rows": self.checked.missing,
            "limit_share": self.limit_share().map(|share| round(share, 4)),
            "client_rss_anon_before_mb": round(self.load.client_rss_anon_before_mb, 1),
            "hosts": self.hosts,
            "distinct": self.plan.distinct,
            "batch": self.plan.batch,
            "tasks": self.plan.tasks,
            "consistency": self.plan.options.consistency.to_string(),
            "input": self.plan.input.name(),
            "values": self.values.values().name(),
            "rate": self.plan.rate,
            "fault": self.fault.name(),
            "nodes": self.nodes,
            "replication": self.copies,
            "shard_duration_s": self.shard_duration.map(|ns| ns as f64 / 1e9),
            "limit_append_bytes_per_s": self.limit.map(|limit| limit.append.round()),
            "limit_quic_bytes_per_s": self.limit.map(|limit| limit.quic.round()),
            "timeline_step_s": STEP.as_secs_f64(),
            "timeline_rows": self.driven.line.iter().map(|(rows, _)| *rows).collect::<Value>(),
            "timeline_worst_ms":
                self.driven.line.iter().map(|(_, worst)| *worst).collect::<Value>(),
            "timeline_client_rss_anon_mb": list(&self.grown.client_rss_anon_mb, 1),
            "timeline_nodes_rss_anon_mb": list(&self.grown.nodes_rss_anon_mb, 1),
            "timeline_disk_mb": list(&self.grown.disk_mb, 1),
        })
    }

    pub(super) fn text(&self) -> String {
        let number = |value: f64| grouped(value.round() as u64);
        let rate = self.rows_per_s();
        let list = |values: &[f64], unit: &str| {
            let values: Vec<String> = values.iter().map(|value| format!("{value:.1}")).collect();
            if values.is_empty() { "not ours".to_owned() } else { values.join(", ") + unit }
        };
        let mut lines = vec![
            (
                "rows",
                format!(
                    "{} in {:.2} s, {} failed",
                    grouped(self.driven.rows),
                    self.driven.took.as_secs_f64(),
                    grouped(self.driven.failed)
                ),
            ),
            (
                "rate",
                format!("{} rows/s, {} values/s", number(rate), number(rate * FIELDS.len() as f64)),
            ),
            (
                "acknowledged",
                format!(
                    "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms per batch of {}",
                    self.latency_ms(0.5),
                    self.latency_ms(0.99),
                    self.latency_ms(0.999),
                    grouped(self.plan.batch)
                ),
            ),
            (
                "bytes per value",
                format!(
                    "{:.2} sent, {} on disk",
                    self.wire_bytes_per_value(),
                    self.disk_bytes_per_value()
                        .map_or_else(|| "?".to_owned(), |bytes| format!("{bytes:.2}"))
                ),
            ),
            (
                "processor",
                format!(
                    "client {:.1} s, nodes {}",
                    self.load.client_cpu_s,
                    list(&self.load.node_cpu_s, " s")
                ),
            ),
            (
                "memory",
                format!(
                    "client {:.0} MB, {:.0} of them the points to be written; nodes {}",
                    self.load.client_rss_anon_mb,
                    self.load.client_rss_anon_before_mb,
                    list(&self.load.node_rss_anon_mb, " MB")
                ),
            ),
        ];
        let hints = self.drained.hints;
        if hints.accepted > 0 {
            let rate = self.drained.rows_per_s.map_or_else(String::new, |rate| {
                format!(", {} rows/s from the node's return on", number(rate))
            });
            let (accepted, delivered) = (grouped(hints.accepted), grouped(hints.delivered));
            lines.push(("hints", format!("{accepted} accepted, {delivered} delivered{rate}")));
        }
        if let Some(share) = self.limit_share() {
            lines.push(("of the machine", format!("{:.1} %", share * 100.0)));
        }
        let Checked { verified, missing } = self.checked;
        lines.push((
            "read back",
            format!("{} rows as written, {} missing", grouped(verified), grouped(missing)),
        ));
        lines.iter().map(|(name, text)| format!("{name:<16} {text}\n")).collect()
    }

    /// Whether everything was written, and is there.
    pub(super) fn verdict(&self) -> Result<(), Fail> {
        if self.checked.missing > 0 {
            return Err(Fail::failed(format!(
                "{} acknowledged rows are not there",
                grouped(self.checked.missing)
            )));
        }
        if self.driven.failed > 0 {
            return Err(Fail::failed(format!("{} rows failed", grouped(self.driven.failed))));
        }
        Ok(())
    }
}
