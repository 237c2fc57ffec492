//! Whether a write has arrived everywhere: every owner has every part.
//!
//! Invariants: yes is said only on a node's word: the owner's that stored it, the holder's whose hint was
//! delivered, or, where a hint went on to somebody else and its trail is lost, the owner's digest of the
//! part's times being that of an owner that has the part. No is said at once where nothing under way will
//! bring the copy. Nodes are asked at the same time, some copies at once, so that one that is silent holds up
//! no other. Called through [`Client::converged`].

use std::time::Duration;

use quorate_protocol::{
    id::{NodeId, Sequence, ShardId},
    message::Fate,
};
use tokio::time::{Instant, sleep};

use crate::{
    Client,
    receipt::{PartReceipt, Receipt},
    several::Several,
    shard::DigestRange,
};

/// The first pause between two looks; doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// How long one node may take to answer.
const ASK: Duration = Duration::from_secs(1);
/// Copies that are looked at at the same time, and hints of each.
const AT_ONCE: usize = 16;

/// Why an owner does not have its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lacking {
    /// Its hint was refused and is kept aside.
    #[error(
        "node {holder} has set its hint aside; see 'quorate hints show', then retry or drop it"
    )]
    Quarantined {
        /// Who keeps it.
        holder: NodeId,
    },
    /// Its hint was dropped, by an operator or with the shard.
    #[error("its hint on node {holder} was dropped; send the batch again if it is still wanted")]
    Discarded {
        /// Who kept it.
        holder: NodeId,
    },
    /// Its hint grew too old, and left a repair mark.
    #[error("its hint on node {holder} has expired; send the batch again, or wait for repair")]
    Expired {
        /// Who kept it.
        holder: NodeId,
    },
    /// Only a repair mark stands for it.
    #[error(
        "node {holder} has only marked it for repair; send the batch again, or wait for repair"
    )]
    Marked {
        /// Who keeps the mark.
        holder: NodeId,
    },
    /// The owner refused it for good, or it was never sent, as its level was out of reach.
    #[error("it was refused there, or never sent")]
    Refused,
    /// The client gave it up, or was closed before it knew.
    #[error("the client gave it up; send the batch again")]
    Abandoned,
    /// The holder of its last hint is no member any more. Had it given the hint to another node, the copy may
    /// arrive all the same; nobody can be asked.
    #[error("the holder of its hint, node {holder}, is no member any more; send the batch again")]
    HolderGone {
        /// Who kept it.
        holder: NodeId,
    },
    /// Out of time: the hint waits on its holder.
    #[error("its hint still waits on node {holder}")]
    Waiting {
        /// Who keeps it.
        holder: NodeId,
    },
    /// Out of time: the hint went on to somebody else, or its holder does not know of it any more, and the
    /// owner does not have the same as the others yet.
    #[error("its hint left node {holder} for another one")]
    OnItsWay {
        /// Who kept it.
        holder: NodeId,
    },
    /// Out of time: the holder does not answer.
    #[error("node {holder}, which keeps its hint, does not answer")]
    HolderSilent {
        /// Who keeps it.
        holder: NodeId,
    },
    /// Out of time: this client is still at it.
    #[error("it is still under way")]
    UnderWay,
    /// Out of time: the node has become an owner since, and does not have the same as the others yet.
    #[error("it became an owner after the write")]
    NewOwner,
}

impl Lacking {
    /// Whether it may still arrive without anybody doing something.
    #[must_use]
    pub const fn pending(self) -> bool {
        matches!(
            self,
            Self::Waiting { .. }
                | Self::OnItsWay { .. }
                | Self::HolderSilent { .. }
                | Self::UnderWay
                | Self::NewOwner
        )
    }
}

/// An owner does not have its copy of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {owner} lacks its copy for shard {shard}: {reason}")]
pub struct NotConverged {
    /// The owner that lacks it.
    pub owner: NodeId,
    /// The part's shard.
    pub shard: ShardId,
    /// Why.
    pub reason: Lacking,
}

/// One look at a copy.
enum Look {
    There,
    /// For this reason, so far.
    NotYet(Lacking),
    Never(Lacking),
}

