//! Both bounds in front of the journal, in bytes: what waits for a disk that stands still, and what
//! waits in memory for being folded. Whatever is beyond them is told to come back, at once.

use std::sync::Condvar;

use super::*;
use crate::disk::{DiskFile, Entry, Open};
use crate::shard::{self, AdmitError, ShardStore};

/// Where somebody waits while it is shut.
#[derive(Debug, Default)]
struct Gate {
    /// Whether it is shut, and whether somebody has come to it.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn hold(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(shut, _)| *shut).unwrap());
    }

    fn wait_for_somebody(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |(_, come)| !*come).unwrap());
    }
}

/// A disk whose syncs of files, or removals, wait until they are let go.
#[derive(Clone, Debug, Default)]
struct Stalled {
    inner: MemoryDisk,
    syncs: Arc<Gate>,
    removals: Arc<Gate>,
}

#[derive(Debug)]
struct StalledFile(Arc<dyn DiskFile>, Arc<Gate>);

impl Disk for Stalled {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(StalledFile(self.inner.open(path, how)?, Arc::clone(&self.syncs))))
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.create_directory(path)
    }
    fn read_directory(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.inner.read_directory(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.removals.pass();
        self.inner.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_directory(path)
    }
    fn available(&self, path: &Path) -> io::Result<u64> {
        self.inner.available(path)
    }
}

impl DiskFile for StalledFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.0.allocate(length)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_writers_before_a_stalled_disk_those_beyond_the_bound_are_told_to_come_back() {
    const BATCH: usize = 64 << 10;
    const FIT: usize = 16;
    let disk = Stalled::default();
    let config = JournalConfig {
        segment_bytes: 16 << 20,
        queue_bytes: FIT * BATCH,
        busy_retry_ms: 7,
        ..config()
    };
    let sink = Arc::new(Seen::default());
    let (journal, _) = Journal::open(
        config,
        home(),
        Arc::new(disk.clone()),
        Executor::Thread,
        Arc::clone(&sink) as Arc<dyn Sink>,
        &mut |_| {},
    )
    .unwrap();
    let journal = Arc::new(journal);
    disk.syncs.hold(true);
    let (answers, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for writer in 0..64 {
        let (journal, answers) = (Arc::clone(&journal), answers.clone());
        tokio::spawn(async move {
            let batch = Bytes::from(vec![writer as u8; BATCH]);
            let _ = answers.send(journal.append(ShardId(writer), batch).await);
        });
    }
    drop(answers);
    // All that do not fit hear so while the disk still stands.
    for _ in 0..64 - FIT {
        let error = heard.recv().await.unwrap().unwrap_err();
        assert!(matches!(error, JournalError::Busy { retry_after_ms: 7 }), "{error}");
        assert!(error.definite());
    }
    assert!(sink.sequences().is_empty());
    disk.syncs.hold(false);
    let mut stored = 0;
    while let Some(answer) = heard.recv().await {
        answer.unwrap();
        stored += 1;
    }
    assert_eq!(stored, FIT);
    assert_eq!(sink.sequences(), up_to(FIT as u64));
    // And there is room again.
    journal.append(ShardId(1), Bytes::from(vec![1; BATCH])).await.unwrap();
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_writers_before_full_memory_those_beyond_the_bound_are_told_to_come_back() {
    const BATCH: u64 = 64 << 10;
    const FIT: usize = 16;
    let directory = tempfile::tempdir().unwrap();
    let config = shard::Config {
        fresh_bytes: FIT as u64 * BATCH,
        busy_retry_ms: 9,
        ..shard::Config::default()
    };
    let shards = ShardStore::open(config, directory.path(), Executor::Thread).unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|writer| {
            let shards = shards.clone();
            tokio::spawn(async move { shards.admit(ShardId(writer), BATCH) })
        })
        .collect();
    let mut rooms = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(room) => rooms.push(room),
            Err(error) => assert!(matches!(error, AdmitError::Busy { retry_after_ms: 9 })),
        }
    }
    assert_eq!(rooms.len(), FIT);
    rooms.pop();
    shards.admit(ShardId(1), BATCH).unwrap();
    shards.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_append_does_not_wait_for_the_removal_of_released_segments() {
    let disk = Stalled::default();
    let sink: Arc<dyn Sink> = Arc::new(Seen::default());
    let config = JournalConfig { spare_segments: 0, ..config() };
    let on = Arc::new(disk.clone());
    let opened = Journal::open(config, home(), on, Executor::Thread, sink, &mut |_| {});
    let journal = Arc::new(opened.unwrap().0);
    for index in 1..=100 {
        append(&journal, index).await.unwrap();
    }
    disk.removals.hold(true);
    let releasing = Arc::clone(&journal);
    let release = tokio::spawn(async move { releasing.release(Sequence(100)).await });
    let removals = Arc::clone(&disk.removals);
    tokio::task::spawn_blocking(move || removals.wait_for_somebody()).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(20), append(&journal, 101));
    let appended = waiting.await;
    disk.removals.hold(false);
    release.await.unwrap().unwrap();
    assert_eq!(appended.unwrap().unwrap(), Sequence(101));
    assert_eq!(disk.inner.paths().len(), 1);
    journal.close().await;
}
