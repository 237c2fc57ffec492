//! What processes take of the machine, as Linux counts it.
//!
//! Invariant: a process that is gone, or is none of ours, is none; nothing is estimated. Used by
//! `bench write` for itself and its nodes.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Processor time of a process so far, in seconds, its threads included.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may contain anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    let ticks = user.parse::<f64>().ok()? + system.parse::<f64>().ok()?;
    Some(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory of a process that is its own, in MB: without files that are mapped.
pub(super) fn rss_anon_mb(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Bytes that a folder takes on its disk. What vanishes meanwhile does not count.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    let Ok(about) = path.symlink_metadata() else { return 0 };
    let inside = if about.is_dir() { fs::read_dir(path).ok() } else { None };
    let inside = inside.into_iter().flatten().flatten().map(|entry| disk_bytes(&entry.path()));
    about.blocks() * 512 + inside.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_time_and_memory_and_others_do_not() {
        let own = std::process::id();
        let before = cpu_seconds(own).unwrap();
        let mut turns = 0_u64;
        while cpu_seconds(own).unwrap() < before + 0.03 {
            turns = std::hint::black_box(turns + 1);
        }
        let held = vec![1_u8; 64 << 20];
        assert!(rss_anon_mb(own).unwrap() > 64.0, "{}", held.len());
        assert_eq!((cpu_seconds(0), rss_anon_mb(0)), (None, None));
    }

    #[test]
    fn a_folder_takes_what_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let empty = disk_bytes(directory.path());
        fs::create_dir(directory.path().join("in")).unwrap();
        fs::write(directory.path().join("in/file"), vec![1; 100_000]).unwrap();
        fs::File::create(directory.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        let full = disk_bytes(directory.path());
        assert!((100_000..1 << 20).contains(&(full - empty)), "{empty} {full}");
        assert_eq!(disk_bytes(&directory.path().join("none")), 0);
    }
}
