//! What every node has of every shard, how that is, and whether it lacks something that others have.
//!
//! Invariants: what a node does not say is not guessed: a node that does not answer is shown as down,
//! and what it may keep for others is not counted; a replica for which a hint may be pending is behind.
//! Filled by [`super::survey`]; used by `status` and `shard ls`.

use std::collections::BTreeMap;

use quorate_protocol::{
    id::{NodeId, ShardId},
    map::Shard,
    message::{Lacking, ShardState},
};

use super::table::count;

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It is there and sound.
    Ok,
    /// Nothing has been written to it.
    Empty,
    /// Its node does not answer.
    Down,
    /// Something of it cannot be read.
    Damaged,
    /// It takes no writes after a failed sync.
    Stopped,
}

impl Health {
    /// As reports say it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Empty => "empty",
            Self::Down => "down",
            Self::Damaged => "damaged",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the replica can be written and read.
    pub(crate) const fn is_sound(self) -> bool {
        matches!(self, Self::Ok | Self::Empty)
    }
}

/// What a replica lacks, as the nodes that answered know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Pending hints for it.
    pub(crate) hints: u64,
    /// Repair marks on it: ranges of time in which it lacks something.
    pub(crate) marks: u64,
    /// Pending hints for its node whose shards are not known.
    pub(crate) others: u64,
}

impl Behind {
    /// Whether it lacks something, or may.
    pub(crate) const fn is_behind(self) -> bool {
        self.hints > 0 || self.marks > 0 || self.others > 0
    }

    /// As reports say it.
    pub(crate) fn words(self) -> String {
        let number = |number: u64, one, more| {
            count(usize::try_from(number).unwrap_or(usize::MAX), one, more)
        };
        let mut some = Vec::new();
        if self.hints > 0 {
            some.push(number(self.hints, "hint", "hints"));
        }
        if self.others > 0 {
            some.push(format!("up to {}", number(self.others, "other hint", "other hints")));
        }
        if self.marks > 0 {
            some.push(number(self.marks, "mark", "marks"));
        }
        format!("behind by {}", some.join(", "))
    }
}

/// What every node has of every shard; nothing of a node that did not answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replicas {
    kept: BTreeMap<NodeId, BTreeMap<ShardId, ShardState>>,
    /// Of shard 0 are hints whose shards are not known.
    behind: BTreeMap<(ShardId, NodeId), Behind>,
}

impl Replicas {
    /// What a node has, and what it says that others lack.
    pub(crate) fn add(&mut self, node: NodeId, states: Vec<ShardState>, lacking: &[Lacking]) {
        let states = states.into_iter().map(|state| (state.shard, state)).collect();
        self.kept.insert(node, states);
        for lack in lacking {
            let behind = self.behind.entry((lack.shard, lack.owner)).or_default();
            behind.hints += lack.hints;
            behind.marks += lack.marks;
        }
    }

    /// What a replica lacks.
    pub(crate) fn behind(&self, node: NodeId, shard: ShardId) -> Behind {
        let of = |shard| self.behind.get(&(shard, node)).copied().unwrap_or_default();
        Behind { others: of(ShardId(0)).hints, ..of(shard) }
    }

    /// What a node has of a shard, and how that is.
    pub(crate) fn of(&self, node: NodeId, shard: ShardId) -> (Option<&ShardState>, Health) {
        match self.kept.get(&node) {
            None => (None, Health::Down),
            Some(states) => match states.get(&shard) {
                None => (None, Health::Empty),
                Some(state) if state.poisoned => (Some(state), Health::Stopped),
                Some(state) if state.damaged => (Some(state), Health::Damaged),
                Some(state) => (Some(state), Health::Ok),
            },
        }
    }

    /// What is to be told of a replica in that state, if anything.
    pub(crate) fn odd(&self, node: NodeId, shard: ShardId, health: Health) -> Option<String> {
        if !health.is_sound() {
            return Some(health.word().to_owned());
        }
        let behind = self.behind(node, shard);
        behind.is_behind().then(|| behind.words())
    }

    /// The owners of a shard, with how their replicas are.
    pub(crate) fn healths(&self, shard: &Shard) -> impl Iterator<Item = (NodeId, Health)> {
        shard.owners.iter().map(|owner| (*owner, self.of(*owner, shard.id).1))
    }

    /// How many of a shard's replicas are sound, and whether a majority is.
    pub(crate) fn sound(&self, shard: &Shard) -> (usize, bool) {
        let sound = self.healths(shard).filter(|(_, health)| health.is_sound()).count();
        (sound, sound > shard.owners.len() / 2)
    }
}
