//! Lines that were not written, and why.
//!
//! Invariant: every line that was rejected or failed is in the rejects file once, behind a comment
//! that names its place and the reason; so the file, mended, can be written again.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use quorate_client::error::{FailedRows, RowId};
use quorate_protocol::{
    batch::Batch,
    line::{Options, parse_into},
};

use super::{chunk::Chunk, read::Parsed};
use crate::cli::{fail::Fail, tell};

/// Reasons told on standard error where there is no rejects file.
const TOLD: usize = 10;

/// Takes the lines that were not written.
pub(crate) struct Rejects {
    file: Option<(PathBuf, BufWriter<File>)>,
    told: usize,
    /// Steps aside while something is told.
    pub(crate) bar: ProgressBar,
}

impl Rejects {
    /// With a file, which is replaced if it is there, or without.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Fail> {
        let file = match path {
            None => None,
            Some(path) => {
                let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
                Some((path.to_owned(), BufWriter::new(file)))
            }
        };
        Ok(Self { file, told: 0, bar: ProgressBar::hidden() })
    }

    /// Goes on with the file of an interrupted load, behind its first `length` bytes: what follows
    /// there was not in the load's state yet, and comes again.
    pub(crate) fn reopen(path: Option<&Path>, length: u64) -> Result<Self, Fail> {
        let Some(path) = path else { return Self::open(None) };
        let reopen = || {
            let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
            if file.metadata()?.len() < length {
                return Err(io::Error::other("lines of the interrupted load are gone from it"));
            }
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = reopen().map_err(|error| cannot_write(path, &error))?;
        let file = Some((path.to_owned(), BufWriter::new(file)));
        Ok(Self { file, told: 0, bar: ProgressBar::hidden() })
    }

    /// Everything is on the disk; returns the length of the file.
    pub(crate) fn sync(&mut self) -> Result<u64, Fail> {
        let Some((path, file)) = &mut self.file else { return Ok(0) };
        let mut sync = || {
            file.flush()?;
            file.get_ref().sync_data()?;
            file.get_ref().metadata()
        };
        sync().map(|about| about.len()).map_err(|error| cannot_write(path, &error))
    }

    /// Where rejected lines went, for the report.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// One line, without its newline, which stands in this chunk.
    fn add(
        &mut self,
        chunk: &Chunk,
        at: usize,
        column: usize,
        reason: &str,
        raw: &[u8],
    ) -> Result<(), Fail> {
        let reason = reason.replace(['\n', '\r'], " ");
        let place = match &chunk.source {
            Some(source) => format!("{source} line {at} column {column}"),
            None => format!("line {at} column {column}"),
        };
        if let Some((path, file)) = &mut self.file {
            let mut entry = format!("# {place}: {reason}\n").into_bytes();
            entry.extend_from_slice(raw);
            entry.push(b'\n');
            return file.write_all(&entry).map_err(|error| cannot_write(path, &error));
        }
        self.told += 1;
        let line = match self.told {
            1..=TOLD => format!("{place}: {reason}"),
            count if count == TOLD + 1 => {
                "more lines were not written; --rejects FILE keeps them all, with reasons"
                    .to_owned()
            }
            _ => return Ok(()),
        };
        self.bar.suspend(|| tell(&line));
        Ok(())
    }

    /// The lines that could not be read.
    pub(crate) fn unreadable(&mut self, parsed: &Parsed) -> Result<(), Fail> {
        for (at, error) in &parsed.errors {
            let Some(chunk) = parsed.chunks.get(*at) else { continue };
            let raw = chunk.text.get(error.range.clone()).unwrap_or_default();
            // A string that is never closed takes the newline along.
            let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
            let line = chunk.first_line + error.line - 1;
            self.add(chunk, line, error.column, &error.reason.to_string(), raw)?;
        }
        Ok(())
    }

    /// The lines whose points were refused or failed.
    pub(crate) fn failed(
        &mut self,
        chunks: Vec<Chunk>,
        options: Options,
        failed: &[FailedRows],
    ) -> Result<(), Fail> {
        let mut reasons: BTreeMap<RowId, String> = BTreeMap::new();
        for group in failed {
            let detail = if group.detail.is_empty() { "" } else { ": " };
            let reason = format!("{}{detail}{}", group.code, group.detail);
            reasons.extend(group.rows.iter().map(|row| (*row, reason.clone())));
        }
        for (line, row) in rows_of_lines(chunks, options) {
            if let Some(reason) = reasons.get(&row) {
                let raw = line.text.strip_suffix(b"\n").unwrap_or(&line.text);
                self.add(&line, line.first_line, 1, reason, raw)?;
            }
        }
        Ok(())
    }

    /// Everything is on its way to the disk.
    pub(crate) fn finish(&mut self) -> Result<(), Fail> {
        if let Some((path, file)) = &mut self.file {
            file.flush().map_err(|error| cannot_write(path, &error))?;
        }
        Ok(())
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Fail {
    Fail::failed(format!("cannot write {}: {error}", path.display()))
}

/// Each line that gave a point, with the row that the point is in the batch of all chunks.
fn rows_of_lines(chunks: Vec<Chunk>, options: Options) -> impl Iterator<Item = (Chunk, RowId)> {
    let mut batch = Batch::new();
    let mut rows: Vec<usize> = Vec::new();
    chunks.into_iter().flat_map(Chunk::into_lines).filter_map(move |line| {
        parse_into(&mut batch, &line.text, options);
        let grown = batch.measurements().iter().enumerate().find_map(|(at, measurement)| {
            let before = rows.get(at).copied().unwrap_or(0);
            (measurement.len() > before).then_some((at, before))
        });
        let (at, row) = grown?;
        rows.resize(rows.len().max(at + 1), 0);
        if let Some(count) = rows.get_mut(at) {
            *count += 1;
        }
        let (measurement, row) = (u32::try_from(at).ok()?, u32::try_from(row).ok()?);
        Some((line, RowId { measurement, row }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_again() {
        let text = b"a v=1 1\nb v=1 1\nbroken\n\n# no\na v=2 2\nc s=\"x\ny\" 3\nb v=2 2".to_vec();
        let first = Chunk { text, first_line: 11, source: None };
        let second = Chunk { text: b"b v=3 3".to_vec(), first_line: 1, source: Some("x".into()) };
        let found: Vec<(usize, u32, u32)> = rows_of_lines(vec![first, second], Options::default())
            .map(|(line, row)| (line.first_line, row.measurement, row.row))
            .collect();
        assert_eq!(found, [(11, 0, 0), (12, 1, 0), (16, 0, 1), (17, 2, 0), (19, 1, 1), (1, 1, 2)]);
    }
}
