//! How all members are, for whoever reaches only this one: every other is asked at the same time.
//!
//! Invariants: a member that does not answer is an entry with the reason, never a failure of the
//! whole; the answer comes within the request's deadline; a request that was passed on is not passed
//! on again. Nothing is dialled here: the pool's worker for a peer that is down is asked to try now.
//! Called by the service.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_client::{
    connection::Connection,
    pool::{PeerHandle, PeerState},
};
use quorate_protocol::{
    code::Code,
    id::{NodeId, ShardId},
    message::{Failure, Lacking, Member, MemberReport, Survey},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::core::Core;

/// Bytes of one member's answer at most, as for a list of its shards.
const MAX_ANSWER: usize = 64 << 20;
/// The longest deadline, in milliseconds: nobody waits for longer to see how a cluster is.
const MAX_DEADLINE_MS: u32 = 60_000;

impl Core {
    /// The list of members, as it travels.
    pub(crate) async fn survey(self: &Arc<Self>, request: Survey) -> Result<Bytes, Failure> {
        let patience = Duration::from_millis(request.deadline_ms.min(MAX_DEADLINE_MS).into());
        let deadline = Instant::now() + patience;
        let mut asked = JoinSet::new();
        if !request.forwarded {
            let map = self.directory.current().map.clone();
            for node in map.active_nodes().filter(|node| node.id != self.node) {
                let (peer, id) = (self.pool.peer(node.id), node.id);
                asked.spawn(async move {
                    let answer = ask(peer, id, deadline).await;
                    answer.unwrap_or_else(|why| Member::silent(id, why))
                });
            }
        }
        let broken = |why: postcard::Error| self.failure(Code::Internal, why.to_string());
        let own = Member::answered(&self.report().await).map_err(broken)?;
        let mut members = asked.join_all().await;
        members.push(own);
        members.sort_by_key(|member| member.node);
        postcard::to_stdvec(&members).map(Bytes::from).map_err(broken)
    }

    async fn report(&self) -> MemberReport {
        MemberReport {
            status: self.status(),
            shards: self.shard_states(),
            lacking: self.lacking().await,
        }
    }

    /// What this node keeps for others, or notes that they lack.
    async fn lacking(&self) -> Vec<Lacking> {
        let mut all: BTreeMap<(ShardId, NodeId), Lacking> = BTreeMap::new();
        let none = |(shard, owner)| Lacking { shard, owner, hints: 0, marks: 0 };
        for ((owner, shard), hints) in self.handoff.tally().await {
            all.entry((shard, owner)).or_insert_with_key(|key| none(*key)).hints += hints;
        }
        for mark in self.marks.list() {
            all.entry((mark.shard, mark.owner)).or_insert_with_key(|key| none(*key)).marks += 1;
        }
        all.into_values().collect()
    }
}

/// What a member says of itself, or why it says nothing.
async fn ask(peer: Option<PeerHandle>, node: NodeId, deadline: Instant) -> Result<Member, String> {
    let peer = peer.ok_or("it is not dialled yet")?;
    let connection = reach(&peer, deadline).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    let deadline_ms = u32::try_from(left.as_millis()).unwrap_or(MAX_DEADLINE_MS);
    let request = Survey { deadline_ms, forwarded: true };
    let answer = connection.exchange(&request, Bytes::new(), deadline, MAX_ANSWER).await;
    let (_, payload) = answer.map_err(|error| error.to_string())?;
    let members: Result<Vec<Member>, _> = postcard::from_bytes(&payload);
    let members = members.map_err(|error| format!("its answer cannot be read: {error}"))?;
    let own = members.into_iter().find(|member| member.node == node);
    own.ok_or_else(|| "its answer is about another node".to_owned())
}

/// The connection to a member. One that is down is dialled once more first, for half of the time:
/// whoever asks wants to know how it is now.
async fn reach(peer: &PeerHandle, deadline: Instant) -> Result<Arc<Connection>, String> {
    let mut watch = peer.watch();
    watch.mark_unchanged();
    if let Some(connection) = peer.connection() {
        return Ok(connection);
    }
    peer.nudge();
    let now = Instant::now();
    let _ = timeout_at(now + deadline.saturating_duration_since(now) / 2, watch.changed()).await;
    match (peer.connection(), peer.state()) {
        (Some(connection), _) => Ok(connection),
        (None, PeerState::Down { reason, .. }) => Err(reason.to_string()),
        (None, PeerState::Removed) => Err("it is no member any more".to_owned()),
        (None, _) => Err("the first dial has not come to anything yet".to_owned()),
    }
}
