//! Verification: every record and checksum of the hint queues, their books, their quarantine and the
//! repair marks.
//!
//! Invariant: nothing is changed, and no delivery is held up; what a running node writes or removes
//! meanwhile is no problem. Unlike a reader, which needs one intact copy of everything, it looks at
//! all bytes that mean something. Called by sessions and, through [`super::Stopped`], by the command
//! line.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use quorate_protocol::id::NodeId;
use quorate_protocol::message::QueueVerified;

use super::accounts::Accounts;
use super::ledger::{self, SLOTS, is_slot};
use super::marks::{self, Mark};
use super::open::target_of;
use super::quarantine::{self, NEW, hint_of};
use super::queue::{Queue, Segment};
use super::{Handoff, HandoffError, stopped};
use crate::disk::{Disk, DiskFile, Open};
use crate::segment::header::{self, Header, Kind, Parsed};
use crate::segment::{Found, Reader, Record, name, record, trailer};

/// Problems that are described, and bytes of each description.
const MAX_PROBLEMS: usize = 100;
const MAX_DETAIL: usize = 400;
/// How often books that change while they are read are read again.
const AGAIN: u32 = 3;

/// Up to where a queue's last segment is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// What is synced: the rest is being written.
    Synced,
    /// All of the file: nobody writes.
    File,
}

impl Handoff {
    /// Reads and checks everything that is stored of the queues and repair marks; one report per
    /// queue, and one for target 0 that is about the marks and what is no queue.
    ///
    /// # Errors
    /// Only if there is nothing to report on; what cannot be read is a problem.
    pub async fn verify(&self) -> Result<Vec<QueueVerified>, HandoffError> {
        let (disk, directory) = (Arc::clone(&self.disk), self.directory.clone());
        let rest = move || -> io::Result<(QueueVerified, Vec<NodeId>)> {
            let entries = disk.read_directory(&directory)?;
            let targets = entries.iter().filter(|entry| entry.directory);
            let targets = targets.filter_map(|entry| target_of(&entry.name)).collect();
            Ok((marks(&*disk, &directory), targets))
        };
        let (rest, mut targets) = self.executor.run(rest).await.map_err(io::Error::from)??;
        targets.sort_unstable();
        let mut reports = vec![rest];
        for target in targets {
            let (disk, live) = (Arc::clone(&self.disk), self.shared.queue(target));
            let directory = self.directory.join(target.to_string());
            let work = move || match live {
                Some(live) => queue(&*disk, &live, Limit::Synced),
                None => out_of_service(&*disk, target, &directory),
            };
            reports.push(self.executor.run(work).await.map_err(io::Error::from)?);
        }
        Ok(reports)
    }
}

/// A queue that was found broken at the start.
fn out_of_service(disk: &dyn Disk, target: NodeId, directory: &Path) -> QueueVerified {
    let mut report = match stopped::queue(disk, target, directory.to_owned()) {
        Ok(found) => queue(disk, &found, Limit::File),
        Err(error) => unread(target, &error),
    };
    problem(&mut report, "it could not be opened at the start; restart the node".to_owned());
    report
}

/// The report on what cannot be read at all.
pub(super) fn unread(target: NodeId, error: &io::Error) -> QueueVerified {
    let mut report = QueueVerified { target, ..QueueVerified::default() };
    problem(&mut report, format!("it cannot be read: {error}"));
    report
}

/// Reads and checks a queue.
pub(super) fn queue(disk: &dyn Disk, queue: &Queue, limit: Limit) -> QueueVerified {
    let mut report = QueueVerified { target: queue.target, ..QueueVerified::default() };
    let read = files(disk, queue, &mut report)
        .and_then(|()| segments(disk, queue, limit, &mut report))
        .and_then(|()| aside(disk, queue, &mut report))
        .and_then(|()| books(disk, queue, &mut report));
    if let Err(error) = read {
        problem(&mut report, format!("it cannot be read: {error}"));
    }
    report
}

