//! What every metric of a node means, as `/metrics` says it beside the figures.
//!
//! Invariant: whatever this project counts is in the table, and nothing else; a test reads the names
//! out of the sources. Told to the recorder once, by [`crate::http`].

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// How a metric is to be read.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Name, kind and meaning, by name.
const METRICS: [(&str, Kind, &str); 83] = [
    (
        "quorate_client_breakers_opened_total",
        Counter,
        "Times that a node lost its share of writes, since it went silent, kept leaving or cannot store.",
    ),
    (
        "quorate_client_budget_used_bytes",
        Gauge,
        "Encoded bytes of writes that are under way, of all clients' budgets together.",
    ),
    (
        "quorate_client_budget_wait_seconds",
        Histogram,
        "Time that parts of writes waited for room in a budget that was full.",
    ),
    (
        "quorate_client_budget_waits_total",
        Counter,
        "Parts of writes that met a full budget, by whether room was found in time.",
    ),
    (
        "quorate_client_copies_abandoned_total",
        Counter,
        "Copies that were given up: no node had taken them, or a hint or a repair mark of them.",
    ),
    (
        "quorate_client_copies_let_go_total",
        Counter,
        "Copies to slow owners that were let go, their level reached, by whose limit was full: a write's room, or a node's share of it.",
    ),
    (
        "quorate_client_copies_total",
        Counter,
        "What became of owners' copies: stored, buffered, refused, failed, lost, hinted or marked; one copy may be several in turn.",
    ),
    (
        "quorate_client_copy_retries_total",
        Counter,
        "Times that a copy was sent again, since its owner had said not now.",
    ),
    (
        "quorate_client_credit_waits_total",
        Counter,
        "Requests that had to wait for a connection's credit.",
    ),
    (
        "quorate_client_failed_rows_total",
        Counter,
        "Rows of writes that missed their level, by code and by whether they may still appear.",
    ),
    (
        "quorate_client_hints_total",
        Counter,
        "Hints that nodes were asked to keep, by whether they do.",
    ),
    (
        "quorate_client_map_watch_lost_total",
        Counter,
        "Times that the stream of the cluster map was lost and taken up again.",
    ),
    (
        "quorate_client_marks_total",
        Counter,
        "Repair marks that were asked for, by whether somebody keeps them.",
    ),
    (
        "quorate_client_meta_wait_seconds",
        Histogram,
        "Time that writes waited for metadata: for new fields or groups.",
    ),
    (
        "quorate_client_meta_waits_total",
        Counter,
        "Waits for new fields or groups, by whether all were made, or another write had asked.",
    ),
    (
        "quorate_client_peers",
        Gauge,
        "Nodes that this process keeps connections to, by state: connecting, up, trial, down.",
    ),
    ("quorate_client_queries_total", Counter, "Queries that were begun, of rows or of windows."),
    (
        "quorate_client_query_owners_given_up_total",
        Counter,
        "Owners that failed in a query and were given up for others, by code.",
    ),
    ("quorate_client_query_pages_total", Counter, "Pages that queries have asked owners for."),
    (
        "quorate_client_rejected_lines_total",
        Counter,
        "Lines of texts given to write_lines that were refused by the parser.",
    ),
    (
        "quorate_client_rerouted_total",
        Counter,
        "Times that rows of a write were routed again, since their group had changed.",
    ),
    (
        "quorate_client_write_seconds",
        Histogram,
        "Time from the call of a write to its result, by consistency level.",
    ),
    ("quorate_client_writer_batches_total", Counter, "Batches that writers have sent."),
    (
        "quorate_client_writer_dropped_points_total",
        Counter,
        "Points given to writers that were beyond retention.",
    ),
    (
        "quorate_client_writer_failed_points_total",
        Counter,
        "Points given to writers that failed for good or in time.",
    ),
    ("quorate_client_writer_points_total", Counter, "Points that writers have taken in."),
    ("quorate_client_writer_retried_points_total", Counter, "Points that writers have sent again."),
    (
        "quorate_client_writer_written_points_total",
        Counter,
        "Points given to writers whose level was reached.",
    ),
    ("quorate_client_writes_total", Counter, "Writes by consistency level and outcome."),
    (
        "quorate_deliveries_bytes",
        Gauge,
        "Bytes of hints that other nodes have delivered and that are not answered yet.",
    ),
    ("quorate_feed_followers", Gauge, "Subscriptions that follow shards of this node."),
    ("quorate_feed_kept_bytes", Gauge, "Bytes of batches that are kept for followers."),
    (
        "quorate_feed_missed_batches_total",
        Counter,
        "Batches that followers did not take in time and were told they missed.",
    ),
    ("quorate_feed_sent_bytes_total", Counter, "Bytes of batches that followers were sent."),
    ("quorate_feed_told_batches_total", Counter, "Batches that followers were told of."),
    (
        "quorate_hints_accepted_total",
        Counter,
        "Hints accepted, by target: delivered, pending, quarantined, expired and discarded together.",
    ),
    ("quorate_hints_delivered_total", Counter, "Hints that their target has acknowledged."),
    (
        "quorate_hints_discarded_total",
        Counter,
        "Hints that were not needed any more or were dropped by an operator, by target.",
    ),
    (
        "quorate_hints_expired_total",
        Counter,
        "Hints given up at the age limit, by target; a repair mark stands for each.",
    ),
    ("quorate_hints_pending", Gauge, "Hints that are still to be delivered, by target."),
    (
        "quorate_hints_quarantined_total",
        Counter,
        "Hints set aside because they are damaged or refused for good, by target.",
    ),
    ("quorate_hints_size_bytes", Gauge, "Bytes of the files of a hint queue, by target."),
    (
        "quorate_journal_failures_total",
        Counter,
        "Groups of records that the journal could not write or sync.",
    ),
    ("quorate_journal_records_total", Counter, "Records appended to the journal."),
    ("quorate_journal_segments", Gauge, "Segment files of the journal."),
    ("quorate_journal_size_bytes", Gauge, "Bytes of the journal's segment files."),
    ("quorate_journal_syncs_total", Counter, "Syncs of the journal."),
    (
        "quorate_journal_unreadable_batches_total",
        Counter,
        "Batches of the journal that could not be read and were not applied.",
    ),
    ("quorate_journal_written_bytes_total", Counter, "Bytes of records appended to the journal."),
    (
        "quorate_meta_applied_index",
        Gauge,
        "The last entry of the metadata's log that this node's map includes.",
    ),
    (
        "quorate_meta_has_leader",
        Gauge,
        "1 if this node has a metadata leader to count on, or is one, else 0.",
    ),
    ("quorate_meta_log_index", Gauge, "The last entry of the metadata's log that this node has."),
    (
        "quorate_meta_news_bytes_total",
        Counter,
        "Bytes of the cluster map and of its changes that watchers were sent.",
    ),
    ("quorate_meta_watchers", Gauge, "Clients that follow the cluster map on this node."),
    ("quorate_node_healthy", Gauge, "1 if /health would answer 200, else 0."),
    ("quorate_session_answer_bytes", Gauge, "Bytes of answers to clients that wait to be sent."),
    (
        "quorate_session_busy_total",
        Counter,
        "Requests that met a limit and had to wait or to come again, by limit.",
    ),
    (
        "quorate_session_closed_total",
        Counter,
        "Connections that this node has closed, by reason: idle, stalled, protocol, credit, request_bytes or certificate.",
    ),
    (
        "quorate_session_connections",
        Gauge,
        "Connections that others have opened, handshakes included.",
    ),
    (
        "quorate_session_denied_total",
        Counter,
        "Requests refused for what the peer's certificate, or its grants, do not allow.",
    ),
    ("quorate_session_handshakes", Gauge, "Handshakes in progress."),
    ("quorate_session_queries", Gauge, "Queries of clients that are worked on."),
    (
        "quorate_session_refused_total",
        Counter,
        "Connections that were refused, by limit or reason.",
    ),
    (
        "quorate_session_request_bytes",
        Gauge,
        "Bytes of clients' requests that are arriving or are not answered.",
    ),
    (
        "quorate_session_retries_total",
        Counter,
        "Times that somebody was asked to prove its address before it cost a handshake.",
    ),
    ("quorate_shard_bad_blocks_total", Counter, "Blocks of shards that were found damaged."),
    (
        "quorate_shard_decoded_blocks_total",
        Counter,
        "Blocks of one series that reads of shards have decoded.",
    ),
    ("quorate_shard_dense_passes_total", Counter, "Final rewrites of shards whose time is over."),
    ("quorate_shard_failed_folds_total", Counter, "Folds that failed and are tried again."),
    ("quorate_shard_folds_total", Counter, "Folds of fresh batches into sorted runs."),
    ("quorate_shard_fresh_bytes", Gauge, "Bytes of batches in memory that are not folded yet."),
    ("quorate_shard_merges_total", Counter, "Merges of runs."),
    (
        "quorate_shard_poisoned_total",
        Counter,
        "Shards that stopped taking writes after a failed sync.",
    ),
    (
        "quorate_shard_quarantined_batches_total",
        Counter,
        "Batches that could not be folded and were set aside.",
    ),
    (
        "quorate_shard_series",
        Gauge,
        "Series of a database on this node, as the limit on series counts them.",
    ),
    (
        "quorate_shard_slowed_writes_total",
        Counter,
        "Live writes that waited for their turn because folds fell behind.",
    ),
    (
        "quorate_tls_certificate_expiry_timestamp_seconds",
        Gauge,
        "The last moment at which peers accept this node's certificate, in seconds since 1970.",
    ),
    (
        "quorate_tls_reloads_total",
        Counter,
        "Changes of the certificates' folder, by whether they were taken or refused.",
    ),
    (
        "quorate_tls_sessions_revoked_total",
        Counter,
        "Open connections that were closed since their peer was revoked or its CA is trusted no more.",
    ),
    (
        "quorate_write_copies_total",
        Counter,
        "Copies that this node was asked to store, by outcome.",
    ),
    (
        "quorate_write_deliveries_total",
        Counter,
        "Hints that other nodes delivered to this one, by outcome.",
    ),
    ("quorate_write_hints_total", Counter, "Hints that this node was asked to keep, by outcome."),
    (
        "quorate_write_marks_total",
        Counter,
        "Repair marks that this node was asked to keep, by outcome.",
    ),
];

