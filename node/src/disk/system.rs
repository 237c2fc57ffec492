//! The operating system's files.
//!
//! Invariant: `sync_data` is a full `fdatasync`, and a directory sync is a real `fsync` of the
//! directory. Preallocation falls back to plain extension where the file system has none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{Disk, DiskFile, Entry, Open};

/// Parts of one system call: what every Unix takes.
const PARTS: usize = 1024;

/// Files through the standard library.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::Existing => {
                options.write(true);
            }
            Open::Create => {
                options.write(true).create(true).truncate(false);
            }
            Open::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(options.open(path)?))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn read_directory(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                directory: entry.file_type()?.is_dir(),
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        let stats = rustix::fs::statvfs(path)?;
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }
}

impl DiskFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn write_parts_at(&self, mut offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut parts = parts;
        // Empty parts at the front would look like a write that gets nowhere.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let some = parts.get(..PARTS).unwrap_or(parts);
            match rustix::io::pwritev(self, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                if self.metadata()?.len() < length {
                    self.set_len(length)
                } else {
                    Ok(())
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_as_if_they_were_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = SystemDisk.open(&directory.path().join("file"), Open::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
        // More parts than one call takes, empty ones among them.
        let mut parts: Vec<IoSlice<'_>> = vec![IoSlice::new(&[])];
        parts.extend(bytes.chunks(2).flat_map(|part| [IoSlice::new(part), IoSlice::new(&[])]));
        file.write_parts_at(7, &mut parts).unwrap();
        let mut back = vec![0; 5008];
        assert_eq!(DiskFile::read_at(&*file, 0, &mut back).unwrap(), 5007);
        assert_eq!(back[7..5007], bytes);
    }

    #[test]
    fn files_are_allocated_written_read_and_listed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = SystemDisk;
        let nested = directory.path().join("a/b");
        disk.create_directory(&nested).unwrap();
        let path = nested.join("file");
        assert!(disk.open(&path, Open::Existing).is_err());
        let file = disk.open(&path, Open::CreateNew).unwrap();
        file.allocate(4096).unwrap();
        file.write_at(100, b"hello").unwrap();
        file.sync_data().unwrap();
        disk.sync_directory(&nested).unwrap();
        assert_eq!(file.length().unwrap(), 4096);
        let mut buffer = [1; 8];
        assert_eq!(DiskFile::read_at(&*file, 98, &mut buffer).unwrap(), 8);
        assert_eq!(&buffer, b"\0\0hello\0");
        assert_eq!(DiskFile::read_at(&*file, 4094, &mut buffer).unwrap(), 2);
        assert!(disk.open(&path, Open::CreateNew).is_err());
        let moved = nested.join("moved");
        disk.rename(&path, &moved).unwrap();
        let names = disk.read_directory(&nested).unwrap();
        assert_eq!(names, [Entry { name: "moved".into(), directory: false }]);
        disk.remove(&moved).unwrap();
        assert!(disk.available(&nested).unwrap() > 0);
    }
}
