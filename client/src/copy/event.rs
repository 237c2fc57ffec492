//! What copies tell the part's collector.

use quorate_protocol::{
    code::Code,
    id::{MetaIndex, NodeId, Sequence},
};

use crate::history::Step;

/// What became of an owner's copy, or of its hint; `owner` is the index in the part's list.
#[derive(Debug)]
pub(crate) enum Event {
    Stored {
        owner: usize,
        sequence: Sequence,
        /// The owner has not synced it yet.
        buffered: bool,
    },
    /// Not stored by this attempt; `sent` if it may be nevertheless.
    Failed {
        owner: usize,
        sent: bool,
        code: Code,
        detail: String,
    },
    /// No node will ever take it.
    Refused {
        owner: usize,
        code: Code,
        /// Of the map of the node that said so.
        index: MetaIndex,
        detail: String,
    },
    Hinted {
        owner: usize,
        holder: NodeId,
        sequence: Sequence,
    },
    /// Its owner is not waited for any more, since others need its room.
    LetGo {
        owner: usize,
    },
    Marked {
        owner: usize,
        holder: NodeId,
    },
    /// No live node takes a hint at the moment.
    NoHolder {
        owner: usize,
    },
    /// Nothing more comes of this copy.
    Ended {
        owner: usize,
    },
}

impl Event {
    /// The index of the owner it is about.
    pub(crate) const fn owner(&self) -> usize {
        match self {
            Self::Stored { owner, .. }
            | Self::Failed { owner, .. }
            | Self::Refused { owner, .. }
            | Self::Hinted { owner, .. }
            | Self::Marked { owner, .. }
            | Self::LetGo { owner }
            | Self::NoHolder { owner }
            | Self::Ended { owner } => *owner,
        }
    }

    /// What metrics and spans call it; none where nothing was decided.
    pub(crate) const fn outcome(&self) -> Option<&'static str> {
        match self {
            Self::Stored { buffered: false, .. } => Some("stored"),
            Self::Stored { buffered: true, .. } => Some("buffered"),
            Self::Failed { sent: false, .. } => Some("failed"),
            Self::Failed { sent: true, .. } => Some("lost"),
            Self::Refused { .. } => Some("refused"),
            Self::Hinted { .. } => Some("hinted"),
            Self::Marked { .. } => Some("marked"),
            Self::LetGo { .. } | Self::NoHolder { .. } | Self::Ended { .. } => None,
        }
    }

    /// As a history tells it.
    pub(crate) fn step(&self) -> Option<Step> {
        Some(match self {
            Self::Stored { sequence, buffered, .. } => {
                Step::Stored { sequence: *sequence, buffered: *buffered }
            }
            Self::Failed { sent, code, detail, .. } => {
                Step::Failed { code: *code, may_be_stored: *sent, detail: Step::detail(detail) }
            }
            Self::Refused { code, detail, .. } => {
                Step::Refused { code: *code, detail: Step::detail(detail) }
            }
            Self::Hinted { holder, sequence, .. } => {
                Step::Hinted { holder: *holder, sequence: *sequence }
            }
            Self::Marked { holder, .. } => Step::Marked { holder: *holder },
            Self::LetGo { .. } => Step::LetGo,
            Self::NoHolder { .. } => Step::NoHolder,
            Self::Ended { .. } => return None,
        })
    }
}
