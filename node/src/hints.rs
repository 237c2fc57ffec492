//! Answering operators about hint queues and repair marks, and doing what they ask for.
//!
//! Invariants: a list is bounded in memory, by one page of a look and one frame, and the stream's
//! window holds it back when the asker is slow; nothing here takes part in delivering hints. Called
//! by the service; the command line shows hints of a stopped node by [`info_of`] too.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_protocol::{
    batch::EncodedBatch,
    code::Code,
    message::{
        Failure, HintAction, HintBatch, HintInfo, HintList, Hints, HintsDo, HintsDone, MarkInfo,
    },
};
use serde::Serialize;

use crate::{
    core::Core,
    handoff::{Choice, HandoffError, Seen},
    session::ReplySink,
    write::hint_code,
};

/// Payload bytes after which a frame is sent.
const FRAME_BYTES: usize = 256 << 10;
/// Measurements that are named.
const MAX_NAMES: usize = 8;

/// A hint as it travels.
struct Entry {
    info: Vec<u8>,
    batch: Bytes,
}

impl Core {
    /// Lists hints.
    pub(crate) async fn hints(&self, request: Hints, mut reply: ReplySink) {
        let Some(mut look) = self.handoff.look(request.target, request.quarantined) else {
            return reply.send(&HintList {}, Bytes::new()).await;
        };
        let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
        let mut payload = BytesMut::new();
        loop {
            let content = request.content;
            let page = match look.next(move |seen| Entry::new(seen, content)).await {
                Ok(page) => page,
                Err(error) => return reply.fail(self.hint_failure(&error)).await,
            };
            if page.is_empty() || left == 0 {
                return reply.send(&HintList {}, payload.freeze()).await;
            }
            for entry in page.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                left -= 1;
                match entry {
                    Ok(entry) => entry.put(&mut payload),
                    Err(error) => {
                        let failure = self.failure(Code::Internal, error.to_string());
                        return reply.fail(failure).await;
                    }
                }
                while payload.len() >= FRAME_BYTES {
                    let frame = payload.split_to(FRAME_BYTES).freeze();
                    if reply.more(&HintList {}, frame).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Retries or drops hints; what was done when it fails, or the node stops, stays done.
    pub(crate) async fn hints_do(&self, request: HintsDo) -> Result<HintsDone, Failure> {
        let HintsDo { target, action, shard, force_any } = request;
        let choice = Choice { shard, force_any };
        let work = async {
            match action {
                HintAction::Retry => {
                    self.handoff.retry(target, choice, self.env.clock.wall_ns()).await
                }
                HintAction::Drop => self.handoff.discard(target, choice).await,
                HintAction::DropQuarantined => {
                    self.handoff.discard_quarantined(target, choice).await
                }
            }
        };
        let taken = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(HandoffError::Closed),
            taken = work => taken,
        };
        let taken = taken.map_err(|error| self.hint_failure(&error))?;
        tracing::info!(target_node = %target, ?action, taken.done, "an operator changed hints");
        Ok(HintsDone { done: taken.done, any: taken.any, damaged: taken.damaged })
    }

    /// All repair marks, as they travel.
    pub(crate) fn mark_list(&self) -> Result<Bytes, Failure> {
        let marks = self.marks.list();
        let info = |mark: &crate::handoff::Mark| MarkInfo {
            shard: mark.shard,
            owner: mark.owner,
            // There are four reasons.
            reason: mark.reason.code() as u32,
            from: mark.from,
            to: mark.to,
        };
        self.list(&marks.iter().map(info).collect::<Vec<_>>())
    }

    /// Verifies all queues and the marks.
    pub(crate) async fn hints_verify(&self) -> Result<Bytes, Failure> {
        let reports = self.handoff.verify().await.map_err(|error| self.hint_failure(&error))?;
        self.list(&reports)
    }

    fn list<T: Serialize>(&self, list: &[T]) -> Result<Bytes, Failure> {
        let encoded = postcard::to_stdvec(list);
        encoded.map(Bytes::from).map_err(|why| self.failure(Code::Internal, why.to_string()))
    }

    fn hint_failure(&self, error: &HandoffError) -> Failure {
        self.failure(hint_code(error), error.to_string())
    }
}

impl Entry {
    fn new(seen: Seen, content: bool) -> postcard::Result<Self> {
        let info = info_of(&seen);
        let batch = if content && info.batch.is_some() { seen.bytes } else { Bytes::new() };
        Ok(Self { info: postcard::to_stdvec(&info)?, batch })
    }

    fn put(&self, payload: &mut BytesMut) {
        for piece in [&self.info[..], &self.batch] {
            // A record is below 1 GiB.
            payload.put_u32_le(piece.len() as u32);
            payload.put_slice(piece);
        }
    }
}

/// What is said of a hint.
pub(crate) fn info_of(seen: &Seen) -> HintInfo {
    HintInfo {
        sequence: seen.sequence,
        count: seen.count,
        shard: seen.shard,
        appended_at: seen.appended_at,
        any: seen.any_ack,
        reason: seen.reason.map_or(0, |reason| reason.code()),
        bytes: seen.bytes.len() as u64,
        batch: batch_of(&seen.bytes),
    }
}

fn batch_of(bytes: &Bytes) -> Option<HintBatch> {
    let decoded = EncodedBatch::parse(bytes.clone()).ok()?.decode().ok()?;
    let header = decoded.header;
    let names = decoded.measurements.iter().take(MAX_NAMES);
    Some(HintBatch {
        database: header.part.database,
        policy: header.part.policy,
        version: header.part.version,
        rows: header.rows,
        from: header.min_time,
        to: header.max_time,
        measurements: header.measurements,
        names: names.map(|measurement| measurement.name.clone()).collect(),
    })
}
