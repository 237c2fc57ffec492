//! One part of a write: the same encoded bytes to every owner of one shard.
//!
//! A collector task owns the part and a task per owner brings that owner's copy to an end. The
//! caller hears as soon as the level is reached or lost; the rest goes on behind it. Invariants:
//! if the level cannot be reached by what is known beforehand, nothing is sent; once something was
//! sent, every owner's copy ends stored, hinted or marked unless the client gives up on all nodes,
//! which is counted.
//!
//! A part whose group has changed since it was routed (its end came nearer, it is gone, its shards have
//! other owners) is refused by every owner, definitely: then nobody has it, and its rows may be routed
//! anew, as parts of their own. If anybody has it, or may have it, it stays what it is: rows in two
//! shards would be read twice, and the copies that are missing are marked on those who have it.
//! Truncations see to it that the first is the rule: an end never moves before a point that any member
//! has, so whoever says `OutOfGroup` says it for all (`SPEC.md`, section 14).

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use quorate_protocol::{
    code::{Class, Code},
    consistency::{Copy, Level, Tracker, Verdict},
    id::{BatchId, Epoch, MetaIndex, NodeId, ShardId},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tracing::{Instrument, Span, field::Empty};

use crate::{
    backlog::Seat,
    budget::Share,
    copy::{Carry, CopyTask, Event},
    core::Core,
    error::Certainty,
    gate::Gate,
    history::{Notes, Step},
    later::Record,
    pool::Pass,
    receipt::{CopyState, OwnerCopy, PartReceipt},
};

/// The encoded rows of one shard.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) batch: BatchId,
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) meta_index: MetaIndex,
    pub(crate) owners: Vec<NodeId>,
    pub(crate) bytes: Bytes,
    /// How many.
    pub(crate) rows: usize,
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// Whether hints may still be placed.
    pub(crate) gate: Gate,
    /// What is said about it to whoever asked for a history.
    pub(crate) notes: Notes,
}

/// What the caller of the write asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) level: Level,
    pub(crate) hint_copies: usize,
    pub(crate) deadline: Instant,
}

/// Why a part did not reach its level.
#[derive(Debug)]
pub(crate) struct PartFailure {
    pub(crate) code: Code,
    pub(crate) certainty: Certainty,
    pub(crate) detail: String,
    /// The part is nowhere and never will be, because its group is another one since this index.
    pub(crate) moved: Option<MetaIndex>,
}

/// What the caller hears.
#[derive(Debug)]
pub(crate) struct PartResult {
    pub(crate) receipt: PartReceipt,
    pub(crate) failure: Option<PartFailure>,
}

/// Starts a part; the answer comes when the level is reached or lost, or at the deadline. The
/// share of the client's budget is held until the part's last copy has ended.
pub(crate) fn start(
    core: &Arc<Core>,
    part: Part,
    goal: Goal,
    share: Share,
) -> oneshot::Receiver<PartResult> {
    let (answer, result) = oneshot::channel();
    let (shard, rows, bytes) = (part.shard, part.rows, part.bytes.len());
    part.notes.add(|| Step::Started { shard, rows, bytes });
    let task = Collector {
        core: Arc::clone(core),
        tracker: Tracker::new(goal.level, part.owners.len(), hint_goal(core, goal)),
        seat: core.backlog.enter(shard, share.bytes()),
        states: vec![CopyState::Outstanding; part.owners.len()],
        record: Record::new(part.owners.len()),
        holders: BTreeSet::new(),
        alone: Vec::new(),
        refusal: None,
        moved: None,
        unanimous: None,
        hopeless: BTreeSet::new(),
        failure: None,
        answer: Some(answer),
        span: tracing::debug_span!("part", %shard, rows, bytes, outcome = Empty),
        part: Arc::new(part),
        goal,
    };
    let span = task.span.clone();
    let run = async move {
        task.run().await;
        drop(share);
    };
    core.tasks.spawn(run.instrument(span));
    result
}

