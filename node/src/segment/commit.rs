//! Group commit: many callers, one writer, one sync for whatever is waiting.
//!
//! Invariant: a caller is answered only after its item's group was committed; groups are committed
//! one after another in the order of submission; what waits is bounded in bytes; closing commits
//! everything that was submitted before. The log that does the work runs on a thread of its own, so
//! that the disk never blocks the runtime; or, where nothing is under way, in the caller, who then
//! waits for the disk and not for two threads to wake up; or, in simulations, always in the caller,
//! so that virtual time cannot jump past disk work. Used by the journal, the hint queues and the
//! repair marks.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot, watch};

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
    /// Bytes that may wait; submitting more waits, or is refused.
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

/// Why an item that would not wait for room has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrySubmitError {
    /// As much waits as may; the item was not touched.
    #[error("the queue is full")]
    Full,
    /// As for those that wait.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

struct Job<L: Log> {
    item: L::Item,
    bytes: usize,
    reply: oneshot::Sender<L::Output>,
    /// Holds the item's share of the queue until the group is committed.
    room: OwnedSemaphorePermit,
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
    shared: Arc<Shared<L>>,
    room: Arc<Semaphore>,
    units: u32,
    /// Closed when the thread is gone, whichever way.
    gone: watch::Receiver<()>,
}

/// What callers and the thread share.
struct Shared<L: Log> {
    state: Mutex<State<L>>,
    /// Tells the thread that there is something to do and nobody who does it.
    wanted: Condvar,
    group_bytes: usize,
    /// Whether a caller may commit itself.
    in_place: bool,
}

struct State<L: Log> {
    jobs: VecDeque<Job<L>>,
    /// `None` while somebody commits, and at the end.
    log: Option<L>,
    stopping: bool,
    /// The log panicked.
    died: bool,
}

/// Bytes per permit: keeps the largest queue within the semaphore's range.
const UNIT: usize = 1024;

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4)
}

/// Whether this thread may block: the runtime then has another one go on with its other tasks.
fn may_block() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

