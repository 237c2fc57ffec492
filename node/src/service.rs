//! From an op to the part of the node that answers it.
//!
//! Invariant: work that has begun to change anything is not cancelled with its request: it runs as
//! a task of the node, so that a client that gives up leaves nothing half done.

use std::sync::Arc;

use bytes::Bytes;
use quorate_client::env::BoxFuture;
use quorate_protocol::{
    change::Change,
    code::Code,
    frame::{Frame, FrameError, Message},
    id::NodeId,
    message::{
        Aggregate, Deliver, Digest, Failure, Follow, Grants, HandOn, HintFate, Hints, HintsDo,
        HintsVerified, HintsVerify, Join, Mark, MarkList, Marks, MetaGet, MetaWatch, Ping, Pong,
        Propose, RaftAppend, RaftAppended, RaftInstalled, RaftSnapshot, RaftVote, RaftVoted,
        Request, Scan, ShardList, Shards, Status, Survey, Surveyed, Verify, Write,
    },
};

use crate::{
    core::Core,
    meta::RaftOp,
    server::{Greeting, Service},
    session::{Peer, ReplySink},
};

/// The node's answers.
pub(crate) struct NodeService {
    core: Arc<Core>,
}

impl NodeService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Service for NodeService {
    fn greeting(&self) -> Greeting {
        Greeting {
            minor: self.core.pool.dialer().local().minor,
            cluster: self.core.cluster,
            node: self.core.node,
            meta_index: self.core.directory.index(),
            highest_version: self.core.highest_version(),
        }
    }

    fn name_of(&self, node: NodeId) -> Option<String> {
        self.core.directory.current().map.node(node).map(|node| node.name.clone())
    }

    /// A node that is back comes to us before our next dial may be due.
    fn seen(&self, peer: &Peer) {
        self.core.pool.nudge(peer.node);
    }

    fn call(&self, peer: Arc<Peer>, request: Frame, reply: ReplySink) -> BoxFuture<'static, ()> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            if let Some(refused) = core.refused_by_grants(&peer, &request).await {
                return reply.fail(refused).await;
            }
            // Answers of many frames.
            macro_rules! stream {
                ($request:ty, $answer:ident $(, $peer:expr)?) => {
                    match request.message::<$request>() {
                        Ok(body) => core.$answer($($peer,)? body, reply).await,
                        Err(error) => reply.fail(malformed(&core, &error)).await,
                    }
                };
            }
            match request.op {
                Scan::OP => return stream!(Scan, scan),
                Aggregate::OP => return stream!(Aggregate, aggregate),
                Digest::OP => return stream!(Digest, digest),
                Hints::OP => return stream!(Hints, hints),
                Follow::OP => return stream!(Follow, follow, &peer),
                MetaWatch::OP => return stream!(MetaWatch, meta_watch, &peer),
                _ => {}
            }
            if let Err(unsent) = dispatch(core, &peer, request, reply).await {
                let (reply, failure) = *unsent;
                reply.fail(failure).await;
            }
        })
    }
}

/// A failure that is still to be sent.
type Unsent = Box<(ReplySink, Failure)>;

