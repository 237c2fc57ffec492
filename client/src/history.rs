//! What a write did, step by step, for whoever asks for it by `WriteOptions::history_bytes`.
//!
//! Invariants: memory is bounded, what does not fit is counted; a write that was not asked to keep any pays a
//! test of an option for each step and allocates nothing. Steps go on after the caller has heard, as the work
//! does. The write path takes notes here; `tree` prints them.

mod tree;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorate_protocol::{
    code::Code,
    consistency::Level,
    id::{MetaIndex, NodeId, Sequence, ShardId},
};
use tokio::time::Instant;

use crate::error::Certainty;

/// The longest text kept of a reason, in bytes.
const MAX_DETAIL: usize = 200;

/// One thing that happened in a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The database or policy was not in the map, and a node was asked for a newer one.
    MapAsked,
    /// Waited so long for the first dials of nodes.
    NodesAwaited {
        /// How long.
        took: Duration,
    },
    /// Waited so long for what another write was asking metadata for.
    MetaAwaited {
        /// How long.
        took: Duration,
    },
    /// Metadata was asked for what some rows need.
    MetaAsked {
        /// New fields.
        fields: usize,
        /// Times without a shard group.
        groups: usize,
    },
    /// Metadata has answered, and this client's map has it.
    MetaAnswered {
        /// Why not all of it was done.
        refused: Option<Code>,
    },
    /// Waited so long for room in the client's budget.
    RoomAwaited {
        /// How long.
        took: Duration,
        /// Whether there was room in the end.
        found: bool,
    },
    /// Rows failed before anything of them was sent.
    RowsRefused {
        /// How many.
        rows: usize,
        /// Why.
        code: Code,
    },
    /// Parts are nowhere, because their groups have changed; their rows are routed again.
    Rerouted {
        /// By the map of this index.
        index: MetaIndex,
    },
    /// The caller has heard.
    Returned {
        /// Whether every row reached the level.
        reached: bool,
    },
    /// A part was encoded; it is sent unless its level is known to be out of reach.
    Started {
        /// Its shard.
        shard: ShardId,
        /// Its rows.
        rows: usize,
        /// Its encoded size.
        bytes: usize,
    },
    /// The part has its level.
    Reached,
    /// The part has not reached its level.
    Missed {
        /// Why.
        code: Code,
        /// Whether it can still appear.
        certainty: Certainty,
    },
    /// The copy was sent to the owner.
    Sent {
        /// The number of hints for others in the same message.
        hints: usize,
    },
    /// The owner has it.
    Stored {
        /// Position in the owner's journal.
        sequence: Sequence,
        /// Whether it is not synced yet.
        buffered: bool,
    },
    /// The owner said "not now", and is asked again.
    NotNow {
        /// Why.
        code: Code,
        /// After this pause.
        pause: Duration,
    },
    /// The owner did not store it.
    Failed {
        /// Why.
        code: Code,
        /// Whether it may have done so nevertheless.
        may_be_stored: bool,
        /// The same for people.
        detail: String,
    },
    /// It was refused for good.
    Refused {
        /// Why.
        code: Code,
        /// The same for people.
        detail: String,
    },
    /// A node was asked to keep a hint for the owner.
    HintAsked {
        /// Which.
        holder: NodeId,
        /// Why the owner needs one.
        why: Code,
        /// Whether it travels with that node's own copy.
        with_copy: bool,
    },
    /// The node keeps it.
    Hinted {
        /// Which.
        holder: NodeId,
        /// Position in its queue for the owner.
        sequence: Sequence,
    },
    /// The node does not keep it.
    HintRefused {
        /// Which.
        holder: NodeId,
        /// Why.
        code: Code,
    },
    /// No live node takes a hint for the owner at the moment.
    NoHolder,
    /// Its level is reached, its owner is slow, and other writes need the room: it is not waited for any more.
    LetGo,
    /// Co-owners are asked to remember that the slow owner lacks it.
    MarkAsked,
    /// One of them remembers.
    Marked {
        /// Which.
        holder: NodeId,
    },
    /// The client does nothing more about it, and nobody has it for the owner.
    Abandoned,
}

impl Step {
    /// A reason of bounded length.
    pub(crate) fn detail(text: &str) -> String {
        let end = text.char_indices().map(|(at, one)| at + one.len_utf8());
        let end = end.take_while(|end| *end <= MAX_DETAIL).last().unwrap_or(0);
        text[..end].replace(['\n', '\r'], " ")
    }

    fn bytes(&self) -> usize {
        let more = match self {
            Self::Failed { detail, .. } | Self::Refused { detail, .. } => detail.capacity(),
            _ => 0,
        };
        size_of::<HistoryEntry>() + more
    }
}

