//! Looking at a queue without taking part in it: for operators.
//!
//! Invariant: nothing is handed out, moved or written, so a drain never notices; what is shown was
//! synced and had not ended when it was read; memory is bounded by one page. A look ends at what was
//! accepted when it began, however much follows. Made by [`Handoff::look`] and, for a node that is
//! stopped, by [`super::Stopped`].

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::id::{NodeId, Sequence, ShardId};

use super::quarantine::{self, Kept, Progress, Quarantined};
use super::queue::{ANY_ACK, Cursor, Queue, Segment};
use super::terminal::{QuarantineReason, Terminal};
use super::{Handoff, HandoffError};
use crate::disk::Disk;
use crate::executor::Executor;
use crate::segment::{Found, Reader, Record, RecordMeta, header};

/// Hints read in one step, and their bytes; a larger one comes alone.
const PAGE_RECORDS: usize = 4096;
const PAGE_BYTES: usize = 1 << 20;

/// A hint that somebody looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its place in the queue; of several lost together, the first; 0 where it is not known.
    pub sequence: Sequence,
    /// How many hints these are: more than one only where several were lost together.
    pub count: u64,
    /// The shard; 0 where it is not known.
    pub shard: ShardId,
    /// When it was appended, nanoseconds since the Unix epoch; 0 where it is not known.
    pub appended_at: u64,
    /// Whether an `any` acknowledgement rests on it, as far as that is known.
    pub any_ack: bool,
    /// Why it was kept aside; `None` for one that is pending.
    pub reason: Option<Terminal>,
    /// Its bytes cannot be read, or not all of them.
    pub damaged: bool,
    /// The batch; of a damaged one in quarantine, what is left of it.
    pub bytes: Bytes,
}

/// A look at one queue, page by page.
#[derive(Debug)]
pub struct Look {
    place: Place,
    disk: Arc<dyn Disk>,
    executor: Executor,
}

/// How far it has come.
#[derive(Clone, Debug)]
enum Place {
    Pending { queue: Arc<Queue>, at: Cursor, until: u64 },
    Quarantined { queue: PathBuf, files: Option<VecDeque<u64>>, at: Progress },
}

/// What one step has seen.
#[derive(Debug, Default)]
struct Page {
    seen: Vec<Seen>,
    bytes: usize,
}

impl Handoff {
    /// Looks at the hints for `target` in the order they were accepted: at those that are pending,
    /// or at those that were kept aside. `None` if there is no queue.
    #[must_use]
    pub fn look(&self, target: NodeId, quarantined: bool) -> Option<Look> {
        let queue = self.shared.queue(target)?;
        Some(Look::new(queue, quarantined, Arc::clone(&self.disk), self.executor))
    }
}

impl Look {
    pub(super) fn new(
        queue: Arc<Queue>,
        quarantined: bool,
        disk: Arc<dyn Disk>,
        executor: Executor,
    ) -> Self {
        let place = if quarantined {
            let queue = queue.directory.clone();
            Place::Quarantined { queue, files: None, at: Progress::default() }
        } else {
            let (floor, until) = {
                let state = queue.state();
                (state.accounts.floor(), state.accounts.next())
            };
            let at = Cursor { number: 0, offset: header::LENGTH, sequence: floor };
            Place::Pending { queue, at, until }
        };
        Self { place, disk, executor }
    }

    /// What `each` makes of the next hints, where the disk is read; nothing at the end.
    ///
    /// # Errors
    /// I/O errors; damage is no error but shown.
    pub async fn next<T: Send + 'static>(
        &mut self,
        each: impl Fn(Seen) -> T + Send + 'static,
    ) -> Result<Vec<T>, HandoffError> {
        let (disk, mut place) = (Arc::clone(&self.disk), self.place.clone());
        let step = move || -> io::Result<(Place, Vec<T>)> {
            let seen = place.step(&*disk)?;
            Ok((place, seen.into_iter().map(each).collect()))
        };
        let (place, made) = self.executor.run(step).await.map_err(io::Error::from)??;
        self.place = place;
        Ok(made)
    }
}

impl Place {
    fn step(&mut self, disk: &dyn Disk) -> io::Result<Vec<Seen>> {
        let mut page = Page::default();
        match self {
            Self::Pending { queue, at, until } => queue.look(disk, at, *until, &mut page)?,
            Self::Quarantined { queue, files, at } => aside(disk, queue, files, at, &mut page)?,
        }
        Ok(page.seen)
    }
}

impl Page {
    fn is_full(&self) -> bool {
        self.seen.len() >= PAGE_RECORDS || self.bytes >= PAGE_BYTES
    }

    fn add(&mut self, seen: Seen) {
        self.bytes += seen.bytes.len();
        self.seen.push(seen);
    }

    fn record(&mut self, record: Record) {
        let meta = record.meta;
        self.add(Seen {
            sequence: Sequence(meta.sequence),
            count: 1,
            shard: ShardId(meta.shard),
            appended_at: meta.stamp,
            any_ack: meta.flags & ANY_ACK != 0,
            reason: None,
            damaged: false,
            bytes: record.payload,
        });
    }

