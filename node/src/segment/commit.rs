//! Group commit: many callers, one writer, one sync for whatever is waiting.
//!
//! Invariant: a caller is answered only after its item's group was committed; what waits is
//! bounded in bytes; closing commits everything that was submitted before. The log that does the
//! work runs either on a thread of its own, so that the disk never blocks the runtime, or inside
//! the caller, so that in simulations virtual time cannot jump past disk work. Used by the
//! journal, the hint queues and the repair marks.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::executor::Executor;

/// What a committer runs: the state behind a group commit.
pub trait Log: Send + 'static {
    /// What callers submit.
    type Item: Send + 'static;
    /// What each gets back.
    type Output: Send + 'static;

    /// Commits a group; answers in the order of the items. Must not panic.
    fn commit(&mut self, group: Vec<Self::Item>) -> Vec<Self::Output>;

    /// The last call: nothing follows.
    fn close(&mut self) {}
}

/// Bounds of a committer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes one group may have, its last item apart.
    pub group_bytes: usize,
    /// Bytes that may wait; submitting more waits.
    pub queue_bytes: usize,
}

/// Why a submitted item has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The committer was closed first; the item was not touched.
    #[error("closed")]
    Closed,
    /// The committer died; whether the item was committed is unknown.
    #[error("the committing thread died")]
    Died,
}

struct Job<L: Log> {
    item: L::Item,
    bytes: usize,
    reply: oneshot::Sender<L::Output>,
    /// Holds the item's share of the queue until the group is committed.
    _room: OwnedSemaphorePermit,
}

enum Message<L: Log> {
    Job(Job<L>),
    Stop,
}

/// The async front of a [`Log`].
pub struct Committer<L: Log> {
    way: Way<L>,
}

enum Way<L: Log> {
    Inline(Mutex<Option<L>>),
    Thread(Front<L>),
}

struct Front<L: Log> {
    sender: mpsc::Sender<Message<L>>,
    room: Arc<Semaphore>,
    units: u32,
    /// Set by the thread when it has committed everything and left in order.
    finished: Arc<AtomicBool>,
    /// Closed when the thread is gone, whichever way.
    gone: watch::Receiver<()>,
}

/// Bytes per permit: keeps the largest queue within the semaphore's range.
const UNIT: usize = 1024;

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4)
}

impl<L: Log> Committer<L> {
    /// Starts committing; `name` names the thread.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(log: L, executor: Executor, name: &str, limits: Limits) -> io::Result<Self> {
        if executor == Executor::Inline {
            return Ok(Self { way: Way::Inline(Mutex::new(Some(log))) });
        }
        let (sender, receiver) = mpsc::channel();
        let (alive, gone) = watch::channel(());
        let finished = Arc::new(AtomicBool::new(false));
        let left = Arc::clone(&finished);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _alive = alive;
            let mut log = log;
            work(&mut log, &receiver, limits.group_bytes);
            log.close();
            left.store(true, Ordering::Release);
        })?;
        let units = units(limits.queue_bytes);
        let room = Arc::new(Semaphore::new(units as usize));
        Ok(Self { way: Way::Thread(Front { sender, room, units, finished, gone }) })
    }

    /// Submits an item that holds `bytes` bytes and waits for its outcome. Dropping the future
    /// after it has waited for room does not take the item back.
    ///
    /// # Errors
    /// [`SubmitError`]; the log's own errors are in its output.
    pub async fn submit(&self, item: L::Item, bytes: usize) -> Result<L::Output, SubmitError> {
        match &self.way {
            Way::Inline(log) => {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                let log = log.as_mut().ok_or(SubmitError::Closed)?;
                log.commit(vec![item]).pop().ok_or(SubmitError::Died)
            }
            Way::Thread(front) => front.submit(item, bytes).await,
        }
    }

    /// Commits what was submitted, then stops; later submissions are refused.
    pub async fn close(&self) {
        match &self.way {
            Way::Inline(log) => {
                let log = log.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(mut log) = log {
                    log.close();
                }
            }
            Way::Thread(front) => {
                front.stop();
                // An error is the end of the thread, which is what is waited for.
                while front.gone.clone().changed().await.is_ok() {}
            }
        }
    }
}

impl<L: Log> Front<L> {
    async fn submit(&self, item: L::Item, bytes: usize) -> Result<L::Output, SubmitError> {
        let wanted = units(bytes).min(self.units);
        let room = Arc::clone(&self.room).acquire_many_owned(wanted).await;
        let room = room.map_err(|_| SubmitError::Closed)?;
        let (reply, outcome) = oneshot::channel();
        let job = Job { item, bytes, reply, _room: room };
        self.sender.send(Message::Job(job)).map_err(|_| self.unanswered())?;
        outcome.await.map_err(|_| self.unanswered())
    }

    /// After an orderly end, what was not answered was not touched either.
    fn unanswered(&self) -> SubmitError {
        if self.finished.load(Ordering::Acquire) { SubmitError::Closed } else { SubmitError::Died }
    }

