//! The batches a subscription has had, by name.
//!
//! Invariant: the last `limit` of them, and no others. A write may have several parts in one shard, all
//! with its batch id, so the checksum and the length belong to the name; they are the same on every
//! owner, since the bytes are.

use std::collections::{HashSet, VecDeque};

use quorate_protocol::{id::BatchId, message::Followed};

/// What a batch is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    batch: BatchId,
    checksum: u32,
    length: u32,
}

impl From<&Followed> for Name {
    fn from(told: &Followed) -> Self {
        Self { batch: told.batch, checksum: told.checksum, length: told.length }
    }
}

#[derive(Debug)]
pub(super) struct Seen {
    names: HashSet<Name>,
    order: VecDeque<Name>,
    limit: usize,
}

impl Seen {
    pub(super) fn new(limit: usize) -> Self {
        Self { names: HashSet::new(), order: VecDeque::new(), limit: limit.max(1) }
    }

    /// Remembers a batch; whether it is new.
    pub(super) fn insert(&mut self, name: Name) -> bool {
        if !self.names.insert(name) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        true
    }

    pub(super) fn contains(&self, name: &Name) -> bool {
        self.names.contains(name)
    }
}
