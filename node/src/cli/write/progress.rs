//! The progress bar of `write` and `hints import`, on standard error.
//!
//! Invariant: it is there only if standard error is a terminal (which indicatif sees to), so scripts
//! and pipes never see it; with an unknown total it says how much, not how much is left.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often it moves by itself, so that a stall does not look like a dead process.
const TICK: Duration = Duration::from_millis(200);

/// For `size` bytes of input as they are stored, where that is known. Fits 80 columns.
pub(crate) fn bar(size: Option<u64>) -> ProgressBar {
    let (bar, style) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {elapsed} left {eta}",
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

/// What has been read already, by another run, says nothing about the time that is left.
pub(crate) fn begin_at(bar: &ProgressBar, position: u64) {
    bar.set_position(position);
    // The estimate takes note of the position only when something is drawn, and a reset keeps it.
    bar.set_message("");
    bar.reset_eta();
}

/// So many points have been written in this time.
pub(crate) fn points(bar: &ProgressBar, points: usize, elapsed: Duration) {
    if !bar.is_hidden() {
        let rate = points as f64 / elapsed.as_secs_f64().max(0.001);
        bar.set_message(format!("{} points {}/s", short(points as f64), short(rate)));
    }
}

/// A number in few characters.
fn short(number: f64) -> String {
    match number {
        n if n < 1e4 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1}k", n / 1e3),
        n if n < 1e9 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let short = [0.0, 9_999.0, 12_345.0, 1.5e6, 2.25e9].map(short);
        assert_eq!(short, ["0", "9999", "12.3k", "1.5M", "2.2G"]);
    }
}
