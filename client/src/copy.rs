//! One owner's copy of one part, brought to an end: stored, hinted, marked or refused.
//!
//! Down is not slow: an owner without a live connection gets a hint at once, on whoever is live; an
//! owner that answers, but says busy or takes its time, is waited for until the deadline, or until others
//! need the room once the level is reached ([`crate::backlog`]), and then gets a repair mark, since hints must
//! not amplify an overload. Called by the part's collector.

use std::{sync::Arc, time::Duration};

use quorate_protocol::{
    code::{Class, Code},
    id::{MetaIndex, NodeId, Sequence},
    message::{Answer, Written},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tracing::Span;

use self::message::{Refusal, advice, write};
pub(crate) use self::{
    event::Event,
    message::{carry, mark},
};
use crate::{
    core::Core,
    gate::UnderWay,
    history::Step,
    later::Later,
    part::{Goal, Part, hopeless},
    pool::Pass,
};

mod event;
mod message;

/// Pause before asking again after an answer that named no time.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// Who keeps a hint and where, or why nobody will, by the map of this index.
pub(crate) type Placed = Result<(NodeId, Sequence), (Code, MetaIndex)>;

/// A hint for `target` that travels in a message to somebody else; `done` is dropped if this node
/// did not take it but another one may.
#[derive(Debug)]
pub(crate) struct Carry {
    pub(crate) target: NodeId,
    pub(crate) done: oneshot::Sender<Placed>,
    pub(crate) under_way: UnderWay,
    /// Why the owner needs one, for the history.
    pub(crate) why: Code,
}

pub(crate) struct CopyTask {
    pub(crate) core: Arc<Core>,
    pub(crate) part: Arc<Part>,
    pub(crate) goal: Goal,
    /// The part's place in the client's backlog.
    pub(crate) seat: u64,
    /// Who has it already.
    pub(crate) record: Later,
    pub(crate) index: usize,
    pub(crate) owner: NodeId,
    pub(crate) events: mpsc::Sender<Event>,
    /// Told how it ends.
    pub(crate) span: Span,
}

/// How an attempt to store on the owner ended.
enum Attempt {
    /// Stored or refused for good.
    Ended,
    /// The owner is down, or cannot store now: hint.
    Down(Code),
    /// The owner lives but did not store it in time: mark.
    Slow(Code),
}

impl CopyTask {
    /// Runs until the copy has ended; without a pass the owner counts as down. `carry` are hints for
    /// others that travel with this copy, `waits` the answers of hints for this owner that travel with
    /// others' copies.
    pub(crate) async fn run(
        self,
        pass: Option<Pass>,
        carry: Vec<Carry>,
        waits: Vec<oneshot::Receiver<Placed>>,
    ) {
        self.bring(pass, carry, waits).await;
        self.send(Event::Ended { owner: self.index }).await;
    }

    async fn bring(
        &self,
        pass: Option<Pass>,
        carry: Vec<Carry>,
        waits: Vec<oneshot::Receiver<Placed>>,
    ) {
        let mut why = Code::Unavailable;
        if let Some(pass) = pass {
            match self.wait_for_owner(pass, carry).await {
                Attempt::Ended => return,
                Attempt::Slow(why) => return self.mark(why).await,
                Attempt::Down(code) => why = code,
            }
        } else {
            let detail = format!("node {} is down", self.owner);
            self.send(Event::Failed {
                owner: self.index,
                sent: false,
                code: Code::Unavailable,
                detail,
            })
            .await;
        }
        let (mut holders, mut refused) = (Vec::new(), None);
        for wait in waits {
            match wait.await {
                Ok(Ok((holder, sequence))) => {
                    holders.push(holder);
                    self.send(Event::Hinted { owner: self.index, holder, sequence }).await;
                }
                Ok(Err((Code::GroupClosing, _))) | Err(_) => {}
                Ok(Err(why)) => refused = Some(why),
            }
        }
        if let (Some(why), true) = (refused, holders.is_empty()) {
            return self.refused(why).await;
        }
        self.hint(holders, why).await;
    }

    /// As [`Self::store`], unless the copy must make room meanwhile.
    async fn wait_for_owner(&self, pass: Pass, mut carry: Vec<Carry>) -> Attempt {
        let waiting = self.core.backlog.wait(self.seat, self.owner);
        let attempt = tokio::select! {
            biased;
            attempt = self.store(Some(pass), &mut carry, self.goal) => Some(attempt),
            () = waiting.let_go() => None,
        };
        match attempt {
            Some(Attempt::Ended) => {
                waiting.answered();
                Attempt::Ended
            }
            Some(other) => other,
            None => {
                // Its hints for others may be on a disk; whoever waits for them asks somebody else.
                carry.iter().for_each(|carry| carry.under_way.uncertain());
                drop(carry);
                self.send(Event::LetGo { owner: self.index }).await;
                Attempt::Slow(Code::Busy)
            }
        }
    }

    /// Sends the copy, again while the owner answers "not now", until the deadline of `goal`.
    async fn store(&self, pass: Option<Pass>, carry: &mut Vec<Carry>, goal: Goal) -> Attempt {
        loop {
            let error =
                match write(&self.core, &self.part, self.patient(goal), self.owner, true, carry)
                    .await
                {
                    Ok(Written {
                        copy: Some(Answer { error: None, sequence, .. }),
                        buffered,
                        ..
                    }) => {
                        let owner = self.index;
                        if let Some(pass) = pass {
                            pass.worked();
                        }
                        self.send(Event::Stored { owner, sequence, buffered }).await;
                        return Attempt::Ended;
                    }
                    Ok(Written { copy: Some(answer), meta_index, .. }) => Refusal {
                        code: answer.error.unwrap_or(Code::Internal),
                        retry_after: Duration::from_millis(answer.retry_after_ms.into()),
                        // After a failed sync the record may be on the disk all the same; and nothing
                        // is known of what a later version means.
                        sent: matches!(
                            answer.error,
                            Some(Code::Io | Code::Internal | Code::Unknown(_))
                        ),
                        index: meta_index,
                        detail: format!("node {}{}", self.owner, advice(answer.error)),
                    },
                    Ok(Written { copy: None, .. }) => Refusal::internal(self.owner),
                    Err(refusal) => refusal,
                };
            let is_over = match error.code {
                Code::NotOwner => self.not_needed(),
                Code::StaleEpoch => self.has_other_epoch(),
                code => hopeless(code),
            };
            if is_over {
                // The hints in it have had their answers before the collector hears of the copy.
                carry.clear();
                if let Some(pass) = pass {
                    pass.worked();
                }
                self.send(Event::Refused {
                    owner: self.index,
                    code: error.code,
                    index: error.index,
                    detail: error.detail,
                })
                .await;
                return Attempt::Ended;
            }
            let again =
                !error.sent && matches!(error.code.class(), Class::Retry | Class::RefreshMeta);
            let pause = error.retry_after.max(RETRY_PAUSE);
            if again && Instant::now() + pause < goal.deadline {
                metrics::counter!("quorate_client_copy_retries_total").increment(1);
                self.part.notes.of(self.owner, || Step::NotNow { code: error.code, pause });
                sleep(pause).await;
                continue;
            }
            carry.clear();
            if cannot_store(error.code)
                && let Some(pass) = pass
            {
                pass.failed();
            }
            let slow = again || error.code == Code::DeadlineExceeded;
            self.send(Event::Failed {
                owner: self.index,
                sent: error.sent,
                code: error.code,
                detail: error.detail,
            })
            .await;
            return if slow { Attempt::Slow(error.code) } else { Attempt::Down(error.code) };
        }
    }

    /// Places hints until enough holders have one; goes back to the owner if it is up again.
    async fn hint(&self, mut holders: Vec<NodeId>, why: Code) {
        let give_up = self.goal.deadline + self.core.config.abandon_after;
        let mut pause = RETRY_PAUSE;
        loop {
            let candidates = self.candidates(&holders);
            let wanted = self.goal.hint_copies.saturating_sub(holders.len());
            if wanted == 0 || (candidates.is_empty() && !holders.is_empty()) {
                return;
            }
            let (mut placed, mut closing) = (false, false);
            // Those that come first may be full: the others are asked until there are enough.
            for node in candidates {
                if holders.len() >= self.goal.hint_copies || self.core.cancel.is_cancelled() {
                    break;
                }
                let Some(under_way) = self.part.gate.enter() else { return };
                let (done, wait) = oneshot::channel();
                let mut carry = vec![Carry { target: self.owner, done, under_way, why }];
                let _ = write(&self.core, &self.part, self.late(), node, false, &mut carry).await;
                drop(carry);
                match wait.await {
                    Ok(Ok((holder, sequence))) => {
                        holders.push(holder);
                        placed = true;
                        self.send(Event::Hinted { owner: self.index, holder, sequence }).await;
                    }
                    // It will be known in a moment whether the part is still in its group.
                    Ok(Err((Code::GroupClosing, _))) => closing = true,
                    Ok(Err(why)) if holders.is_empty() => return self.refused(why).await,
                    Ok(Err(_)) => return,
                    Err(_) => {}
                }
            }
            if placed {
                continue;
            }
            if !closing {
                self.send(Event::NoHolder { owner: self.index }).await;
            }
            if self.part.gate.closed() || self.not_needed() {
                return;
            }
            if Instant::now() >= give_up || self.core.cancel.is_cancelled() {
                metrics::counter!("quorate_client_copies_abandoned_total").increment(1);
                self.part.notes.of(self.owner, || Step::Abandoned);
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
            // As with a hint, the write must not be called definitely failed meanwhile.
            let Some(_under_way) = self.part.gate.enter() else { return };
            if self.core.is_live(self.owner)
                && matches!(self.store(None, &mut Vec::new(), self.late()).await, Attempt::Ended)
            {
                return;
            }
        }
    }

    /// Whether the newest map says that this node is no owner any more: the others have the rows.
    fn not_needed(&self) -> bool {
        let map = self.core.topology.map();
        let place = map.shard(self.part.shard);
        place.is_some_and(|place| !place.shard.owners.contains(&self.owner))
    }

    /// Whether the newest map has other owners for the part than those it was made for.
    fn has_other_epoch(&self) -> bool {
        let map = self.core.topology.map();
        let place = map.shard(self.part.shard);
        place.is_none_or(|place| place.shard.epoch != self.part.epoch)
    }

    /// No node will take a hint for this owner: its shard was dropped, its group does not reach as far
    /// any more, or its co-owner has refused the series in the part, which must not appear through a
    /// hint then.
    async fn refused(&self, (code, index): (Code, MetaIndex)) {
        let detail = format!("shard {}{}", self.part.shard, advice(Some(code)));
        self.send(Event::Refused { owner: self.index, code, index, detail }).await;
    }

    /// Asks a co-owner to remember that this owner lacks the part; a hint if there is none.
    async fn mark(&self, why: Code) {
        if self.part.gate.closed() {
            return;
        }
        let part = &self.part;
        let others = part.owners.iter().copied().enumerate().filter(|(at, _)| *at != self.index);
        let mut others: Vec<(usize, NodeId)> = others.collect();
        // Repair reads it from who keeps the mark.
        others.sort_by_key(|(at, _)| !self.record.copy(*at).0.held);
        let others: Vec<NodeId> = others.into_iter().map(|(_, node)| node).collect();
        if let Some(holder) = mark(&self.core, part, self.owner, &others).await {
            return self.send(Event::Marked { owner: self.index, holder }).await;
        }
        self.hint(Vec::new(), why).await;
    }

    /// Live nodes that may keep a hint: those that are well first, of these co-owners.
    fn candidates(&self, not: &[NodeId]) -> Vec<NodeId> {
        let mut live = self.core.live();
        live.retain(|node| *node != self.owner && !not.contains(node));
        let owns = |node: &NodeId| self.part.owners.contains(node);
        live.sort_by_key(|node| (self.core.rank(*node), !owns(node), *node));
        live
    }

    /// The goal of one attempt: at least long enough to tell an owner that is mute, which gets a
    /// hint, from one that is slow. The caller does not wait for it.
    fn patient(&self, goal: Goal) -> Goal {
        let known = Instant::now() + self.core.config.transport.mute_after * 2;
        Goal { deadline: goal.deadline.max(known), ..goal }
    }

    /// The goal of background work: a few seconds from now, whatever the caller's deadline was.
    fn late(&self) -> Goal {
        Goal {
            deadline: self.goal.deadline.max(Instant::now() + Duration::from_secs(5)),
            ..self.goal
        }
    }

    async fn send(&self, event: Event) {
        if let Some(outcome) = event.outcome() {
            self.span.record("outcome", outcome);
            metrics::counter!("quorate_client_copies_total", "outcome" => outcome).increment(1);
        }
        // The collector listens until the last sender is gone.
        let _ = self.events.send(event).await;
    }
}

/// Whether a node that says this will say it of whatever it is asked to store.
const fn cannot_store(code: Code) -> bool {
    matches!(code, Code::Poisoned | Code::DiskFull | Code::Io | Code::Internal)
}
