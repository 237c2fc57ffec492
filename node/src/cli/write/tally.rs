//! What became of the points of one `quorate write`.

use quorate_client::{Receipt, WriteError, receipt::Dropped};
use quorate_protocol::code::Class;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::{
    table::{count, grouped},
    time::format_time,
};

/// The counts of the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Points that reached their level.
    pub(crate) points: usize,
    /// Batches that were sent.
    pub(crate) batches: usize,
    /// Lines that could not be read, and points that will never be taken.
    pub(crate) rejected: usize,
    /// Points left out because their policy would have expired them.
    pub(crate) dropped: usize,
    /// Points that failed and may succeed when written again.
    pub(crate) errors: usize,
    /// Hints that stand in for copies, as far as known when the writes were answered.
    pub(crate) hints: usize,
    /// Copies that their owners had not synced when the writes were answered.
    pub(crate) buffered: usize,
    /// Times of what was dropped.
    pub(super) range: Option<(i64, i64)>,
}

impl Tally {
    /// A batch of `points` points: every attempt's receipt but a last one's that failed.
    pub(crate) fn sent(&mut self, points: usize, receipts: &[Receipt], error: Option<&WriteError>) {
        self.batches += 1;
        let mut lost = 0;
        // What was dropped once was not sent again.
        for receipt in receipts.iter().chain(error.map(|error| &*error.receipt)) {
            self.receipt(receipt);
            lost += receipt.dropped.map_or(0, |dropped| dropped.points);
        }
        for group in error.iter().flat_map(|error| &error.failed) {
            lost += group.rows.len();
            if group.code.class() == Class::Never {
                self.rejected += group.rows.len();
            } else {
                self.errors += group.rows.len();
            }
        }
        self.points += points.saturating_sub(lost);
    }

    fn receipt(&mut self, receipt: &Receipt) {
        self.hints += receipt.hints();
        self.buffered += receipt.buffered();
        if let Some(Dropped { points, min_time, max_time, .. }) = receipt.dropped {
            self.dropped += points;
            let (min, max) = self.range.unwrap_or((min_time, max_time));
            self.range = Some((min.min(min_time), max.max(max_time)));
        }
    }

    /// Whether all that was read was written.
    pub(crate) const fn complete(&self) -> bool {
        self.rejected == 0 && self.dropped == 0 && self.errors == 0
    }

    /// The object of `--json`.
    pub(crate) fn describe(&self, seconds: f64) -> Value {
        json!({
            "points": self.points,
            "batches": self.batches,
            "rejected": self.rejected,
            "dropped": self.dropped,
            "errors": self.errors,
            "hints": self.hints,
            "seconds": round(seconds, 6),
            "points_per_s": self.rate(seconds),
        })
    }

    /// The report for people.
    pub(crate) fn sentence(&self, seconds: f64) -> String {
        let number = |count: usize| grouped(count as u64);
        let mut text = format!(
            "{} in {}, {seconds:.1} s, {} points/s",
            count(self.points, "point", "points"),
            count(self.batches, "batch", "batches"),
            grouped(self.rate(seconds)),
        );
        if self.hints > 0 {
            text.push_str(&format!("; {} hints for nodes that are down", number(self.hints)));
        }
        if self.buffered > 0 {
            let copies = count(self.buffered, "copy", "copies");
            text.push_str(&format!("; {copies} buffered, their nodes sync at intervals"));
        }
        if self.rejected > 0 {
            text.push_str(&format!("; {} rejected", number(self.rejected)));
        }
        if let Some((min, max)) = self.range {
            let (min, max) = (format_time(min), format_time(max));
            text.push_str(&format!(
                "; {} dropped, their policy keeps nothing as old ({min} to {max})",
                number(self.dropped)
            ));
        }
        if self.errors > 0 {
            text.push_str(&format!("; {} failed, write them again", number(self.errors)));
        }
        text
    }

    fn rate(&self, seconds: f64) -> u64 {
        // A rate above 2^53 points a second would lose digits; there is none.
        if seconds > 0.0 { (self.points as f64 / seconds).round() as u64 } else { 0 }
    }
}

/// A number with this many digits behind the point.
pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_keys_of_the_contract() {
        let tally = Tally { points: 10, batches: 2, ..Tally::default() };
        let object = tally.describe(0.5);
        let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "points",
            "batches",
            "rejected",
            "dropped",
            "errors",
            "hints",
            "seconds",
            "points_per_s",
        ];
        assert_eq!(keys, expected);
        assert_eq!(object["points_per_s"], 20);
        assert!(tally.complete());
        assert_eq!(tally.sentence(0.5), "10 points in 2 batches, 0.5 s, 20 points/s");
        let buffered = Tally { buffered: 4, ..tally }.sentence(0.5);
        assert!(buffered.ends_with("; 4 copies buffered, their nodes sync at intervals"));
    }
}
