//! What the demo shows while it runs, on standard error.
//!
//! Invariant: on a terminal two progress lines stand below the story; elsewhere only the story's
//! lines appear. Standard output stays free for the report.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;

use super::writers::Progress;
use crate::cli::{table::grouped, tell};

/// The lines on the terminal.
pub(super) struct Screen {
    all: MultiProgress,
    fleet: ProgressBar,
    live: ProgressBar,
    hints: ProgressBar,
    terminal: bool,
    began: Instant,
    /// Points and the time they were counted, for the rate.
    last: (u64, Instant),
}

impl Screen {
    pub(super) fn new() -> Self {
        let all = MultiProgress::new();
        let line = |name: &'static str| {
            let bar = all.add(ProgressBar::new_spinner().with_prefix(name));
            if let Ok(style) = ProgressStyle::with_template("  {prefix:<12} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        };
        let now = Instant::now();
        Self {
            fleet: line("fleet"),
            live: line("this host"),
            hints: line("hints"),
            all,
            terminal: std::io::stderr().is_terminal(),
            began: now,
            last: (0, now),
        }
    }

    /// The next sentence of the story.
    pub(super) fn say(&self, text: &str) {
        let line = format!("{:5.1} s  {text}", self.began.elapsed().as_secs_f64());
        if self.terminal {
            // The same as for a closed standard error: nobody to tell.
            let _ = self.all.println(line);
        } else {
            tell(&line);
        }
    }

    /// Brings the progress lines up to date.
    pub(super) fn update(&mut self, progress: &Progress, hints: &str) {
        let now = Instant::now();
        let fleet = progress.fleet.load(Ordering::Relaxed);
        let spent = now.duration_since(self.last.1);
        if spent >= Duration::from_millis(900) {
            let rate = (fleet - self.last.0) as f64 / spent.as_secs_f64();
            let rate = grouped(rate.round() as u64);
            self.fleet.set_message(format!("{} points acked, {rate}/s", grouped(fleet)));
            self.last = (fleet, now);
        }
        let live = progress.live.load(Ordering::Relaxed);
        let errors = match progress.errors.load(Ordering::Relaxed) {
            0 => String::new(),
            errors => format!(", {errors} failed writes"),
        };
        self.live.set_message(format!("{} points acked{errors}", grouped(live)));
        self.hints.set_message(hints.to_owned());
    }

    /// Removes the progress lines.
    pub(super) fn clear(&self) {
        for bar in [&self.fleet, &self.live, &self.hints] {
            bar.finish_and_clear();
        }
    }
}
