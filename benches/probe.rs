//! What a process costs: CPU time, memory, disk. As Linux tells it.
//!
//! Invariant: a figure that cannot be had is 0 and never made up. Used by the benchmarks.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU time of this process, all threads.
#[must_use]
pub fn cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// CPU time of this thread.
#[must_use]
pub fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of the process's own: heap and stacks.
    pub anon: u64,
    /// Of files that are mapped: the system takes it back when it needs it.
    pub file: u64,
}

/// Resident memory of this process.
#[must_use]
pub fn memory() -> Memory {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
        number.unwrap_or(0_u64) * 1024
    };
    Memory { anon: kib("RssAnon"), file: kib("RssFile") }
}

/// Bytes that the files below a directory take on the disk, the directories included: `du`.
#[must_use]
pub fn disk_usage(dir: &Path) -> u64 {
    let own = fs::symlink_metadata(dir).map_or(0, |found| found.blocks() * 512);
    let Ok(entries) = fs::read_dir(dir) else { return own };
    own + entries.flatten().map(|entry| disk_usage(&entry.path())).sum::<u64>()
}

/// Watches the memory of this process from a thread of its own.
pub struct Peak {
    stop: Arc<AtomicBool>,
    anon: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Peak {
    /// Looks every 5 ms from now on.
    #[must_use]
    pub fn watch() -> Self {
        let (stop, anon) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, most) = (Arc::clone(&stop), Arc::clone(&anon));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                most.fetch_max(memory().anon, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, anon, thread }
    }

    /// The most [`Memory::anon`] that was seen.
    #[must_use]
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.anon.load(Ordering::Relaxed).max(memory().anon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_show() {
        let (before, peak) = (cpu(), Peak::watch());
        let bytes = vec![1_u8; 64 << 20];
        assert!(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>() == 64 << 20);
        assert!(memory().anon >= 64 << 20);
        drop(bytes);
        assert!(peak.stop() > 1 << 20);
        assert!(cpu() > before && thread_cpu() > Duration::ZERO);
    }

    #[test]
    fn disk_usage_counts_blocks_of_all_files_below() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let lib = fs::metadata(dir.join("lib.rs")).unwrap().blocks() * 512;
        assert!(disk_usage(dir) > lib);
        assert_eq!(disk_usage(&dir.join("not there")), 0);
    }
}
