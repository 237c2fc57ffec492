//! Batches: many points, column by column.
//!
//! A [`Batch`] is what an application or the line parser fills; [`encode_part`] makes the bytes of
//! one shard's part of it, once; these bytes travel, are journaled and hinted as they are, and
//! [`EncodedBatch`] reads them. Invariant: an encoded part is self-contained and checksummed, and
//! whatever [`EncodedBatch::decode`] returns has passed every rule of the format in `SPEC.md`.

#[macro_use]
mod values;
mod builder;
pub mod codec;
mod column;
mod decode;
mod encode;
mod fill;
mod hashes;
mod header;
mod intern;
mod layout;
mod measurement;
mod presence;
mod series;
mod store;

pub use builder::Batch;
pub use column::Column;
pub use decode::{DecodedBatch, DecodedMeasurement, DecodedSeries, EncodedBatch};
pub use encode::{EncodeError, FieldIds, Selection, encode_part};
pub use fill::{Cell, CellSlice, Cells, FillError, Filler};
pub use header::{BatchHeader, DecodeError, HEADER_LEN, PartHeader};
pub use layout::{Layout, LayoutBuilder, Series};
pub use measurement::{ColumnRef, FieldColumn, MeasurementBuilder, RowRef, SeriesRef};
pub use presence::Presence;
pub use values::Values;

/// The most rows of an encoded part.
pub const MAX_ROWS: usize = 1 << 20;
/// The most cells (rows times fields and series times tags, summed over measurements) of an encoded
/// part or a row block: what bounds the memory that decoding takes, about 8 bytes each.
pub const MAX_CELLS: usize = 1 << 23;
/// The most bytes that the series keys of an encoded part may have together.
pub const MAX_KEY_BYTES: usize = 1 << 26;
