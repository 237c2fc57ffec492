//! Durable repair marks: which time range of which shard some owner may lack.
//!
//! Invariant: [`Marks::add`] answers only when the mark is synced; marks are never lost, only
//! widened: those of one (shard, owner, reason) are kept as the one range that covers them, so
//! memory and file are bounded by the number of shards and owners. Written when hints expire and
//! when copies are given up; read by repair.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_protocol::id::{NodeId, ShardId};
use serde::Serialize;

use super::HandoffError;
use super::log::refused;
use crate::disk::{Disk, Open};
use crate::executor::Executor;
use crate::segment::commit::{Committer, Limits, Log, SubmitError};
use crate::segment::header::{self, Header, Kind, Parsed};
use crate::segment::record::RecordMeta;
use crate::segment::writer::FlushError;
use crate::segment::{Found, Reader, Writer};

/// The usual file name, inside the directory of the hint queues.
pub const FILE: &str = "marks";

const PAYLOAD: usize = 32;
const LIMITS: Limits = Limits { group_bytes: 1 << 20, queue_bytes: 1 << 20 };

/// Why an owner may lack data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MarkReason {
    /// Its hint reached the age limit.
    HintExpired,
    /// Its hint was refused: a queue or disk was full.
    HintRefused,
    /// Its copy was given up because it was slow.
    CopyDropped,
    /// What was stored for it was damaged.
    Damaged,
}

impl MarkReason {
    /// The stored form.
    #[must_use]
    pub const fn code(self) -> u64 {
        match self {
            Self::HintExpired => 1,
            Self::HintRefused => 2,
            Self::CopyDropped => 3,
            Self::Damaged => 4,
        }
    }

    /// Reads the stored form; `None` for a reason of a later version.
    #[must_use]
    pub const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::HintExpired,
            2 => Self::HintRefused,
            3 => Self::CopyDropped,
            4 => Self::Damaged,
            _ => return None,
        })
    }
}

impl fmt::Display for MarkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HintExpired => "hint expired",
            Self::HintRefused => "hint refused",
            Self::CopyDropped => "copy given up",
            Self::Damaged => "damaged",
        })
    }
}

/// Something to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mark {
    /// The shard.
    pub shard: ShardId,
    /// The owner that may lack data.
    pub owner: NodeId,
    /// Why.
    pub reason: MarkReason,
    /// The earliest point time, nanoseconds since the Unix epoch.
    pub from: i64,
    /// The latest point time, inclusive.
    pub to: i64,
}

type Key = (ShardId, NodeId, MarkReason);

impl Mark {
    fn key(&self) -> Key {
        (self.shard, self.owner, self.reason)
    }

    fn payload(&self) -> [u8; PAYLOAD] {
        let words =
            [self.owner.0, self.reason.code(), self.from.cast_unsigned(), self.to.cast_unsigned()];
        let mut bytes = [0; PAYLOAD];
        let (places, _) = bytes.as_chunks_mut::<8>();
        places.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_le_bytes());
        bytes
    }

    /// Reads the stored form; `None` for what a later version has marked.
    pub(super) fn parse(shard: u64, payload: &Bytes) -> Option<Self> {
        let ([owner, reason, from, to], []) = payload.as_chunks::<8>() else {
            return None;
        };
        Some(Self {
            shard: ShardId(shard),
            owner: NodeId(u64::from_le_bytes(*owner)),
            reason: MarkReason::from_code(u64::from_le_bytes(*reason))?,
            from: i64::from_le_bytes(*from),
            to: i64::from_le_bytes(*to),
        })
    }
}

type Live = Arc<Mutex<BTreeMap<Key, Mark>>>;

/// The repair marks of a node.
#[derive(Debug)]
pub struct Marks {
    committer: Committer<MarksLog>,
    live: Live,
}

struct MarksLog {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    salt: u64,
    live: Live,
    /// `None` once the file is spent; the next group rewrites it.
    writer: Option<Writer>,
    number: u64,
    next_record: u64,
}

impl Marks {
    /// Opens or creates the file at `path`. Blocks on the disk.
    ///
    /// # Errors
    /// Any I/O error; damaged marks are skipped.
    pub fn open(
        path: PathBuf,
        salt: u64,
        disk: Arc<dyn Disk>,
        executor: Executor,
    ) -> Result<Self, HandoffError> {
        if let Some(directory) = path.parent() {
            disk.create_directory(directory)?;
        }
        let (number, marks) = read(&*disk, &path)?;
        let live: Live = Arc::new(Mutex::new(marks));
        let mut log = MarksLog {
            disk,
            path,
            salt,
            live: Arc::clone(&live),
            writer: None,
            number,
            next_record: 1,
        };
        // On a full disk the file as it is will do until the next mark.
        match log.rewrite(&[]) {
            Ok(()) | Err(FlushError::Full) => {}
            Err(FlushError::Failed(error)) => return Err(error.into()),
        }
        let committer = Committer::start(log, executor, "marks", LIMITS)?;
        Ok(Self { committer, live })
    }

