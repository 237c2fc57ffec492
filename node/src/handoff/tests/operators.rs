//! What operators do: looking takes nothing out, what is dropped or retried is so across any crash
//! and counted once, verification finds what is damaged and changes nothing.

use quorate_protocol::{
    batch::{Batch, PartHeader, Selection, encode_part},
    id::{FieldId, Version},
    message::QueueVerified,
    point::Point,
};

use super::*;

const NOW: u64 = 1_000_000 * SECOND;
const REFUSED: Terminal = Terminal::Quarantined(QuarantineReason::Refused(31));
const ALL: Choice = Choice { shard: None, force_any: false };
const FORCE: Choice = Choice { shard: None, force_any: true };

/// A batch that can be read.
fn part(number: u64) -> Bytes {
    let mut batch = Batch::new();
    let point = Point::builder("cpu").tag("host", format!("h{number}")).field("v", number as f64);
    batch.push(&point.at(number as i64).unwrap());
    let header = PartHeader {
        shard: ShardId(number % 4),
        version: Version(number),
        ..PartHeader::default()
    };
    encode_part(&batch, &header, Selection::All, &|_, _, _| Some(FieldId(1))).unwrap()
}

/// All that a look sees, in pages.
async fn seen(look: Option<Look>) -> Vec<Seen> {
    let (mut look, mut all) = (look.unwrap(), Vec::new());
    loop {
        let page = look.next(|seen| seen).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn sequences(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|seen| seen.sequence.0).collect()
}

fn stopped(disk: &MemoryDisk) -> Stopped {
    Stopped::read(PathBuf::from("/handoff"), Arc::new(disk.clone())).unwrap()
}

#[tokio::test]
async fn a_look_shows_what_is_pending_in_order_and_takes_nothing_out() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=40).await;
    handoff.append(TARGET, ShardId(1), batch(41), true, 41 * SECOND).await.unwrap();
    fill(&handoff, 42..=60).await;
    handoff.peek(TARGET, 30, usize::MAX).await.unwrap();
    let ended: Vec<u64> = (1..=20).chain([22, 25]).collect();
    deliver(&handoff, &ended).await;
    handoff.put_back(TARGET, &[Sequence(23)]);
    let expected: Vec<u64> = (21..=60).filter(|sequence| !ended.contains(sequence)).collect();
    for look in [handoff.look(TARGET, false), stopped(&disk).look(TARGET, false).unwrap()] {
        let found = seen(look).await;
        assert_eq!(sequences(&found), expected);
        for hint in &found {
            let sequence = hint.sequence.0;
            assert_eq!((&hint.bytes, hint.count), (&batch(sequence), 1));
            assert_eq!((hint.shard, hint.appended_at), (ShardId(sequence % 4), sequence * SECOND));
            assert_eq!((hint.any_ack, hint.damaged, hint.reason), (sequence == 41, false, None));
        }
    }
    // The drain goes on as if nobody had looked.
    assert_eq!(handoff.peek(TARGET, 3, usize::MAX).await.unwrap()[0].sequence, Sequence(23));
    assert_eq!(take_all(&handoff).await, (33..=60).collect::<Vec<_>>());
    assert!(handoff.look(NodeId(9), false).is_none());
}

#[tokio::test]
async fn a_look_comes_in_pages_and_ends_at_what_was_there_when_it_began() {
    let handoff = open(&MemoryDisk::new());
    fill(&handoff, 1..=4200).await;
    let mut look = handoff.look(TARGET, false).unwrap();
    let first = look.next(|seen| seen.sequence.0).await.unwrap();
    assert_eq!(first.len(), 4096);
    fill(&handoff, 4201..=4300).await;
    // What the look has not come to may end and its files may go.
    take_all(&handoff).await;
    deliver(&handoff, &(4000..=4150).collect::<Vec<_>>()).await;
    let second = look.next(|seen| seen.sequence.0).await.unwrap();
    assert_eq!(second, (4151..=4200).collect::<Vec<_>>());
    assert!(look.next(|seen| seen).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_look_passes_damage_and_says_what_it_has_cost() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=60).await;
    let file = disk.open(&segment(1), Open::Existing).unwrap();
    file.write_at(128 + 60, &[0xff; 150]).unwrap();
    disk.remove(&segment(3)).unwrap();
    let found = seen(stopped(&disk).look(TARGET, false).unwrap()).await;
    let lost: u64 = found.iter().filter(|seen| seen.damaged).map(|seen| seen.count).sum();
    let whole = found.iter().filter(|seen| !seen.damaged).count() as u64;
    assert!(found.iter().filter(|seen| seen.damaged).count() == 2 && lost >= 8, "{lost}");
    assert_eq!(whole + lost, 60);
    for hint in found.iter().filter(|seen| !seen.damaged) {
        assert_eq!(hint.bytes, batch(hint.sequence.0), "altered data was shown");
    }
}