impl<L: Log> Committer<L> {
    /// Starts committing; `name` names the thread.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(log: L, executor: Executor, name: &str, limits: Limits) -> io::Result<Self> {
        Self::launch(log, executor, name, limits, false)
    }

    /// As [`start`](Self::start), but whoever submits while nothing is under way commits in place:
    /// the shortest way for one caller, who blocks a thread of the runtime meanwhile and with it
    /// whatever else its own task has to do.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in_place(log: L, executor: Executor, name: &str, l: Limits) -> io::Result<Self> {
        Self::launch(log, executor, name, l, true)
    }

    fn launch(log: L, executor: Executor, name: &str, l: Limits, here: bool) -> io::Result<Self> {
        if executor == Executor::Inline {
            return Ok(Self { way: Way::Inline(Mutex::new(Some(log))) });
        }
        let state = State { jobs: VecDeque::new(), log: Some(log), stopping: false, died: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wanted: Condvar::new(),
            group_bytes: l.group_bytes,
            in_place: here,
        });
        let (alive, gone) = watch::channel(());
        let work = Arc::clone(&shared);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _alive = alive;
            work.work();
        })?;
        let units = units(l.queue_bytes);
        let room = Arc::new(Semaphore::new(units as usize));
        Ok(Self { way: Way::Thread(Front { shared, room, units, gone }) })
    }

    /// Submits an item that holds `bytes` bytes, waiting for room, and waits for its outcome.
    /// Dropping the future after it has waited for room does not take the item back.
    ///
    /// # Errors
    /// [`SubmitError`]; the log's own errors are in its output.
    pub async fn submit(&self, item: L::Item, bytes: usize) -> Result<L::Output, SubmitError> {
        match &self.way {
            Way::Inline(log) => inline(log, item),
            Way::Thread(front) => {
                let room = Arc::clone(&front.room).acquire_many_owned(front.share(bytes)).await;
                front.submit(item, bytes, room.map_err(|_| SubmitError::Closed)?).await
            }
        }
    }

    /// As [`submit`](Self::submit), but refuses at once if there is no room.
    ///
    /// # Errors
    /// [`TrySubmitError`]; the log's own errors are in its output.
    pub async fn try_submit(
        &self,
        item: L::Item,
        bytes: usize,
    ) -> Result<L::Output, TrySubmitError> {
        match &self.way {
            Way::Inline(log) => Ok(inline(log, item)?),
            Way::Thread(front) => {
                let room = Arc::clone(&front.room).try_acquire_many_owned(front.share(bytes));
                let room = room.map_err(|error| match error {
                    TryAcquireError::Closed => TrySubmitError::Submit(SubmitError::Closed),
                    TryAcquireError::NoPermits => TrySubmitError::Full,
                })?;
                Ok(front.submit(item, bytes, room).await?)
            }
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

fn inline<L: Log>(log: &Mutex<Option<L>>, item: L::Item) -> Result<L::Output, SubmitError> {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let log = log.as_mut().ok_or(SubmitError::Closed)?;
    log.commit(vec![item]).pop().ok_or(SubmitError::Died)
}

impl<L: Log> Front<L> {
    /// What an item takes of the queue; one that is larger than all of it takes all.
    fn share(&self, bytes: usize) -> u32 {
        units(bytes).min(self.units)
    }

    async fn submit(
        &self,
        item: L::Item,
        bytes: usize,
        room: OwnedSemaphorePermit,
    ) -> Result<L::Output, SubmitError> {
        let (reply, outcome) = oneshot::channel();
        if let Some(turn) = self.shared.enqueue(Job { item, bytes, reply, room })? {
            tokio::task::block_in_place(|| turn.commit());
        }
        outcome.await.map_err(|_| SubmitError::Died)
    }

    fn stop(&self) {
        self.room.close();
        self.shared.lock().stopping = true;
        self.shared.wanted.notify_one();
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

impl<L: Log> Shared<L> {
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job; the turn to commit, if nobody else has it and the caller may take it.
    fn enqueue(&self, job: Job<L>) -> Result<Option<Turn<'_, L>>, SubmitError> {
        let mut state = self.lock();
        if state.died {
            return Err(SubmitError::Died);
        }
        if state.stopping {
            return Err(SubmitError::Closed);
        }
        state.jobs.push_back(job);
        if state.log.is_none() {
            return Ok(None);
        }
        if self.in_place && may_block() {
            return Ok(self.turn(&mut state));
        }
        self.wanted.notify_one();
        Ok(None)
    }

    /// The log and the next group, if both are there.
    fn turn(&self, state: &mut State<L>) -> Option<Turn<'_, L>> {
        let first = state.jobs.front()?;
        let (mut count, mut bytes) = (1, first.bytes);
        while bytes < self.group_bytes
            && let Some(job) = state.jobs.get(count)
        {
            bytes = bytes.saturating_add(job.bytes);
            count += 1;
        }
        let log = state.log.take()?;
        Some(Turn { shared: self, log: Some(log), jobs: state.jobs.drain(..count).collect() })
    }

    /// The thread: commits whatever waits while nobody else does.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.died {
                return;
            }
            if let Some(turn) = self.turn(&mut state) {
                drop(state);
                turn.commit();
                state = self.lock();
            } else if state.stopping
                && let Some(mut log) = state.log.take()
            {
                drop(state);
                return log.close();
            } else {
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// The right to commit: one at a time.
struct Turn<'a, L: Log> {
    shared: &'a Shared<L>,
    /// Back in the shared state at the end, unless committing has panicked.
    log: Option<L>,
    jobs: Vec<Job<L>>,
}

impl<L: Log> Turn<'_, L> {
    /// Commits the group, gives the log back and answers. What came meanwhile is the thread's: the
    /// caller has its answer and should go on.
    fn commit(mut self) {
        let mut waiting = Vec::with_capacity(self.jobs.len());
        let mut group = Vec::with_capacity(self.jobs.len());
        for job in self.jobs.drain(..) {
            group.push(job.item);
            waiting.push((job.reply, job.room));
        }
        let Some(mut log) = self.log.take() else { return };
        let outputs = log.commit(group);
        self.log = Some(log);
        drop(self);
        for ((reply, _room), output) in waiting.into_iter().zip(outputs) {
            // The caller may have gone away; its item is committed all the same.
            let _ = reply.send(output);
        }
    }
}

impl<L: Log> Drop for Turn<'_, L> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        match self.log.take() {
            Some(log) => {
                state.log = Some(log);
                if state.jobs.is_empty() && !state.stopping {
                    return;
                }
            }
            None => {
                // Those that wait hear of it through their dropped replies.
                state.died = true;
                state.jobs.clear();
            }
        }
        drop(state);
        self.shared.wanted.notify_one();
    }
}

