//! What becomes of a part's copies after its caller has heard.
//!
//! Invariant: only what nodes have answered, and never less than before. The part's collector writes it,
//! each receipt of the part reads it. Bound: one record per part, which lives as long as the part is under
//! way (the client's budget bounds those) or a receipt of it is kept (the application bounds those); per
//! owner it has two words and at most `hint_copies` hints.

use quorate_protocol::id::{NodeId, Sequence};
use tokio::sync::watch;

/// One owner's copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The owner has it.
    pub(crate) held: bool,
    /// The owner refused it, or nobody will keep a hint of it for the owner.
    pub(crate) refused: bool,
    /// Who remembers that the owner lacks it.
    pub(crate) marked: Option<NodeId>,
    /// Where its hints are.
    pub(crate) hints: Vec<(NodeId, Sequence)>,
    /// The client does nothing more about it, whatever it still does about others.
    pub(crate) ended: bool,
}

/// The collector's end; dropped when every copy has come to its end, or was given up.
#[derive(Debug)]
pub(crate) struct Record(watch::Sender<Vec<Progress>>);

impl Record {
    /// For so many owners.
    pub(crate) fn new(owners: usize) -> Self {
        Self(watch::Sender::new(vec![Progress::default(); owners]))
    }

    /// Notes something about the copy of the owner at this place.
    pub(crate) fn note(&self, owner: usize, change: impl FnOnce(&mut Progress)) {
        self.0.send_modify(|copies| copies.get_mut(owner).map_or((), change));
    }

    pub(crate) fn later(&self, (from, to): (i64, i64)) -> Later {
        Later { copies: self.0.subscribe(), from, to }
    }
}

/// A receipt's end.
#[derive(Clone, Debug)]
pub(crate) struct Later {
    copies: watch::Receiver<Vec<Progress>>,
    /// The part's first time, in ns.
    pub(crate) from: i64,
    /// The part's last time, in ns.
    pub(crate) to: i64,
}

impl Later {
    /// How the copy of the owner at this place stands, and whether the client still works on it.
    pub(crate) fn copy(&self, owner: usize) -> (Progress, bool) {
        // First whether it is over: what was noted before that is there then.
        let working = self.copies.has_changed().is_ok();
        let copy = self.copies.borrow().get(owner).cloned().unwrap_or_default();
        let working = working && !copy.ended;
        (copy, working)
    }
}

/// Receipts that say the same are equal, whatever comes later.
impl PartialEq for Later {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Later {}
