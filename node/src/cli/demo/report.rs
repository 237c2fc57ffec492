//! The end of the demo: what was shown, and whether it holds.
//!
//! Invariant: the demo has succeeded only if nothing is missing or wrong on any replica, the
//! replicas are identical, hints were delivered and none is pending, and no write failed.

use quorate_protocol::message::QueueStatus;
use serde_json::{Value, json};

use super::{
    story::{Drama, Replica},
    writers::{Acks, percentile_ms},
};
use crate::cli::{table::grouped, write::round};

/// Everything that was found out.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) points_acked: u64,
    /// All queues of all nodes, as they report them.
    pub(super) hints: QueueStatus,
    pub(super) replicas: Vec<Replica>,
    pub(super) compare_seconds: f64,
    pub(super) acks: Acks,
    pub(super) drama: Drama,
}

impl Facts {
    /// Acknowledged points that some replica lacks or has with another value, counted per replica.
    fn missing(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.found.missing + replica.found.wrong).sum()
    }

    /// Acknowledged points that every replica has, as far as the worst of them has.
    fn verified(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.found.verified).min().unwrap_or(0)
    }

    fn values(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.found.values).sum()
    }

    fn unexpected(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.found.unexpected).sum()
    }

    /// What does not hold.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.points_acked == 0 {
            out.push("nothing was acknowledged".to_owned());
        }
        if self.missing() > 0 || self.verified() != self.points_acked {
            out.push(format!("{} points are missing or wrong on a replica", self.missing()));
        }
        if self.unexpected() > 0 {
            out.push(format!("{} points are there that nobody sent", self.unexpected()));
        }
        if self.replicas.len() != 3 || !Replica::identical(&self.replicas) {
            out.push("the replicas differ".to_owned());
        }
        if self.hints.delivered == 0 {
            out.push("no hint was delivered".to_owned());
        }
        if self.hints.pending > 0 {
            out.push(format!("{} hints are still pending", self.hints.pending));
        }
        if self.acks.errors > 0 {
            let first = self.acks.first_error.as_deref().unwrap_or("unknown");
            out.push(format!("{} writes failed, the first with: {first}", self.acks.errors));
        }
        out
    }

    fn latencies(&self) -> [f64; 3] {
        let Acks { healthy_us, down_us, .. } = &self.acks;
        [
            percentile_ms(healthy_us, 0.5),
            percentile_ms(healthy_us, 0.99),
            percentile_ms(down_us, 0.99),
        ]
    }

    /// The object of `--json`.
    pub(super) fn describe(&self, seconds: f64) -> Value {
        let [p50, p99, p99_down] = self.latencies();
        json!({
            "points_acked": self.points_acked,
            "points_acked_node_down": self.acks.points_down,
            "points_verified": self.verified(),
            "points_missing": self.missing(),
            "points_unexpected": self.unexpected(),
            "values_compared": self.values(),
            "replicas_identical": Replica::identical(&self.replicas),
            "replicas": self.replicas.iter().map(|replica| json!({
                "node": replica.name,
                "bytes": replica.bytes,
                "sha256": replica.sha256,
            })).collect::<Vec<_>>(),
            "hints_accepted": self.hints.accepted,
            "hints_delivered": self.hints.delivered,
            "hints_pending": self.hints.pending,
            "hints_pending_before_restart": self.drama.waiting,
            "write_errors": self.acks.errors,
            "ack_p50_ms": round(p50, 3),
            "ack_p99_ms": round(p99, 3),
            "ack_p99_ms_node_down": round(p99_down, 3),
            "killed": self.drama.victim,
            "new_leader": self.drama.new_leader,
            "election_seconds": round(self.drama.election.as_secs_f64(), 3),
            "node_down_seconds": round(self.drama.down.as_secs_f64(), 3),
            "drain_seconds": round(self.drama.drain.as_secs_f64(), 3),
            "compare_seconds": round(self.compare_seconds, 3),
            "seconds": round(seconds, 3),
            "ok": self.complaints().is_empty(),
        })
    }

    /// The report for people.
    pub(super) fn text(&self, seconds: f64) -> String {
        let [p50, p99, p99_down] = self.latencies();
        let Drama { victim, new_leader, .. } = &self.drama;
        let verdict =
            if self.complaints().is_empty() { "Nothing was lost." } else { "Something is wrong." };
        let identical = if Replica::identical(&self.replicas) { "identical" } else { "DIFFERENT" };
        let sha256 = self.replicas.first().map_or("", |replica| replica.sha256.as_str());
        format!(
            "{verdict}\n\n\
             Three node processes on this machine, mTLS between all, three copies of each\n\
             point, two writers that wait for two durable ones; {seconds:.0} s in all.\n\n  \
             written    {} points acknowledged,\n             \
             {} of them while {victim} was dead\n  \
             killed     {victim}, which led Raft, for {:.1} s; {new_leader} led {:.1} s later\n  \
             failed     {} writes\n  \
             latency    p50 {p50:.1} ms, p99 {p99:.1} ms; p99 {p99_down:.1} ms with {victim} dead\n  \
             hints      {} kept, {} delivered, {} pending\n  \
             verified   {} points on each of three disks,\n             \
             {} values compared, {} missing or wrong\n  \
             replicas   {identical}, SHA-256 {}...\n",
            grouped(self.points_acked),
            grouped(self.acks.points_down),
            self.drama.down.as_secs_f64(),
            self.drama.election.as_secs_f64(),
            self.acks.errors,
            grouped(self.hints.accepted),
            grouped(self.hints.delivered),
            grouped(self.hints.pending),
            grouped(self.verified()),
            grouped(self.values()),
            grouped(self.missing()),
            sha256.get(..16).unwrap_or(sha256),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::{demo::verify::Found, table::WIDTH};

    fn good() -> Facts {
        let replica = |name: &str| Replica {
            name: name.to_owned(),
            found: Found { verified: 1_234_567, values: 12_345_670, ..Found::default() },
            sha256: "0123456789abcdef0123".to_owned(),
            bytes: 9,
        };
        Facts {
            points_acked: 1_234_567,
            hints: QueueStatus { accepted: 2_345, delivered: 2_345, ..QueueStatus::default() },
            replicas: ["n1", "n2", "n3"].map(replica).to_vec(),
            compare_seconds: 5.0,
            acks: Acks {
                healthy_us: vec![12_345; 10],
                down_us: vec![23_456; 10],
                points_down: 400_000,
                ..Acks::default()
            },
            drama: Drama {
                victim: "n1".to_owned(),
                new_leader: "n2".to_owned(),
                election: Duration::from_millis(800),
                down: Duration::from_secs(10),
                drain: Duration::from_secs(3),
                waiting: 2_345,
            },
        }
    }

    #[test]
    fn what_must_hold() {
        assert_eq!(good().complaints(), Vec::<String>::new());
        let broken: [fn(&mut Facts); 9] = [
            |facts| facts.replicas[1].found.missing = 1,
            |facts| facts.replicas[1].found.wrong = 1,
            |facts| facts.replicas[2].found.verified -= 1,
            |facts| facts.replicas[0].found.unexpected = 1,
            |facts| facts.replicas[0].sha256.push('0'),
            |facts| drop(facts.replicas.pop()),
            |facts| facts.hints.delivered = 0,
            |facts| facts.hints.pending = 1,
            |facts| facts.acks.errors = 1,
        ];
        for (at, change) in broken.iter().enumerate() {
            let mut facts = good();
            change(&mut facts);
            assert_eq!(facts.complaints().len(), 1, "{at}");
            assert_eq!(facts.describe(1.0)["ok"], false);
        }
    }

    #[test]
    fn the_object_has_the_keys_of_the_contract() {
        let object = good().describe(42.0);
        for key in [
            "points_acked",
            "points_acked_node_down",
            "points_verified",
            "points_missing",
            "hints_accepted",
            "hints_delivered",
            "hints_pending",
            "write_errors",
            "ack_p50_ms",
            "ack_p99_ms",
            "ack_p99_ms_node_down",
            "seconds",
        ] {
            assert!(object[key].is_number(), "{key}");
        }
        assert_eq!(object["replicas_identical"], true);
    }

    #[test]
    fn the_report_fits_a_terminal() {
        let text = good().text(42.0);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.starts_with("Nothing was lost."));
    }
}