/// Holders an `any` needs: the configured number, or all live nodes if there are fewer.
fn hint_goal(core: &Core, goal: Goal) -> usize {
    goal.hint_copies.min(core.live().len()).max(1)
}

struct Collector {
    core: Arc<Core>,
    part: Arc<Part>,
    seat: Seat,
    goal: Goal,
    tracker: Tracker,
    states: Vec<CopyState>,
    /// The same, for those who have heard already.
    record: Record,
    /// Nodes that keep a hint of this part for anybody.
    holders: BTreeSet<NodeId>,
    /// Owners that refused it by their own clock, limit or map, so that others may have taken it.
    alone: Vec<usize>,
    /// Owners for whom no live node takes a hint at the moment.
    hopeless: BTreeSet<usize>,
    failure: Option<(Code, String)>,
    /// Why an owner refused by its own clock or limit: the reason, if all have failed.
    refusal: Option<(Code, String)>,
    /// The index of the newest map by which its group is another one than when it was routed.
    moved: Option<MetaIndex>,
    /// Until when the caller waits to hear whether all owners refuse, as some do by their own limits.
    unanimous: Option<Instant>,
    answer: Option<oneshot::Sender<PartResult>>,
    span: Span,
}

impl Collector {
    async fn run(mut self) {
        let live = self.core.live();
        let passes = self.core.passes(&self.part.owners, self.goal.level);
        let up: Vec<bool> = passes.iter().map(Option::is_some).collect();
        if !self.possible(&live, &up) {
            let down = up.iter().filter(|up| !**up).count();
            let detail = format!(
                "{down} of {} owners of shard {} are down, consistency {}",
                up.len(),
                self.part.shard,
                self.goal.level
            );
            self.failure = Some((Code::Unavailable, detail));
            self.states.fill(CopyState::Refused);
            for owner in 0..self.states.len() {
                self.record.note(owner, |copy| copy.refused = true);
            }
            return self.reply(Certainty::Definite);
        }
        let mut events = self.spawn_copies(passes);
        while let Some(event) = self.next(&mut events).await {
            self.note(event);
            self.decide();
        }
        // Every copy has ended without a verdict: the level is out of reach.
        if self.answer.is_some() {
            let certainty = self.certainty();
            self.reply(certainty);
        }
        self.mark_alone().await;
    }

    /// An owner whose clock is behind, or that has all the series it may have, lacks for ever what
    /// the others have taken: that is marked on one of those. A hint would take it past the very
    /// limit that this owner keeps.
    async fn mark_alone(&self) {
        let owners = &self.part.owners;
        let stored = |at: &usize| self.states[*at].held();
        let holders: Vec<NodeId> = (0..owners.len()).filter(stored).map(|at| owners[at]).collect();
        if holders.is_empty() {
            return;
        }
        for owner in self.alone.iter().filter(|at| !stored(at)) {
            if crate::copy::mark(&self.core, &self.part, owners[*owner], &holders).await.is_none() {
                metrics::counter!("quorate_client_copies_abandoned_total").increment(1);
            }
        }
    }

    /// Whether what is known before sending leaves the level in reach.
    fn possible(&self, live: &[NodeId], up: &[bool]) -> bool {
        let up = up.iter().filter(|up| **up).count();
        match self.goal.level {
            _ if self.part.owners.is_empty() => false,
            Level::Any => !live.is_empty(),
            level => up >= level.required(self.part.owners.len()),
        }
    }

