//! Weaving runs together: the rows of one series, from all runs that have it, in order of time.
//!
//! Invariant: what overlaps nothing is passed on as it is, encoded if possible; only where rows of
//! several runs share a time do they go through a merge, so that exactly the winners come out.
//! Called by [`super::merge`] and [`super::dense`], series by series.

use quorate_protocol::rows::Rows;

use super::{
    assemble::{Assembler, Sink},
    cursor::{Cursor, Trouble},
    gather::add_merged,
    series::SeriesId,
    source::Sources,
};

/// Passes on all rows of a series; the cursors that have it stand before its first row.
pub(super) fn weave<S: Sink>(
    series: SeriesId,
    cursors: &mut [Cursor<'_>],
    sources: &mut Sources,
    assembler: &mut Assembler<S>,
) -> Result<(), Trouble> {
    loop {
        // Who comes first, and from when on others may have rows.
        let (mut first, mut others): (Option<(i64, i64, usize)>, _) = (None, i64::MAX);
        // Up to here, no run has rows that are not in its current block.
        let mut known = i64::MAX;
        for (at, cursor) in cursors.iter_mut().enumerate() {
            let Some((start, end)) = cursor.times(sources, series)? else {
                continue;
            };
            known = known.min(end);
            match first {
                Some((time, ..)) if time <= start => others = others.min(start),
                _ => {
                    others = first.map_or(others, |(time, ..)| others.min(time));
                    first = Some((start, end, at));
                }
            }
        }
        let Some((start, end, at)) = first else {
            return Ok(());
        };
        let cursor = &mut cursors[at];
        if start < others {
            if end < others
                && assembler.takes_encoded()
                && let Some(block) = cursor.take_encoded()
            {
                assembler.add_encoded(sources, block)?;
                continue;
            }
            let (source, rows) = cursor.rows(sources)?;
            let count = sources.get(source).before(rows.clone(), others);
            assembler.add(sources, source, rows.start..rows.start + count)?;
            cursor.consume(sources, count);
            continue;
        }
        let mut parts = Vec::new();
        for cursor in cursors.iter_mut() {
            if cursor.times(sources, series)?.is_some_and(|(start, _)| start <= known) {
                let (source, rows) = cursor.rows(sources)?;
                let source = sources.get(source);
                let count = source.before(rows.clone(), known.saturating_add(1));
                parts.push(source.rows(rows.start..rows.start + count));
                cursor.consume(sources, count);
            }
        }
        add_merged(sources, assembler, Rows::merge(parts))?;
    }
}