#[tokio::test]
async fn what_is_dropped_is_so_durably_and_what_any_rests_on_stays() {
    let disk = MemoryDisk::new();
    let handoff = open(&disk);
    fill(&handoff, 1..=40).await;
    for sequence in 41..=43 {
        let shard = ShardId(sequence % 4);
        let stamp = sequence * SECOND;
        handoff.append(TARGET, shard, batch(sequence), true, stamp).await.unwrap();
    }
    fill(&handoff, 44..=60).await;
    let one = Choice { shard: Some(ShardId(1)), force_any: false };
    // Some are under way, and end all the same.
    handoff.peek(TARGET, 10, usize::MAX).await.unwrap();
    let taken = handoff.discard(TARGET, one).await.unwrap();
    let of_one: Vec<u64> = (1..=60).filter(|s| s % 4 == 1 && *s != 41).collect();
    assert_eq!(taken, Taken { done: of_one.len() as u64, any: 1, damaged: 0 });
    let late = handoff.complete(TARGET, Sequence(1), Terminal::Delivered).await;
    assert!(matches!(late, Err(HandoffError::NotPending { .. })), "it ended twice");
    let again = open(&disk.crash(Keep::Synced));
    let left: Vec<u64> = (1..=60).filter(|s| !of_one.contains(s)).collect();
    assert_eq!(take_all(&again).await, left);
    let figures = stats(&again);
    assert_eq!((figures.discarded, figures.quarantined), (taken.done, 0));
    let dropped = Terminal::Discarded(DiscardReason::Dropped);
    let reason = Reason { terminal: dropped, shard: ShardId(1), count: taken.done };
    assert_eq!(figures.reasons, [reason]);

    let taken = handoff.discard(TARGET, ALL).await.unwrap();
    assert_eq!((taken.done, taken.any), (left.len() as u64 - 3, 3));
    assert_eq!(handoff.discard(TARGET, FORCE).await.unwrap().done, 3);
    assert_eq!((stats(&handoff).pending, stats(&handoff).discarded), (0, 60));
    assert!(segments(&disk).len() <= 1, "files of dropped hints remain");
    // The cursor passes what is gone without taking it for damage, and the queue goes on.
    assert_eq!(take_all(&handoff).await, [0_u64; 0]);
    fill(&handoff, 61..=62).await;
    assert_eq!(take_all(&handoff).await, [61, 62]);
    assert_eq!(stats(&handoff).quarantined, 0);
    assert_eq!(handoff.discard(NodeId(9), ALL).await.unwrap(), Taken::default());
}

#[tokio::test]
async fn a_drop_that_cannot_be_stored_is_not_reported() {
    let memory = MemoryDisk::new();
    let disk = FaultDisk::new(Arc::new(memory.clone()));
    let (handoff, _) = open_with(Arc::new(disk.clone()), config());
    fill(&handoff, 1..=10).await;
    disk.fail_sync(1);
    assert!(matches!(handoff.discard(TARGET, ALL).await, Err(HandoffError::Io(_))));
    assert_eq!(disk.injected().syncs, 1);
    assert_eq!(stats(&handoff).pending, 10);
    assert_eq!(handoff.discard(TARGET, ALL).await.unwrap().done, 10);
    assert_eq!(stats(&open(&memory.crash(Keep::Synced))).pending, 0);
}

