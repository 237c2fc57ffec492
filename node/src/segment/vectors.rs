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

/// One fenced vector block.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) bytes: Vec<u8>,
}

impl Vector {
    pub(crate) fn number(&self, key: &str) -> u64 {
        let field = self.fields.iter().find(|(name, _)| name == key);
        field
            .unwrap_or_else(|| panic!("{}: no {key}", self.name))
            .1
            .parse()
            .unwrap()
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter().filter(move |(name, _)| name == key);
        fields.map(|(_, value)| value.as_str())
    }
}

/// `a=1 b=2` as numbers, in that order.
pub(crate) fn numbers(text: &str) -> Vec<u64> {
    let values = text
        .split_whitespace()
        .filter_map(|word| word.split_once('=')?.1.parse().ok());
    values.collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// The vectors of a kind.
pub(crate) fn vectors(kind: &str) -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("SPEC.md")).unwrap();
    let mut found = Vec::new();
    for block in text.split("```vector ").skip(1) {
        let (info, rest) = block.split_once('\n').unwrap();
        let Some(name) = info.strip_suffix(&format!(" kind={kind}")) else { continue };
        let body = rest.split_once("```").unwrap().0;
        let pairs = body.lines().map(|line| line.split_once(": ").unwrap());
        let (hex, fields): (Vec<_>, Vec<_>) = pairs.partition(|(key, _)| *key == "hex");
        found.push(Vector {
            name: name.strip_prefix("name=").unwrap().to_owned(),
            fields: fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            bytes: unhex(&hex.iter().map(|(_, value)| *value).collect::<String>()),
        });
    }
    assert!(!found.is_empty(), "no vectors of kind {kind}");
    found
}

fn header_of(vector: &Vector) -> Header {
    let kind = match vector.all("segment").next().unwrap() {
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
        assert_eq!(
            Header::parse(&vector.bytes),
            Parsed::Header(header),
            "{}",
            vector.name
        );
        assert_eq!(
            u64::from(header.seed()),
            vector.number("seed"),
            "{}",
            vector.name
        );
        if !vector.name.ends_with("damaged") {
            assert_eq!(header.encode()[..], vector.bytes, "{}", vector.name);
        }
    }
    for vector in vectors("segment-header-invalid") {
        let expected = match vector.all("reason").next().unwrap() {
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
                let RecordMeta {
                    sequence,
                    shard,
                    stamp,
                    flags,
                } = record.meta;
                let hex: String = record
                    .payload
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
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
            Found::End {
                offset,
                torn,
                blank,
            } => ("end", format!("offset={offset} torn={torn} blank={blank}")),
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
        assert_eq!(
            found_in(&vector.bytes, &header),
            vector.fields,
            "{}",
            vector.name
        );
    }
}

#[test]
fn segments_are_written() {
    let all = vectors("segment");
    let vector = all
        .iter()
        .find(|vector| vector.name == "segment-three-records")
        .unwrap();
    let Parsed::Header(header) = Header::parse(&vector.bytes) else {
        panic!("no header")
    };
    let mut bytes = header.encode().to_vec();
    for line in vector.all("record") {
        let payload = unhex(line.split_once("payload=").unwrap().1);
        let fields = numbers(line.split_once(" payload=").unwrap().0);
        let [offset, sequence, shard, stamp, flags] = fields[..] else {
            panic!("{line}")
        };
        assert_eq!(bytes.len() as u64, offset);
        let meta = RecordMeta {
            sequence,
            shard,
            stamp,
            flags: flags as u32,
        };
        record::encode(header.seed(), &meta, &payload, &mut bytes);
    }
    assert_eq!(bytes, vector.bytes);
}

#[test]
fn trailers() {
    for vector in vectors("segment-trailer") {
        let seed = vector.number("seed") as u32;
        let offset = vector.number("offset");
        assert_eq!(trailer::encode(seed, offset as u32)[..], vector.bytes);
        assert_eq!(
            trailer::parse(seed, vector.bytes[..].try_into().unwrap()),
            Some(offset)
        );
    }
}
