//! The hint queues of a node that does not run, as they lie in its directory.
//!
//! Invariant: nothing is written, not even what opening them would mend; the caller holds the lock
//! of the data directory. Made by the command line.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::id::NodeId;
use quorate_protocol::message::QueueVerified;

use super::ledger;
use super::look::Look;
use super::open::{end_of, target_of};
use super::queue::{Queue, Segment, State};
use super::verify::{self, Limit};
use crate::disk::{Disk, Open};
use crate::executor::Executor;
use crate::segment::header::{Header, Kind, Parsed};
use crate::segment::{Reader, name};

/// The queues in a directory.
#[derive(Debug)]
pub struct Stopped {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    queues: BTreeMap<NodeId, io::Result<Arc<Queue>>>,
}

impl Stopped {
    /// Reads the books and headers of every queue in `directory`, which need not exist.
    ///
    /// # Errors
    /// Only if the directory itself cannot be read.
    pub fn read(directory: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let mut queues = BTreeMap::new();
        let entries = match disk.read_directory(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        for entry in entries.into_iter().filter(|entry| entry.directory) {
            if let Some(target) = target_of(&entry.name) {
                let found = queue(&*disk, target, directory.join(&entry.name));
                queues.insert(target, found.map(Arc::new));
            }
        }
        Ok(Self { directory, disk, queues })
    }

    /// The nodes that have, or had, hints here.
    #[must_use]
    pub fn targets(&self) -> Vec<NodeId> {
        self.queues.keys().copied().collect()
    }

    /// Looks at the hints for a node, as [`super::Handoff::look`] does; `None` if there is no queue.
    ///
    /// # Errors
    /// Its queue cannot be read at all.
    pub fn look(&self, target: NodeId, quarantined: bool) -> io::Result<Option<Look>> {
        let queue = match self.queues.get(&target) {
            None => return Ok(None),
            Some(Ok(queue)) => Arc::clone(queue),
            Some(Err(error)) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        Ok(Some(Look::new(queue, quarantined, Arc::clone(&self.disk), Executor::Inline)))
    }

    /// Reads and checks one queue.
    #[must_use]
    pub fn verify(&self, target: NodeId) -> QueueVerified {
        match self.queues.get(&target) {
            Some(Ok(queue)) => verify::queue(&*self.disk, queue, Limit::File),
            Some(Err(error)) => verify::unread(target, error),
            None => QueueVerified { target, ..QueueVerified::default() },
        }
    }

    /// Reads and checks the repair marks, and what else is in the directory.
    #[must_use]
    pub fn verify_marks(&self) -> QueueVerified {
        verify::marks(&*self.disk, &self.directory)
    }
}

/// A queue as opening it would find it.
pub(super) fn queue(disk: &dyn Disk, target: NodeId, directory: PathBuf) -> io::Result<Queue> {
    let mut segments = segments(disk, target, &directory)?;
    let books = ledger::current(disk, &directory, target.0)?.map(|slot| slot.accounts);
    let lost = books.is_none();
    let mut accounts = books.unwrap_or_default();
    if let (true, Some(first)) = (lost, segments.first()) {
        accounts.restart_at(first.header.first_sequence);
    }
    if let Some(last) = segments.last_mut() {
        let file = disk.open(&directory.join(name::of(last.header.number)), Open::Read)?;
        let (next_sequence, end, _) = end_of(&*file, &last.header)?;
        accounts.accept(next_sequence);
        last.end = end;
    }
    let mut state = State::new(accounts);
    state.segments = segments.into();
    Ok(Queue::new(target, directory, state))
}

fn segments(disk: &dyn Disk, target: NodeId, directory: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in disk.read_directory(directory)?.into_iter().filter(|entry| !entry.directory) {
        let Some(number) = name::parse(&entry.name) else { continue };
        let file = disk.open(&directory.join(&entry.name), Open::Read)?;
        let Parsed::Header(header) = Header::read(&*file)? else { continue };
        if (header.kind, header.owner, header.number) == (Kind::Hints, target.0, number) {
            let bytes = file.length()?;
            let end = Reader::limit_of(bytes, &header);
            segments.push(Segment { header, end, bytes, file: None, suspect: false });
        }
    }
    segments.sort_by_key(|segment| segment.header.number);
    Ok(segments)
}
