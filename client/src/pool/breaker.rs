//! How far a node is trusted with writes, by what it has done with the last ones. Pure: no clock, no
//! tasks.
//!
//! Invariants: full trust is lost by one doubtful loss of a connection, or by `failures` answers in a row
//! that say the node cannot store; it comes back by degrees only: a ping, then one write at a time, then
//! two, four and so on, each step after as many good answers as it allows. A node that has lost it twice
//! without having held for long in between gets one write at a time until it has: so each time that it
//! fails again costs one write. Any failure on the way begins anew; an outcome counts only for the time in
//! which its write was let through. One per peer, under its lock; [`super::worker`] drives it, [`super::pass`] asks it.

/// How much of the writes a node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// All.
    Full,
    /// A few at a time.
    Trial,
    /// None, until it has answered a ping.
    Nothing,
}

/// What became of a write that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The node did what it should.
    Worked,
    /// The node said that it cannot.
    Failed,
    /// Neither: the write was slow, or cancelled, or its connection was lost, which counts by itself.
    Unknown,
}

/// One write that was let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    epoch: u64,
    /// Whether it uses one of the places of a trial.
    counted: bool,
}

#[derive(Debug)]
enum State {
    Closed { failed: u32 },
    Open,
    HalfOpen { allowed: u32, under_way: u32, passed: u32 },
}

/// A circuit breaker with a graded way back.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    trials: u32,
    /// Grows with each state, so that late outcomes are told apart.
    epoch: u64,
    /// How often trust was lost since the node has last held for long.
    lapses: u32,
    state: State,
}

impl Breaker {
    /// Opens after `failures` failures in a row; closes when `trials` writes at a time went well.
    pub(super) fn new(failures: u32, trials: u32) -> Self {
        let state = State::Closed { failed: 0 };
        Self { failures: failures.max(1), trials: trials.max(1), epoch: 0, lapses: 0, state }
    }

    pub(super) const fn trust(&self) -> Trust {
        match self.state {
            State::Closed { .. } => Trust::Full,
            State::HalfOpen { .. } => Trust::Trial,
            State::Open => Trust::Nothing,
        }
    }

    fn turn(&mut self, state: State) {
        self.epoch += 1;
        self.state = state;
    }

    fn open(&mut self) {
        if self.trust() != Trust::Nothing {
            self.lapses = self.lapses.saturating_add(1);
        }
        self.turn(State::Open);
    }

    /// Lets a write through, if there is trust left for it.
    pub(super) const fn admit(&mut self) -> Option<Ticket> {
        let counted = match &mut self.state {
            State::Closed { .. } => false,
            State::HalfOpen { allowed, under_way, .. } if *under_way < *allowed => {
                *under_way += 1;
                true
            }
            State::HalfOpen { .. } | State::Open => return None,
        };
        Some(Ticket { epoch: self.epoch, counted })
    }

    /// Lets a write through for which there is nobody else.
    pub(super) fn insist(&mut self) -> Ticket {
        self.admit().unwrap_or(Ticket { epoch: self.epoch, counted: false })
    }

    /// What became of a write.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket counts once")]
    pub(super) fn ended(&mut self, ticket: Ticket, outcome: Outcome) {
        if ticket.epoch != self.epoch {
            return;
        }
        match &mut self.state {
            State::Closed { failed } => match outcome {
                Outcome::Worked => *failed = 0,
                Outcome::Failed => {
                    *failed += 1;
                    if *failed >= self.failures {
                        self.open();
                    }
                }
                Outcome::Unknown => {}
            },
            State::HalfOpen { allowed, under_way, passed } => {
                *under_way -= u32::from(ticket.counted);
                match outcome {
                    // A node that keeps failing works in between, too.
                    Outcome::Worked if self.lapses > 1 => {}
                    Outcome::Worked => {
                        *passed += 1;
                        if *passed >= *allowed {
                            (*allowed, *passed) = (allowed.saturating_mul(2), 0);
                        }
                        if *allowed > self.trials {
                            self.turn(State::Closed { failed: 0 });
                        }
                    }
                    Outcome::Failed => self.open(),
                    Outcome::Unknown => {}
                }
            }
            State::Open => {}
        }
    }

    /// The connection is gone. An orderly end costs trust only where there was little.
    pub(super) fn lost(&mut self, doubtful: bool) {
        if doubtful || self.trust() == Trust::Trial {
            self.open();
        }
    }

    /// A ping was answered.
    pub(super) fn answered(&mut self) {
        if self.trust() == Trust::Nothing {
            self.turn(State::HalfOpen { allowed: 1, under_way: 0, passed: 0 });
        }
    }

