//! The progress bar of `write` and `hints import`, on standard error.
//!
//! Invariant: it is there only if standard error is a terminal (which indicatif sees to), so scripts
//! and pipes never see it; with an unknown total it says how much, not how much is left.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::table::grouped;

/// How often it moves by itself, so that a stall does not look like a dead process.
const TICK: Duration = Duration::from_millis(200);

/// For `size` bytes of input as they are stored, where that is known.
pub(crate) fn bar(size: Option<u64>) -> ProgressBar {
    let (bar, style) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:20} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {elapsed} left {eta}",
        ),
        None => {
            (ProgressBar::new_spinner(), "{spinner} {bytes} {binary_bytes_per_sec} {msg} {elapsed}")
        }
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// So many points have been written in this time.
pub(crate) fn points(bar: &ProgressBar, points: usize, elapsed: Duration) {
    if bar.is_hidden() {
        return;
    }
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = (points as f64 / seconds) as u64;
    bar.set_message(format!("{} points {}/s", grouped(points as u64), grouped(rate)));
}