impl Client {
    /// Waits until every owner has every part of a write, or `timeout` is over; follows hints to their
    /// delivery. A copy that was [`Outstanding`](crate::receipt::CopyState::Outstanding) is followed as long
    /// as the client that wrote it works on it. Owners are those of the newest map. Needs the write role;
    /// hints that went on to another node are followed with the read role only.
    ///
    /// # Errors
    /// [`NotConverged`] at once if nothing under way will bring a copy: its hint was quarantined, discarded
    /// or has expired, it was only marked for repair, refused or given up. Otherwise after `timeout`, with
    /// what was last known; [`Lacking::pending`] tells these apart.
    pub async fn converged(
        &self,
        receipt: &Receipt,
        timeout: Duration,
    ) -> Result<(), NotConverged> {
        let deadline = Instant::now() + timeout;
        let mut pause = FIRST_PAUSE;
        let mut left: Vec<(&PartReceipt, NodeId)> =
            receipt.parts.iter().flat_map(|part| self.owners(part)).collect();
        loop {
            let looks = left.iter().enumerate().map(|(at, (part, owner))| {
                let look = self.look(part, *owner, deadline);
                async move { (at, look.await) }
            });
            let (mut looks, mut still) = (Several::new(looks, AT_ONCE), Vec::new());
            while let Some((at, look)) = looks.next().await {
                let (part, owner) = left[at];
                let no = |reason| NotConverged { owner, shard: part.shard, reason };
                match look {
                    Look::There => {}
                    Look::Never(reason) => return Err(no(reason)),
                    Look::NotYet(reason) => still.push((at, no(reason))),
                }
            }
            still.sort_by_key(|(at, _)| *at);
            let Some((_, last)) = still.first() else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(*last);
            }
            left = still.into_iter().map(|(at, _)| left[at]).collect();
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Who must have a part: the owners by the newest map, or those it was sent to if its shard is gone.
    fn owners<'p>(&self, part: &'p PartReceipt) -> Vec<(&'p PartReceipt, NodeId)> {
        let map = self.map();
        let sent = || part.copies.iter().map(|copy| copy.owner).collect();
        let owners: Vec<NodeId> =
            map.shard(part.shard).map_or_else(sent, |place| place.shard.owners.clone());
        owners.into_iter().map(|owner| (part, owner)).collect()
    }

    async fn look(&self, part: &PartReceipt, owner: NodeId, deadline: Instant) -> Look {
        let Some(at) = part.copies.iter().position(|copy| copy.owner == owner) else {
            return self.compare(part, owner, Lacking::NewOwner, deadline).await;
        };
        let (copy, working) = part.later.copy(at);
        if copy.held {
            return Look::There;
        }
        if let Some(holder) = copy.marked {
            return Look::Never(Lacking::Marked { holder });
        }
        if copy.refused {
            return Look::Never(Lacking::Refused);
        }
        let mut look =
            if working { Look::NotYet(Lacking::UnderWay) } else { Look::Never(Lacking::Abandoned) };
        // The copy is lost when no hint of it can be delivered any more and none is being placed; one that
        // can be is enough.
        let hints = copy.hints.into_iter().map(|hint| self.follow(part, owner, hint, deadline));
        let mut hints = Several::new(hints, AT_ONCE);
        while let Some(found) = hints.next().await {
            match (found, &look) {
                (Look::There, _) => return Look::There,
                (found @ Look::NotYet(_), _) | (found, Look::Never(_)) => look = found,
                (Look::Never(_), _) => {}
            }
        }
        look
    }

    /// What has become of one hint.
    async fn follow(
        &self,
        part: &PartReceipt,
        owner: NodeId,
        (holder, sequence): (NodeId, Sequence),
        deadline: Instant,
    ) -> Look {
        match self.hint_fate(holder, owner, sequence, patience(deadline)).await {
            Ok(Fate::Delivered) => {
                // So it lives.
                self.core.pool.nudge(owner);
                Look::There
            }
            Ok(Fate::Pending) => Look::NotYet(Lacking::Waiting { holder }),
            Ok(Fate::Quarantined) => Look::Never(Lacking::Quarantined { holder }),
            Ok(Fate::Discarded) => Look::Never(Lacking::Discarded { holder }),
            Ok(Fate::Expired) => Look::Never(Lacking::Expired { holder }),
            Ok(Fate::Retargeted | Fate::Unknown) => {
                self.compare(part, owner, Lacking::OnItsWay { holder }, deadline).await
            }
            Err(_) if self.map().active_nodes().all(|node| node.id != holder) => {
                // It gave its hints away before it left, if it could.
                match self.compare(part, owner, Lacking::HolderGone { holder }, deadline).await {
                    Look::NotYet(reason) => Look::Never(reason),
                    other => other,
                }
            }
            Err(_) => Look::NotYet(Lacking::HolderSilent { holder }),
        }
    }

    /// Whether the owner has all that another owner has that has the part, over the part's times.
    async fn compare(
        &self,
        part: &PartReceipt,
        owner: NodeId,
        otherwise: Lacking,
        deadline: Instant,
    ) -> Look {
        let range = DigestRange {
            from: part.later.from,
            to: part.later.to.saturating_add(1),
            ..DigestRange::default()
        };
        let holds = |(at, _): &(usize, _)| part.later.copy(*at).0.held;
        let others = part.copies.iter().enumerate().filter(holds).map(|(_, copy)| copy.owner);
        // One that can answer: the first may have left since.
        let Some(other) = others.min_by_key(|node| !self.core.is_live(*node)) else {
            return Look::NotYet(otherwise);
        };
        let mut digests = Vec::new();
        for node in [other, owner] {
            let patience = patience(deadline);
            match self.shard_digest(part.shard, node, range, patience).await {
                Ok(digest) => digests.push(digest),
                Err(_) => return Look::NotYet(otherwise),
            }
        }
        if digests[0] == digests[1] { Look::There } else { Look::NotYet(otherwise) }
    }
}

/// How long a node may take to answer: a moment at least, also when time is over.
fn patience(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.clamp(Duration::from_millis(50), ASK)
}
