//! Whom a subscription follows, and what it has had of each owner.
//!
//! Invariants: of each shard one owner sends batches, the other live ones their names; an owner's
//! `floor` is a record of its journal up to which the consumer has everything or was told otherwise, and
//! what it is asked for next stands behind it; an owner is `unproven` while that cannot be known, and
//! when it sends batches a gap is told; what an owner has and the one that sends does not get in time, it
//! sends itself. Pure.

use std::collections::{BTreeMap, VecDeque};

use quorate_protocol::{
    code::{Class, Code},
    id::{NodeId, Sequence, ShardId},
    message::{Bodies, FollowShard, Followed},
};
use tokio::time::{Duration, Instant};

use super::{
    Gap, GapReason, SubscribeOptions,
    seen::{Name, Seen},
};
use crate::error::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// What a node shall be asked for: its shards, and of which it shall send the batches.
pub(super) type Wanted = Vec<(ShardId, bool)>;

pub(super) struct Shards {
    shards: BTreeMap<ShardId, Shard>,
    failed: BTreeMap<NodeId, Failed>,
    seen: Seen,
    pending: usize,
    patience: Duration,
    /// The first shards are not all followed yet.
    starting: bool,
    /// It is known which shards there are.
    planned: bool,
}

#[derive(Default)]
struct Shard {
    source: Option<NodeId>,
    owners: BTreeMap<NodeId, Owner>,
    /// It came into being while it could have been followed from its beginning.
    newborn: bool,
}

/// One owner of one shard.
#[derive(Default)]
struct Owner {
    /// None while it was never heard.
    floor: Option<Sequence>,
    /// What it has behind the floor that nobody has sent, and when it said so.
    pending: VecDeque<(Sequence, Name, Instant)>,
    unproven: bool,
    /// It has begun to answer.
    begun: bool,
    /// It was asked for whole batches.
    whole: bool,
}

/// A node that is left alone for a while.
struct Failed {
    until: Instant,
    pause: Duration,
    code: Code,
    detail: String,
}

/// What is to be done with an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// To be told before the batch.
    pub(super) gap: Option<Gap>,
    /// The batch is new.
    pub(super) deliver: bool,
    /// A shard has begun.
    pub(super) begun: bool,
    /// Names were left out: ask again from the floor.
    pub(super) again: bool,
}

/// What a start waits for.
pub(super) struct Waits {
    /// All owners of a shard refuse for good.
    pub(super) hopeless: bool,
    refused: Option<(Code, String)>,
}

impl Waits {
    /// Why a shard has nobody to send it; none if all have somebody.
    pub(super) fn refused(self) -> Option<Error> {
        self.refused.map(|(code, detail)| Error::refused(code, detail))
    }
}

impl Owner {
    /// Whether it may have stored something, after the subscription began, that it will not tell of.
    const fn is_late(&self, from_start: bool) -> bool {
        self.unproven || (self.floor.is_none() && !from_start)
    }

    fn settle(&mut self, seen: &Seen) {
        while let Some((sequence, name, _)) = self.pending.front()
            && seen.contains(name)
        {
            self.floor = self.floor.max(Some(*sequence));
            self.pending.pop_front();
        }
    }

    /// Gives up waiting for the first pending ones.
    fn limit(&mut self, limit: usize) {
        while self.pending.len() > limit
            && let Some((sequence, ..)) = self.pending.pop_front()
        {
            self.floor = self.floor.max(Some(sequence));
            self.unproven = true;
        }
    }
}

impl Shards {
    pub(super) fn new(options: &SubscribeOptions) -> Self {
        Self {
            shards: BTreeMap::new(),
            failed: BTreeMap::new(),
            seen: Seen::new(options.remembered),
            pending: options.pending,
            patience: options.patience,
            starting: true,
            planned: false,
        }
    }

    /// What each node shall be asked for, now that these are the shards and their owners and these
    /// nodes are up; and when to look again.
    pub(super) fn plan<'m>(
        &mut self,
        shards: impl Iterator<Item = (ShardId, &'m [NodeId])>,
        up: impl Fn(NodeId) -> bool,
        now: Instant,
    ) -> (BTreeMap<NodeId, Wanted>, Option<Instant>) {
        self.planned = true;
        let mut before = std::mem::take(&mut self.shards);
        let mut wanted: BTreeMap<NodeId, Wanted> = BTreeMap::new();
        let usable = |node: &NodeId| {
            up(*node) && self.failed.get(node).is_none_or(|failed| failed.until <= now)
        };
        for (id, owners) in shards {
            let mut shard = before
                .remove(&id)
                .unwrap_or_else(|| Shard { newborn: !self.starting, ..Shard::default() });
            shard.owners.retain(|node, _| owners.contains(node));
            for node in owners {
                shard.owners.entry(*node).or_default();
            }
            let from_start = self.starting || shard.newborn;
            if !shard.source.is_some_and(|node| owners.contains(&node) && usable(&node)) {
                // Shards begin with different owners, so that none has all of them to send.
                let turn = usize::try_from(id.0).unwrap_or(0) % owners.len().max(1);
                let (last, first) = owners.split_at(turn.min(owners.len()));
                let candidates = first.iter().chain(last).filter(|node| usable(node));
                let late = |node: &NodeId| {
                    shard.owners.get(node).is_none_or(|owner| owner.is_late(from_start))
                };
                shard.source = candidates.min_by_key(|node| late(node)).copied();
            }
            // Who has something that the one that sends has not got for too long, sends it.
            let waiting = owners.iter().filter(|node| usable(node)).filter_map(|node| {
                let owner = shard.owners.get(node)?;
                let (_, _, since) = owner.pending.front()?;
                (!owner.whole && *since + self.patience <= now).then_some((*since, *node))
            });
            if let Some((_, ahead)) = waiting.min() {
                shard.source = Some(ahead);
            }
            for node in owners.iter().filter(|node| usable(node)) {
                wanted.entry(*node).or_default().push((id, shard.source == Some(*node)));
            }
            self.shards.insert(id, shard);
        }
        let again = self.failed.values().map(|it| it.until).filter(|until| *until > now).min();
        (wanted, again)
    }

