//! Numbers as pco chunks: the dense encodings.
//!
//! Invariant: of what pco offers only the forms without tables of values or windows are written and
//! read, so that decoding takes memory in proportion to the count that the caller asks for, and a
//! little for at most 2^15 bins. A chunk ends by itself.

use pco::{
    ChunkConfig, DeltaSpec, ModeSpec,
    data_types::Number,
    errors::PcoError,
    metadata::DeltaEncoding,
    wrapped::{FileCompressor, FileDecompressor},
};
use quorate_protocol::batch::codec::Reader;

use super::BlockError;

/// The compression level that is worth its time; higher ones gain less than a hundredth.
const LEVEL: usize = 8;
/// The order of differences at most.
const MAX_ORDER: usize = 2;
/// The modes that are read, by the number that begins a chunk: plain, multiples of a float, floats
/// with few bits.
const MODES: [u8; 3] = [0, 2, 3];

/// Appends numbers as the smallest chunk of some tries; false, and nothing appended, if none takes
/// fewer than `limit` bytes.
pub(super) fn encode<T: Number>(
    out: &mut Vec<u8>,
    numbers: &[T],
    mode: &ModeSpec,
    limit: usize,
) -> bool {
    let mut best: Option<Vec<u8>> = None;
    for order in 0..=MAX_ORDER {
        let limit = best.as_ref().map_or(limit, Vec::len);
        match chunk(numbers, mode.clone(), order) {
            Ok(chunk) if chunk.len() < limit => best = Some(chunk),
            // What does not get smaller with one order does not with the next.
            _ if order > 0 => break,
            _ => {}
        }
    }
    if let Some(best) = &best {
        out.extend_from_slice(best);
    }
    best.is_some()
}

fn chunk<T: Number>(numbers: &[T], mode: ModeSpec, order: usize) -> Result<Vec<u8>, PcoError> {
    let delta = if order == 0 { DeltaSpec::NoOp } else { DeltaSpec::TryConsecutive(order) };
    let config = ChunkConfig::default()
        .with_compression_level(LEVEL)
        .with_mode_spec(mode)
        .with_delta_spec(delta)
        .with_paging_spec(pco::PagingSpec::Exact(vec![numbers.len()]));
    let file = FileCompressor::default();
    let mut out = file.write_header(Vec::new())?;
    let mut chunk = file.chunk_compressor(numbers, &config)?;
    out = chunk.write_meta(out)?;
    chunk.write_page(0, out)
}

/// Reads `count` numbers, at least one.
pub(super) fn decode<T: Number + Default>(
    reader: &mut Reader<'_>,
    count: usize,
) -> Result<Vec<T>, BlockError> {
    const DAMAGED: BlockError = BlockError::Invalid("a chunk of dense numbers is damaged");
    let bytes = reader.rest();
    let (file, rest) = FileDecompressor::new(bytes).map_err(|_| DAMAGED)?;
    // Before pco makes room for a table of values.
    if !rest.first().is_some_and(|first| MODES.contains(&(first & 0xf))) {
        return Err(BlockError::Invalid("a mode of dense numbers is unknown"));
    }
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).map_err(|_| DAMAGED)?;
    if !matches!(
        chunk.meta().delta_encoding,
        DeltaEncoding::NoOp | DeltaEncoding::Consecutive { .. }
    ) {
        return Err(BlockError::Invalid("a form of differences is unknown"));
    }
    let mut page = chunk.page_decompressor(rest, count).map_err(|_| DAMAGED)?;
    let mut numbers = vec![T::default(); count];
    let progress = page.read(&mut numbers).map_err(|_| DAMAGED)?;
    if !progress.finished || progress.n_processed != count {
        return Err(DAMAGED);
    }
    let left = page.into_src().len();
    reader.take(bytes.len() - left)?;
    Ok(numbers)
}