    /// Adds a mark; answers when it is durable. A range that is marked already costs nothing.
    ///
    /// # Errors
    /// Disk full, I/O, or closed.
    pub async fn add(&self, mark: Mark) -> Result<(), HandoffError> {
        if self.covers(&mark) {
            return Ok(());
        }
        match self.committer.submit(mark, PAYLOAD).await {
            Ok(output) => output,
            Err(SubmitError::Closed) => Err(HandoffError::Closed),
            Err(SubmitError::Died) => Err(io::Error::other(SubmitError::Died).into()),
        }
    }

    fn covers(&self, mark: &Mark) -> bool {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&mark.key()).is_some_and(|known| known.from <= mark.from && mark.to <= known.to)
    }

    /// All marks, by shard, owner and reason.
    #[must_use]
    pub fn list(&self) -> Vec<Mark> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    /// Commits what was submitted and stops.
    pub async fn close(&self) {
        self.committer.close().await;
    }
}

fn widen(marks: &mut BTreeMap<Key, Mark>, mark: Mark) -> Mark {
    let known = marks.entry(mark.key()).or_insert(mark);
    known.from = known.from.min(mark.from);
    known.to = known.to.max(mark.to);
    *known
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<(u64, BTreeMap<Key, Mark>)> {
    let mut marks = BTreeMap::new();
    let file = match disk.open(path, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, marks)),
        other => other?,
    };
    let header = match Header::read(&*file)? {
        Parsed::Header(header) if header.kind == Kind::Marks => header,
        Parsed::Blank => return Ok((0, marks)),
        _ => {
            let text = format!("{} is not a file of repair marks; move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    };
    let mut reader = Reader::new(&*file, &header)?;
    loop {
        match reader.next_found()? {
            Found::Record(record) => {
                if let Some(mark) = Mark::parse(record.meta.shard, &record.payload) {
                    widen(&mut marks, mark);
                }
            }
            Found::Damaged(damage) => {
                tracing::warn!(records = damage.records, "damaged repair marks were skipped");
            }
            Found::End { .. } => return Ok((header.number, marks)),
        }
    }
}

impl MarksLog {
    /// Writes a new file with all marks, and those of a group, in the place of the old one.
    fn rewrite(&mut self, group: &[Mark]) -> Result<(), FlushError> {
        let mut marks = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for mark in group {
            widen(&mut marks, *mark);
        }
        let written = self.write_new(&marks);
        let (writer, next_record) = written.map_err(|error| {
            if crate::disk::is_full(&error) { FlushError::Full } else { FlushError::Failed(error) }
        })?;
        self.number += 1;
        self.writer = Some(writer);
        self.next_record = next_record;
        Ok(())
    }

    fn write_new(&self, marks: &BTreeMap<Key, Mark>) -> io::Result<(Writer, u64)> {
        let new = self.path.with_extension("new");
        match self.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let header = Header {
            kind: Kind::Marks,
            owner: 0,
            number: self.number + 1,
            first_sequence: 1,
            capacity: 0,
            salt: self.salt,
        };
        let mut writer = Writer::create(&*self.disk, &new, header)?;
        let mut next_record = 1;
        for mark in marks.values() {
            push(&mut writer, &mut next_record, mark);
        }
        match writer.flush() {
            Ok(()) => {}
            Err(FlushError::Full) => return Err(io::ErrorKind::StorageFull.into()),
            Err(FlushError::Failed(error)) => return Err(error),
        }
        self.disk.rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent() {
            self.disk.sync_directory(directory)?;
        }
        debug_assert!(writer.position() >= header::LENGTH);
        Ok((writer, next_record))
    }

    fn store(&mut self, group: &[Mark]) -> Result<(), FlushError> {
        let Some(writer) = self.writer.as_mut() else {
            return self.rewrite(group);
        };
        let mut next_record = self.next_record;
        for mark in group {
            push(writer, &mut next_record, mark);
        }
        match writer.flush() {
            Ok(()) => {
                self.next_record = next_record;
                Ok(())
            }
            Err(FlushError::Full) => Err(FlushError::Full),
            Err(error) => {
                self.writer = None;
                Err(error)
            }
        }
    }
}

fn push(writer: &mut Writer, next_record: &mut u64, mark: &Mark) {
    let sequence = *next_record;
    *next_record += 1;
    let meta = RecordMeta { sequence, shard: mark.shard.0, ..RecordMeta::default() };
    writer.push(&meta, &mark.payload());
}

impl Log for MarksLog {
    type Item = Mark;
    type Output = Result<(), HandoffError>;

    fn commit(&mut self, group: Vec<Mark>) -> Vec<Self::Output> {
        let result = self.store(&group).map_err(refused);
        if result.is_ok() {
            let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            for mark in &group {
                widen(&mut live, *mark);
            }
        }
        group.iter().map(|_| result.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{FaultDisk, Keep, MemoryDisk};

    fn mark(shard: u64, from: i64, to: i64) -> Mark {
        let (shard, owner) = (ShardId(shard), NodeId(2));
        Mark { shard, owner, reason: MarkReason::HintExpired, from, to }
    }

    fn open(disk: impl Disk + 'static) -> Marks {
        let path = PathBuf::from("/handoff").join(FILE);
        Marks::open(path, 3, Arc::new(disk), Executor::Inline).unwrap()
    }

    #[tokio::test]
    async fn marks_are_durable_when_added_and_widen() {
        let disk = MemoryDisk::new();
        let marks = open(disk.clone());
        marks.add(mark(1, 10, 20)).await.unwrap();
        marks.add(mark(1, -5, 12)).await.unwrap();
        marks.add(mark(2, 0, 0)).await.unwrap();
        for keep in [Keep::All, Keep::Synced, Keep::Last(3)] {
            let again = open(disk.crash(keep));
            assert_eq!(again.list(), [mark(1, -5, 20), mark(2, 0, 0)], "{keep:?}");
        }
    }

    #[test]
    fn marks_are_stored_as_specified() {
        for vector in crate::spec::vectors("mark") {
            let mark = Mark::parse(7, &Bytes::from(vector.bytes.clone())).unwrap();
            assert_eq!(mark.owner.0, vector.number::<u64>("owner"));
            assert_eq!(mark.reason.code(), vector.number::<u64>("reason"));
            assert_eq!(mark.from, vector.number::<i64>("from"));
            assert_eq!(mark.to, vector.number::<i64>("to"));
            assert_eq!(mark.payload()[..], vector.bytes);
        }
    }

    #[tokio::test]
    async fn a_covered_mark_writes_nothing() {
        let disk = FaultDisk::new(Arc::new(MemoryDisk::new()));
        let marks = open(disk.clone());
        marks.add(mark(1, 10, 20)).await.unwrap();
        let before = disk.operations();
        marks.add(mark(1, 11, 20)).await.unwrap();
        assert_eq!(disk.operations(), before);
    }

    #[tokio::test]
    async fn failures_reach_the_caller_and_pass() {
        let memory = MemoryDisk::new();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let marks = open(disk.clone());
        disk.set_room(Some(10));
        assert!(matches!(marks.add(mark(1, 0, 1)).await, Err(HandoffError::DiskFull)));
        disk.set_room(None);
        disk.fail_sync(1);
        assert!(matches!(marks.add(mark(2, 0, 1)).await, Err(HandoffError::Io(_))));
        assert!(marks.list().is_empty());
        marks.add(mark(3, 0, 1)).await.unwrap();
        marks.add(mark(4, 0, 1)).await.unwrap();
        assert_eq!(disk.injected().full, 1);
        let again = open(memory.crash(Keep::Synced));
        assert_eq!(again.list(), [mark(3, 0, 1), mark(4, 0, 1)]);
    }

    #[tokio::test]
    async fn a_crash_at_every_operation_keeps_what_was_acknowledged() {
        for stop in 0.. {
            let memory = MemoryDisk::new();
            let disk = FaultDisk::new(Arc::new(memory.clone()));
            disk.stop_after(stop);
            let path = PathBuf::from("/handoff").join(FILE);
            let mut acked = Vec::new();
            for _ in 0..2 {
                let opened = Marks::open(path.clone(), 3, Arc::new(disk.clone()), Executor::Inline);
                let Ok(marks) = opened else { continue };
                for shard in acked.len() as u64..acked.len() as u64 + 3 {
                    if marks.add(mark(shard, 0, 1)).await.is_ok() {
                        acked.push(mark(shard, 0, 1));
                    }
                }
            }
            for keep in [Keep::All, Keep::Synced, Keep::First(30)] {
                let found = open(memory.crash(keep)).list();
                assert!(acked.iter().all(|mark| found.contains(mark)), "stop {stop} {keep:?}");
            }
            if disk.injected().stopped == 0 {
                assert!(stop > 20);
                return;
            }
        }
    }
}