    fn stop(&self) {
        self.room.close();
        // If the thread is gone already there is nothing to stop.
        let _ = self.sender.send(Message::Stop);
    }
}

impl<L: Log> Drop for Committer<L> {
    /// Without [`close`](Self::close): the thread still commits what waits, on its own time.
    fn drop(&mut self) {
        if let Way::Thread(front) = &self.way {
            front.stop();
        }
    }
}

fn work<L: Log>(log: &mut L, receiver: &mpsc::Receiver<Message<L>>, group_bytes: usize) {
    let mut stopping = false;
    while !stopping {
        let Ok(Message::Job(first)) = receiver.recv() else {
            return;
        };
        let mut bytes = first.bytes;
        let mut waiting = vec![(first.reply, first._room)];
        let mut group = vec![first.item];
        while bytes < group_bytes {
            match receiver.try_recv() {
                Ok(Message::Job(job)) => {
                    bytes = bytes.saturating_add(job.bytes);
                    group.push(job.item);
                    waiting.push((job.reply, job._room));
                }
                Ok(Message::Stop) => {
                    stopping = true;
                    break;
                }
                Err(_) => break,
            }
        }
        for ((reply, _room), output) in waiting.into_iter().zip(log.commit(group)) {
            // The caller may have gone away; its item is committed all the same.
            let _ = reply.send(output);
        }
    }
}

impl<L: Log> std::fmt::Debug for Committer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers group sizes; waits for a permit before each group.
    struct Sums {
        groups: Arc<Mutex<Vec<usize>>>,
        gate: mpsc::Receiver<()>,
    }

    impl Log for Sums {
        type Item = u64;
        type Output = u64;

        fn commit(&mut self, group: Vec<u64>) -> Vec<u64> {
            let _ = self.gate.recv();
            assert!(!group.contains(&u64::MAX), "told to die");
            self.groups.lock().unwrap().push(group.len());
            group.into_iter().map(|item| item * 2).collect()
        }
    }

    const LIMITS: Limits = Limits { group_bytes: 1 << 20, queue_bytes: 8 * UNIT };

    type Started = (Arc<Committer<Sums>>, mpsc::Sender<()>, Arc<Mutex<Vec<usize>>>);

    fn start(executor: Executor) -> Started {
        let (open, gate) = mpsc::channel();
        let groups = Arc::new(Mutex::new(Vec::new()));
        let log = Sums { groups: Arc::clone(&groups), gate };
        let committer = Committer::start(log, executor, "sums", LIMITS).unwrap();
        (Arc::new(committer), open, groups)
    }

    #[tokio::test]
    async fn waiting_items_share_a_group_and_the_queue_is_bounded_in_bytes() {
        let (committer, open, groups) = start(Executor::Thread);
        let tasks: Vec<_> = (0..20u64)
            .map(|item| {
                let committer = Arc::clone(&committer);
                tokio::spawn(async move { committer.submit(item, UNIT).await })
            })
            .collect();
        let Way::Thread(front) = &committer.way else { unreachable!() };
        while front.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        drop(open);
        for (item, task) in (0..).zip(tasks) {
            assert_eq!(task.await.unwrap(), Ok(item * 2));
        }
        let groups = groups.lock().unwrap();
        assert_eq!(groups.iter().sum::<usize>(), 20);
        assert!(groups.len() < 20, "no two items shared a group: {groups:?}");
        assert!(groups.iter().all(|size| *size <= 8), "more waited than allowed: {groups:?}");
    }

    #[tokio::test]
    async fn closing_commits_what_was_submitted_and_refuses_the_rest() {
        for executor in [Executor::Thread, Executor::Inline] {
            let (committer, open, _) = start(executor);
            for _ in 0..10 {
                open.send(()).unwrap();
            }
            let waiting = tokio::spawn({
                let committer = Arc::clone(&committer);
                async move { committer.submit(4, 1).await }
            });
            tokio::task::yield_now().await;
            committer.close().await;
            committer.close().await;
            assert_eq!(waiting.await.unwrap(), Ok(8));
            assert_eq!(committer.submit(1, 1).await, Err(SubmitError::Closed));
        }
    }

    #[tokio::test]
    async fn a_dying_thread_is_not_taken_for_a_closed_one() {
        let (committer, open, _) = start(Executor::Thread);
        drop(open);
        assert_eq!(committer.submit(u64::MAX, 1).await, Err(SubmitError::Died));
        assert_eq!(committer.submit(1, 1).await, Err(SubmitError::Died));
        committer.close().await;
    }

    #[tokio::test]
    async fn an_item_larger_than_the_queue_still_passes() {
        let (committer, open, _) = start(Executor::Thread);
        drop(open);
        assert_eq!(committer.submit(3, 100 * UNIT).await, Ok(6));
    }
}