    /// Hints without bytes, and what is known of the record they were, if it was one.
    fn lost(&mut self, pending: Vec<Range<u64>>, meta: RecordMeta) {
        for range in pending {
            self.add(Seen {
                sequence: Sequence(range.start),
                count: range.end - range.start,
                shard: ShardId(meta.shard),
                appended_at: meta.stamp,
                any_ack: meta.flags & ANY_ACK != 0,
                reason: None,
                damaged: true,
                bytes: Bytes::new(),
            });
        }
    }

    fn kept(&mut self, hint: Quarantined) {
        let damaged = hint.reason == Terminal::Quarantined(QuarantineReason::Damaged);
        self.add(Seen {
            sequence: hint.sequence,
            count: 1,
            shard: hint.shard,
            appended_at: hint.appended_at,
            any_ack: hint.any_ack,
            reason: Some(hint.reason),
            damaged,
            bytes: hint.bytes,
        });
    }
}

impl Queue {
    fn look(
        &self,
        disk: &dyn Disk,
        at: &mut Cursor,
        until: u64,
        page: &mut Page,
    ) -> io::Result<()> {
        while !page.is_full()
            && let Some((segment, end)) = self.ahead(at, until, page)
        {
            let number = segment.header.number;
            let file = match self.open_to_read(disk, &segment) {
                Ok(file) => file,
                Err(error) if self.is_gone(number, &error) => {
                    *at = behind(number, end);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Cursor { offset, sequence, .. } = *at;
            let mut reader = Reader::within(&*file, &segment.header, offset, segment.end, sequence);
            while !page.is_full() {
                match reader.next_found()? {
                    Found::Record(record) if record.meta.sequence < end => {
                        at.sequence = record.meta.sequence + 1;
                        if self.state().accounts.is_pending(record.meta.sequence) {
                            page.record(record);
                        }
                    }
                    Found::Damaged(damage) => {
                        at.sequence = damage.first_sequence + damage.records;
                        let lost = self.pending(damage.first_sequence..at.sequence.min(end));
                        page.lost(lost, damage.header.map_or_else(RecordMeta::default, |h| h.meta));
                    }
                    Found::Record(_) | Found::End { .. } => {
                        page.lost(self.pending(at.sequence..end), RecordMeta::default());
                        *at = behind(number, end);
                        break;
                    }
                }
                at.offset = reader.position();
            }
        }
        Ok(())
    }

    fn pending(&self, sequences: Range<u64>) -> Vec<Range<u64>> {
        self.state().accounts.pending_in(sequences)
    }

    /// The segment of the next pending hint, and where its sequences end; `None` at the end.
    fn ahead(&self, at: &mut Cursor, until: u64, page: &mut Page) -> Option<(Segment, u64)> {
        let state = self.state();
        let mut index = state.segments.partition_point(|s| s.header.number < at.number);
        loop {
            let segment = state.segments.get(index);
            let first = segment.map_or(until, |segment| segment.header.first_sequence.min(until));
            if segment.is_none_or(|segment| segment.header.number > at.number) {
                // Nothing holds what lies between.
                page.lost(state.accounts.pending_in(at.sequence..first), RecordMeta::default());
            }
            let Some(segment) = segment else {
                at.sequence = at.sequence.max(until);
                return None;
            };
            let (number, end) = (segment.header.number, state.sequences_end(index).min(until));
            if number > at.number {
                let sequence = segment.header.first_sequence;
                *at = Cursor { number, offset: header::LENGTH, sequence };
            }
            if !state.accounts.pending_in(at.sequence..end).is_empty() {
                return Some((segment.clone(), end));
            }
            *at = behind(number, at.sequence.max(end));
            index += 1;
        }
    }
}

/// The place behind a segment.
const fn behind(number: u64, sequence: u64) -> Cursor {
    Cursor { number: number.saturating_add(1), offset: header::LENGTH, sequence }
}

/// The next hints of a quarantine.
fn aside(
    disk: &dyn Disk,
    queue: &Path,
    files: &mut Option<VecDeque<u64>>,
    at: &mut Progress,
    page: &mut Page,
) -> io::Result<()> {
    let files = match files {
        Some(files) => files,
        None => files.insert(quarantine::numbers(disk, queue)?.into()),
    };
    while !page.is_full()
        && let Some(number) = files.front()
    {
        let ended = quarantine::read_file(disk, queue, *number, at, &mut |kept| {
            match kept {
                Kept::Hint(hint) => page.kept(hint),
                Kept::Damaged { records, bytes } => page.add(Seen {
                    sequence: Sequence(0),
                    count: records,
                    shard: ShardId(0),
                    appended_at: 0,
                    any_ack: false,
                    reason: Some(Terminal::Quarantined(QuarantineReason::Damaged)),
                    damaged: true,
                    bytes,
                }),
                Kept::Newer => {}
            }
            !page.is_full()
        })?;
        if ended {
            files.pop_front();
            *at = Progress::default();
        }
    }
    Ok(())
}