/// A step, when, and what it was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Since the write's start.
    pub at: Duration,
    /// The part, by order of starting; none for the write as a whole.
    pub part: Option<u32>,
    /// The owner whose copy of the part this is about; none for the part as a whole.
    pub owner: Option<NodeId>,
    /// What happened.
    pub step: Step,
}

#[derive(Debug, Default)]
struct Kept {
    entries: Vec<HistoryEntry>,
    bytes: usize,
    left_out: usize,
    parts: u32,
}

#[derive(Debug)]
struct Recorder {
    database: String,
    level: Level,
    rows: usize,
    started: Instant,
    most_bytes: usize,
    kept: Mutex<Kept>,
}

impl Recorder {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The history of one write, in order of time. It grows as long as the client works on the write; printed, it
/// is a tree of parts and owners.
#[derive(Clone, Debug)]
pub struct WriteHistory(Arc<Recorder>);

impl WriteHistory {
    /// What has happened until now.
    #[must_use]
    pub fn entries(&self) -> Vec<HistoryEntry> {
        self.0.kept().entries.clone()
    }

    /// Steps that there was no room for.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.0.kept().left_out
    }

    /// From the start of the write until its caller heard; none as long as it has not, or if there was no
    /// room for that step.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        let kept = self.0.kept();
        let returned = |entry: &&HistoryEntry| matches!(entry.step, Step::Returned { .. });
        kept.entries.iter().find(returned).map(|entry| entry.at)
    }
}

/// Receipts that say the same are equal, however it came about.
impl PartialEq for WriteHistory {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for WriteHistory {}

/// Where a write, or one part of it, takes notes, if anybody wants them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    recorder: Option<Arc<Recorder>>,
    part: Option<u32>,
}

impl Notes {
    /// Notes of at most so many bytes; of none at all for 0.
    pub(crate) fn new(
        most_bytes: usize,
        database: &str,
        level: Level,
        rows: impl FnOnce() -> usize,
    ) -> Self {
        let recorder = (most_bytes > 0).then(|| {
            Arc::new(Recorder {
                database: database.to_owned(),
                level,
                rows: rows(),
                started: Instant::now(),
                most_bytes,
                kept: Mutex::default(),
            })
        });
        Self { recorder, part: None }
    }

    /// The notes of the next part.
    pub(crate) fn part(&self) -> Self {
        let number = self.recorder.as_ref().map(|recorder| {
            let mut kept = recorder.kept();
            kept.parts += 1;
            kept.parts - 1
        });
        Self { recorder: self.recorder.clone(), part: number }
    }

    /// About the write, or the part.
    pub(crate) fn add(&self, step: impl FnOnce() -> Step) {
        self.note(None, || Some(step()));
    }

    /// About the copy of one owner.
    pub(crate) fn of(&self, owner: NodeId, step: impl FnOnce() -> Step) {
        self.note(Some(owner), || Some(step()));
    }

    /// As [`Self::of`], where there may be nothing to note.
    pub(crate) fn note(&self, owner: Option<NodeId>, step: impl FnOnce() -> Option<Step>) {
        let Some(recorder) = &self.recorder else { return };
        let Some(step) = step() else { return };
        let (at, bytes) = (recorder.started.elapsed(), step.bytes());
        let mut kept = recorder.kept();
        if kept.bytes + bytes > recorder.most_bytes {
            kept.left_out += 1;
            return;
        }
        kept.bytes += bytes;
        kept.entries.push(HistoryEntry { at, part: self.part, owner, step });
    }

    /// For the receipt.
    pub(crate) fn history(&self) -> Option<WriteHistory> {
        self.recorder.clone().map(WriteHistory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_for_nobody() {
        let notes = Notes::new(0, "db", Level::One, || panic!("counted"));
        notes.add(|| panic!("made"));
        notes.part().of(NodeId(1), || panic!("made"));
        assert!(notes.history().is_none());
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let most = 10 * size_of::<HistoryEntry>();
        let notes = Notes::new(most, "db", Level::One, || 1);
        for _ in 0..8 {
            notes.add(|| Step::MapAsked);
        }
        let detail = Step::detail(&"ä".repeat(5_000));
        assert!(detail.len() <= MAX_DETAIL);
        notes.add(|| Step::Refused { code: Code::Io, detail });
        // A reason is long; what is short still fits.
        for _ in 0..3 {
            notes.add(|| Step::MapAsked);
        }
        let history = notes.history().unwrap();
        assert_eq!((history.entries().len(), history.left_out()), (10, 2));
    }
}
