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
use quorate_protocol::batch::codec::{Reader, zigzag};

use super::BlockError;

/// The compression level that is worth its time; higher ones gain less than a hundredth.
const LEVEL: usize = 6;
/// The order of differences at most.
const MAX_ORDER: usize = 2;
/// The modes that are read, by the number that begins a chunk: plain, multiples of a float, floats
/// with few bits.
const MODES: [u8; 3] = [0, 2, 3];

/// By the order of differences, whether to try it.
pub(super) type Orders = [bool; MAX_ORDER + 1];
/// All of them.
pub(super) const ALL_ORDERS: Orders = [true; MAX_ORDER + 1];

/// The orders that are worth compressing with, which takes several times as long as this: those whose
/// differences have at most a quarter of a bit more on average than the shortest. `numbers`: what they are
/// above the least of them.
pub(super) fn likely_orders(numbers: &[u64]) -> Orders {
    let width = |number: u64| u64::from(64 - number.leading_zeros());
    let (mut bits, mut last) = ([0; MAX_ORDER + 1], (0_u64, 0_u64));
    for number in numbers.iter().copied() {
        let first = number.wrapping_sub(last.0);
        let second = first.wrapping_sub(last.1);
        bits[0] += width(number);
        bits[1] += width(zigzag(first.cast_signed()));
        bits[2] += width(zigzag(second.cast_signed()));
        last = (number, first);
    }
    let least = bits.iter().copied().fold(u64::MAX, u64::min);
    bits.map(|bits| bits - least <= numbers.len() as u64 / 4)
}

/// Appends numbers as the smallest chunk of some tries; false, and nothing appended, if none takes
/// fewer than `limit` bytes.
pub(super) fn encode<T: Number>(
    out: &mut Vec<u8>,
    numbers: &[T],
    mode: &ModeSpec,
    orders: Orders,
    limit: usize,
) -> bool {
    let mut best: Option<Vec<u8>> = None;
    for (order, _) in orders.iter().enumerate().filter(|(_, wanted)| **wanted) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The order whose chunk is the smallest.
    fn best(numbers: &[u64]) -> usize {
        let size = |order: &usize| chunk(numbers, ModeSpec::Classic, *order).unwrap().len();
        (0..=MAX_ORDER).min_by_key(size).unwrap()
    }

    #[test]
    fn the_best_order_of_differences_is_tried_and_bad_ones_are_not() {
        let mut state = 7_u64;
        let mut noise = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut walk = 1 << 20;
        let cases: [(&str, Vec<u64>, Orders); 4] = [
            ("noise", (0..4000).map(|_| noise(1000)).collect(), [true, false, false]),
            (
                "a walk",
                (0..4000)
                    .map(|_| {
                        walk = walk + noise(64) - 31;
                        walk
                    })
                    .collect(),
                [false, true, false],
            ),
            ("a parabola", (0..4000).map(|at| at * at + noise(3)).collect(), [false, false, true]),
            ("nothing", Vec::new(), ALL_ORDERS),
        ];
        for (name, numbers, orders) in cases {
            assert_eq!(likely_orders(&numbers), orders, "{name}");
            if !numbers.is_empty() {
                assert!(orders[best(&numbers)], "{name}");
            }
        }
    }
}
