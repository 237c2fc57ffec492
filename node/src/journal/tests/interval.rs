//! `durability = "interval(D)"`: what is answered before its sync is synced in time, and what a
//! power cut takes is the end of the journal and no more than was not synced.

use tokio::time::{Instant, advance};

use super::*;

const EVERY: Duration = Duration::from_millis(50);

fn buffering() -> JournalHome {
    JournalHome { durability: Durability::Interval(EVERY), ..home() }
}

fn start(disk: impl Disk + 'static) -> Arc<Journal> {
    Arc::new(try_open(Arc::new(disk), buffering()).unwrap().journal)
}

async fn buffer(journal: &Journal, index: u64) -> Appended {
    journal.append(ShardId(index % 3), batch(index)).await.unwrap()
}

fn survivors(disk: &MemoryDisk, keep: Keep) -> Vec<u64> {
    sequences(&open(&disk.crash(keep)).records)
}

#[tokio::test(start_paused = true)]
async fn a_sync_comes_in_time_without_further_writes() {
    let disk = MemoryDisk::new();
    let journal = start(disk.clone());
    let keeper = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move { journal.keep_synced().await }
    });
    for round in 0..3 {
        let (first, second) = (2 * round + 1, 2 * round + 2);
        let syncs = journal.stats().syncs;
        let begun = Instant::now();
        assert!(buffer(&journal, first).await.buffered);
        // The keeper hears of it.
        tokio::task::yield_now().await;
        advance(EVERY / 2).await;
        // A later one does not put it off.
        assert!(buffer(&journal, second).await.buffered);
        assert_eq!(journal.stats().syncs, syncs);
        assert_eq!(survivors(&disk, Keep::All), up_to(second), "a kill must cost nothing");
        assert_eq!(survivors(&disk, Keep::Synced), up_to(first - 1));
        while journal.stats().syncs == syncs {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(begun.elapsed() <= EVERY + Duration::from_millis(2), "{:?}", begun.elapsed());
        assert_eq!(survivors(&disk, Keep::Synced), up_to(second));
        // Nothing to sync: none comes.
        advance(EVERY * 10).await;
        assert_eq!(journal.stats().syncs, syncs + 1);
    }
    buffer(&journal, 7).await;
    journal.close().await;
    assert_eq!(survivors(&disk, Keep::Synced), up_to(7), "closing must sync");
    keeper.await.unwrap();
}

#[tokio::test]
async fn what_was_answered_durable_survives_and_with_it_all_before() {
    let disk = MemoryDisk::new();
    let journal = start(disk.clone());
    // Over several segments, each of which is synced before the next begins.
    for index in 1..=40 {
        assert!(buffer(&journal, index).await.buffered);
        let kept = survivors(&disk, Keep::Synced);
        assert_eq!(kept, up_to(kept.len() as u64), "not the end was lost");
    }
    assert!(survivors(&disk, Keep::Synced).len() > 15);
    let durable = journal.append_durable(ShardId(41 % 3), batch(41)).await.unwrap();
    assert_eq!(durable, Appended { sequence: Sequence(41), buffered: false });
    assert_eq!(survivors(&disk, Keep::Synced), up_to(41));
    for index in 42..=44 {
        assert!(buffer(&journal, index).await.buffered);
    }
    for kept in 0..300 {
        let found = survivors(&disk, Keep::First(kept));
        assert!(found.len() >= 41 && found == up_to(found.len() as u64), "{kept}: {found:?}");
    }
}

#[tokio::test]
async fn unsynced_bytes_are_bounded() {
    let disk = MemoryDisk::new();
    let config = JournalConfig { queue_bytes: 500, segment_bytes: 1 << 20, ..config() };
    let sink = Arc::new(Seen::default());
    let (journal, _) = Journal::open(
        config,
        buffering(),
        Arc::new(disk.clone()),
        Executor::Inline,
        sink,
        &mut |_| {},
    )
    .unwrap();
    let mut synced = 0;
    for index in 1..=100 {
        synced += u64::from(!buffer(&journal, index).await.buffered);
        let lost = (survivors(&disk, Keep::Synced).len() as u64..index).map(|i| batch(i + 1).len());
        assert!(lost.sum::<usize>() <= 500, "{index}");
    }
    assert!((10..50).contains(&synced), "{synced}");
}

#[tokio::test(start_paused = true)]
async fn a_later_sync_that_fails_poisons_the_journal() {
    let memory = MemoryDisk::new();
    let disk = FaultDisk::new(Arc::new(memory.clone()));
    let journal = start(disk.clone());
    assert!(!journal.append_durable(ShardId(1), batch(1)).await.unwrap().buffered);
    disk.fail_sync(1);
    assert!(buffer(&journal, 2).await.buffered);
    // Ends by itself: there is nothing left to keep.
    journal.keep_synced().await;
    assert_eq!(disk.injected().syncs, 1);
    let error = journal.append(ShardId(1), batch(3)).await.unwrap_err();
    assert!(matches!(error, JournalError::Poisoned(_)), "{error}");
    let operations = disk.operations();
    journal.close().await;
    assert_eq!(disk.operations(), operations, "it was synced again");
    assert_eq!(survivors(&memory, Keep::Synced), [1]);
}
