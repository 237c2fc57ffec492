//! Versions: the table of a run, and how the rows of a block name theirs.
//!
//! Invariant: a table ascends, each version once; a row names its version by the place in a table,
//! which is the run's or the block's own. The run's table is shared by all blocks of the run and
//! read once; [`VersionTable::encode`] makes its value in the database.

use std::sync::Arc;

use quorate_protocol::{
    batch::codec::{Reader, put_varint},
    id::Version,
};

use super::{BlockError, Density, FORMAT, encode::Scratch, integers};

/// The most versions a run's table may have; a run with more has none.
pub(crate) const MAX_SHARED_VERSIONS: usize = 65_536;

/// The versions of a run, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionTable(Arc<[Version]>);

impl VersionTable {
    /// The distinct ones of these versions, in order.
    pub(crate) fn new(mut versions: Vec<Version>) -> Self {
        versions.dedup();
        versions.sort_unstable();
        versions.dedup();
        Self(versions.into())
    }

    /// The versions, ascending.
    pub(crate) fn versions(&self) -> &[Version] {
        &self.0
    }

    /// Appends the table as a checksummed value.
    pub(crate) fn encode(&self, density: Density, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.push(FORMAT);
        put_table(out, &self.0, density);
        let checksum = crc32fast::hash(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads a value back.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let mut reader = open(bytes)?;
        let table = take_table(&mut reader, MAX_SHARED_VERSIONS)?;
        reader.finish()?;
        Ok(Self(table.into()))
    }
}

/// Checks the checksum and the format of a block or a table.
pub(super) fn open(bytes: &[u8]) -> Result<Reader<'_>, BlockError> {
    let mut reader = Reader::new(bytes);
    let checksum = reader.u32()?;
    if crc32fast::hash(bytes.get(4..).unwrap_or_default()) != checksum {
        return Err(BlockError::BadChecksum);
    }
    match reader.u8()? {
        FORMAT => Ok(reader),
        other => Err(BlockError::UnknownFormat(other)),
    }
}

fn put_table(out: &mut Vec<u8>, table: &[Version], density: Density) {
    let numbers: Vec<i64> = table.iter().map(|version| version.0.cast_signed()).collect();
    put_varint(out, table.len() as u64);
    integers::encode(out, &numbers, density);
}

fn take_table(reader: &mut Reader<'_>, most: usize) -> Result<Vec<Version>, BlockError> {
    let count = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
    if count == 0 || count > most {
        return Err(BlockError::Invalid("impossible version count"));
    }
    let numbers = integers::decode(reader, count)?.into_iter();
    let table: Vec<Version> = numbers.map(|number| Version(number.cast_unsigned())).collect();
    if table.is_sorted_by(|a, b| a < b) {
        Ok(table)
    } else {
        Err(BlockError::Invalid("versions do not ascend"))
    }
}

/// Appends the versions of rows: places in the run's table, or a table and places in it. False if
/// it is the latter.
pub(super) fn encode_rows(
    out: &mut Vec<u8>,
    versions: &[Version],
    shared: Option<&VersionTable>,
    density: Density,
    scratch: &mut Scratch,
) -> bool {
    let places = &mut scratch.integers;
    if let Some(shared) = shared
        && look_up(versions, &shared.0, places)
    {
        integers::encode(out, places, density);
        return true;
    }
    let table = VersionTable::new(versions.to_vec());
    put_table(out, &table.0, density);
    if table.0.len() > 1 {
        look_up(versions, &table.0, places);
        integers::encode(out, places, density);
    }
    false
}

/// The place of each version in a table; false if one is not there.
fn look_up(versions: &[Version], table: &[Version], places: &mut Vec<i64>) -> bool {
    /// Rows of different series come from the same few batches.
    const RECENT: usize = 1024;
    let mut recent = [(Version(0), u32::MAX); RECENT];
    places.clear();
    places.reserve(versions.len());
    for version in versions {
        // The low bits of a version are a counter or nanoseconds.
        let slot = &mut recent[(version.0 ^ version.0 >> 20) as usize % RECENT];
        if slot.0 != *version || slot.1 == u32::MAX {
            match table.binary_search(version) {
                Ok(place) => *slot = (*version, place as u32),
                Err(_) => return false,
            }
        }
        places.push(i64::from(slot.1));
    }
    true
}

/// Reads the versions of `rows` rows.
pub(super) fn decode_rows(
    section: &[u8],
    rows: usize,
    shared: Option<&[Version]>,
) -> Result<Vec<Version>, BlockError> {
    let mut reader = Reader::new(section);
    let own;
    let table = match shared {
        Some(shared) => shared,
        None => {
            own = take_table(&mut reader, rows)?;
            if let [only] = own[..] {
                reader.finish()?;
                return Ok(vec![only; rows]);
            }
            &own
        }
    };
    let places = integers::decode(&mut reader, rows)?;
    reader.finish()?;
    let version = |place: i64| usize::try_from(place).ok().and_then(|at| table.get(at).copied());
    let versions = places.into_iter().map(version);
    versions.collect::<Option<_>>().ok_or(BlockError::Invalid("a version is not in the table"))
}
