//! A hint segment of InfluxDB 0.11, from its bytes.
//!
//! A segment is blocks `[u64 length][u64 shard][points as lines]`, the length that of shard and
//! lines, and then 8 bytes that say where the first block stands that was not sent yet; all numbers
//! are big-endian, and nothing has a checksum. Invariant: whatever the bytes are, the blocks are
//! what stands whole from the start of the file on, and whatever ends them early is told; what was
//! sent already is believed only of a file that is whole. Called by `hints import`.

pub(crate) mod files;

use std::fmt;

/// Bytes of a number, and of what says how far a segment was sent.
const NUMBER: usize = 8;

/// What one write had for one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    /// Where it begins in the file.
    pub(crate) offset: usize,
    /// The shard, as that system counted them.
    pub(crate) shard: u64,
    /// Lines of points.
    pub(crate) text: &'a [u8],
}

/// What the blocks of a file end with too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Where the block begins that is none.
    pub(crate) offset: usize,
    /// How long it says it is.
    length: u64,
    /// Bytes that the file has behind this length.
    left: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, length, left } = self;
        write!(f, "at byte {offset}: a block of {length} bytes cannot be, {left} are left")
    }
}

/// A segment file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    /// The blocks in the order in which they were appended.
    pub(crate) blocks: Vec<Block<'a>>,
    /// How many of the first were sent.
    pub(crate) sent: usize,
    /// A block that was torn, or a length that was changed: what is behind it cannot be found.
    pub(crate) broken: Option<Broken>,
}

/// Finds the blocks of a file.
pub(crate) fn parse(bytes: &[u8]) -> Segment<'_> {
    let mut segment = Segment::default();
    let mut rest = bytes;
    // No more than a number can only be the one at the end, or what is left of it.
    while rest.len() > NUMBER
        && let Some((length, body)) = number(rest)
    {
        let offset = bytes.len() - rest.len();
        let whole = usize::try_from(length).ok().and_then(|length| body.split_at_checked(length));
        let Some(((shard, text), behind)) =
            whole.and_then(|(block, behind)| Some((number(block)?, behind)))
        else {
            segment.broken = Some(Broken { offset, length, left: body.len() });
            return segment;
        };
        segment.blocks.push(Block { offset, shard, text });
        rest = behind;
    }
    if let Some((head, [])) = number(rest) {
        let at = |offset: usize| offset as u64 == head;
        let unsent = segment.blocks.iter().position(|block| at(block.offset));
        let all = at(bytes.len() - NUMBER).then_some(segment.blocks.len());
        // Whatever else it says was torn: sending a block again changes nothing.
        segment.sent = unsent.or(all).unwrap_or(0);
    }
    segment
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, behind) = bytes.split_first_chunk::<NUMBER>()?;
    Some((u64::from_be_bytes(*number), behind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(blocks: &[(u64, Vec<u8>)], head: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (shard, text) in blocks {
            bytes.extend((text.len() as u64 + 8).to_be_bytes());
            bytes.extend(shard.to_be_bytes());
            bytes.extend(text);
        }
        bytes.extend(head.to_be_bytes());
        bytes
    }

    fn content(segment: &Segment<'_>) -> Vec<(u64, Vec<u8>)> {
        segment.blocks.iter().map(|block| (block.shard, block.text.to_vec())).collect()
    }

    fn some_blocks() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
        let text = prop_oneof![
            "(cpu,host=a v=[0-9]{1,3} 1[0-9]{3}\n){0,3}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..40),
        ];
        prop::collection::vec((prop_oneof![0u64..9, any::<u64>()], text), 0..8)
    }

    #[test]
    fn a_segment_of_the_reference_is_read_as_it_was_written() {
        // As queue.go of 0.11 writes it: two blocks for shards 3 and 4, the first one sent.
        let first = b"\0\0\0\0\0\0\0\x12\0\0\0\0\0\0\0\x03cpu v=1 9\n";
        let second = b"\0\0\0\0\0\0\0\x13\0\0\0\0\0\0\0\x04mem v=2i 8\n";
        let bytes = [&first[..], second, b"\0\0\0\0\0\0\0\x1a"].concat();
        let segment = parse(&bytes);
        let blocks = [
            Block { offset: 0, shard: 3, text: b"cpu v=1 9\n" },
            Block { offset: 26, shard: 4, text: b"mem v=2i 8\n" },
        ];
        assert_eq!(segment, Segment { blocks: blocks.into(), sent: 1, broken: None });
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_file_and_says_where() {
        let blocks: Vec<_> = (1..=3).map(|shard| (shard, b"m v=1 1\n".to_vec())).collect();
        for length in [0, 7, 49, 1 << 40, u64::MAX] {
            let mut bytes = image(&blocks, 48);
            bytes[24..32].copy_from_slice(&u64::to_be_bytes(length));
            let segment = parse(&bytes);
            assert_eq!(content(&segment), blocks[..1], "{length}");
            let broken = segment.broken.unwrap();
            assert_eq!((broken.offset, broken.length, broken.left), (24, length, 48), "{length}");
            assert_eq!(segment.sent, 0, "{length}: what it says of itself is worth nothing");
        }
    }

    proptest! {
        #[test]
        fn blocks_are_read_back_and_those_sent_are_known(
            blocks in some_blocks(),
            sent in any::<prop::sample::Index>(),
        ) {
            let sent = sent.index(blocks.len() + 1);
            let head = image(&blocks[..sent], 0).len() as u64 - 8;
            let bytes = image(&blocks, head);
            let segment = parse(&bytes);
            prop_assert_eq!(content(&segment), blocks);
            prop_assert_eq!((segment.sent, segment.broken), (sent, None));
        }

        #[test]
        fn a_head_that_is_no_block_s_start_skips_nothing(
            blocks in some_blocks(),
            head in any::<u64>(),
        ) {
            let bytes = image(&blocks, head);
            let segment = parse(&bytes);
            let starts = |block: &Block<'_>| block.offset as u64 == head;
            prop_assume!(!segment.blocks.iter().any(starts) && bytes.len() as u64 - 8 != head);
            prop_assert_eq!(content(&segment), blocks);
            prop_assert_eq!((segment.sent, segment.broken), (0, None));
        }

        #[test]
        fn any_cut_leaves_the_blocks_before_it(blocks in some_blocks(), head in 0u64..100) {
            let whole = image(&blocks, head);
            let mut ends = vec![0];
            for (_, text) in &blocks {
                ends.push(ends[ends.len() - 1] + 16 + text.len());
            }
            for cut in 0..=whole.len() {
                let segment = parse(&whole[..cut]);
                let before = ends.iter().filter(|end| **end <= cut).count() - 1;
                prop_assert_eq!(content(&segment), &blocks[..before], "cut {}", cut);
                // Of the number at the end, or a length, up to 8 bytes look alike.
                let torn = cut - ends[before] > 8 && before < blocks.len();
                prop_assert_eq!(segment.broken.is_some(), torn, "cut {}", cut);
            }
        }

        #[test]
        fn any_bytes_give_blocks_that_lie_in_them(bytes in prop::collection::vec(
            prop_oneof![Just(0u8), 0u8..20, any::<u8>()], 0..300,
        )) {
            let segment = parse(&bytes);
            let mut at = 0;
            for block in &segment.blocks {
                prop_assert_eq!(block.offset, at);
                at += 16 + block.text.len();
                prop_assert_eq!(&bytes[at - block.text.len()..at], block.text);
            }
            prop_assert!(at <= bytes.len() && segment.sent <= segment.blocks.len());
        }
    }
}
