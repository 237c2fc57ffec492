//! Standard output, for people and for machines.
//!
//! Invariant: everything goes through one buffered writer whose errors reach the caller, and
//! nothing is printed behind a failed write. Used by every subcommand.

use std::io::{self, BufWriter, Stdout, Write};

use serde_json::Value;

use super::fail::Fail;

/// Buffered standard output.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::with_capacity(64 << 10, io::stdout()) }
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fail> {
        self.out.write_all(bytes).map_err(Fail::output)
    }

    /// Writes a line of text.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Fail> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes one JSON document on one line.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Fail> {
        self.line(&value.to_string())
    }

    /// Hands what is buffered to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), Fail> {
        self.out.flush().map_err(Fail::output)
    }
}