/// The repair marks, and what else is in the directory of the queues.
pub(super) fn marks(disk: &dyn Disk, directory: &Path) -> QueueVerified {
    let mut report = QueueVerified { balanced: true, ..QueueVerified::default() };
    let read = (|| -> io::Result<()> {
        let leftover = format!("{}.{NEW}", marks::FILE);
        let entries = match disk.read_directory(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let ours = match entry.directory {
                true => target_of(&entry.name).is_some(),
                false => entry.name == marks::FILE || entry.name == leftover,
            };
            report.unknown += u64::from(!ours);
        }
        let Some(file) = present(disk, &directory.join(marks::FILE))? else { return Ok(()) };
        let Some(header) = header_of(&*file, Kind::Marks, 0, marks::FILE, &mut report)? else {
            return Ok(());
        };
        let mut strange = 0u64;
        let walked = walk(&*file, &header, marks::FILE, Span::all(&*file, &header)?, &mut report)
            .each(&mut |record| {
            strange += u64::from(Mark::parse(record.meta.shard, &record.payload).is_none());
        })?;
        report.records = walked.records;
        if strange > 0 {
            problem(&mut report, format!("{}: {strange} marks of a later version", marks::FILE));
        }
        Ok(())
    })();
    if let Err(error) = read {
        problem(&mut report, format!("{} cannot be read: {error}", marks::FILE));
    }
    report
}

/// The names in a queue's directory, and the headers of segments that are not in service.
fn files(disk: &dyn Disk, queue: &Queue, report: &mut QueueVerified) -> io::Result<()> {
    for entry in disk.read_directory(&queue.directory)? {
        if entry.name == quarantine::DIRECTORY && entry.directory {
            continue;
        }
        let Some(number) = name::parse(&entry.name).filter(|_| !entry.directory) else {
            report.unknown += u64::from(!is_slot(&entry.name) || entry.directory);
            continue;
        };
        let Some(file) = present(disk, &queue.path(number))? else { continue };
        match Header::read(&*file)? {
            Parsed::Header(header)
                if (header.kind, header.owner, header.number)
                    == (Kind::Hints, queue.target.0, number) => {}
            Parsed::Blank => {}
            Parsed::Newer(_) => report.unknown += 1,
            Parsed::Header(_) | Parsed::Damaged => {
                problem(report, format!("segment {number}: its header is damaged"));
            }
        }
    }
    Ok(())
}

fn segments(
    disk: &dyn Disk,
    queue: &Queue,
    limit: Limit,
    report: &mut QueueVerified,
) -> io::Result<()> {
    let mut at = 0;
    let mut expected = queue.state().accounts.floor();
    loop {
        let (segment, until, last) = {
            let state = queue.state();
            let index = state.segments.partition_point(|segment| segment.header.number <= at);
            let Some(segment) = state.segments.get(index) else { break };
            let last = index + 1 == state.segments.len();
            (segment.clone(), state.sequences_end(index), last)
        };
        at = segment.header.number;
        missing(queue, expected..segment.header.first_sequence, report);
        expected = until;
        let file = match queue.open_to_read(disk, &segment) {
            Err(error) if queue.is_gone(at, &error) => continue,
            other => other?,
        };
        let end = if last && limit == Limit::Synced {
            segment.end
        } else {
            Reader::limit_of(file.length()?, &segment.header)
        };
        let span = Span { end, until };
        let what = format!("segment {at}");
        let mut pending = 0;
        let walked = walk(&*file, &segment.header, &what, span, report).each(&mut |record| {
            pending += u64::from(queue.state().accounts.is_pending(record.meta.sequence));
        })?;
        report.segments += 1;
        report.records += walked.records;
        report.pending += pending;
        report.torn |= walked.torn && last;
        missing(queue, walked.next..until, report);
        position(&*file, &segment, &what, report)?;
    }
    let next = queue.state().accounts.next();
    missing(queue, expected..next, report);
    Ok(())
}

/// Pending hints that nothing holds.
fn missing(queue: &Queue, sequences: Range<u64>, report: &mut QueueVerified) {
    for range in queue.state().accounts.pending_in(sequences) {
        let count = range.end - range.start;
        report.damaged += count;
        problem(report, format!("hints {}..{}: missing", range.start, range.end));
    }
}