impl<L: Log> std::fmt::Debug for Committer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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
    async fn without_room_an_item_is_refused_at_once_and_untouched() {
        let (committer, open, groups) = start(Executor::Thread);
        let waiting = tokio::spawn({
            let committer = Arc::clone(&committer);
            async move { committer.try_submit(1, 7 * UNIT).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(committer.try_submit(2, 2 * UNIT).await, Err(TrySubmitError::Full));
        drop(open);
        assert_eq!(waiting.await.unwrap(), Ok(2));
        assert_eq!(groups.lock().unwrap().iter().sum::<usize>(), 1);
        committer.close().await;
        let closed = TrySubmitError::Submit(SubmitError::Closed);
        assert_eq!(committer.try_submit(2, 1).await, Err(closed));
    }

    type Commits = Vec<(thread::ThreadId, Vec<u64>)>;

    /// Which threads have committed, and what.
    struct Threads(Arc<Mutex<Commits>>);

    impl Log for Threads {
        type Item = u64;
        type Output = u64;

        fn commit(&mut self, group: Vec<u64>) -> Vec<u64> {
            let mut seen = self.0.lock().unwrap();
            seen.push((thread::current().id(), group.clone()));
            group
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_caller_commits_in_its_own_thread_and_many_keep_their_order() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Threads(Arc::clone(&seen));
        let committer =
            Committer::start_in_place(log, Executor::Thread, "threads", LIMITS).unwrap();
        let committer = Arc::new(committer);
        let one = Arc::clone(&committer);
        let here = tokio::spawn(async move {
            let before = thread::current().id();
            one.submit(0, 1).await.unwrap();
            before
        });
        let here = here.await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [(here, vec![0])]);
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let committer = Arc::clone(&committer);
                tokio::spawn(async move {
                    for item in 0..200 {
                        let item = task * 1000 + item;
                        assert_eq!(committer.submit(item, 1).await, Ok(item));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        committer.close().await;
        let seen = seen.lock().unwrap();
        let items: Vec<u64> = seen.iter().flat_map(|(_, group)| group.clone()).skip(1).collect();
        assert_eq!(items.len(), 1600);
        for task in 0..8 {
            let of_task = items.iter().filter(|item| **item / 1000 == task);
            assert!(of_task.is_sorted(), "task {task}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_log_that_panics_in_its_caller_is_dead_for_all() {
        let (open, gate) = mpsc::channel::<()>();
        drop(open);
        let log = Sums { groups: Arc::default(), gate };
        let committer = Committer::start_in_place(log, Executor::Thread, "sums", LIMITS).unwrap();
        let committer = Arc::new(committer);
        let dying = Arc::clone(&committer);
        assert!(tokio::spawn(async move { dying.submit(u64::MAX, 1).await }).await.is_err());
        assert_eq!(committer.submit(1, 1).await, Err(SubmitError::Died));
        committer.close().await;
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
