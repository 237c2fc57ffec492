//! Whether hints of a part may still be placed.
//!
//! Invariant: a part whose write was reported as failed definitely has no hint anywhere and gets
//! none: the gate closes only while no hint is under way or of unknown fate, and once closed it
//! stays closed. Copies ask before they place a hint; the collector closes before it says
//! "definite".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Hints that were sent, or are about to be, and have no answer yet.
    under_way: usize,
    /// Whether a hint may be durable without anybody knowing.
    uncertain: bool,
}

/// One part's gate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Mutex<State>>);

/// A hint that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to place a hint; none once the write has failed definitely.
    pub(crate) fn enter(&self) -> Option<UnderWay> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.under_way += 1;
        Some(UnderWay(self.clone()))
    }

    /// Closes if no hint exists or can come to exist any more; says whether it is closed.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state();
        state.closed |= state.under_way == 0 && !state.uncertain;
        state.closed
    }

    /// Whether the write has failed definitely.
    pub(crate) fn closed(&self) -> bool {
        self.state().closed
    }
}

impl UnderWay {
    /// The answer was lost, or says that the hint may be durable all the same.
    pub(crate) fn uncertain(&self) {
        self.0.state().uncertain = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_closes_only_when_no_hint_can_appear() {
        let gate = Gate::default();
        let hint = gate.enter();
        assert!(hint.is_some() && !gate.close() && !gate.closed());
        drop(hint);
        assert!(gate.close() && gate.closed());
        assert!(gate.enter().is_none());

        let gate = Gate::default();
        if let Some(hint) = gate.enter() {
            hint.uncertain();
        }
        assert!(!gate.close(), "a hint whose answer was lost may be durable");
        assert!(gate.enter().is_some());
    }
}