/// Refuses all hints that are pending.
async fn refuse(handoff: &Handoff) {
    loop {
        let records = handoff.peek(TARGET, 4, usize::MAX).await.unwrap();
        if records.is_empty() {
            return;
        }
        let ends = records.iter().map(|record| (record.sequence, REFUSED));
        handoff.complete_all(TARGET, ends.collect()).await.unwrap();
    }
}

const GOOD: u64 = 12;
const BAD: [u64; 3] = [2, 7, 15];

/// Fifteen hints in quarantine, in several files: twelve batches, on two of which an `any` rests,
/// and three that are none.
async fn quarantine(disk: &MemoryDisk) {
    let handoff = open(disk);
    for number in 1..=15 {
        let bytes = if BAD.contains(&number) { batch(number) } else { part(number) };
        let (shard, any) = (ShardId(number % 4), matches!(number, 5 | 6));
        handoff.append(TARGET, shard, bytes, any, number * SECOND).await.unwrap();
    }
    refuse(&handoff).await;
    assert_eq!(stats(&handoff).quarantined, 15);
    let files = disk.paths().iter().filter(|path| path.starts_with(aside())).count();
    assert!(files > 1, "{files}");
}

fn aside() -> PathBuf {
    PathBuf::from("/handoff/3/quarantine")
}

/// The numbers of the hints that are pending, from what they hold; each is as it should be.
async fn retried(handoff: &Handoff) -> Vec<u64> {
    let found = seen(handoff.look(TARGET, false)).await;
    let number = |hint: &Seen| {
        assert_eq!((hint.appended_at, hint.damaged), (NOW, false));
        let number = (1..=15).find(|number| part(*number) == hint.bytes).unwrap();
        assert_eq!((hint.shard, hint.any_ack), (ShardId(number % 4), matches!(number, 5 | 6)));
        number
    };
    found.iter().map(number).collect()
}

#[tokio::test]
async fn what_is_retried_is_pending_again_and_what_is_no_batch_stays() {
    let disk = MemoryDisk::new();
    quarantine(&disk).await;
    let handoff = open(&disk);
    let shown = seen(handoff.look(TARGET, true)).await;
    assert_eq!(sequences(&shown), up_to(15));
    assert!(shown.iter().all(|hint| hint.reason == Some(REFUSED)));
    let any: Vec<u64> = shown.iter().filter(|hint| hint.any_ack).map(|h| h.sequence.0).collect();
    assert_eq!(any, [5, 6]);
    let taken = handoff.retry(TARGET, ALL, NOW).await.unwrap();
    assert_eq!(taken, Taken { done: GOOD, any: 0, damaged: 3 });
    let good: Vec<u64> = (1..=15).filter(|number| !BAD.contains(number)).collect();
    assert_eq!(retried(&handoff).await, good);
    let figures = stats(&handoff);
    assert_eq!((figures.accepted, figures.pending, figures.quarantined), (15 + GOOD, GOOD, 15));
    assert_eq!(handoff.retry(TARGET, ALL, NOW).await.unwrap().done, 0, "retried twice");
    let again = open(&disk.crash(Keep::Synced));
    assert_eq!(sequences(&seen(again.look(TARGET, true)).await), BAD);
    // Refused again, they are quarantined again, under their new sequences.
    refuse(&handoff).await;
    assert_eq!(stats(&handoff).quarantined, 15 + GOOD);
    assert_eq!(handoff.retry(TARGET, ALL, NOW).await.unwrap().done, GOOD);
    assert_eq!(retried(&handoff).await, good);
}