/// The note at the end of a segment. It may be missing, and is not needed, but not be damaged.
fn position(
    file: &dyn DiskFile,
    segment: &Segment,
    what: &str,
    report: &mut QueueVerified,
) -> io::Result<()> {
    let Some(place) = segment.header.capacity.checked_sub(trailer::LENGTH) else { return Ok(()) };
    let mut bytes = [0; trailer::LENGTH as usize];
    if file.read_at(place, &mut bytes)? == bytes.len()
        && bytes.iter().any(|byte| *byte != 0)
        && trailer::parse(segment.header.seed(), bytes).is_none()
    {
        problem(report, format!("{what}: the note of how far it was read is damaged"));
    }
    Ok(())
}

/// The quarantine.
fn aside(disk: &dyn Disk, queue: &Queue, report: &mut QueueVerified) -> io::Result<()> {
    let directory = queue.directory.join(quarantine::DIRECTORY);
    let entries = match disk.read_directory(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let unread = entry.name.strip_prefix(quarantine::UNREADABLE);
        let bare = unread.unwrap_or(&entry.name);
        let bare = bare.strip_suffix(&format!(".{NEW}")).unwrap_or(bare);
        let Some(number) = name::parse(bare).filter(|_| !entry.directory) else {
            report.unknown += 1;
            continue;
        };
        if unread.is_some() {
            let advice = format!("'quorate hints drop {} --quarantined' removes it", queue.target);
            problem(
                report,
                format!("segment {number} could not be read, and lies aside; {advice}"),
            );
        }
        if bare != entry.name {
            continue;
        }
        let Some(file) = present(disk, &directory.join(&entry.name))? else { continue };
        let what = format!("quarantine file {number}");
        let header = header_of(&*file, Kind::Quarantine, queue.target.0, &what, report)?;
        let Some(header) = header else { continue };
        let span = Span::all(&*file, &header)?;
        let mut newer = 0u64;
        let walked = walk(&*file, &header, &what, span, report).each(&mut |record| {
            newer += u64::from(hint_of(record.meta, &record.payload).is_none());
        })?;
        report.aside += walked.records;
        if newer > 0 {
            problem(report, format!("{what}: {newer} hints of a later version"));
        }
    }
    Ok(())
}

/// The books: the slot that counts, one that should have counted, and whether they balance.
fn books(disk: &dyn Disk, queue: &Queue, report: &mut QueueVerified) -> io::Result<()> {
    for attempt in 1.. {
        let Some(current) = ledger::current(disk, &queue.directory, queue.target.0)? else {
            problem(report, "the accounts cannot be read; how hints ended is lost".to_owned());
            break;
        };
        let mut found = QueueVerified::default();
        for what in SLOTS {
            let Some(file) = present(disk, &queue.directory.join(what))? else { continue };
            let header = match Header::read(&*file)? {
                // What an older one holds behind a tear is nobody's business any more.
                Parsed::Header(header) if header.number >= current.number => header,
                _ => continue,
            };
            let span = Span::all(&*file, &header)?;
            walk(&*file, &header, what, span, &mut found).each(&mut |_| {})?;
        }
        // A running node may have gone on to the other slot and come back to the first.
        let again = ledger::current(disk, &queue.directory, queue.target.0)?;
        if attempt < AGAIN && again.is_some_and(|again| again.number != current.number) {
            continue;
        }
        report.damaged += found.damaged;
        found.problems.into_iter().for_each(|text| problem(report, text));
        if current.contradictory {
            problem(report, "the accounts end a hint twice".to_owned());
        }
        report.balanced = !current.contradictory;
        break;
    }
    let accounts = queue.state().accounts.clone();
    report.accepted = accounts.accepted();
    report.balanced &= balances(&accounts);
    Ok(())
}

fn balances(accounts: &Accounts) -> bool {
    let ended: u64 = accounts.tallies().map(|(_, _, count)| count).sum();
    accounts.accepted() == accounts.pending() + ended
}

