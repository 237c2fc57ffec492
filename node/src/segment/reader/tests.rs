//! Damage in every place: torn at every byte, every bit flipped, reused files.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::disk::{Disk, MemoryDisk, Open};
use crate::segment::record::RecordMeta;
use crate::segment::writer::Writer;

const RECORDS: u64 = 40;

fn header(number: u64, first_sequence: u64, capacity: u64) -> Header {
    Header { kind: Kind::Hints, owner: 2, number, first_sequence, capacity, salt: 77 }
}

fn payload(sequence: u64) -> Vec<u8> {
    (0..sequence % 23).map(|index| (sequence * 7 + index) as u8).collect()
}

fn push(writer: &mut Writer, sequence: u64) -> u64 {
    let meta = RecordMeta { sequence, shard: sequence % 3, stamp: sequence * 10, flags: 1 };
    writer.push(&meta, &payload(sequence))
}

/// A segment of `RECORDS` records and where each ends.
fn image(capacity: u64) -> (Vec<u8>, Vec<u64>) {
    let disk = MemoryDisk::new();
    disk.create_directory(Path::new("/d")).unwrap();
    let path = Path::new("/d/s");
    let mut writer = Writer::create(&disk, path, header(1, 1, capacity)).unwrap();
    let mut ends = Vec::new();
    for sequence in 1..=RECORDS {
        push(&mut writer, sequence);
        writer.flush().unwrap();
        ends.push(writer.position());
    }
    (disk.content(path).unwrap(), ends)
}

#[derive(Debug, Default)]
struct Outcome {
    sequences: Vec<u64>,
    damaged: u64,
    ranges: Vec<Range<u64>>,
    torn: bool,
    blank: bool,
    end: u64,
}

fn read(bytes: Vec<u8>, header: &Header) -> Outcome {
    let disk = MemoryDisk::new();
    let path = Path::new("/s");
    disk.replace(path, bytes);
    let file: Arc<dyn DiskFile> = disk.open(path, Open::Read).unwrap();
    let mut reader = Reader::new(&*file, header).unwrap();
    let mut outcome = Outcome::default();
    loop {
        match reader.next_found().unwrap() {
            Found::Record(record) => {
                let sequence = record.meta.sequence;
                assert_eq!(record.payload, payload(sequence), "altered data was returned");
                assert_eq!((record.meta.shard, record.meta.stamp), (sequence % 3, sequence * 10));
                outcome.sequences.push(sequence);
            }
            Found::Damaged(damage) => {
                outcome.damaged += damage.records;
                outcome.ranges.push(damage.range);
            }
            Found::End { offset, torn, blank } => {
                outcome.torn = torn;
                outcome.blank = blank;
                outcome.end = offset;
                return outcome;
            }
        }
    }
}

#[test]
fn an_untouched_segment_reads_back_and_ends_clean() {
    for capacity in [0, 8192] {
        let (bytes, ends) = image(capacity);
        let outcome = read(bytes, &header(1, 1, capacity));
        assert_eq!(outcome.sequences, (1..=RECORDS).collect::<Vec<_>>());
        assert_eq!((outcome.damaged, outcome.torn, outcome.blank), (0, false, true));
        assert_eq!(outcome.end, *ends.last().unwrap());
    }
}

#[test]
fn a_file_torn_at_any_byte_keeps_every_whole_record() {
    let (bytes, ends) = image(8192);
    let random: Vec<u8> = (0..bytes.len()).map(|at| (at * 131 + 17) as u8).collect();
    for cut in 0..=*ends.last().unwrap() as usize {
        let whole = ends.iter().filter(|end| **end as usize <= cut).count() as u64;
        let shortened = bytes[..cut].to_vec();
        let mut zeroed = shortened.clone();
        zeroed.resize(bytes.len(), 0);
        let mut garbled = shortened.clone();
        garbled.extend_from_slice(&random[cut..]);
        for torn in [shortened, zeroed, garbled] {
            let outcome = read(torn, &header(1, 1, 8192));
            // A cut in a record's padding or end mark may leave the record itself whole.
            let found = outcome.sequences.len() as u64;
            assert!(found == whole || found == whole + 1, "cut {cut}");
            assert_eq!(outcome.sequences, (1..=found).collect::<Vec<_>>());
            assert_eq!(outcome.damaged, 0, "cut {cut}: a torn tail is not damage");
        }
    }
}

