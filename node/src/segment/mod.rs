//! The checksummed append-only file that the journal, the hint queues, their accounts and the
//! repair marks are made of. `SPEC.md` describes the format.
//!
//! Invariant: what a reader returns is byte for byte what one writer synced into this very life of
//! the file. Every checksum covers the segment's header, so what a reused file held before cannot
//! pass for content; a damaged record costs itself and not its neighbours; a claimed length is
//! checked against the file before anything is read or allocated.
//!
//! Reading order: [`header`], [`record`], [`reader`], [`writer`], [`trailer`], [`commit`].

pub mod commit;
pub mod header;
pub mod name;
pub mod reader;
pub mod record;
pub mod trailer;
#[cfg(test)]
pub(crate) mod vectors;
pub mod writer;

pub use header::{Header, Kind};
pub use reader::{Damage, Found, Reader};
pub use record::{Record, RecordMeta};
pub use writer::{FlushError, Writer};