    /// One task per owner. The hints for owners that are down travel with the copies of live
    /// owners, or with messages of their own to other live nodes if no owner is up.
    fn spawn_copies(&self, passes: Vec<Option<Pass>>) -> mpsc::Receiver<Event> {
        let owners = &self.part.owners;
        let (sender, events) = mpsc::channel(owners.len() * 4 + 4);
        let up: Vec<bool> = passes.iter().map(Option::is_some).collect();
        let mut carriers: Vec<NodeId> =
            owners.iter().zip(&up).filter(|(_, up)| **up).map(|(owner, _)| *owner).collect();
        if carriers.is_empty() {
            carriers = self.core.holders(self.goal.hint_copies);
        }
        let mut carried: Vec<(NodeId, Vec<Carry>)> =
            carriers.iter().map(|node| (*node, Vec::new())).collect();
        let copies = self.goal.hint_copies.min(carried.len());
        let mut waits: Vec<Vec<_>> = owners.iter().map(|_| Vec::new()).collect();
        let start = (self.part.batch.0 % carried.len().max(1) as u128) as usize;
        for (index, owner) in owners.iter().enumerate().filter(|(index, _)| !up[*index]) {
            // Each part starts elsewhere, by its random id, so that holders share the load.
            for turn in 0..copies {
                let slot = (start + index + turn) % carried.len();
                // Nobody can have closed the gate yet.
                let Some(under_way) = self.part.gate.enter() else { continue };
                let (done, wait) = oneshot::channel();
                let why = Code::Unavailable;
                carried[slot].1.push(Carry { target: *owner, done, under_way, why });
                waits[index].push(wait);
            }
        }
        for (index, (owner, pass)) in owners.iter().zip(passes).enumerate() {
            let position = carried.iter().position(|(node, _)| node == owner);
            let carry = position.map(|at| std::mem::take(&mut carried[at].1)).unwrap_or_default();
            let span = tracing::debug_span!("copy", %owner, outcome = Empty);
            let task = CopyTask {
                span: span.clone(),
                core: Arc::clone(&self.core),
                part: Arc::clone(&self.part),
                goal: self.goal,
                seat: self.seat.id(),
                record: self.record.later((self.part.from, self.part.to)),
                index,
                owner: *owner,
                events: sender.clone(),
            };
            let waits = std::mem::take(&mut waits[index]);
            self.core.tasks.spawn(task.run(pass, carry, waits).instrument(span));
        }
        for (node, carry) in carried.into_iter().filter(|(_, carry)| !carry.is_empty()) {
            let (core, part) = (Arc::clone(&self.core), Arc::clone(&self.part));
            let goal = self.goal;
            self.core
                .tasks
                .spawn(async move { crate::copy::carry(core, part, goal, node, carry).await });
        }
        events
    }

    /// The next event. At the deadline the caller hears what there is, and the work goes on.
    async fn next(&mut self, events: &mut mpsc::Receiver<Event>) -> Option<Event> {
        if self.answer.is_some() {
            let until = self.unanimous.unwrap_or(self.goal.deadline).min(self.goal.deadline);
            match timeout_at(until, events.recv()).await {
                Ok(event) => return event,
                Err(_) => {
                    if self.failure.is_none() {
                        let detail = format!(
                            "{} of {} owners answered in time, consistency {}",
                            self.tracker.stored(),
                            self.states.len(),
                            self.goal.level
                        );
                        self.failure = Some((Code::DeadlineExceeded, detail));
                    }
                    self.reply(Certainty::Indefinite);
                }
            }
        }
        events.recv().await
    }

