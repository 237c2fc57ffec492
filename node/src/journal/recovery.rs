//! Opening a journal: every intact record in order, damage aside, then a fresh segment.
//!
//! Invariant: nothing that was acknowledged is skipped silently; a torn tail is dropped only where
//! nothing intact follows it; damaged bytes are copied to `quarantine/` and never served. Files of
//! another node or of a newer format are refused untouched. Called once, by [`Journal::open`].
//!
//! [`Journal::open`]: super::Journal::open

use std::io;
use std::path::{Path, PathBuf};

use quorate_protocol::id::{NodeId, Sequence, ShardId};

use super::log::{JournalLog, Sealed};
use super::spare::is_spare;
use super::{Committed, Durability, JournalDamage, JournalError, JournalOpenError, Recovery};
use crate::disk::{DiskFile, Open};
use crate::segment::header::{self, Header, Kind, Parsed};
use crate::segment::{Damage, Found, Reader, name};

/// Damaged ranges that are described one by one; all are counted.
const DESCRIBED: usize = 1000;
const QUARANTINE: &str = "quarantine";

fn failed(path: &Path) -> impl FnOnce(io::Error) -> JournalOpenError {
    let path = path.to_owned();
    move |source| JournalOpenError::Io { path, source }
}

impl JournalLog {
    /// Reads everything and opens a segment for what comes next.
    pub(super) fn recover(
        &mut self,
        recovered: &mut dyn FnMut(Committed),
    ) -> Result<Recovery, JournalOpenError> {
        let directory = self.home.directory.clone();
        self.disk.create_directory(&directory).map_err(failed(&directory))?;
        let mut recovery = Recovery::default();
        let numbers = self.list(&mut recovery)?;
        // All headers first: a journal that must not be touched is refused before any change.
        let mut segments = Vec::new();
        for number in &numbers {
            let path = directory.join(name::of(*number));
            let parsed = self
                .disk
                .open(&path, Open::Read)
                .and_then(|file| Header::read(&*file))
                .map_err(failed(&path))?;
            segments.push((*number, self.check(&path, *number, parsed)?, path));
        }
        let mut last = None;
        for (number, parsed, path) in segments {
            self.next_number = self.next_number.max(number + 1);
            match parsed {
                Parsed::Header(header) => {
                    self.read_segment(&path, &header, &mut last, &mut recovery, recovered)?;
                }
                Parsed::Blank => self.disk.remove(&path).map_err(failed(&path))?,
                Parsed::Damaged | Parsed::Newer(_) => self.set_aside(&path, &mut recovery)?,
            }
        }
        self.next_sequence = last.unwrap_or(0).max(self.home.applied.0) + 1;
        recovery.highest = Sequence(self.next_sequence - 1);
        self.start()?;
        Ok(recovery)
    }

