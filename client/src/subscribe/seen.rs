//! The batches a subscription has had, by name.
//!
//! Invariant: the last `limit` of them, and no others. Nothing but this client's habit keeps a writer from
//! giving one batch id to several parts, so the checksum and the length belong to the name; they are the
//! same on every owner, since the bytes are.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(batch: u128, checksum: u32) -> Name {
        let told = Followed {
            batch: BatchId(batch),
            checksum,
            length: 7,
            shard: 1.into(),
            sequence: 1.into(),
            version: 1.into(),
            missed: 0,
            gap: false,
            ended: None,
        };
        Name::from(&told)
    }

    #[test]
    fn the_last_names_are_remembered_and_parts_with_one_id_are_told_apart() {
        let mut seen = Seen::new(3);
        assert!(seen.insert(name(1, 1)) && seen.insert(name(1, 2)) && seen.insert(name(2, 1)));
        assert!(!seen.insert(name(1, 1)) && !seen.insert(name(1, 2)));
        assert!(seen.insert(name(3, 1)) && !seen.contains(&name(1, 1)));
        assert!(seen.contains(&name(1, 2)) && seen.contains(&name(2, 1)));
        assert!(seen.insert(name(1, 1)));
        assert_eq!((seen.names.len(), seen.order.len()), (3, 3));
    }
}