#[tokio::test]
async fn a_retry_that_a_crash_cuts_short_neither_loses_nor_doubles() {
    let good: Vec<u64> = (1..=15).filter(|number| !BAD.contains(number)).collect();
    for stop in 0.. {
        let memory = MemoryDisk::new();
        quarantine(&memory).await;
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let (handoff, _) = open_with(Arc::new(disk.clone()), config());
        disk.stop_after(stop);
        let told = handoff.retry(TARGET, ALL, NOW).await;
        for keep in [Keep::All, Keep::Synced, Keep::First(11), Keep::First(200)] {
            let after = memory.crash(keep);
            let (again, report) = open_with(Arc::new(after.clone()), config());
            assert!(report.failed.is_empty(), "stop {stop} {keep:?} {report:?}");
            let found = retried(&again).await;
            assert_eq!(stats(&again).pending, found.len() as u64, "stop {stop} {keep:?}");
            if told.is_ok() {
                assert_eq!(found, good, "stop {stop} {keep:?}: it was reported");
            }
            let kept = seen(again.look(TARGET, true)).await;
            for number in &good {
                let aside = kept.iter().any(|hint| hint.sequence.0 == *number);
                assert!(aside || found.contains(number), "stop {stop} {keep:?}: {number} is lost");
            }
            again.retry(TARGET, ALL, NOW).await.unwrap();
            let mut found = retried(&again).await;
            found.sort_unstable();
            assert_eq!(found, good, "stop {stop} {keep:?}: lost or doubled");
            let figures = stats(&again);
            let counts = (figures.accepted, figures.pending, figures.quarantined);
            assert_eq!(counts, (15 + GOOD, GOOD, 15), "stop {stop} {keep:?}");
            let kept = sequences(&seen(again.look(TARGET, true)).await);
            assert_eq!(kept, BAD, "stop {stop} {keep:?}");
        }
        if disk.injected().stopped == 0 {
            assert_eq!(told.unwrap().done, GOOD);
            assert!(stop > 15, "the run was too short to mean anything: {stop}");
            return;
        }
    }
}

#[tokio::test]
async fn a_retry_that_a_full_queue_cuts_short_goes_on_where_it_was() {
    // Room for some of a file's hints, wherever in the file that ends.
    for segment_bytes in [320, 512, 640, 768, 1024] {
        let disk = MemoryDisk::new();
        quarantine(&disk).await;
        let limits = HandoffConfig { segment_bytes, max_bytes: 1024 + segment_bytes, ..config() };
        let (handoff, _) = open_with(Arc::new(disk.clone()), limits);
        let mut refusals = 0;
        let mut done = Vec::new();
        loop {
            let result = handoff.retry(TARGET, ALL, NOW).await;
            done.extend(retried(&handoff).await);
            let pending = take_sequences(&handoff).await;
            deliver(&handoff, &pending).await;
            match result {
                Err(HandoffError::QueueFull { .. }) => refusals += 1,
                other => {
                    assert!(other.is_ok(), "{other:?}");
                    break;
                }
            }
            assert!(refusals < 20, "it never ends");
        }
        assert!(refusals > 0, "the queue was never full");
        let good: Vec<u64> = (1..=15).filter(|number| !BAD.contains(number)).collect();
        assert_eq!(done, good, "{segment_bytes}");
        let counts = (stats(&handoff).accepted, stats(&handoff).delivered);
        assert_eq!(counts, (15 + GOOD, GOOD), "{segment_bytes}");
    }
}

/// Hands out everything.
async fn take_sequences(handoff: &Handoff) -> Vec<u64> {
    let records = handoff.peek(TARGET, 1000, usize::MAX).await.unwrap();
    records.iter().map(|record| record.sequence.0).collect()
}

#[tokio::test]
async fn quarantined_hints_are_dropped_as_chosen_and_the_books_stay() {
    let disk = MemoryDisk::new();
    quarantine(&disk).await;
    let handoff = open(&disk);
    let one = Choice { shard: Some(ShardId(1)), force_any: false };
    let taken = handoff.discard_quarantined(TARGET, one).await.unwrap();
    // Hints 1, 9 and 13; an `any` rests on 5.
    assert_eq!(taken, Taken { done: 3, any: 1, damaged: 0 });
    let left = |disk: &MemoryDisk| {
        let handoff = open(&disk.crash(Keep::Synced));
        async move { sequences(&seen(handoff.look(TARGET, true)).await) }
    };
    assert_eq!(left(&disk).await, [2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15]);
    assert_eq!(handoff.discard_quarantined(TARGET, ALL).await.unwrap().any, 2);
    assert_eq!(left(&disk).await, [5, 6]);
    assert_eq!(handoff.discard_quarantined(TARGET, FORCE).await.unwrap().done, 2);
    assert_eq!(left(&disk).await, [0_u64; 0]);
    assert!(!disk.paths().iter().any(|path| path.starts_with(aside())), "files remain");
    assert_eq!((stats(&handoff).quarantined, stats(&handoff).pending), (15, 0));
    // And there is room for more.
    handoff.append(TARGET, ShardId(1), part(1), false, SECOND).await.unwrap();
    refuse(&handoff).await;
    assert_eq!(left(&disk).await, [16]);
}