/// Tells the recorder of this thread, or the process's, what all metrics mean.
pub(crate) fn describe() {
    for (name, kind, help) in METRICS {
        match kind {
            Counter => describe_counter!(name, help),
            Gauge => describe_gauge!(name, help),
            Histogram => describe_histogram!(name, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// Every name of a metric in the sources below a directory, tests and this file aside.
    fn names(directory: &Path, into: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "tests" {
                    names(&path, into);
                }
                continue;
            }
            if !name.ends_with(".rs") || name == "tests.rs" || name == "metrics_help.rs" {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let quoted = text.split('"').skip(1).step_by(2);
            let ours = quoted.filter(|word| {
                let sign = |c: char| c.is_ascii_lowercase() || c == '_';
                word.starts_with("quorate_") && word.chars().all(sign)
            });
            // Crates and targets of logs are named alike.
            let ours =
                ours.filter(|word| !word.starts_with("quorate_node") || word.ends_with("healthy"));
            into.extend(ours.map(str::to_owned));
        }
    }

    #[test]
    fn whatever_is_counted_is_in_the_table() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut counted = BTreeSet::new();
        names(&root.join("src"), &mut counted);
        names(&root.join("../client/src"), &mut counted);
        let table: BTreeSet<String> = METRICS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(table, counted);
        assert!(METRICS.is_sorted_by_key(|(name, ..)| *name));
    }

    #[test]
    fn every_metric_is_exported_with_its_type_and_meaning() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            for (name, kind, _) in METRICS {
                match kind {
                    Counter => metrics::counter!(name).increment(1),
                    Gauge => metrics::gauge!(name).set(1.0),
                    Histogram => metrics::histogram!(name).record(1.0),
                }
                let total = matches!(kind, Counter) == name.ends_with("_total");
                assert!(total, "{name}: counters end in _total, and nothing else does");
            }
        });
        let page = recorder.handle().render();
        for (name, kind, help) in METRICS {
            let kind = match kind {
                Counter => "counter",
                Gauge => "gauge",
                Histogram => "summary",
            };
            for line in [format!("# HELP {name} {help}\n"), format!("# TYPE {name} {kind}\n")] {
                assert!(page.contains(&line), "{line} not in\n{page}");
            }
        }
    }
}
