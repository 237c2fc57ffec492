//! The times of a block's rows.
//!
//! Invariant: decoded times ascend within each span. They are kept as distances from where a steady
//! pace expects them, or as they are, whichever is smaller: a pace with jitter is better off
//! without the guess.

use quorate_protocol::batch::codec::{Reader, times};

use super::{BlockError, Density, Span, integers};

/// Distances from what is expected.
const DISTANCES: u8 = 0;
/// The times themselves.
const PLAIN: u8 = 1;

/// Appends the times.
pub(super) fn encode(
    out: &mut Vec<u8>,
    times: &[i64],
    spans: &[Span],
    density: Density,
    scratch: &mut Vec<i64>,
) {
    scratch.clear();
    times::distances(times, spans.iter().map(|span| span.rows.len()), scratch);
    let start = out.len();
    out.push(DISTANCES);
    integers::encode(out, scratch, density);
    if density == Density::Dense {
        let end = out.len();
        out.push(PLAIN);
        integers::encode(out, times, density);
        if out.len() - end < end - start {
            out.drain(start..end);
        } else {
            out.truncate(end);
        }
    }
}

/// Reads the times of all rows.
pub(super) fn decode(section: &[u8], spans: &[Span], rows: usize) -> Result<Vec<i64>, BlockError> {
    let mut reader = Reader::new(section);
    let form = reader.u8()?;
    let mut times = integers::decode(&mut reader, rows)?;
    reader.finish()?;
    match form {
        DISTANCES => times::restore(&mut times, spans.iter().map(|span| span.rows.len())),
        PLAIN => {}
        _ => return Err(BlockError::Invalid("a form of times is unknown")),
    }
    if spans.iter().all(|span| times[span.range()].is_sorted()) {
        Ok(times)
    } else {
        Err(BlockError::Invalid("times do not ascend"))
    }
}