fn present(disk: &dyn Disk, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
    match disk.open(path, Open::Read) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The header of a file that must be of this kind; none if it is not, or was never used.
fn header_of(
    file: &dyn DiskFile,
    kind: Kind,
    owner: u64,
    what: &str,
    report: &mut QueueVerified,
) -> io::Result<Option<Header>> {
    match Header::read(file)? {
        Parsed::Header(header) if (header.kind, header.owner) == (kind, owner) => {
            return Ok(Some(header));
        }
        Parsed::Blank => {}
        Parsed::Newer(_) => report.unknown += 1,
        Parsed::Header(_) | Parsed::Damaged => {
            problem(report, format!("{what}: its header is damaged"));
        }
    }
    Ok(None)
}

/// What is read of a file.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// The byte behind the last record.
    end: u64,
    /// The sequence behind the last one that counts.
    until: u64,
}

impl Span {
    fn all(file: &dyn DiskFile, header: &Header) -> io::Result<Self> {
        Ok(Self { end: Reader::limit_of(file.length()?, header), until: u64::MAX })
    }
}

/// A file that is being read to its end.
struct Walk<'a> {
    file: &'a dyn DiskFile,
    header: &'a Header,
    what: &'a str,
    span: Span,
    report: &'a mut QueueVerified,
}

/// What was in it.
#[derive(Debug, Default)]
struct Walked {
    records: u64,
    /// The sequence behind the last record.
    next: u64,
    torn: bool,
}

fn walk<'a>(
    file: &'a dyn DiskFile,
    header: &'a Header,
    what: &'a str,
    span: Span,
    report: &'a mut QueueVerified,
) -> Walk<'a> {
    Walk { file, header, what, span, report }
}

impl Walk<'_> {
    fn each(self, each: &mut dyn FnMut(&Record)) -> io::Result<Walked> {
        let Self { file, header, what, span, report } = self;
        let mut copies = [0; header::LENGTH as usize];
        file.read_at(0, &mut copies)?;
        if copies != header.encode() {
            problem(report, format!("{what}: a copy of its header is damaged"));
        }
        let mut walked = Walked { next: header.first_sequence, ..Walked::default() };
        let mut reader = Reader::within(file, header, header::LENGTH, span.end, walked.next);
        loop {
            match reader.next_found()? {
                Found::Record(record) if record.meta.sequence < span.until => {
                    walked.records += 1;
                    walked.next = record.meta.sequence + 1;
                    if !ends_well(file, header, &record, reader.position())? {
                        let sequence = record.meta.sequence;
                        problem(report, format!("{what}: the end of record {sequence} is damaged"));
                    }
                    each(&record);
                }
                Found::Damaged(damage) if damage.first_sequence < span.until => {
                    walked.next = walked.next.max(damage.first_sequence + damage.records);
                    report.damaged += damage.records;
                    let (from, to) = (damage.range.start, damage.range.end);
                    let records = damage.records;
                    problem(report, format!("{what}: bytes {from}..{to}: {records} records lost"));
                }
                // What a failed append left behind the last record that counts.
                Found::Record(_) | Found::Damaged(_) => return Ok(walked),
                Found::End { torn, blank, .. } => {
                    walked.torn = torn || !blank;
                    return Ok(walked);
                }
            }
        }
    }
}

/// Whether padding and end mark of an intact record are as they were written.
fn ends_well(file: &dyn DiskFile, header: &Header, record: &Record, end: u64) -> io::Result<bool> {
    let mut expected = Vec::new();
    record::encode_tail(header.seed(), record.payload.len(), &mut expected);
    let mut found = vec![0; expected.len()];
    file.read_at(end - expected.len() as u64, &mut found)?;
    Ok(found == expected)
}

fn problem(report: &mut QueueVerified, mut text: String) {
    report.found += 1;
    if report.problems.len() < MAX_PROBLEMS {
        let end = (0..=MAX_DETAIL.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        report.problems.push(text);
    }
}
