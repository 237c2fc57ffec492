//! Leave to send one write to a node, by what is thought of it.
//!
//! Invariant: a pass counts once, with what became of its write, or with nothing if it is dropped. Taken
//! for every copy of a part by [`crate::health`].

use super::{
    breaker::{Outcome, Ticket},
    peer::PeerHandle,
};

/// One write that may go to a node.
#[derive(Debug)]
pub struct Pass {
    peer: PeerHandle,
    ticket: Option<Ticket>,
}

impl Pass {
    pub(super) const fn new(peer: PeerHandle, ticket: Ticket) -> Self {
        Self { peer, ticket: Some(ticket) }
    }

    /// The node did what it was asked, or refused it for good reason.
    pub fn worked(mut self) {
        self.end(Outcome::Worked);
    }

    /// The node said that it cannot store anything at present.
    pub fn failed(mut self) {
        self.end(Outcome::Failed);
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.peer.ended(ticket, outcome);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}
