//! What a `verify` command found: a row or JSON line for each thing it looked at, one line for each
//! problem, and progress meanwhile.
//!
//! Invariant: every problem is counted, also those that a report only counts. Used by `quorate shard
//! verify` and `quorate hints verify`.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{
    fail::Fail,
    output::Output,
    table::{Table, count, grouped},
};

pub(crate) struct Findings {
    json: bool,
    out: Output,
    table: Table,
    /// One line each.
    problems: Vec<String>,
    found: u64,
    bar: ProgressBar,
}

impl Findings {
    /// A table with this header, or JSON lines; so many steps to go.
    pub(crate) fn new(json: bool, steps: usize, header: &[&str]) -> Self {
        let bar = ProgressBar::new(steps as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} left {eta}") {
            bar.set_style(style);
        }
        Self {
            json,
            out: Output::new(),
            table: Table::new(header),
            problems: Vec::new(),
            found: 0,
            bar,
        }
    }

    /// One step is done; `what` is being looked at.
    pub(crate) fn step(&self, what: String) {
        self.bar.set_message(what);
        self.bar.inc(1);
    }

    /// Takes the problems of a place: all of those `found` that have a text, and the number of the
    /// others.
    pub(crate) fn problems(
        &mut self,
        place: &str,
        found: u64,
        texts: impl ExactSizeIterator<Item = String>,
        advice: &str,
    ) {
        self.found += found;
        let untold = found.saturating_sub(texts.len() as u64);
        for text in texts {
            let text = text.replace(['\n', '\r'], " ");
            self.problems.push(format!("{place}: {text}; {advice}"));
        }
        if untold > 0 {
            self.problems.push(format!("{place}: {} more; {advice}", grouped(untold)));
        }
    }

    /// Takes note of a place that gave no report.
    pub(crate) fn unread(&mut self, place: &str, why: &str, line: &Value) -> Result<(), Fail> {
        self.found += 1;
        self.problems.push(format!("{place}: not verified: {why}"));
        if self.json { self.out.json(line) } else { Ok(()) }
    }

    /// What a place has, both ways; the header has as many columns.
    pub(crate) fn entry<const N: usize>(
        &mut self,
        line: &Value,
        row: [String; N],
    ) -> Result<(), Fail> {
        if self.json {
            return self.out.json(line);
        }
        self.table.row(row);
        Ok(())
    }

    /// Shows what is not shown yet; an error if there are problems.
    pub(crate) fn finish(mut self) -> Result<(), Fail> {
        self.bar.finish_and_clear();
        if !self.json {
            self.out.bytes(self.table.render().as_bytes())?;
            for problem in &self.problems {
                self.out.line(problem)?;
            }
        }
        self.out.flush()?;
        match self.found {
            0 => Ok(()),
            found => {
                let found =
                    count(usize::try_from(found).unwrap_or(usize::MAX), "problem", "problems");
                Err(Fail::failed(format!("{found}; keep the other owners up until it is mended")))
            }
        }
    }
}
