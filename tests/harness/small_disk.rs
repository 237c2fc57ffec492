//! A real file system with little room.
//!
//! Invariant: unmounted when this is dropped, also by a panic. Where nothing can be mounted, a line
//! says so, which `.ci/run` takes for a failure. Used by tests of full disks; the node's own include
//! this file.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A file system in memory, gone with this.
#[derive(Debug)]
pub struct SmallDisk {
    at: TempDir,
    sudo: bool,
}

impl SmallDisk {
    /// So many bytes; none, with the reason printed, where nothing can be mounted.
    #[must_use]
    pub fn mount(bytes: u64) -> Option<Self> {
        let at = TempDir::new().unwrap();
        let options = format!("size={bytes},mode=1777");
        for sudo in [false, true] {
            let mount = ["mount", "-t", "tmpfs", "-o", &options, "quorate-test"];
            if run(sudo, &mount, at.path()) {
                return Some(Self { at, sudo });
            }
        }
        println!("SKIPPED: no file system can be mounted here, not even by sudo");
        None
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    fn ballast(&self) -> PathBuf {
        self.at.path().join("ballast")
    }

    /// Takes away all room but so many bytes, rounded up to pages.
    pub fn leave(&self, bytes: u64) {
        self.clear();
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        let room = (stat.f_bavail * stat.f_frsize).saturating_sub(bytes);
        let file = File::create(self.ballast()).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        if room > 0 {
            rustix::fs::fallocate(&file, flags, 0, room).unwrap();
        }
    }

    /// Gives the room back.
    pub fn clear(&self) {
        if self.ballast().exists() {
            fs::remove_file(self.ballast()).unwrap();
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !run(self.sudo, &["umount", "-l"], self.at.path()) {
            eprintln!("{} is still mounted", self.at.path().display());
        }
    }
}

fn run(sudo: bool, words: &[&str], path: &Path) -> bool {
    let sudo: &[&str] = if sudo { &["sudo", "-n"] } else { &[] };
    let mut words = sudo.iter().chain(words);
    let Some(program) = words.next() else { return false };
    let mut command = Command::new(program);
    command.args(words).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
