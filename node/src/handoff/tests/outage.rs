//! A target that is gone for eight days, on a virtual clock: appends, attempts to deliver and purges
//! go on beside each other, each by its own timer.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep_until};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// When it begins, nanoseconds since the Unix epoch.
const BEGIN: u64 = 1_700_000_000 * SECOND;
/// Hints of a day: one every ten minutes.
const PER_DAY: u64 = 144;

/// What a queue keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Size {
    segments: usize,
    handed_out: usize,
    lost: usize,
    books: usize,
}

fn size(handoff: &Handoff) -> Size {
    let queue = handoff.shared.queue(TARGET).unwrap();
    let state = queue.state();
    Size {
        segments: state.segments.len(),
        handed_out: state.in_flight.len() + state.returned.len(),
        lost: state.lost.len(),
        books: state.accounts.snapshot().len(),
    }
}

#[tokio::test(start_paused = true)]
async fn f01_an_outage_of_eight_days_leaves_seven_days_of_hints_and_marks_for_the_first() {
    let disk = MemoryDisk::new();
    let (handoff, _) = open_with(Arc::new(disk.clone()), HandoffConfig::default());
    let (handoff, shared) = (Arc::new(handoff), Arc::new(disk.clone()));
    let path = Path::new("/handoff").join(marks::FILE);
    let marks = Arc::new(Marks::open(path, 1, shared, Executor::Inline).unwrap());
    let begun = Instant::now();
    let now = move || BEGIN + begun.elapsed().as_nanos() as u64;

    // Attempts fail: what was handed out is handed back, at the longest pause between attempts.
    let attempts = tokio::spawn({
        let handoff = Arc::clone(&handoff);
        async move {
            let mut timer = interval(Duration::from_secs(60));
            loop {
                timer.tick().await;
                let records = handoff.peek(TARGET, 16, usize::MAX).await.unwrap();
                assert!(records.is_sorted_by_key(|record| record.sequence));
                tokio::time::sleep(Duration::from_secs(10)).await;
                handoff.rewind(TARGET);
            }
        }
    });
    let purges = tokio::spawn({
        let (handoff, marks) = (Arc::clone(&handoff), Arc::clone(&marks));
        async move {
            // Beside an attempt that has hints in flight, and sometimes between two.
            let mut timer = interval(HOUR + Duration::from_secs(7));
            loop {
                timer.tick().await;
                handoff.expire(now(), &marks, |_| Some((1, 2))).await.unwrap();
            }
        }
    });
    let mut at_seven_days = None;
    for hint in 1..=8 * PER_DAY {
        sleep_until(begun + DAY * hint as u32 / PER_DAY as u32).await;
        handoff.append(TARGET, ShardId(1), batch(hint), false, now()).await.unwrap();
        if hint == 7 * PER_DAY {
            at_seven_days = Some(size(&handoff));
        }
    }
    // One more purge, after which the oldest is a week old.
    sleep_until(begun + 8 * DAY + HOUR + Duration::from_secs(30)).await;
    let found = stats(&handoff);
    let expected = PER_DAY - 12..=PER_DAY + 7;
    assert!(expected.contains(&found.expired), "the purge did not keep up: {found:?}");
    assert_eq!(found.pending, 8 * PER_DAY - found.expired);
    let [mark] = marks.list()[..] else { panic!("{:?}", marks.list()) };
    assert_eq!(
        (mark.owner, mark.shard, mark.reason),
        (TARGET, ShardId(1), MarkReason::HintExpired)
    );
    let (before, after) = (at_seven_days.unwrap(), size(&handoff));
    assert!(
        after.segments <= before.segments
            && after.handed_out <= before.handed_out.max(16)
            && after.lost == 0
            && after.books <= before.books + 128,
        "memory grows: {before:?}, a day later {after:?}"
    );
    // The next hint behind all of this is delivered, after all that are left.
    let last = 8 * PER_DAY + 1;
    handoff.append(TARGET, ShardId(1), batch(last), false, now()).await.unwrap();
    attempts.abort();
    purges.abort();
    assert!(attempts.await.is_err_and(|error| error.is_cancelled()), "an attempt failed");
    assert!(purges.await.is_err_and(|error| error.is_cancelled()), "a purge failed");
    handoff.rewind(TARGET);
    let records = handoff.peek(TARGET, usize::MAX, usize::MAX).await.unwrap();
    let sequences: Vec<u64> = records.iter().map(|record| record.sequence.0).collect();
    assert_eq!(sequences, (found.expired + 1..=last).collect::<Vec<_>>());
    assert_eq!(records.last().unwrap().bytes, batch(last));
    deliver(&handoff, &sequences).await;
    assert_eq!(stats(&handoff).pending, 0);
}