    /// A connection has held for long without any failure.
    pub(super) fn held(&mut self) {
        self.lapses = 0;
        if self.trust() == Trust::Trial {
            self.turn(State::Closed { failed: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn on_trial(trials: u32) -> Breaker {
        let mut breaker = Breaker::new(3, trials);
        breaker.lost(true);
        assert_eq!((breaker.trust(), breaker.admit()), (Trust::Nothing, None));
        breaker.answered();
        assert_eq!(breaker.trust(), Trust::Trial);
        breaker
    }

    fn admit_all(breaker: &mut Breaker) -> Vec<Ticket> {
        std::iter::from_fn(|| breaker.admit()).take(100).collect()
    }

    #[test]
    fn trust_comes_back_by_degrees() {
        let mut breaker = on_trial(4);
        for allowed in [1, 2, 4] {
            let tickets = admit_all(&mut breaker);
            assert_eq!(tickets.len(), allowed);
            assert_eq!(breaker.trust(), Trust::Trial);
            tickets.into_iter().for_each(|ticket| breaker.ended(ticket, Outcome::Worked));
        }
        assert_eq!(breaker.trust(), Trust::Full);
        assert_eq!(admit_all(&mut breaker).len(), 100);
    }

    #[test]
    fn who_fails_again_gets_one_write_at_a_time_until_it_has_held() {
        let mut breaker = on_trial(4);
        breaker.lost(true);
        breaker.answered();
        for _ in 0..20 {
            let tickets = admit_all(&mut breaker);
            assert_eq!((tickets.len(), breaker.trust()), (1, Trust::Trial));
            tickets.into_iter().for_each(|ticket| breaker.ended(ticket, Outcome::Worked));
        }
        breaker.held();
        assert_eq!(breaker.trust(), Trust::Full);
        // Then it is forgotten.
        breaker.lost(true);
        breaker.answered();
        for allowed in [1, 2] {
            let tickets = admit_all(&mut breaker);
            assert_eq!(tickets.len(), allowed);
            tickets.into_iter().for_each(|ticket| breaker.ended(ticket, Outcome::Worked));
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_any_on_trial_does() {
        let mut breaker = Breaker::new(3, 4);
        let end = |breaker: &mut Breaker, outcome| {
            let ticket = breaker.insist();
            breaker.ended(ticket, outcome);
        };
        for outcome in [Outcome::Failed, Outcome::Failed, Outcome::Worked, Outcome::Failed] {
            end(&mut breaker, outcome);
        }
        end(&mut breaker, Outcome::Failed);
        assert_eq!(breaker.trust(), Trust::Full, "not in a row");
        end(&mut breaker, Outcome::Failed);
        assert_eq!(breaker.trust(), Trust::Nothing);
        breaker.answered();
        end(&mut breaker, Outcome::Worked);
        end(&mut breaker, Outcome::Failed);
        assert_eq!(breaker.trust(), Trust::Nothing);
    }

    #[test]
    fn only_a_doubtful_end_costs_full_trust() {
        let mut breaker = Breaker::new(3, 4);
        breaker.lost(false);
        assert_eq!(breaker.trust(), Trust::Full);
        let mut breaker = on_trial(4);
        breaker.lost(false);
        assert_eq!(breaker.trust(), Trust::Nothing);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit,
        Insist,
        End(usize, u8),
        Lost(bool),
        Answered,
        Held,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Admit),
            1 => Just(Step::Insist),
            5 => (any::<usize>(), 0..3_u8).prop_map(|(at, outcome)| Step::End(at, outcome)),
            1 => any::<bool>().prop_map(Step::Lost),
            2 => Just(Step::Answered),
            1 => Just(Step::Held),
        ];
        vec(step, 0..200)
    }

    proptest! {
        /// Whatever happens in whatever order: places are neither lost nor made, and no more writes are
        /// on trial at once than the highest step allows.
        #[test]
        fn places_are_exact(steps in steps(), trials in 1..9_u32) {
            let mut breaker = Breaker::new(3, trials);
            let mut open: Vec<Ticket> = Vec::new();
            for step in steps {
                match step {
                    Step::Admit => open.extend(breaker.admit()),
                    Step::Insist => open.push(breaker.insist()),
                    Step::End(at, outcome) if !open.is_empty() => {
                        let outcome = [Outcome::Worked, Outcome::Failed, Outcome::Unknown]
                            [usize::from(outcome)];
                        breaker.ended(open.swap_remove(at % open.len()), outcome);
                    }
                    Step::End(..) => {}
                    Step::Lost(doubtful) => breaker.lost(doubtful),
                    Step::Answered => breaker.answered(),
                    Step::Held => breaker.held(),
                }
                if let State::HalfOpen { allowed, under_way, .. } = breaker.state {
                    let counted = |ticket: &&Ticket| ticket.counted && ticket.epoch == breaker.epoch;
                    prop_assert_eq!(under_way as usize, open.iter().filter(counted).count());
                    prop_assert!(under_way <= allowed && allowed <= trials);
                    prop_assert!(breaker.lapses < 2 || allowed == 1);
                }
            }
        }
    }
}