/// A queue with something of everything.
async fn everything(disk: &MemoryDisk) {
    let handoff = open(disk);
    fill(&handoff, 1..=40).await;
    let records = handoff.peek(TARGET, 5, usize::MAX).await.unwrap();
    let ends = records.iter().zip([Terminal::Delivered, REFUSED].iter().cycle());
    let ends = ends.map(|(record, terminal)| (record.sequence, *terminal)).collect();
    handoff.complete_all(TARGET, ends).await.unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let marks = Marks::open("/handoff/marks".into(), 1, shared, Executor::Inline).unwrap();
    let (shard, owner, reason) = (ShardId(1), TARGET, MarkReason::HintExpired);
    marks.add(Mark { shard, owner, reason, from: 1, to: 2 }).await.unwrap();
    disk.replace(Path::new("/handoff/3/notes.txt"), b"mine".to_vec());
}

fn report(disk: &MemoryDisk) -> QueueVerified {
    stopped(disk).verify(TARGET)
}

#[tokio::test]
async fn a_sound_queue_verifies_open_or_stopped_and_nothing_is_changed() {
    let memory = MemoryDisk::new();
    everything(&memory).await;
    let disk = FaultDisk::new(Arc::new(memory.clone()));
    let (handoff, _) = open_with(Arc::new(disk.clone()), config());
    let operations = disk.operations();
    let live = handoff.verify().await.unwrap();
    let stopped = Stopped::read("/handoff".into(), Arc::new(disk.clone())).unwrap();
    assert_eq!(stopped.targets(), [TARGET]);
    for reports in [live, vec![stopped.verify_marks(), stopped.verify(TARGET)]] {
        let [marks, queue] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!((marks.target, marks.records, marks.found), (NodeId(0), 1, 0), "{marks:?}");
        assert_eq!((queue.target, queue.found, queue.damaged), (TARGET, 0, 0), "{queue:?}");
        assert_eq!((queue.records, queue.pending, queue.aside), (40, 35, 2), "{queue:?}");
        assert_eq!((queue.accepted, queue.unknown, queue.torn), (40, 1, false), "{queue:?}");
        assert!(queue.balanced && queue.segments == segments(&memory).len() as u64);
    }
    assert_eq!(disk.operations(), operations, "something was written");
    // Beside appends and deliveries there is nothing to find either.
    fill(&handoff, 41..=80).await;
    let found = take_all(&handoff).await;
    deliver(&handoff, &found[..30]).await;
    let queue = &handoff.verify().await.unwrap()[1];
    assert_eq!((queue.found, queue.pending, queue.accepted), (0, 45, 80), "{queue:?}");
}

#[tokio::test]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let disk = MemoryDisk::new();
    everything(&disk).await;
    let current = Path::new("/handoff/3/accounts-1");
    let slot = |path: &Path| match Header::parse(&disk.content(path).unwrap()) {
        crate::segment::header::Parsed::Header(header) => header.number,
        other => panic!("{other:?}"),
    };
    assert_eq!(slot(current), 1, "the books are in the other slot");
    let kept = aside().join(name::of(1));
    for path in [&segment(1), &segment(2), &PathBuf::from(current), &kept] {
        let bytes = disk.content(path).unwrap();
        // Free space means nothing, and neither does what was there before.
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let records = bytes[..bytes.len() - 8].iter().rposition(|byte| *byte != 0).unwrap();
        let ours = (0..=records).chain((last > records).then_some(last));
        for at in ours.step_by(3) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let damaged = disk.crash(Keep::All);
            damaged.replace(path, flipped);
            let found = report(&damaged);
            assert!(found.found > 0, "byte {at} of {path:?}: {found:?}");
            assert!(found.problems.len() as u64 == found.found);
        }
    }
    let mut marks = disk.content(Path::new("/handoff/marks")).unwrap();
    let at = marks.len() - 20;
    marks[at] ^= 1;
    disk.replace(Path::new("/handoff/marks"), marks);
    assert_eq!(stopped(&disk).verify_marks().found, 1);
}

