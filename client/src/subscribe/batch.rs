//! One batch as a consumer gets it: its bytes, decoded when somebody looks into it.

use bytes::Bytes;
use quorate_protocol::{
    batch::{BatchHeader, DecodeError, EncodedBatch},
    id::{BatchId, NodeId, Sequence, ShardId, Version},
    point::text::write_line,
    rows::Rows,
};

/// A batch that an owner has stored: the rows of one write that lie in one shard, or some of them.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    pub(super) encoded: EncodedBatch,
    pub(super) node: NodeId,
    pub(super) sequence: Sequence,
}

impl StoredBatch {
    /// Its batch id, which the receipt of its write names.
    #[must_use]
    pub const fn id(&self) -> BatchId {
        self.header().part.batch
    }

    /// The version of all its rows: of one series, time and field the highest wins.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.header().part.version
    }

    /// Its shard.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.header().part.shard
    }

    /// What its header says: counts of rows and measurements, first and last time in ns.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        self.encoded.header()
    }

    /// The owner that has sent it.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Its place in that owner's journal.
    #[must_use]
    pub const fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Its bytes, as every owner has them (SPEC.md section 10).
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        self.encoded.bytes()
    }

    /// Decodes it: the canonical key of each series and its rows, in order of time, each column with
    /// the field's name.
    ///
    /// # Errors
    /// The batch breaks a rule of the format, which only a defect of its writer can cause.
    pub fn series(&self) -> Result<impl Iterator<Item = (Bytes, Rows)> + use<>, DecodeError> {
        Ok(self.encoded.decode()?.into_rows().map(|(key, _, rows)| (key, rows)))
    }

    /// Decodes it into canonical line protocol, a line per row.
    ///
    /// # Errors
    /// As [`Self::series`].
    pub fn lines(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        for (key, rows) in self.series()? {
            let mut columns: Vec<_> = rows.columns.iter().collect();
            columns.sort_by(|a, b| a.name.cmp(&b.name));
            for (row, time) in rows.times.iter().enumerate() {
                let value = |column| {
                    let column: &quorate_protocol::rows::Column = column;
                    Some((&column.name[..], column.get(row)?))
                };
                write_line(&mut out, &key, columns.iter().copied().filter_map(value), *time);
                out.push(b'\n');
            }
        }
        Ok(out)
    }
}
