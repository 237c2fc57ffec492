//! How benchmarks say what they found, for people, scripts and each other.
//!
//! A line is `RES name key=value ... : figure=number ...`: what was measured, then the figures. A part
//! that runs in a process of its own prints lines, the process that started it reads them back,
//! groups them by what was measured and prints medians as `MED` lines. Invariant: what is printed can be read
//! back.

use std::{collections::BTreeMap, fmt};

/// One result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// The benchmark and what tells its cases apart.
    pub case: String,
    /// Names and numbers.
    pub figures: Vec<(String, f64)>,
}

impl Line {
    /// A result of this benchmark.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { case: name.to_owned(), figures: Vec::new() }
    }

    /// Tells the case apart from others.
    #[must_use]
    pub fn case(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.case.push_str(&format!(" {key}={value}"));
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn figure(mut self, name: &str, value: f64) -> Self {
        self.figures.push((name.to_owned(), value));
        self
    }

    /// Adds a count or a number of bytes.
    #[must_use]
    pub fn count(self, name: &str, value: u64) -> Self {
        self.figure(name, value as f64)
    }

    /// A figure by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Reads a line back; `None` if it is something else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (case, figures) = line.strip_prefix("RES ")?.split_once(" : ")?;
        let figures = figures.split(' ').map(|figure| {
            let (name, value) = figure.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Some(Self { case: case.to_owned(), figures: figures.collect::<Option<_>>()? })
    }
}

/// A number with as many digits as mean something.
fn number(value: f64) -> String {
    if value == value.trunc() || value.abs() >= 1e5 {
        format!("{value:.0}")
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RES {} :", self.case)?;
        self.figures.iter().try_for_each(|(name, value)| write!(f, " {name}={}", number(*value)))
    }
}

/// The results of all runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    cases: Vec<String>,
    runs: BTreeMap<(String, String), Vec<f64>>,
    /// Figures of each case, in the order in which they came.
    names: BTreeMap<String, Vec<String>>,
}

impl Summary {
    /// Takes in a result.
    pub fn add(&mut self, line: &Line) {
        if !self.cases.contains(&line.case) {
            self.cases.push(line.case.clone());
        }
        for (name, value) in &line.figures {
            let names = self.names.entry(line.case.clone()).or_default();
            if !names.contains(name) {
                names.push(name.clone());
            }
            self.runs.entry((line.case.clone(), name.clone())).or_default().push(*value);
        }
    }

    /// The median of a figure over all runs of a case.
    #[must_use]
    pub fn median(&self, case: &str, name: &str) -> Option<f64> {
        let runs = self.runs.get(&(case.to_owned(), name.to_owned()))?;
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = sorted.get(middle)?;
        Some(if sorted.len() % 2 == 1 { *upper } else { (sorted[middle - 1] + upper) / 2.0 })
    }

    /// `MED` lines: per case and figure the median and, over several runs, least and most.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for case in &self.cases {
            out.push_str(&format!("MED {case} :"));
            for name in self.names.get(case).into_iter().flatten() {
                let runs = self.runs.get(&(case.clone(), name.clone()));
                let runs = runs.map_or(&[][..], Vec::as_slice);
                let median = number(self.median(case, name).unwrap_or(f64::NAN));
                out.push_str(&format!(" {name}={median}"));
                if runs.len() > 1 {
                    let least = runs.iter().copied().fold(f64::INFINITY, f64::min);
                    let most = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    out.push_str(&format!("[{}-{}]", number(least), number(most)));
                }
            }
            out.push('\n');
        }
        out
    }

    /// A `GOAL` line: a ratio or figure beside what it should be.
    #[must_use]
    pub fn goal(what: &str, value: Option<f64>, least: Option<f64>, most: Option<f64>) -> String {
        let Some(value) = value else { return format!("GOAL {what} : not measured\n") };
        let met = least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most);
        let wanted = match (least, most) {
            (Some(least), _) => format!(">={}", number(least)),
            (None, Some(most)) => format!("<={}", number(most)),
            (None, None) => "any".to_owned(),
        };
        let word = if met { "yes" } else { "NO" };
        format!("GOAL {what} : value={} wanted{wanted} met={word}\n", number(value))
    }
}

/// The value that `percent` of all do not exceed; the values need no order.
#[must_use]
pub fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back_and_summed_up() {
        let line = Line::new("ingest").case("series", 1_000).count("rows", 5).figure("ns", 1.25);
        assert_eq!(line.to_string(), "RES ingest series=1000 : rows=5 ns=1.250");
        assert_eq!(Line::parse(&line.to_string()), Some(line.clone()));
        assert_eq!(Line::parse("something else"), None);
        let mut summary = Summary::default();
        for ns in [3.5, 1.5, 2.5] {
            summary.add(&Line::new("ingest").case("series", 1_000).figure("ns", ns));
        }
        assert_eq!(summary.median("ingest series=1000", "ns"), Some(2.5));
        assert_eq!(summary.text(), "MED ingest series=1000 : ns=2.500[1.500-3.500]\n");
        assert!(Summary::goal("g", Some(0.5), Some(0.4), None).ends_with("met=yes\n"));
        assert!(Summary::goal("g", Some(0.5), None, Some(0.4)).ends_with("met=NO\n"));
        assert_eq!(percentile(&mut [5, 1, 4, 2, 3], 50), 3);
        assert_eq!(percentile(&mut [], 99), 0);
    }
}
