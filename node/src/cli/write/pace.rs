//! `--rate`: not more than so many points per second.
//!
//! Invariants: whatever the batches, no more points go within any time than the rate allows for it,
//! plus [`BURST`] and one batch; so a pause is not made up for. The clock is the caller's.

use std::time::Duration;

use tokio::time::Instant;

/// What may be made up for: timers that fire late would make the rate too low otherwise.
const BURST: Duration = Duration::from_millis(100);

/// Gives every batch the moment from which it may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    per_second: u64,
    next: Option<Instant>,
}

impl Pace {
    pub(crate) const fn new(per_second: u64) -> Self {
        Self { per_second, next: None }
    }

    /// When the next batch may go; none if that is now.
    pub(crate) fn wait(&self, now: Instant) -> Option<Instant> {
        self.next.filter(|next| *next > now)
    }

    /// So many points go now.
    pub(crate) fn gone(&mut self, points: usize, now: Instant) {
        let nanos = (points as u128) * 1_000_000_000 / u128::from(self.per_second.max(1));
        let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.next.map_or(now, |next| next.max(earliest));
        // A moment beyond what the clock can say never comes.
        self.next = Some(from.checked_add(took).unwrap_or(from));
    }

    /// Lines of a batch: no more than a tenth of a second's points, so that they go evenly.
    pub(crate) fn lines(&self, most: usize) -> usize {
        usize::try_from(self.per_second / 10).unwrap_or(usize::MAX).clamp(1, most.max(1))
    }
}

/// Reads `500`, `20k` or `1.5M`: points per second.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no rate: use points per second, as 500, 20k or 1.5M");
    let (number, unit) = match text.strip_suffix(['k', 'M']) {
        Some(number) => (number, if text.ends_with('k') { 1e3 } else { 1e6 }),
        None => (text, 1.0),
    };
    if !number.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong());
    }
    let rate = number.parse::<f64>().map_err(|_| wrong())? * unit;
    if (1.0..=1e12).contains(&rate) { Ok(rate as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends batches as soon as they may go; returns the time of each in milliseconds.
    fn send(pace: &mut Pace, batches: &[usize], start: Instant, mut now: Instant) -> Vec<u128> {
        let mut times = Vec::new();
        for points in batches {
            now = pace.wait(now).unwrap_or(now);
            pace.gone(*points, now);
            times.push((now - start).as_millis());
        }
        times
    }

    #[test]
    fn batches_go_as_fast_as_the_rate_allows() {
        let (mut pace, start) = (Pace::new(1000), Instant::now());
        let times = send(&mut pace, &[100, 100, 500, 1, 0, 100], start, start);
        assert_eq!(times, [0, 100, 200, 700, 701, 701]);
        // After a pause of a minute, a tenth of a second is made up for.
        let later = start + Duration::from_secs(60);
        let times = send(&mut pace, &[100, 100, 100], start, later);
        assert_eq!(times, [60_000, 60_000, 60_100]);
    }

    #[test]
    fn late_timers_do_not_make_it_slower() {
        let (mut pace, start) = (Pace::new(1000), Instant::now());
        let mut now = start;
        for _ in 0..100 {
            now = pace.wait(now).unwrap_or(now) + Duration::from_millis(3);
            pace.gone(10, now);
        }
        assert_eq!((now - start).as_millis(), 990 + 3 + 3);
    }

    #[test]
    fn batches_are_small_where_the_rate_is() {
        let lines = |rate| Pace::new(rate).lines(5000);
        assert_eq!([1, 9, 1000, 49_999, 1 << 40].map(lines), [1, 1, 100, 4999, 5000]);
    }

    #[test]
    fn rates_are_read() {
        let good = [("1", 1), ("500", 500), ("20k", 20_000), ("1.5M", 1_500_000)];
        for (text, rate) in good {
            assert_eq!(parse_rate(text), Ok(rate));
        }
        for bad in ["", "0", "k", "-1", "+5", "5G", "5 k", "inf", "nan", "1e99", "0.5", "5K"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
