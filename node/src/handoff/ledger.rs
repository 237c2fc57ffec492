//! Where the books of a queue are kept: two preallocated slots, used in turn.
//!
//! Invariant: the slot with the higher number that begins with an intact snapshot is the truth;
//! the other one is only overwritten when that one is full or spent. Because both exist from the
//! start, a full disk does not keep a queue from draining. Owned by the committer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::accounts::{
    Accounts, ENTRIES, EXCEPTIONS, Ended, SNAPSHOT, decode_entries, encode_entries,
};
use crate::disk::{Disk, Open};
use crate::segment::header::{self, Header, Kind, Parsed};
use crate::segment::record::RecordMeta;
use crate::segment::writer::{FlushError, capacity_for};
use crate::segment::{Found, Reader, Writer};

pub(super) const SLOTS: [&str; 2] = ["accounts-0", "accounts-1"];
/// Bytes of a slot; a snapshot that needs more gets more.
const SLOT_BYTES: u64 = 256 << 10;

/// Whether a file name is a slot's.
pub(super) fn is_slot(file: &str) -> bool {
    SLOTS.contains(&file)
}

/// The open ledger of one queue.
#[derive(Debug)]
pub(super) struct Ledger {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    owner: u64,
    salt: u64,
    /// The number of the current slot; its parity is the slot's index.
    number: u64,
    /// The current slot; `None` once it is spent.
    writer: Option<Writer>,
    next_record: u64,
    /// Entries were written but not synced.
    unsynced: bool,
}

fn slot(directory: &Path, number: u64) -> PathBuf {
    let [even, odd] = SLOTS;
    directory.join(if number.is_multiple_of(2) { even } else { odd })
}

/// What an intact slot says.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: u64,
    pub(super) accounts: Accounts,
    /// Whether an entry ends what had ended before.
    pub(super) contradictory: bool,
}

