//! Holds the file formats against the vectors of the specification, in both directions.
//!
//! Invariant: a vector never changes while the format version stays. The vectors were made by a
//! program of their own, not by this crate.

use std::path::Path;

use super::header::{Header, Kind, Parsed};
use super::reader::{Found, Reader};
use super::record::{self, RecordMeta};
use super::trailer;
use crate::disk::{Disk, MemoryDisk, Open};
use crate::spec::{Vector, unhex, vector, vectors};

/// `a=1 b=2` as numbers, in that order.
pub(crate) fn numbers(text: &str) -> Vec<u64> {
    let values = text.split_whitespace().filter_map(|word| word.split_once('=')?.1.parse().ok());
    values.collect()
}

fn header_of(vector: &Vector) -> Header {
    let kind = match vector.one("segment") {
        "journal" => Kind::Journal,
        "marks" => Kind::Marks,
        other => panic!("{other}"),
    };
    Header {
        kind,
        owner: vector.number("owner"),
        number: vector.number("number"),
        first_sequence: vector.number("first_sequence"),
        capacity: vector.number("capacity"),
        salt: vector.number("salt"),
    }
}

#[test]
fn headers() {
    for vector in vectors("segment-header") {
        let header = header_of(&vector);
        assert_eq!(Header::parse(&vector.bytes), Parsed::Header(header), "{}", vector.name);
        assert_eq!(u64::from(header.seed()), vector.number::<u64>("seed"), "{}", vector.name);
        if !vector.name.ends_with("damaged") {
            assert_eq!(header.encode()[..], vector.bytes, "{}", vector.name);
        }
    }
    for vector in vectors("segment-header-invalid") {
        let expected = match vector.one("reason") {
            "damaged" => Parsed::Damaged,
            "blank" => Parsed::Blank,
            "newer 2" => Parsed::Newer(2),
            other => panic!("{other}"),
        };
        assert_eq!(Header::parse(&vector.bytes), expected, "{}", vector.name);
    }
}

/// What a reader finds, in the words of the vectors.
fn found_in(bytes: &[u8], header: &Header) -> Vec<(String, String)> {
    let disk = MemoryDisk::new();
    disk.replace(Path::new("/s"), bytes.to_vec());
    let file = disk.open(Path::new("/s"), Open::Read).unwrap();
    let mut reader = Reader::new(&*file, header).unwrap();
    let mut lines = Vec::new();
    loop {
        let (key, text) = match reader.next_found().unwrap() {
            Found::Record(record) => {
                let RecordMeta { sequence, shard, stamp, flags } = record.meta;
                let hex: String = record.payload.iter().map(|byte| format!("{byte:02x}")).collect();
                let offset = record.offset;
                let text = format!(
                    "offset={offset} sequence={sequence} shard={shard} stamp={stamp} \
                     flags={flags} payload={hex}"
                );
                ("record", text)
            }
            Found::Damaged(damage) => {
                let (from, to) = (damage.range.start, damage.range.end);
                let (first, records) = (damage.first_sequence, damage.records);
                let text = format!("from={from} to={to} first_sequence={first} records={records}");
                ("damaged", text)
            }
            Found::End { offset, torn, blank } => {
                ("end", format!("offset={offset} torn={torn} blank={blank}"))
            }
        };
        let end = key == "end";
        lines.push((key.to_owned(), text));
        if end {
            return lines;
        }
    }
}

#[test]
fn segments_are_read() {
    for vector in vectors("segment") {
        let Parsed::Header(header) = Header::parse(&vector.bytes) else {
            panic!("{}: no header", vector.name);
        };
        assert_eq!((header.kind, header.owner), (Kind::Hints, 3));
        assert_eq!(found_in(&vector.bytes, &header), vector.entries, "{}", vector.name);
    }
}

#[test]
fn segments_are_written() {
    let vector = vector("segment", "segment-three-records");
    let Parsed::Header(header) = Header::parse(&vector.bytes) else { panic!("no header") };
    let mut bytes = header.encode().to_vec();
    for line in vector.all("record") {
        let payload = unhex(line.split_once("payload=").unwrap().1);
        let fields = numbers(line.split_once(" payload=").unwrap().0);
        let [offset, sequence, shard, stamp, flags] = fields[..] else { panic!("{line}") };
        assert_eq!(bytes.len() as u64, offset);
        let meta = RecordMeta { sequence, shard, stamp, flags: flags as u32 };
        record::encode(header.seed(), &meta, &payload, &mut bytes);
    }
    assert_eq!(bytes, vector.bytes);
}

#[test]
fn trailers() {
    for vector in vectors("segment-trailer") {
        let seed = vector.number::<u32>("seed");
        let offset: u64 = vector.number("offset");
        assert_eq!(trailer::encode(seed, offset as u32)[..], vector.bytes);
        assert_eq!(trailer::parse(seed, vector.bytes[..].try_into().unwrap()), Some(offset));
    }
}
