//! A history as a tree: the write, its parts, the owners of each, and what became of their copies.
//!
//! Invariant: every step that was kept is in it once, with its time since the write's start; parts stand
//! in order of starting, owners by id.

use std::fmt;

use quorate_protocol::{code::Code, id::NodeId};

use super::{HistoryEntry, Step, WriteHistory};
use crate::error::Certainty;

impl fmt::Display for WriteHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, left_out) = (self.entries(), self.left_out());
        let recorder = &self.0;
        write!(f, "write to {:?}: ", recorder.database)?;
        write!(f, "{}, consistency {}", count(recorder.rows, "row"), recorder.level)?;
        for entry in entries.iter().filter(|entry| entry.part.is_none()) {
            line(f, "", entry)?;
        }
        let parts = distinct(entries.iter().filter_map(|entry| entry.part));
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len() && left_out == 0;
            let (knot, trunk) = if last { ("└─", "   ") } else { ("├─", "│  ") };
            let of_part: Vec<&HistoryEntry> =
                entries.iter().filter(|entry| entry.part == Some(*part)).collect();
            write!(f, "\n{knot} part {}", part + 1)?;
            branch(f, trunk, &of_part)?;
        }
        if left_out > 0 {
            write!(f, "\n└─ and {}, for which history_bytes has no room", count(left_out, "step"))?;
        }
        Ok(())
    }
}

/// One part and its owners.
fn branch(f: &mut fmt::Formatter<'_>, trunk: &str, entries: &[&HistoryEntry]) -> fmt::Result {
    let started = entries.iter().find_map(|entry| match &entry.step {
        Step::Started { shard, rows, bytes } => Some((shard, rows, bytes)),
        _ => None,
    });
    if let Some((shard, rows, bytes)) = started {
        write!(f, ", shard {shard}: {}, {bytes} bytes", count(*rows, "row"))?;
    }
    let own = entries.iter().filter(|entry| entry.owner.is_none());
    for entry in own.filter(|entry| !matches!(entry.step, Step::Started { .. })) {
        line(f, trunk, entry)?;
    }
    let mut owners: Vec<NodeId> = distinct(entries.iter().filter_map(|entry| entry.owner));
    owners.sort_unstable();
    for (at, owner) in owners.iter().enumerate() {
        let last = at + 1 == owners.len();
        let (knot, inner) = if last { ("└─", "   ") } else { ("├─", "│  ") };
        write!(f, "\n{trunk}{knot} node {owner}")?;
        for entry in entries.iter().filter(|entry| entry.owner == Some(*owner)) {
            line(f, &format!("{trunk}{inner}"), entry)?;
        }
    }
    Ok(())
}

fn line(f: &mut fmt::Formatter<'_>, trunk: &str, entry: &HistoryEntry) -> fmt::Result {
    let ms = entry.at.as_secs_f64() * 1e3;
    write!(f, "\n{trunk}{ms:>9.1} ms  {}", entry.step)
}

fn distinct<T: PartialEq + Copy>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MapAsked => f.write_str("asked for a newer map"),
            Self::NodesAwaited { took } => write!(f, "waited {took:.1?} for the first dials"),
            Self::MetaAwaited { took } => {
                write!(f, "waited {took:.1?} for what another write asked metadata for")
            }
            Self::MetaAsked { fields, groups } => {
                let (fields, groups) = (count(*fields, "new field"), count(*groups, "new group"));
                write!(f, "asked metadata for {fields} and {groups}")
            }
            Self::MetaAnswered { refused: None } => f.write_str("metadata has them"),
            Self::MetaAnswered { refused: Some(code) } => {
                write!(f, "metadata has not all of them: {code}")
            }
            Self::RoomAwaited { took, found: true } => {
                write!(f, "waited {took:.1?} for room in the budget")
            }
            Self::RoomAwaited { took, found: false } => {
                write!(f, "no room in the budget within {took:.1?}")
            }
            Self::RowsRefused { rows, code } => {
                write!(f, "{} not sent: {code}", count(*rows, "row"))
            }
            Self::Rerouted { index } => write!(f, "routed again by the map of index {index}"),
            Self::Returned { reached: true } => f.write_str("told the caller: reached"),
            Self::Returned { reached: false } => f.write_str("told the caller: failed"),
            Self::Started { shard, rows, bytes } => {
                write!(f, "shard {shard}: {}, {bytes} bytes", count(*rows, "row"))
            }
            Self::Reached => f.write_str("level reached"),
            Self::Missed { code, certainty } => {
                let what = match certainty {
                    Certainty::Definite => "it is nowhere",
                    Certainty::Indefinite => "it may be stored",
                };
                write!(f, "level missed: {code}; {what}")
            }
            Self::Sent { hints: 0 } => f.write_str("sent"),
            Self::Sent { hints } => write!(f, "sent, with {} for others", count(*hints, "hint")),
            Self::Stored { sequence, buffered } => {
                let how = if *buffered { ", not synced yet" } else { "" };
                write!(f, "stored as {sequence}{how}")
            }
            Self::NotNow { code, pause } => write!(f, "{code}: again in {pause:.0?}"),
            Self::Failed { code, may_be_stored, detail } => {
                let what = if *may_be_stored { "may be stored" } else { "not stored" };
                // The detail of a node that is down says so.
                match (code, detail.is_empty()) {
                    (_, true) => write!(f, "{what}: {code}"),
                    (Code::Unavailable, false) => write!(f, "{what}: {detail}"),
                    (_, false) => write!(f, "{what}: {code}: {detail}"),
                }
            }
            Self::Refused { code, detail } => {
                write!(f, "refused for good: {code}")?;
                if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
            }
            Self::HintAsked { holder, why, with_copy } => {
                let how = if *with_copy { " with its own copy" } else { "" };
                write!(f, "asked node {holder} to keep a hint{how}: ")?;
                match why {
                    Code::Unavailable => f.write_str("this one is down"),
                    other => write!(f, "this one said {other}"),
                }
            }
            Self::Hinted { holder, sequence } => {
                write!(f, "node {holder} keeps a hint as {sequence}")
            }
            Self::HintRefused { holder, code } => {
                write!(f, "node {holder} keeps no hint: {code}")
            }
            Self::NoHolder => f.write_str("no live node keeps a hint"),
            Self::LetGo => f.write_str("let go: others need its room"),
            Self::MarkAsked => f.write_str("too slow: asked for a repair mark"),
            Self::Marked { holder } => write!(f, "node {holder} has marked it for repair"),
            Self::Abandoned => f.write_str("given up"),
        }
    }
}
