//! Reading a run block by block, for merging.
//!
//! Invariants: each block is read in a read transaction of its own, which is over before anything
//! is decoded, and decoded at most once while the cursor passes it; a block that may move to another
//! run as it is stays encoded until rows of it are asked for. A block that is damaged or does not
//! belong where it stands ends the reading. Driven by [`super::weave`].

use std::ops::Range;

use super::{
    assemble::{EncodedGroup, SOLO_ROWS},
    block::{Span, VersionTable, View},
    env::EnvError,
    error::ShardError,
    open::OpenShard,
    run::{self, BlockKey, StoredBlock},
    series::SeriesId,
    source::{Source, Sources},
};

/// Why a run cannot be read on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A block is damaged.
    Broken(Box<StoredBlock>),
    Shard(ShardError),
}

impl From<ShardError> for Trouble {
    fn from(error: ShardError) -> Self {
        Self::Shard(error)
    }
}

impl From<EnvError> for Trouble {
    fn from(error: EnvError) -> Self {
        Self::Shard(error.into())
    }
}

/// A block that was read.
struct Block {
    key: BlockKey,
    spans: Vec<Span>,
    content: Content,
}

enum Content {
    /// Of one series, all of it still ahead.
    Encoded {
        bytes: Vec<u8>,
        times: (i64, i64),
    },
    Decoded(u32),
}

impl Block {
    fn find(&self, series: SeriesId) -> Option<usize> {
        self.spans.binary_search_by_key(&series, |span| span.series).ok()
    }

    fn discard(self, sources: &mut Sources) {
        if let Content::Decoded(source) = self.content {
            sources.retire(source);
        }
    }
}

/// A place in a run.
pub(super) struct Cursor<'a> {
    shard: &'a OpenShard,
    versions: Option<VersionTable>,
    /// Blocks may move as they are.
    moving: bool,
    /// The latest blocks, the current one last.
    blocks: Vec<Block>,
    /// How many of them are kept.
    keep: usize,
    /// In the current block: the span, and its rows that are still ahead.
    ahead: Option<(usize, Range<u32>)>,
    /// Where the block was that came last.
    after: BlockKey,
    /// Nothing is ahead: the run is at its end, or does not have what was sought.
    ended: bool,
}

impl<'a> Cursor<'a> {
    /// Before the first series of a run. `keep` blocks of several series stay in memory, for series
    /// that are sought out of order.
    pub(super) fn new(
        shard: &'a OpenShard,
        run: u32,
        moving: bool,
        keep: usize,
    ) -> Result<Self, EnvError> {
        Ok(Self {
            shard,
            versions: shard.versions(run)?,
            moving,
            blocks: Vec::new(),
            keep: keep.max(1),
            ahead: None,
            after: BlockKey::versions(run),
            ended: false,
        })
    }

    /// The versions its rows may have; `None` if nobody knows.
    pub(super) const fn versions(&self) -> Option<&VersionTable> {
        self.versions.as_ref()
    }

    /// The series ahead.
    pub(super) fn series(&mut self, sources: &mut Sources) -> Result<Option<SeriesId>, Trouble> {
        if self.ahead.is_none() && !self.ended {
            let after = self.after;
            let found = self.shard.env.read(|txn, [runs, ..]| {
                run::block_after(txn, runs, after).map_err(|error| self.shard.env.wrap(error))
            })?;
            match found {
                Some((key, bytes)) => {
                    let block = self.open(sources, key, bytes)?;
                    self.enter(sources, block, 0);
                }
                None => self.ended = true,
            }
        }
        let span = self.ahead.as_ref().and_then(|(span, _)| self.blocks.last()?.spans.get(*span));
        Ok(span.map(|span| span.series))
    }

    /// Goes to the first row of a series, if the run has it.
    pub(super) fn seek(&mut self, sources: &mut Sources, series: SeriesId) -> Result<(), Trouble> {
        (self.ahead, self.ended) = (None, true);
        let known = self.blocks.iter().enumerate().rev();
        let known = known.filter_map(|(at, block)| Some((at, block.find(series)?))).next();
        if let Some((at, span)) = known {
            let block = self.blocks.remove(at);
            self.enter(sources, block, span);
            return Ok(());
        }
        let run = self.after.run;
        let found = self.shard.env.read(|txn, [runs, ..]| {
            run::block_of(txn, runs, run, series).map_err(|error| self.shard.env.wrap(error))
        })?;
        if let Some((key, bytes)) = found
            && self.blocks.iter().all(|block| block.key != key)
        {
            let block = self.open(sources, key, bytes)?;
            match block.find(series) {
                Some(span) => self.enter(sources, block, span),
                None => block.discard(sources),
            }
        }
        Ok(())
    }

