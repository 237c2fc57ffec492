//! Choosing rows of a batch: all of them, some by name, pieces that fit.
//!
//! Invariant: two rows of one series and time are never parted, since the later of them must win. Used by
//! the write beside it, and by whoever writes some rows again.

use quorate_protocol::batch::Batch;

use crate::{error::RowId, route::Selection};

/// Cuts a selection into pieces of at most `limit` rows, but never between two rows of the same
/// series and time, since the later of those must win within one part.
pub(super) fn split(batch: &Batch, selection: Selection, limit: usize) -> Vec<Selection> {
    let total: usize = selection.iter().map(Vec::len).sum();
    if total <= limit {
        return vec![selection];
    }
    let empty = || vec![Vec::new(); selection.len()];
    let (mut pieces, mut piece, mut count) = (Vec::new(), empty(), 0);
    for (index, rows) in selection.iter().enumerate() {
        let places: Vec<_> =
            batch.measurements()[index].rows().map(|(_, series, time)| (series, time)).collect();
        let mut rows = rows.clone();
        rows.sort_by_key(|row| (places[*row as usize], *row));
        for equal in rows.chunk_by(|a, b| places[*a as usize] == places[*b as usize]) {
            if count > 0 && count + equal.len() > limit {
                pieces.push(std::mem::replace(&mut piece, empty()));
                count = 0;
            }
            piece[index].extend_from_slice(equal);
            count += equal.len();
        }
    }
    pieces.push(piece);
    for piece in &mut pieces {
        piece.iter_mut().for_each(|rows| rows.sort_unstable());
    }
    pieces
}

pub(super) fn row_ids(selection: &Selection) -> Vec<RowId> {
    let of = |(measurement, rows): (u32, &Vec<u32>)| {
        let rows = rows.clone();
        rows.into_iter().map(move |row| RowId { measurement, row })
    };
    (0u32..).zip(selection).flat_map(of).collect()
}

/// These rows of the batch.
pub(crate) fn selection<'r>(batch: &Batch, rows: impl Iterator<Item = &'r RowId>) -> Selection {
    let mut selection = vec![Vec::new(); batch.measurements().len()];
    for row in rows {
        if let Some(of) = selection.get_mut(row.measurement as usize) {
            of.push(row.row);
        }
    }
    selection.iter_mut().for_each(|rows| rows.sort_unstable());
    selection
}

pub(super) fn all_rows(batch: &Batch) -> Vec<RowId> {
    let rows = batch.rows_iter();
    rows.map(|(measurement, row, _, _)| RowId { measurement: measurement as u32, row }).collect()
}

#[cfg(test)]
mod tests {
    use quorate_protocol::point::{Point, Value};

    use super::*;

    fn batch(times: &[i64]) -> Batch {
        let mut batch = Batch::new();
        for time in times {
            let point = Point::builder("m").field("f", Value::Float(1.0)).at(*time);
            batch.push(&point.unwrap());
        }
        batch
    }

    #[test]
    fn pieces_hold_every_row_once_and_keep_equal_places_together() {
        let batch = batch(&[1, 2, 1, 3, 2, 1]);
        let pieces = split(&batch, vec![(0..6).collect()], 2);
        assert_eq!(pieces, vec![vec![vec![0, 2, 5]], vec![vec![1, 4]], vec![vec![3]]]);
    }

    #[test]
    fn rows_of_one_place_cannot_be_cut() {
        // The caller must not try for ever.
        assert_eq!(split(&batch(&[7, 7]), vec![vec![0, 1]], 1).len(), 1);
    }
}
