//! Changes of metadata on behalf of clients and joining nodes.
//!
//! Any node answers: the leader proposes, others pass the request on to it, once. Invariants: a
//! request that was passed on is never passed on again; a `Proposed` goes out with what makes the map it led to of
//! the asker's.

use std::time::Duration;

use bytes::Bytes;
use quorate_certs::Role;
use quorate_protocol::{
    change::{Change, Outcome},
    code::Code,
    id::NodeId,
    message::{Failure, Join, Joined, Propose, Proposed, Request},
};
use tokio::time::Instant;

use crate::{core::Core, meta::MetaError, session::Peer};

impl Core {
    /// Proposes a change, or has the leader propose it, on behalf of a peer or for this node itself.
    pub(crate) async fn propose(
        &self,
        asker: Option<&Peer>,
        request: Propose,
        mut change: Change,
    ) -> Result<(Proposed, Bytes), Failure> {
        let future = self.check(&mut change)?;
        let (mut proposed, map) = self.propose_checked(asker, request, change).await?;
        if let (Some(detail), Outcome::Done) = (future, &proposed.outcome) {
            proposed.outcome = Outcome::Partly { code: Code::FutureTime, detail };
        }
        Ok((proposed, map))
    }

    async fn propose_checked(
        &self,
        asker: Option<&Peer>,
        request: Propose,
        change: Change,
    ) -> Result<(Proposed, Bytes), Failure> {
        let deadline = deadline(request.deadline_ms);
        match self.meta.propose(change.clone(), deadline).await {
            Ok(proposed) => {
                let map = self.meta.wait_for(proposed.index, deadline).await;
                map.map_err(|error| self.meta_failure(&error))?;
                Ok((proposed, self.news(asker, request.after).joined()))
            }
            Err(MetaError::Forward { leader }) if !request.forwarded => {
                let request = Propose { forwarded: true, ..request };
                let change = change.encode();
                let change = change.map_err(|why| self.failure(Code::Internal, why.to_string()))?;
                let (proposed, news) =
                    self.ask_leader(leader.id, &request, change, deadline).await?;
                let client = asker.filter(|asker| !asker.identity.permits(Role::Admin));
                if client.is_none() || self.meta.map().grants.is_empty() {
                    return Ok((proposed, news));
                }
                // The leader has told this node everything; the asker may not see all of it.
                let _ = self.meta.wait_for(proposed.index, deadline).await;
                Ok((proposed, self.news(client, request.after).joined()))
            }
            Err(error) => Err(self.meta_failure(&error)),
        }
    }

    /// Adds the node with this name to the map; the leader makes it a member afterwards.
    pub(crate) async fn join(&self, name: String, request: Join) -> Result<Joined, Failure> {
        let deadline = deadline(request.deadline_ms);
        let change = Change::AddNode {
            name: request.forwarded_for.clone().unwrap_or(name.clone()),
            addr: request.addr.clone(),
            zone: request.zone.clone(),
            instance: request.instance,
        };
        match self.meta.propose(change, deadline).await {
            Ok(Proposed { index, outcome: Outcome::Node(node) }) => {
                Ok(Joined { cluster: self.cluster, node, index })
            }
            Ok(Proposed { outcome: Outcome::Refused { code, detail }, .. }) => {
                Err(self.failure(code, detail))
            }
            Ok(_) => Err(self.failure(Code::Internal, "joining came to an unexpected outcome")),
            Err(MetaError::Forward { leader }) if request.forwarded_for.is_none() => {
                let request = Join { forwarded_for: Some(name), ..request };
                let asked = self.ask_leader(leader.id, &request, Bytes::new(), deadline).await;
                asked.map(|(joined, _)| joined)
            }
            Err(error) => Err(self.meta_failure(&error)),
        }
    }

    /// What clients may not ask for, however they are made. Times that are too far in the future
    /// are taken out, and one of them named, so that they cost no others their group.
    fn check(&self, change: &mut Change) -> Result<Option<String>, Failure> {
        match change {
            Change::CreateGroups { times, .. } => {
                let now = self.env.clock.wall_ns();
                let limit = now.saturating_add(self.config.future_limit_ns());
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let Some(first) = take_future(times, limit) else { return Ok(None) };
                let detail = format!("{first} ns; check the precision of the timestamps");
                if times.is_empty() {
                    return Err(self.failure(Code::FutureTime, detail));
                }
                Ok(Some(detail))
            }
            _ => Ok(None),
        }
    }

    /// Passes a request on to the leader.
    async fn ask_leader<R: Request>(
        &self,
        leader: NodeId,
        request: &R,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<(R::Reply, Bytes), Failure> {
        use quorate_client::connection::RequestError;
        let connection = self.pool.peer(leader).and_then(|peer| peer.connection());
        let Some(connection) = connection else {
            return Err(self.failure(Code::NoLeader, format!("leader {leader} is unreachable")));
        };
        let most = self.config.transport.max_message as usize;
        match connection.exchange(request, payload, deadline, most).await {
            Ok(reply) => Ok(reply),
            Err(RequestError::Failure(failure)) => Err(failure),
            Err(error) => {
                let detail = format!("leader {leader}, op {:#06x}: {error}", R::OP);
                Err(self.failure(Code::NoLeader, detail))
            }
        }
    }

    fn meta_failure(&self, error: &MetaError) -> Failure {
        self.failure(error.code(), error.to_string())
    }
}

/// Removes the times beyond `limit`; the first of them.
fn take_future(times: &mut Vec<i64>, limit: i64) -> Option<i64> {
    let first = times.iter().copied().find(|time| *time > limit);
    times.retain(|time| *time <= limit);
    first
}

fn deadline(ms: u32) -> Instant {
    Instant::now() + Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_time_costs_no_other_time_its_group() {
        let mut times = vec![1, 90, 5, 80];
        assert_eq!(take_future(&mut times, 10), Some(90));
        assert_eq!(times, vec![1, 5]);
        assert_eq!(take_future(&mut times, 10), None);
    }
}