fn read_slot(disk: &dyn Disk, path: &Path, owner: u64) -> io::Result<Option<Slot>> {
    let file = match disk.open(path, Open::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Parsed::Header(header) = Header::read(&*file)? else {
        return Ok(None);
    };
    if header.kind != Kind::Accounts || header.owner != owner {
        return Ok(None);
    }
    let mut reader = Reader::new(&*file, &header)?;
    let mut accounts: Option<Accounts> = None;
    let mut contradictory = false;
    while let Found::Record(record) = reader.next_found()? {
        match (record.meta.flags, &mut accounts) {
            (SNAPSHOT, _) => accounts = Accounts::from_snapshot(&record.payload),
            (EXCEPTIONS, Some(accounts)) => {
                if !accounts.take_exceptions(&record.payload) {
                    tracing::warn!(owner, "how some hints ended is not known one by one any more");
                }
            }
            (ENTRIES, Some(accounts)) => {
                let Some(entries) = decode_entries(&record.payload) else {
                    break;
                };
                for entry in entries {
                    accounts.accept(entry.first.saturating_add(entry.count));
                    contradictory |= !accounts.end(&entry);
                }
            }
            _ => break,
        }
    }
    Ok(accounts.map(|accounts| Slot { number: header.number, accounts, contradictory }))
}

/// The slot that counts, if there is an intact one.
pub(super) fn current(disk: &dyn Disk, directory: &Path, owner: u64) -> io::Result<Option<Slot>> {
    let mut best: Option<Slot> = None;
    for file in SLOTS {
        let found = read_slot(disk, &directory.join(file), owner)?;
        if found.as_ref().map(|slot| slot.number) > best.as_ref().map(|slot| slot.number) {
            best = found;
        }
    }
    Ok(best)
}

impl Ledger {
    /// Opens the ledger of a queue. Without any intact slot the books start anew, which the second
    /// part of the result says; nothing is written yet.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        owner: u64,
        salt: u64,
    ) -> io::Result<(Self, Option<Accounts>)> {
        let best = current(&*disk, directory, owner)?;
        let number = best.as_ref().map_or(0, |slot| slot.number);
        let ledger = Self {
            disk,
            directory: directory.to_owned(),
            owner,
            salt,
            number,
            writer: None,
            next_record: 1,
            unsynced: false,
        };
        Ok((ledger, best.map(|slot| slot.accounts)))
    }

    /// Creates both slots, so that later turns need no room.
    pub(super) fn create(&self) -> io::Result<()> {
        for file in SLOTS {
            self.disk.open(&self.directory.join(file), Open::Create)?.allocate(SLOT_BYTES)?;
        }
        self.disk.sync_directory(&self.directory)
    }

    /// Stores the whole state in the other slot, synced.
    pub(super) fn turn(&mut self, accounts: &Accounts) -> Result<(), FlushError> {
        let number = self.number + 1;
        let (snapshot, exceptions) = (accounts.snapshot(), accounts.exceptions());
        let whole = snapshot.len() + exceptions.as_ref().map_or(0, Vec::len);
        let path = slot(&self.directory, number);
        let header = Header {
            kind: Kind::Accounts,
            owner: self.owner,
            number,
            first_sequence: 1,
            capacity: capacity_for(SLOT_BYTES, 2 * whole),
            salt: self.salt,
        };
        let prepared = (|| {
            let file = self.disk.open(&path, Open::Create)?;
            file.allocate(header.capacity)?;
            file.write_at(0, &header.encode())?;
            Ok::<_, io::Error>(file)
        })();
        let file = prepared.map_err(|error| {
            if crate::disk::is_full(&error) { FlushError::Full } else { FlushError::Failed(error) }
        })?;
        let mut writer = Writer::resume(file, header, header::LENGTH);
        writer
            .push(&RecordMeta { sequence: 1, flags: SNAPSHOT, ..RecordMeta::default() }, &snapshot);
        let mut next_record = 2;
        if let Some(exceptions) = exceptions {
            let meta = RecordMeta { sequence: 2, flags: EXCEPTIONS, ..RecordMeta::default() };
            writer.push(&meta, &exceptions);
            next_record = 3;
        }
        writer.flush()?;
        self.number = number;
        self.writer = Some(writer);
        self.next_record = next_record;
        self.unsynced = false;
        Ok(())
    }

    /// Stores how hints ended, on top of `accounts`, which do not hold them yet; with `sync`
    /// durably, together with everything stored before.
    pub(super) fn store(
        &mut self,
        accounts: &Accounts,
        entries: &[Ended],
        sync: bool,
    ) -> Result<(), FlushError> {
        let payload = encode_entries(entries);
        let room = |writer: &&mut Writer| writer.fits(payload.len());
        if self.writer.as_mut().filter(room).is_none() {
            let mut accounts = accounts.clone();
            for entry in entries {
                accounts.end(entry);
            }
            return self.turn(&accounts);
        }
        let Some(writer) = self.writer.as_mut() else {
            return Ok(());
        };
        let meta =
            RecordMeta { sequence: self.next_record, flags: ENTRIES, ..RecordMeta::default() };
        writer.push(&meta, &payload);
        match if sync { writer.flush() } else { writer.write() } {
            Ok(()) => {
                self.next_record += 1;
                self.unsynced = !sync;
                Ok(())
            }
            Err(error) => {
                // What this slot now holds is not known; the next call starts the other one.
                self.writer = None;
                Err(error)
            }
        }
    }

    /// Makes everything stored durable.
    pub(super) fn sync(&mut self, accounts: &Accounts) -> Result<(), FlushError> {
        match &self.writer {
            _ if !self.unsynced => Ok(()),
            None => self.turn(accounts),
            Some(writer) => match writer.file().sync_data() {
                Ok(()) => {
                    self.unsynced = false;
                    Ok(())
                }
                Err(error) => {
                    self.writer = None;
                    Err(FlushError::Failed(error))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::terminal::Terminal;
    use super::*;
    use crate::disk::{FaultDisk, Keep, MemoryDisk};

    fn open(disk: Arc<dyn Disk>) -> (Ledger, Accounts) {
        let (ledger, accounts) = Ledger::open(disk, Path::new("/q"), 3, 5).unwrap();
        (ledger, accounts.unwrap_or_default())
    }

    fn delivered(first: u64) -> Ended {
        Ended { first, count: 1, terminal: Terminal::Delivered, shard: 0 }
    }

    fn step(ledger: &mut Ledger, accounts: &mut Accounts, sync: bool) -> Result<(), FlushError> {
        let entry = delivered(accounts.next());
        accounts.accept(entry.first + 1);
        ledger.store(accounts, &[entry], sync)?;
        assert!(accounts.end(&entry));
        Ok(())
    }

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_directory(Path::new("/q")).unwrap();
        disk
    }

    #[test]
    fn books_survive_many_turns_and_any_crash() {
        let memory = disk();
        let (mut ledger, mut accounts) = open(Arc::new(memory.clone()));
        ledger.create().unwrap();
        ledger.turn(&accounts).unwrap();
        let mut synced = 0;
        for count in 1..=9000u64 {
            let sync = count % 100 == 0;
            step(&mut ledger, &mut accounts, sync).unwrap();
            if sync {
                synced = count;
            }
            if count % 377 == 0 {
                for keep in [Keep::All, Keep::Synced, Keep::First(77), Keep::Last(77)] {
                    let (_, found) = open(Arc::new(memory.crash(keep)));
                    assert!((synced..=count).contains(&found.accepted()), "{keep:?} at {count}");
                    assert_eq!(found.pending(), 0);
                    assert!(keep != Keep::All || found.accepted() == count);
                }
            }
        }
        assert!(ledger.number > 2, "the slots were never turned");
    }

    #[test]
    fn the_books_never_need_new_room() {
        let memory = disk();
        let (mut ledger, mut accounts) = open(Arc::new(memory.clone()));
        ledger.create().unwrap();
        ledger.turn(&accounts).unwrap();
        let growth = |paths: Vec<PathBuf>| {
            paths.iter().map(|path| memory.content(path).unwrap().len()).sum::<usize>()
        };
        let before = growth(memory.paths());
        for _ in 0..9000 {
            step(&mut ledger, &mut accounts, false).unwrap();
        }
        assert_eq!(growth(memory.paths()), before, "the books needed new room");
    }

    #[test]
    fn a_failed_write_leaves_the_old_state_and_the_next_call_recovers() {
        let memory = disk();
        let disk = FaultDisk::new(Arc::new(memory.clone()));
        let (mut ledger, mut accounts) = open(Arc::new(disk.clone()));
        ledger.create().unwrap();
        ledger.turn(&accounts).unwrap();
        accounts.accept(3);
        ledger.store(&accounts, &[delivered(1)], true).unwrap();
        assert!(accounts.end(&delivered(1)));
        disk.fail_sync(1);
        assert!(ledger.store(&accounts, &[delivered(2)], true).is_err());
        assert_eq!(disk.injected().syncs, 1);
        ledger.store(&accounts, &[delivered(2)], true).unwrap();
        let (_, found) = open(Arc::new(memory.crash(Keep::Synced)));
        assert_eq!((found.accepted(), found.pending()), (2, 0));
    }
}