#[test]
fn any_flipped_bit_costs_at_most_its_own_record() {
    let (bytes, ends) = image(8192);
    let end = *ends.last().unwrap() as usize;
    for bit in header::LENGTH as usize * 8..(end + 64) * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let outcome = read(damaged, &header(1, 1, 8192));
        let lost = RECORDS - outcome.sequences.len() as u64;
        assert!(lost <= 1, "bit {bit} cost {lost} records");
        assert_eq!(outcome.damaged, lost, "bit {bit}: loss must be counted");
        assert!(outcome.sequences.is_sorted());
        if let Some(index) = ends.iter().position(|end| bit / 8 < *end as usize) {
            let hit = index as u64 + 1;
            assert!(lost == 0 || !outcome.sequences.contains(&hit), "bit {bit}: the wrong one");
            for range in outcome.ranges {
                let start = index.checked_sub(1).map_or(header::LENGTH, |before| ends[before]);
                assert_eq!(range, start..ends[index], "bit {bit}");
            }
        }
    }
}

#[test]
fn a_zeroed_stretch_is_damage_not_the_end() {
    let (mut bytes, ends) = image(8192);
    bytes[ends[9] as usize..ends[14] as usize].fill(0);
    let outcome = read(bytes, &header(1, 1, 8192));
    assert_eq!(outcome.damaged, 5);
    assert_eq!(outcome.sequences.len() as u64, RECORDS - 5);
    assert_eq!(outcome.ranges.first(), Some(&(ends[9]..ends[14])));
}

#[test]
fn a_reused_file_never_shows_its_past() {
    let (old, _) = image(8192);
    let disk = MemoryDisk::new();
    let path = Path::new("/s");
    disk.replace(path, old);
    let file = disk.open(path, Open::Existing).unwrap();
    // The same first sequence on purpose: only the header tells the lives apart.
    let fresh = header(2, 1, 8192);
    file.write_at(0, &fresh.encode()).unwrap();
    assert!(read(disk.content(path).unwrap(), &fresh).sequences.is_empty());
    let mut writer = Writer::resume(file, fresh, header::LENGTH);
    for sequence in 1..=5 {
        push(&mut writer, sequence);
        writer.flush().unwrap();
        let outcome = read(disk.content(path).unwrap(), &fresh);
        assert_eq!(outcome.sequences, (1..=sequence).collect::<Vec<_>>());
        assert_eq!(outcome.damaged, 0);
    }
}

#[test]
fn an_absurd_length_is_never_believed() {
    let (mut bytes, ends) = image(0);
    let seed = header(1, 1, 0).seed();
    let start = ends[19] as usize;
    bytes[start + 4..start + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = record::checksum(seed, &bytes[start..start + 40]).to_le_bytes();
    bytes[start + 40..start + 44].copy_from_slice(&crc);
    let outcome = read(bytes, &header(1, 1, 0));
    assert_eq!(outcome.damaged, 1);
    assert_eq!(outcome.sequences.len() as u64, RECORDS - 1);
}

#[test]
fn the_damaged_last_record_is_told_from_a_torn_one() {
    let (bytes, ends) = image(8192);
    let start = ends[ends.len() - 2] as usize;
    let mut flipped = bytes.clone();
    flipped[start + 9] ^= 4;
    let outcome = read(flipped, &header(1, 1, 8192));
    assert_eq!((outcome.damaged, outcome.sequences.len() as u64), (1, RECORDS - 1));
    let mut torn = bytes;
    torn[start + 50..].fill(0);
    let outcome = read(torn, &header(1, 1, 8192));
    assert_eq!((outcome.damaged, outcome.torn), (0, true));
}
