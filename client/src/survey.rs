//! How the whole cluster is, as one node tells it: whoever reaches any node sees all of them.
//!
//! Invariants: one node answers for all, and its own map says who they are; another is asked only if
//! it gives no answer at all. Called through [`crate::Client`].

use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::{
    code::Code,
    id::{MetaIndex, NodeId},
    message::{Member, MemberReport, Survey, Surveyed},
};
use tokio::time::{Instant, timeout_at};

use crate::{connection::RequestError, core::Core, error::Error};

/// Bytes of an answer at most: of many nodes with many shards.
const MAX_ANSWER: usize = 256 << 20;
/// How much longer than its members the node that was asked may take.
const GRACE: Duration = Duration::from_secs(1);

/// What every member said, or why it said nothing.
#[derive(Clone, Debug)]
pub struct ClusterReport {
    /// The node that asked the others.
    pub node: NodeId,
    /// The index of its map.
    pub meta_index: MetaIndex,
    /// The members in that map, by id.
    pub members: Vec<(NodeId, Result<MemberReport, String>)>,
}

/// Asks one node after the other, until one answers; each gives the members `timeout` to answer.
pub(crate) async fn survey(core: &Core, timeout: Duration) -> Result<ClusterReport, Error> {
    let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let request = Survey { deadline_ms, forwarded: false };
    let mut changes = core.pool.changes();
    if core.pool.up().is_empty() {
        let up = async { while core.pool.up().is_empty() && changes.changed().await.is_ok() {} };
        // Without one, the loop below has nobody to ask.
        let _ = timeout_at(Instant::now() + timeout, up).await;
    }
    let mut failed = None;
    for connection in core.pool.up() {
        let deadline = Instant::now() + timeout + GRACE;
        let answer = connection.exchange(&request, Bytes::new(), deadline, MAX_ANSWER).await;
        let asked = connection.node();
        failed = Some(match answer {
            Ok((surveyed, payload)) => match postcard::from_bytes(&payload) {
                Ok(members) => {
                    let report = report(surveyed, members);
                    // Who has answered another node is alive.
                    for (node, _) in report.members.iter().filter(|(_, said)| said.is_ok()) {
                        core.pool.nudge(*node);
                    }
                    return Ok(report);
                }
                Err(why) => {
                    let detail = format!("node {asked} sent a list that cannot be read: {why}");
                    Error::refused(Code::Malformed, detail)
                }
            },
            Err(RequestError::Failure(failure)) => {
                Error::refused(failure.code, format!("node {asked}: {}", failure.detail))
            }
            Err(other) => unreachable(format!("node {asked}"), other.to_string()),
        });
    }
    Err(failed.unwrap_or_else(|| {
        let why = core.last_failure().unwrap_or_else(|| "no node is up".to_owned());
        unreachable("all nodes".to_owned(), why)
    }))
}

fn report(Surveyed { node, meta_index }: Surveyed, members: Vec<Member>) -> ClusterReport {
    let members = members.into_iter().map(|member| (member.node, member.report())).collect();
    ClusterReport { node, meta_index, members }
}

fn unreachable(seeds: String, reason: String) -> Error {
    Error::Unreachable { seeds, reason }
}