    /// The segment numbers in the directory, ascending; adopts spares on the way.
    fn list(&mut self, recovery: &mut Recovery) -> Result<Vec<u64>, JournalOpenError> {
        let directory = self.home.directory.clone();
        let mut numbers = Vec::new();
        for entry in self.disk.read_directory(&directory).map_err(failed(&directory))? {
            let path = directory.join(&entry.name);
            if let (Some(number), false) = (name::parse(&entry.name), entry.directory) {
                numbers.push(number);
            } else if is_spare(&entry.name) {
                let bytes = self.config.segment_bytes;
                self.spares.adopt(&*self.disk, path.clone(), bytes).map_err(failed(&path))?;
            } else if entry.name != QUARANTINE {
                recovery.unknown_files.push(entry.name);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn check(&self, path: &Path, number: u64, parsed: Parsed) -> Result<Parsed, JournalOpenError> {
        match parsed {
            Parsed::Newer(found) => Err(JournalOpenError::NewerFormat {
                path: path.to_owned(),
                found,
                known: header::VERSION,
            }),
            Parsed::Header(header) if header.kind != Kind::Journal || header.number != number => {
                Ok(Parsed::Damaged)
            }
            Parsed::Header(header) if header.owner != self.home.node.0 => {
                Err(JournalOpenError::OtherNode {
                    path: path.to_owned(),
                    found: NodeId(header.owner),
                    expected: self.home.node,
                })
            }
            other => Ok(other),
        }
    }

    fn read_segment(
        &mut self,
        path: &Path,
        header: &Header,
        last: &mut Option<u64>,
        recovery: &mut Recovery,
        recovered: &mut dyn FnMut(Committed),
    ) -> Result<(), JournalOpenError> {
        let file = self.disk.open(path, Open::Read).map_err(failed(path))?;
        recovery.segments += 1;
        let before = header.first_sequence.saturating_sub(1);
        if let Some(lost) = last.and_then(|last| before.checked_sub(last)).filter(|lost| *lost > 0)
        {
            let first_sequence = header.first_sequence - lost;
            let damage = Damage { range: 0..0, records: lost, first_sequence, header: None };
            note(recovery, header.number, &damage);
        }
        let mut seen = last.unwrap_or(before).max(before);
        let mut reader = Reader::new(&*file, header).map_err(failed(path))?;
        loop {
            match reader.next_found().map_err(failed(path))? {
                Found::Record(record) => {
                    if record.meta.sequence > seen {
                        seen = record.meta.sequence;
                        recovery.records += 1;
                        recovery.bytes += record.payload.len() as u64;
                        recovered(Committed {
                            shard: ShardId(record.meta.shard),
                            sequence: Sequence(seen),
                            payload: record.payload,
                        });
                    }
                }
                Found::Damaged(damage) => {
                    seen = seen.max((damage.first_sequence + damage.records).saturating_sub(1));
                    note(recovery, header.number, &damage);
                    self.copy_aside(&*file, header.number, &damage).map_err(failed(path))?;
                }
                Found::End { torn, .. } => {
                    recovery.torn = torn;
                    break;
                }
            }
        }
        // A process that ended has left what it had only written, and that counts as synced from now on.
        if self.home.durability != Durability::Commit {
            file.sync_data().map_err(failed(path))?;
        }
        *last = Some(seen);
        let bytes = file.length().map_err(failed(path))?;
        let empty = seen == before;
        self.sealed.push_back(Sealed { path: path.to_owned(), last: seen, bytes, empty });
        Ok(())
    }

    fn quarantine(&self) -> io::Result<PathBuf> {
        let directory = self.home.directory.join(QUARANTINE);
        self.disk.create_directory(&directory)?;
        Ok(directory)
    }

    /// Copies damaged bytes, once: the same damage is found again at every start until its
    /// segment is released.
    fn copy_aside(&self, file: &dyn DiskFile, number: u64, damage: &Damage) -> io::Result<()> {
        if damage.range.is_empty() {
            return Ok(());
        }
        let directory = self.quarantine()?;
        let path = directory.join(format!("{}-{}", name::of(number), damage.range.start));
        if self.disk.open(&path, Open::Read).is_ok() {
            return Ok(());
        }
        let copied = (|| {
            let copy = self.disk.open(&path, Open::Create)?;
            let mut buffer = vec![0; 1 << 20];
            let mut at = damage.range.start;
            while at < damage.range.end {
                let want = buffer.len().min((damage.range.end - at) as usize);
                let count = file.read_at(at, buffer.get_mut(..want).unwrap_or_default())?;
                if count == 0 {
                    break;
                }
                copy.write_at(at - damage.range.start, buffer.get(..count).unwrap_or_default())?;
                at += count as u64;
            }
            copy.sync_data()?;
            self.disk.sync_directory(&directory)
        })();
        if let Err(error) = copied {
            // The original stays where it is until its segment is released.
            tracing::warn!(%error, path = %path.display(), "damaged bytes could not be copied");
            let _ = self.disk.remove(&path);
        }
        Ok(())
    }

    /// Moves a segment whose header is unreadable out of the way.
    fn set_aside(&self, path: &Path, recovery: &mut Recovery) -> Result<(), JournalOpenError> {
        let directory = self.quarantine().map_err(failed(path))?;
        let file = path.file_name().unwrap_or_default();
        self.disk.rename(path, &directory.join(file)).map_err(failed(path))?;
        self.disk.sync_directory(&directory).map_err(failed(path))?;
        recovery.unreadable_segments += 1;
        Ok(())
    }

    /// Opens the segment for new records, then gives back those that hold none: their headers
    /// were needed until the new one carries the sequence on.
    fn start(&mut self) -> Result<(), JournalOpenError> {
        let directory = self.home.directory.clone();
        match self.rotate(0) {
            // The next append tries again.
            Err(JournalError::DiskFull) => return Ok(()),
            Err(JournalError::Io(error)) => {
                let source = io::Error::new(error.kind(), error.to_string());
                return Err(JournalOpenError::Io { path: directory, source });
            }
            _ => {}
        }
        if let Some(active) = &self.active {
            active.file().sync_data().map_err(failed(&directory))?;
        }
        let (empty, sealed) = self.sealed.drain(..).partition(|segment| segment.empty);
        self.sealed = sealed;
        self.give_back(empty);
        Ok(())
    }
}

fn note(recovery: &mut Recovery, segment: u64, damage: &Damage) {
    recovery.damaged_records += damage.records;
    if recovery.damage.len() < DESCRIBED {
        recovery.damage.push(JournalDamage {
            segment,
            offset: damage.range.start,
            length: damage.range.end.saturating_sub(damage.range.start),
            shard: damage.header.map(|header| ShardId(header.meta.shard)),
            after: Sequence(damage.first_sequence.saturating_sub(1)),
            records: damage.records,
        });
    }
}
