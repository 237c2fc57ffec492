//! Lines about peers, as seldom as a log can bear.
//!
//! Invariant: however many peers are refused or closed, they bring about no more than `log_lines`
//! lines in [`SPAN`]; how many were left out is said with the next one.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Part of what `log_lines` means.
const SPAN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Seldom {
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Seldom {
    /// No more than `most` lines in a span.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Says it, unless enough was said lately.
    pub(crate) fn warn(&self, line: fmt::Arguments<'_>) {
        match self.take(Instant::now()) {
            Some(0) => tracing::warn!("{line}"),
            Some(left_out) => tracing::warn!("{line} ({left_out} lines like this were left out)"),
            None => {}
        }
    }

    /// Whether a line may be said, and how many were not since the last.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now - since >= SPAN) {
            (state.since, state.lines) = (Some(now), 0);
        }
        if state.lines >= self.most {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_are_few_and_what_was_left_out_is_told() {
        let (log, now) = (Seldom::new(7), Instant::now());
        let said = (0..10_000).filter(|_| log.take(now).is_some()).count();
        assert_eq!(said, 7);
        assert_eq!(log.take(now + SPAN), Some(10_000 - 7));
        assert_eq!(log.take(now + SPAN), Some(0));
    }
}