/// Answers ops with one reply.
async fn dispatch(
    core: Arc<Core>,
    peer: &Peer,
    frame: Frame,
    reply: ReplySink,
) -> Result<(), Unsent> {
    macro_rules! answer {
        ($request:ty, |$body:ident| $work:expr) => {
            match frame.message::<$request>() {
                Ok($body) => answer::<$request>(reply, $work).await,
                Err(error) => Err(Box::new((reply, malformed(&core, &error)))),
            }
        };
    }
    let work = Arc::clone(&core);
    let payload = frame.payload.clone();
    match frame.op {
        Ping::OP => answer!(Ping, |_ping| async move { Ok((Pong {}, Bytes::new())) }),
        Write::OP => answer!(Write, |body| async move {
            let task = Arc::clone(&work);
            finish(&work, work.tasks.spawn(async move { task.write(body, payload).await })).await
        }),
        Deliver::OP => answer!(Deliver, |body| async move {
            let task = Arc::clone(&work);
            finish(&work, work.tasks.spawn(async move { task.deliver(body, payload).await })).await
        }),
        Mark::OP => answer!(Mark, |body| async move {
            let task = Arc::clone(&work);
            finish(&work, work.tasks.spawn(async move { Ok(task.mark(body).await) })).await
        }),
        HintFate::OP => {
            answer!(HintFate, |body| async move { Ok((work.hint_fate(body), Bytes::new())) })
        }
        HandOn::OP => {
            answer!(HandOn, |body| async move { Ok((work.hand_on(body).await, Bytes::new())) })
        }
        MetaGet::OP => answer!(MetaGet, |body| async move { Ok(work.meta_get(peer, body)) }),
        Propose::OP => answer!(Propose, |body| async move {
            let change = Change::decode(&payload);
            let change = change.map_err(|why| work.failure(Code::Malformed, why.to_string()))?;
            work.propose(Some(peer), body, change).await
        }),
        Grants::OP => answer!(Grants, |body| async move { work.grant_list(peer, body).await }),
        Join::OP => {
            let name = peer.identity.name().to_owned();
            // Only a member passes on what another node asks for.
            let stranger = peer.node == NodeId(0);
            answer!(Join, |body| async move {
                if stranger && body.forwarded_for.is_some() {
                    return Err(work.failure(Code::Unauthorised, "only members pass joins on"));
                }
                Ok((work.join(name, body).await?, Bytes::new()))
            })
        }
        Verify::OP => {
            answer!(Verify, |body| async move { Ok((work.verify(body).await?, Bytes::new())) })
        }
        Shards::OP => answer!(Shards, |_body| async move {
            let list = postcard::to_stdvec(&work.shard_states());
            let list = list.map_err(|why| work.failure(Code::Internal, why.to_string()))?;
            Ok((ShardList {}, list.into()))
        }),
        HintsDo::OP => answer!(HintsDo, |body| async move {
            let task = Arc::clone(&work);
            let done = work.tasks.spawn(async move { task.hints_do(body).await }).await;
            let broken = |_| Err(work.failure(Code::Internal, "the request's task failed"));
            Ok((done.unwrap_or_else(broken)?, Bytes::new()))
        }),
        Marks::OP => answer!(Marks, |_body| async move { Ok((MarkList {}, work.mark_list()?)) }),
        HintsVerify::OP => answer!(HintsVerify, |_body| async move {
            Ok((HintsVerified {}, work.hints_verify().await?))
        }),
        Status::OP => answer!(Status, |_body| async move { Ok((work.status(), Bytes::new())) }),
        Survey::OP => answer!(Survey, |body| async move {
            let (node, meta_index) = (work.node, work.directory.index());
            Ok((Surveyed { node, meta_index }, work.survey(body).await?))
        }),
        RaftAppend::OP => answer!(RaftAppend, |_body| async move {
            Ok((RaftAppended {}, raft(&work, RaftOp::Append, &payload).await?))
        }),
        RaftVote::OP if work.is_named_as_left(peer.identity.name()) => {
            let detail = format!("node {} has left the cluster", peer.identity.name());
            Err(Box::new((reply, core.failure(Code::Unauthorised, detail))))
        }
        RaftVote::OP => answer!(RaftVote, |_body| async move {
            Ok((RaftVoted {}, raft(&work, RaftOp::Vote, &payload).await?))
        }),
        RaftSnapshot::OP => answer!(RaftSnapshot, |_body| async move {
            Ok((RaftInstalled {}, raft(&work, RaftOp::Snapshot, &payload).await?))
        }),
        op => {
            let failure = core.failure(Code::Unsupported, format!("op {op:#06x}"));
            Err(Box::new((reply, failure)))
        }
    }
}

/// Sends what a request came to.
async fn answer<R: Request>(
    reply: ReplySink,
    work: impl Future<Output = Result<(R::Reply, Bytes), Failure>>,
) -> Result<(), Unsent> {
    match work.await {
        Ok((message, payload)) => {
            reply.send(&message, payload).await;
            Ok(())
        }
        Err(failure) => Err(Box::new((reply, failure))),
    }
}

/// Waits for a task that changes something; dropping this leaves the task running.
async fn finish<T>(
    core: &Core,
    task: tokio::task::JoinHandle<Result<T, Code>>,
) -> Result<(T, Bytes), Failure> {
    match task.await {
        Ok(Ok(reply)) => Ok((reply, Bytes::new())),
        Ok(Err(code)) => Err(core.failure(code, "")),
        Err(_) => Err(core.failure(Code::Internal, "the request's task failed")),
    }
}

async fn raft(core: &Core, op: RaftOp, payload: &[u8]) -> Result<Bytes, Failure> {
    let answered = core.meta.serve(op, payload).await;
    answered.map_err(|error| core.failure(error.code(), error.to_string()))
}

fn malformed(core: &Core, error: &FrameError) -> Failure {
    core.failure(Code::Malformed, error.to_string())
}