    fn note(&mut self, event: Event) {
        let owner = self.part.owners.get(event.owner()).copied();
        self.part.notes.note(owner, || event.step());
        match event {
            Event::Stored { owner, sequence, buffered } => {
                self.states[owner] = if buffered {
                    CopyState::Buffered { sequence }
                } else {
                    CopyState::Stored { sequence }
                };
                self.record.note(owner, |copy| copy.held = true);
                self.tracker.copy(owner, Copy::Stored);
            }
            Event::Failed { owner, sent, code, detail } => {
                let copy = if sent { Copy::Lost } else { Copy::Refused };
                self.tracker.copy(owner, copy);
                self.failure = Some((code, detail));
            }
            Event::Refused { owner, code, index, detail } => {
                self.states[owner] = CopyState::Refused;
                self.record.note(owner, |copy| copy.refused = true);
                self.tracker.copy(owner, Copy::Refused);
                self.hopeless.insert(owner);
                let limit = matches!(code, Code::ClockSkew | Code::FutureTime | Code::SeriesLimit);
                if limit || matches!(code, Code::OutOfGroup | Code::StaleEpoch) {
                    self.alone.push(owner);
                    self.refusal = Some((code, detail.clone()));
                }
                if moves(code) && index > self.part.meta_index {
                    self.moved = self.moved.max(Some(index));
                }
                self.failure = Some((code, detail));
            }
            Event::Hinted { owner, holder, sequence } => {
                if !self.states[owner].held() {
                    self.states[owner] = CopyState::Hinted { holder, sequence };
                }
                self.record.note(owner, |copy| copy.hints.push((holder, sequence)));
                if self.holders.insert(holder) {
                    self.tracker.hinted();
                }
                // An owner that has fallen silent was counted among those that can hold.
                self.tracker.hints_suffice(hint_goal(&self.core, self.goal));
            }
            Event::Marked { owner, holder } => {
                self.states[owner] = CopyState::Marked { holder };
                self.record.note(owner, |copy| copy.marked = Some(holder));
            }
            // It may be stored all the same; the level is reached without it.
            Event::LetGo { owner } => {
                self.tracker.copy(owner, Copy::Lost);
            }
            Event::NoHolder { owner } => {
                self.hopeless.insert(owner);
            }
            Event::Ended { owner } => self.record.note(owner, |copy| copy.ended = true),
        }
        if self.hopeless.len() == self.states.len() {
            self.tracker.no_more_hints();
        }
    }

    fn decide(&mut self) {
        match self.tracker.verdict() {
            Verdict::Waiting => {}
            Verdict::Reached => {
                self.failure = None;
                self.reply(Certainty::Definite);
            }
            Verdict::Impossible => {
                let certainty = self.certainty();
                // The owners were asked at the same time, and most of the time are of one mind.
                let differ = !self.alone.is_empty() || self.moved.is_some();
                if certainty == Certainty::Indefinite && differ && self.tracker.may_be_definite() {
                    let patience = self.core.config.transport.mute_after;
                    self.unanimous.get_or_insert_with(|| Instant::now() + patience);
                    return;
                }
                self.reply(certainty);
            }
        }
    }

    fn certainty(&self) -> Certainty {
        let definite = self.tracker.definite() && self.part.gate.close();
        if definite { Certainty::Definite } else { Certainty::Indefinite }
    }

    /// Answers the caller, once.
    fn reply(&mut self, certainty: Certainty) {
        let Some(answer) = self.answer.take() else { return };
        let reached = self.tracker.verdict() == Verdict::Reached;
        if reached {
            self.seat.reached();
        }
        let failure = (!reached).then(|| {
            let of_all = self.refusal.take().filter(|_| certainty == Certainty::Definite);
            let failure = of_all.or_else(|| self.failure.clone());
            let (code, detail) = failure.unwrap_or((Code::Unavailable, String::new()));
            let moved = self.moved.filter(|_| certainty == Certainty::Definite);
            PartFailure { code, certainty, detail, moved }
        });
        self.part.notes.add(|| match &failure {
            None => Step::Reached,
            Some(failure) => Step::Missed { code: failure.code, certainty: failure.certainty },
        });
        self.span.record("outcome", if reached { "reached" } else { "missed" });
        let copies = self.part.owners.iter().zip(&self.states);
        let receipt = PartReceipt {
            batch: self.part.batch,
            shard: self.part.shard,
            rows: self.part.rows,
            reached,
            copies: copies
                .map(|(owner, state)| OwnerCopy { owner: *owner, state: *state })
                .collect(),
            later: self.record.later((self.part.from, self.part.to)),
        };
        // The caller may have dropped the write; the work goes on without it.
        let _ = answer.send(PartResult { receipt, failure });
    }
}

/// Whether a refusal says that the part was routed by a map that does not hold any more.
const fn moves(code: Code) -> bool {
    matches!(code, Code::OutOfGroup | Code::ShardGone | Code::StaleEpoch)
}

/// Whether a refusal is about the request itself, so that no node will ever take it.
pub(crate) fn hopeless(code: Code) -> bool {
    code.class() == Class::Never
}
