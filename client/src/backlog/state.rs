//! Who waits for whom, and for how long; no clock, no tasks.
//!
//! Invariants: `held` is the sum of all parts' bytes, `leaving` of those that were let go, `nodes` of those
//! that have their level, wait for the node and were not let go; a part is in `ready` if it is one of the latter
//! for some node. Ids grow with time, so the oldest come first. Used by [`super::Backlog`] under its lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use quorate_protocol::id::{NodeId, ShardId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Part {
    shard: ShardId,
    bytes: usize,
    started: Instant,
    reached: bool,
    leaving: bool,
    /// Owners whose copies wait for them.
    waits: Vec<NodeId>,
    let_go: CancellationToken,
}

/// What waits for one owner of one shard.
#[derive(Debug, Default)]
struct Owner {
    /// The last that ended had waited for longer than the patience.
    slow: bool,
    parts: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    budget: usize,
    node_budget: usize,
    patience: Duration,
    last: u64,
    held: usize,
    leaving: usize,
    /// Bytes that writes wait for.
    pub(super) wanted: usize,
    parts: BTreeMap<u64, Part>,
    ready: BTreeSet<u64>,
    owners: BTreeMap<(NodeId, ShardId), Owner>,
    nodes: BTreeMap<NodeId, usize>,
}

impl State {
    pub(super) fn new(budget: usize, node_budget: usize, patience: Duration) -> Self {
        Self {
            budget,
            node_budget,
            patience,
            last: 0,
            held: 0,
            leaving: 0,
            wanted: 0,
            parts: BTreeMap::new(),
            ready: BTreeSet::new(),
            owners: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    pub(super) fn enter(&mut self, shard: ShardId, bytes: usize, started: Instant) -> u64 {
        self.last += 1;
        self.held += bytes;
        let let_go = CancellationToken::new();
        let (reached, leaving, waits) = (false, false, Vec::new());
        let part = Part { shard, bytes, started, reached, leaving, waits, let_go };
        self.parts.insert(self.last, part);
        self.last
    }

    pub(super) fn leave(&mut self, id: u64) {
        self.ready.remove(&id);
        let Some(part) = self.parts.remove(&id) else { return };
        self.held -= part.bytes;
        if part.leaving {
            self.leaving -= part.bytes;
        }
    }

    pub(super) fn wait(&mut self, id: u64, owner: NodeId) -> CancellationToken {
        let Some(part) = self.parts.get_mut(&id) else { return CancellationToken::new() };
        part.waits.push(owner);
        self.owners.entry((owner, part.shard)).or_default().parts.insert(id);
        if part.reached && !part.leaving {
            self.ready.insert(id);
            *self.nodes.entry(owner).or_default() += part.bytes;
        }
        part.let_go.clone()
    }

    pub(super) fn reach(&mut self, id: u64) {
        let Some(part) = self.parts.get_mut(&id).filter(|part| !part.reached) else { return };
        part.reached = true;
        for owner in &part.waits {
            self.ready.insert(id);
            *self.nodes.entry(*owner).or_default() += part.bytes;
        }
    }

    /// The owner has answered; in time, or not.
    pub(super) fn answered(&mut self, id: u64, owner: NodeId, now: Instant) {
        let Some(part) = self.parts.get(&id) else { return };
        if let Some(of_owner) = self.owners.get_mut(&(owner, part.shard)) {
            of_owner.slow = now - part.started > self.patience;
        }
        self.end(id, owner, now);
    }

    /// The copy does not wait any more.
    pub(super) fn end(&mut self, id: u64, owner: NodeId, now: Instant) {
        let Some(part) = self.parts.get_mut(&id) else { return };
        let Some(at) = part.waits.iter().position(|waits| *waits == owner) else { return };
        part.waits.swap_remove(at);
        if part.waits.is_empty() {
            self.ready.remove(&id);
        }
        let place = (owner, part.shard);
        if let Some(of_owner) = self.owners.get_mut(&place) {
            of_owner.parts.remove(&id);
            of_owner.slow |= now - part.started > self.patience;
            // Whom nobody waits for is presumed to be well.
            if of_owner.parts.is_empty() {
                self.owners.remove(&place);
            }
        }
        if part.reached && !part.leaving {
            less(&mut self.nodes, owner, part.bytes);
        }
    }

    /// Chooses what must go, oldest first, and says how to tell its copies.
    pub(super) fn let_go(&mut self, now: Instant) -> Vec<CancellationToken> {
        let mut tokens = Vec::new();
        let mut next = self.ready.first().copied();
        let mut any_slow = self.owners.values().any(|owner| owner.slow);
        while let Some(id) = next
            && (self.shortfall() > 0 || self.nodes.values().any(|bytes| *bytes > self.node_budget))
        {
            next = self.ready.range(id + 1..).next().copied();
            let Some(part) = self.parts.get(&id) else { continue };
            if now - part.started <= self.patience && !any_slow {
                // Those that follow are younger still.
                break;
            }
            let over = |node| self.nodes.get(node).is_some_and(|bytes| *bytes > self.node_budget);
            let reason = match self.shortfall() {
                0 if !part.waits.iter().any(over) => continue,
                0 => "node",
                _ => "room",
            };
            if part.waits.iter().all(|owner| self.is_over(id, part, *owner, now)) {
                tokens.extend(self.release(id, reason));
                any_slow = true;
            }
        }
        tokens
    }

    /// Bytes that writes wait for and nothing will free that has been let go already.
    fn shortfall(&self) -> usize {
        let free = self.budget.saturating_sub(self.held) + self.leaving;
        self.wanted.saturating_sub(free)
    }

    /// Whether this copy has waited long enough for its owner.
    fn is_over(&self, id: u64, part: &Part, owner: NodeId, now: Instant) -> bool {
        let Some(of_owner) = self.owners.get(&(owner, part.shard)) else { return false };
        let is_oldest = of_owner.parts.first() == Some(&id);
        now - part.started > self.patience || (of_owner.slow && !is_oldest)
    }

    fn release(&mut self, id: u64, reason: &'static str) -> Option<CancellationToken> {
        let part = self.parts.get_mut(&id)?;
        self.ready.remove(&id);
        part.leaving = true;
        self.leaving += part.bytes;
        for owner in &part.waits {
            less(&mut self.nodes, *owner, part.bytes);
            if let Some(of_owner) = self.owners.get_mut(&(*owner, part.shard)) {
                of_owner.slow = true;
            }
        }
        let copies = part.waits.len() as u64;
        metrics::counter!("quorate_client_copies_let_go_total", "reason" => reason)
            .increment(copies);
        Some(part.let_go.clone())
    }
}

fn less(nodes: &mut BTreeMap<NodeId, usize>, node: NodeId, bytes: usize) {
    if let Some(sum) = nodes.get_mut(&node) {
        *sum -= bytes;
        if *sum == 0 {
            nodes.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests;