    /// What a node is asked for.
    pub(super) fn request(&mut self, node: NodeId, wanted: &Wanted) -> Vec<FollowShard> {
        let mut request = Vec::with_capacity(wanted.len());
        for (id, whole) in wanted {
            let Some(shard) = self.shards.get_mut(id) else { continue };
            let Some(owner) = shard.owners.get_mut(&node) else { continue };
            // It tells them again.
            owner.pending.clear();
            (owner.begun, owner.whole) = (false, *whole);
            let first = owner.floor.is_none();
            let (after, bodies) = match (first, *whole) {
                (true, _) if shard.newborn => (Some(Sequence(0)), Bodies::All),
                // What it has already is had by name, so that others' names of it find it.
                (true, true) if self.starting => (Some(Sequence(0)), Bodies::New),
                _ => (owner.floor, Bodies::All),
            };
            let bodies = if *whole { bodies } else { Bodies::None };
            request.push(FollowShard { shard: *id, after, bodies });
        }
        request
    }

    /// Takes an answer of a node; `body` says whether the batch came along.
    pub(super) fn take(
        &mut self,
        node: NodeId,
        told: &Followed,
        body: bool,
        now: Instant,
    ) -> Taken {
        let mut taken = Taken::default();
        let Some(shard) = self.shards.get_mut(&told.shard) else { return taken };
        let from_start = self.starting || shard.newborn;
        let Some(owner) = shard.owners.get_mut(&node) else { return taken };
        if told.ended.is_some() {
            // The map says so too, or will.
            owner.begun = false;
            return taken;
        }
        if told.length == 0 {
            let first = owner.floor.is_none();
            // Those from before the start are not asked for.
            let gap = told.gap && (!first || shard.newborn);
            owner.unproven |= gap || (first && !from_start);
            owner.floor = owner.floor.max(Some(told.sequence));
            (owner.begun, taken.begun) = (true, true);
            self.failed.remove(&node);
            if owner.whole && owner.unproven {
                let (shard_id, reason) = (told.shard, GapReason::Unknown);
                taken.gap = Some(Gap { shard: shard_id, reason, missed: None });
                // What others may have had before now is covered by it.
                shard.owners.values_mut().for_each(|owner| owner.unproven = false);
            }
            return taken;
        }
        if told.missed > 0 {
            if !owner.whole {
                taken.again = true;
                return taken;
            }
            let (reason, missed) = (GapReason::Slow, Some(told.missed));
            taken.gap = Some(Gap { shard: told.shard, reason, missed });
        }
        let name = Name::from(told);
        if owner.whole {
            taken.deliver = self.seen.insert(name) && body;
        }
        owner.pending.push_back((told.sequence, name, now));
        for owner in shard.owners.values_mut() {
            owner.settle(&self.seen);
            owner.limit(self.pending);
        }
        taken
    }

    /// A node could not be asked, or has stopped answering.
    pub(super) fn failed(&mut self, node: NodeId, code: Code, detail: String, now: Instant) {
        let last = self.failed.get(&node).map(|failed| failed.pause);
        let pause = last.map_or(FIRST_PAUSE, |last| (last * 2).min(LAST_PAUSE));
        self.failed.insert(node, Failed { until: now + pause, pause, code, detail });
        for shard in self.shards.values_mut() {
            if let Some(owner) = shard.owners.get_mut(&node) {
                owner.begun = false;
            }
        }
    }

    /// What the start still waits for; none if nothing.
    pub(super) fn waits(&self, up: impl Fn(NodeId) -> bool) -> Option<Waits> {
        let mut waits = Waits { hopeless: false, refused: None };
        let mut any = !self.planned;
        for (id, shard) in &self.shards {
            let begun = |node: &NodeId| shard.owners.get(node).is_some_and(|owner| owner.begun);
            let sent = shard.source.as_ref().is_some_and(begun);
            let owners = || shard.owners.keys();
            any |= !sent
                || owners()
                    .any(|node| up(*node) && !begun(node) && !self.failed.contains_key(node));
            if sent {
                continue;
            }
            let mut why = owners().filter_map(|node| self.failed.get(node));
            let never = why.clone().filter(|failed| failed.code.class() == Class::Never);
            waits.hopeless |= never.count() == shard.owners.len();
            let last = why.next_back().map(|failed| (failed.code, failed.detail.clone()));
            let nobody = || (Code::Unavailable, format!("no owner of shard {id} is up"));
            waits.refused = Some(last.unwrap_or_else(nobody));
        }
        any.then_some(waits)
    }

    /// The start is over.
    pub(super) fn begun(&mut self) {
        self.starting = false;
    }
}

#[cfg(test)]
mod tests;
