//! The index of tags: which series of a measurement have which value of a tag.
//!
//! Invariant: the `index` table changes in the transaction that gives series their ids, so that it
//! knows exactly the series that `keys` knows. Called by [`super::fold`] and [`super::dense`] with
//! the new series of each such transaction.

use heed::RwTxn;

use super::{open::Tables, series::NewSeries};

/// Enters new series, which ascend by key and by id.
#[expect(clippy::unnecessary_wraps, reason = "the table has no entries yet")]
pub(super) fn add(_: &mut RwTxn<'_>, _: &Tables, _: &[NewSeries]) -> heed::Result<()> {
    Ok(())
}
