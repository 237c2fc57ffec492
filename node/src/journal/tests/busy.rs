//! Both bounds in front of the journal, in bytes: what waits for a disk that stands still, and what
//! waits in memory for being folded. Whatever is beyond them is told to come back, at once.

use std::sync::Condvar;

use super::*;
use crate::disk::{DiskFile, Entry, Open};
use crate::shard::{self, AdmitError, ShardStore};

/// A disk whose syncs of files wait until it is let go.
#[derive(Clone, Debug)]
struct Stalled {
    inner: MemoryDisk,
    held: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Debug)]
struct StalledFile(Arc<dyn DiskFile>, Arc<(Mutex<bool>, Condvar)>);

impl Stalled {
    fn hold(&self, held: bool) {
        *self.held.0.lock().unwrap() = held;
        self.held.1.notify_all();
    }
}

impl Disk for Stalled {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(StalledFile(self.inner.open(path, how)?, Arc::clone(&self.held))))
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.create_directory(path)
    }
    fn read_directory(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.inner.read_directory(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
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
        drop(self.1.1.wait_while(self.1.0.lock().unwrap(), |held| *held).unwrap());
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
    let disk = Stalled { inner: MemoryDisk::new(), held: Arc::default() };
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
    disk.hold(true);
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
    disk.hold(false);
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

/// A disk on which removing files takes until it is let go.
#[derive(Debug, Default)]
struct SlowRemoval {
    inner: MemoryDisk,
    removing: (Mutex<bool>, Condvar),
    held: (Mutex<bool>, Condvar),
}

impl Disk for SlowRemoval {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path, how)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.create_directory(path)
    }
    fn read_directory(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.inner.read_directory(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        *self.removing.0.lock().unwrap() = true;
        self.removing.1.notify_all();
        drop(self.held.1.wait_while(self.held.0.lock().unwrap(), |held| *held).unwrap());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_append_does_not_wait_for_the_removal_of_released_segments() {
    let disk = Arc::new(SlowRemoval::default());
    let sink: Arc<dyn Sink> = Arc::new(Seen::default());
    let config = JournalConfig { spare_segments: 0, ..config() };
    let on = Arc::clone(&disk) as Arc<dyn Disk>;
    let opened = Journal::open(config, home(), on, Executor::Thread, sink, &mut |_| {});
    let journal = Arc::new(opened.unwrap().0);
    for index in 1..=100 {
        append(&journal, index).await.unwrap();
    }
    *disk.held.0.lock().unwrap() = true;
    let releasing = Arc::clone(&journal);
    let release = tokio::spawn(async move { releasing.release(Sequence(100)).await });
    {
        let disk = Arc::clone(&disk);
        let begun = move || {
            let begun = disk.removing.0.lock().unwrap();
            drop(disk.removing.1.wait_while(begun, |begun| !*begun).unwrap());
        };
        tokio::task::spawn_blocking(begun).await.unwrap();
    }
    let waiting = tokio::time::timeout(Duration::from_secs(20), append(&journal, 101));
    let appended = waiting.await;
    *disk.held.0.lock().unwrap() = false;
    disk.held.1.notify_all();
    release.await.unwrap().unwrap();
    assert_eq!(appended.unwrap().unwrap(), Sequence(101));
    assert_eq!(disk.inner.paths().len(), 1);
    journal.close().await;
}
