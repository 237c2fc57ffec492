//! The open requests of a lane, and what is queued to be sent. No sockets, no clock.
//!
//! Invariants: a request is in `queue` until the writer takes it, and counts as sent from then on;
//! it is in `open` until it is answered, or until it is given up unsent; at most one `Cancel` is
//! queued per open request, so everything here is bounded by the permits that requests hold. Ids
//! grow, so `queue` is in order of submission. Used by [`super::Lane`] under its lock.

use std::collections::{BTreeMap, VecDeque};

use quorate_protocol::frame::Frame;
use tokio::sync::oneshot;

use super::{Held, framed::StreamError};
use crate::connection::{Lost, NotSent, RequestError};

pub(super) type Answer = oneshot::Sender<Result<Frame, RequestError>>;

/// What giving up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// It was still queued and never will be sent.
    Unsent,
    /// It is on its way; the peer is told.
    Sent,
    /// The answer was there already, or the lane had failed.
    Answered,
}

#[derive(Debug)]
struct Open {
    /// None once the caller gave up.
    answer: Option<Answer>,
    _held: Held,
}

/// What the writer shall send next.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Requests in order; None if the lane has failed.
    pub(super) frames: Option<Vec<Frame>>,
    /// Ids of requests to cancel, all of them sent before.
    pub(super) cancels: VecDeque<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    last: u64,
    queue: BTreeMap<u64, Frame>,
    cancels: VecDeque<u64>,
    open: BTreeMap<u64, Open>,
    failed: Option<Lost>,
}

impl Table {
    pub(super) fn submit(
        &mut self,
        mut frame: Frame,
        held: Held,
        answer: Answer,
    ) -> Result<u64, RequestError> {
        if let Some(lost) = &self.failed {
            return Err(RequestError::NotSent(NotSent::Disconnected(lost.clone())));
        }
        self.last += 1;
        frame.id = self.last;
        self.queue.insert(self.last, frame);
        let open = Open { answer: Some(answer), _held: held };
        self.open.insert(self.last, open);
        Ok(self.last)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Outgoing {
        if self.failed.is_some() {
            return Outgoing { frames: None, cancels: VecDeque::new() };
        }
        let (mut frames, mut total) = (Vec::new(), 0);
        while total < bytes
            && let Some((_, frame)) = self.queue.pop_first()
        {
            total += frame.body.len() + frame.payload.len();
            frames.push(frame);
        }
        Outgoing { frames: Some(frames), cancels: std::mem::take(&mut self.cancels) }
    }

    pub(super) fn answered(&mut self, frame: Frame) -> Result<(Answer, Frame), StreamError> {
        // Answers on lanes are single frames, to requests that were sent.
        let expected = !frame.more() && !self.queue.contains_key(&frame.id);
        let open = expected.then(|| self.open.remove(&frame.id)).flatten();
        let open = open.ok_or(StreamError::UnexpectedId(frame.id))?;
        let answer = open.answer.unwrap_or_else(|| oneshot::channel().0);
        Ok((answer, frame))
    }

    pub(super) fn abandon(&mut self, id: u64) -> Abandoned {
        if self.queue.remove(&id).is_some() {
            self.open.remove(&id);
            return Abandoned::Unsent;
        }
        match self.open.get_mut(&id).and_then(|open| open.answer.take()) {
            Some(_) => {
                self.cancels.push_back(id);
                Abandoned::Sent
            }
            None => Abandoned::Answered,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Fails all requests; the returned guard drops what they held.
    pub(super) fn fail(&mut self, lost: &Lost) -> impl Drop + use<> {
        let first = self.failed.get_or_insert_with(|| lost.clone()).clone();
        let queue = std::mem::take(&mut self.queue);
        self.cancels.clear();
        Failing { open: std::mem::take(&mut self.open), queue, lost: first }
    }
}

struct Failing {
    open: BTreeMap<u64, Open>,
    queue: BTreeMap<u64, Frame>,
    lost: Lost,
}

impl Drop for Failing {
    fn drop(&mut self) {
        for (id, open) in std::mem::take(&mut self.open) {
            let Some(answer) = open.answer else { continue };
            let lost = self.lost.clone();
            let _ = answer.send(Err(if self.queue.contains_key(&id) {
                RequestError::NotSent(NotSent::Disconnected(lost))
            } else {
                RequestError::Lost(lost)
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::sync::Semaphore;

    use super::*;

    fn frame() -> Frame {
        Frame { op: 2, id: 0, flags: 0, body: Bytes::new(), payload: Bytes::from_static(&[0; 100]) }
    }

    type Reply = oneshot::Receiver<Result<Frame, RequestError>>;

    fn submit(table: &mut Table, requests: &Arc<Semaphore>) -> (u64, Reply) {
        let (to, reply) = oneshot::channel();
        let held = Held { _bytes: None, _request: Arc::clone(requests).try_acquire_owned().ok() };
        (table.submit(frame(), held, to).unwrap(), reply)
    }

    #[test]
    fn what_was_sent_stays_open_until_it_is_answered_and_what_was_not_does_not() {
        let requests = Arc::new(Semaphore::new(3));
        let mut table = Table::default();
        let (first, _r1) = submit(&mut table, &requests);
        let (second, mut r2) = submit(&mut table, &requests);
        assert_eq!(table.take(50).frames.unwrap().len(), 1);

        assert_eq!(table.abandon(second), Abandoned::Unsent);
        assert!(r2.try_recv().is_err());
        assert_eq!(requests.available_permits(), 2);

        assert_eq!(table.abandon(first), Abandoned::Sent);
        assert_eq!(table.abandon(first), Abandoned::Answered, "one Cancel only");
        assert_eq!(requests.available_permits(), 2, "credit waits for the answer");
        let out = table.take(50);
        assert_eq!(out.cancels, [first]);
        assert!(out.frames.unwrap().is_empty());

        let mut answer = frame();
        answer.id = first;
        drop(table.answered(answer.clone()).unwrap());
        assert_eq!(requests.available_permits(), 3);
        assert!(table.answered(answer).is_err(), "answered twice");
        assert_eq!(table.open(), 0);
    }

    #[test]
    fn a_failed_lane_tells_sent_from_unsent() {
        let requests = Arc::new(Semaphore::new(2));
        let mut table = Table::default();
        let (_, mut sent) = submit(&mut table, &requests);
        assert_eq!(table.take(1).frames.unwrap().len(), 1);
        let (unsent_id, mut unsent) = submit(&mut table, &requests);
        let mut early = frame();
        early.id = unsent_id;
        assert!(table.answered(early).is_err(), "answer to what was not sent");

        drop(table.fail(&Lost::Mute));
        drop(table.fail(&Lost::Local));
        let error = sent.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Lost(Lost::Mute)));
        let error = unsent.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, RequestError::NotSent(NotSent::Disconnected(Lost::Mute))));
        assert_eq!(requests.available_permits(), 2);
        assert!(table.take(1).frames.is_none());
    }
}