#[tokio::test]
async fn torn_tails_missing_files_and_lost_books_are_told_apart() {
    let disk = MemoryDisk::new();
    everything(&disk).await;
    let last = segments(&disk).pop().unwrap();
    let whole = report(&disk);
    // Half of a record behind the last one, as a crash leaves it.
    let bytes = disk.content(&last).unwrap();
    let end = bytes[..bytes.len() - 8].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let start = bytes.windows(4).rposition(|window| window == b"QREC").unwrap();
    let torn = disk.crash(Keep::All);
    let mut cut = bytes.clone();
    cut[start + 48..end].fill(0);
    torn.replace(&last, cut);
    let found = report(&torn);
    assert_eq!((found.torn, found.found, found.damaged), (true, 0, 0), "{found:?}");
    assert_eq!((found.records, found.accepted), (whole.records - 1, whole.accepted - 1));
    assert!(found.balanced && !whole.torn);

    let missing = disk.crash(Keep::All);
    missing.remove(&segment(3)).unwrap();
    let found = report(&missing);
    assert_eq!(found.damaged, whole.records - found.records, "{found:?}");
    assert!(found.found == 1 && found.damaged > 0 && found.balanced, "{found:?}");

    let unkept = disk.crash(Keep::All);
    for slot in ["accounts-0", "accounts-1"] {
        unkept.remove(&Path::new("/handoff/3").join(slot)).unwrap();
    }
    let found = report(&unkept);
    assert!(found.found == 1 && !found.balanced, "{found:?}");
}

#[tokio::test]
async fn segments_that_cannot_be_read_at_all_are_told_and_dropped_with_the_rest() {
    let disk = MemoryDisk::new();
    fill(&open(&disk), 1..=40).await;
    let length = disk.content(&segment(2)).unwrap().len();
    disk.replace(&segment(2), vec![0xa5; length]);
    let handoff = open(&disk);
    let whole = take_all(&handoff).await.len() as u64;
    assert_eq!(stats(&handoff).quarantined, 40 - whole);
    let file = aside().join(format!("unreadable-{}", name::of(2)));
    assert_eq!(disk.content(&file).unwrap().len(), length);
    for queue in [report(&disk), handoff.verify().await.unwrap().remove(1)] {
        let [problem] = &queue.problems[..] else { panic!("{queue:?}") };
        assert!(problem.contains("segment 2") && problem.contains("drop 3 --quarantined"));
        assert!(queue.found == 1 && queue.balanced, "{queue:?}");
    }
    assert_eq!(handoff.retry(TARGET, ALL, NOW).await.unwrap().damaged, 1);
    let one = Choice { shard: Some(ShardId(1)), force_any: false };
    assert_eq!(handoff.discard_quarantined(TARGET, one).await.unwrap(), Taken::default());
    assert!(disk.content(&file).is_some(), "nobody knows whose hints it holds");
    disk.replace(&aside().join("notes.txt"), b"mine".to_vec());
    assert_eq!(handoff.discard_quarantined(TARGET, ALL).await.unwrap().done, 1);
    let after = disk.crash(Keep::Synced);
    assert!(after.content(&file).is_none());
    assert_eq!(report(&after).problems, [""; 0], "it is back after a power cut");
    assert!(disk.content(&aside().join("notes.txt")).is_some());
    assert_eq!((stats(&handoff).pending, stats(&handoff).quarantined), (whole, 40 - whole));
}
