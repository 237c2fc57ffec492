//! Giving disk space back when there is nothing to keep.
//!
//! Invariant: at every step the directory holds a segment whose header carries the sequence on, and
//! nothing goes that is not applied elsewhere; a failure leaves the journal as it was. What remains
//! is one file of a header, which takes its room again with the next record. Called by the
//! committer for [`Journal::trim`](super::Journal::trim).

use std::io;

use quorate_protocol::id::Sequence;

use super::log::JournalLog;
use crate::segment::header;
use crate::segment::writer::Writer;

impl JournalLog {
    /// Gives back spares and the room of the active segment, if everything up to `upto` is applied
    /// and there is nothing above it.
    pub(super) fn trim(&mut self, upto: Sequence) {
        let idle = upto.0 + 1 >= self.next_sequence && self.sealed.is_empty();
        if !idle || self.poison.is_set() {
            return;
        }
        if let Err(error) = self.shrink() {
            // Tried again after the next idle time.
            tracing::warn!(%error, "the idle journal could not give its disk space back");
        }
    }

    fn shrink(&mut self) -> io::Result<()> {
        self.spares.clear(&*self.disk)?;
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if active.position() == header::LENGTH {
            return active.shrink();
        }
        // Its records are applied, but its header says where the sequence goes on: until another
        // one does, durably, it stays.
        let old = self.home.directory.join(crate::segment::name::of(active.header().number));
        let (path, header) = self.next_header(self.config.segment_bytes);
        let small = Writer::create_small(&*self.disk, &path, header)?;
        let durable =
            small.file().sync_data().and_then(|()| self.disk.sync_directory(&self.home.directory));
        if let Err(error) = durable {
            // Nothing was written to it; if it comes back it holds nothing.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        self.install(small);
        self.disk.remove(&old)?;
        self.disk.sync_directory(&self.home.directory)
    }
}