    /// Makes a block the current one.
    fn enter(&mut self, sources: &mut Sources, block: Block, span: usize) {
        while self.blocks.len() >= self.keep {
            self.blocks.remove(0).discard(sources);
        }
        self.after = block.key;
        self.ahead = block.spans.get(span).map(|of| (span, of.rows.clone()));
        self.ended = false;
        self.blocks.push(block);
    }

    fn open(&self, sources: &mut Sources, key: BlockKey, bytes: Vec<u8>) -> Result<Block, Trouble> {
        if self.moving
            && let Ok(view) = View::parse(&bytes)
            && let [span] = view.spans()
            && view.rows() >= SOLO_ROWS
            && view.is_self_contained()
            && (span.series, view.time_range().0) == (key.series, key.start)
        {
            let (spans, times) = (view.spans().to_vec(), view.time_range());
            return Ok(Block { key, spans, content: Content::Encoded { bytes, times } });
        }
        let (spans, source) = self.decode(sources, key, bytes)?;
        Ok(Block { key, spans, content: Content::Decoded(source) })
    }

    fn decode(
        &self,
        sources: &mut Sources,
        key: BlockKey,
        bytes: Vec<u8>,
    ) -> Result<(Vec<Span>, u32), Trouble> {
        match run::decode(key, &bytes, self.versions.as_ref()) {
            Some(mut group) => {
                let spans = std::mem::take(&mut group.spans);
                Ok((spans, sources.add(Source::of_block(group))))
            }
            None => Err(Trouble::Broken(Box::new(StoredBlock { key, bytes }))),
        }
    }

    /// The first and the last time of the rows of a series that are ahead in the current block.
    pub(super) fn times(
        &mut self,
        sources: &mut Sources,
        series: SeriesId,
    ) -> Result<Option<(i64, i64)>, Trouble> {
        if self.series(sources)? != Some(series) {
            return Ok(None);
        }
        let (Some((_, rows)), Some(block)) = (&self.ahead, self.blocks.last()) else {
            return Ok(None);
        };
        Ok(Some(match &block.content {
            Content::Encoded { times, .. } => *times,
            Content::Decoded(source) => sources.get(*source).time_range(rows),
        }))
    }

    /// The rows of a series that are ahead in the current block.
    pub(super) fn rows(&mut self, sources: &mut Sources) -> Result<(u32, Range<u32>), Trouble> {
        let encoded = match self.blocks.last_mut() {
            Some(Block { key, content: Content::Encoded { bytes, .. }, .. }) => {
                Some((*key, std::mem::take(bytes)))
            }
            _ => None,
        };
        if let Some((key, bytes)) = encoded {
            let (_, source) = self.decode(sources, key, bytes)?;
            if let Some(block) = self.blocks.last_mut() {
                block.content = Content::Decoded(source);
            }
        }
        match (&self.ahead, self.blocks.last()) {
            (Some((_, rows)), Some(Block { content: Content::Decoded(source), .. })) => {
                Ok((*source, rows.clone()))
            }
            _ => Ok((0, 0..0)),
        }
    }

    /// Leaves the first `count` of [`Self::rows`] behind.
    pub(super) fn consume(&mut self, sources: &mut Sources, count: u32) {
        let (Some((span, rows)), Some(block)) = (&mut self.ahead, self.blocks.last()) else {
            return;
        };
        rows.start += count;
        if rows.start < rows.end {
            return;
        }
        let next = *span + 1;
        self.ahead = block.spans.get(next).map(|span| (next, span.rows.clone()));
        if block.spans.len() == 1
            && let Some(block) = self.blocks.pop()
        {
            block.discard(sources);
        }
    }

    /// Takes the current block as it is, if it may move; it is behind then.
    pub(super) fn take_encoded(&mut self) -> Option<EncodedGroup> {
        let Some(Block { content: Content::Encoded { .. }, .. }) = self.blocks.last() else {
            return None;
        };
        let (_, rows) = self.ahead.take()?;
        let block = self.blocks.pop()?;
        match block.content {
            Content::Encoded { bytes, times } => {
                Some(EncodedGroup { series: block.key.series, times, rows: rows.len(), bytes })
            }
            Content::Decoded(_) => None,
        }
    }
}
