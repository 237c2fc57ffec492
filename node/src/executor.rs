//! Where blocking work runs.
//!
//! Invariant: with [`Executor::Inline`] nothing ever leaves the caller's thread, so that a
//! simulation's virtual clock cannot run ahead of a disk. One choice for all of a node: the
//! journal, the hint queues, the shard store and the metadata.

use std::{
    io,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Executor {
    /// On threads of its own: commits of the journal and the hint queues each on a dedicated one
    /// (the journal's also in the task that asks, if nothing is under way and the runtime has
    /// another thread to go on with), compaction on threads of low priority, all else on tokio's
    /// threads for blocking work. The normal way.
    #[default]
    Thread,
    /// In the task that asks, one item at a time: for simulations under a paused clock, which other
    /// threads would make irreproducible.
    Inline,
}

/// The runtime is stopping, or the work panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the runtime is stopping")]
pub struct Stopped;

impl From<Stopped> for io::Error {
    fn from(stopped: Stopped) -> Self {
        Self::other(stopped)
    }
}

impl Executor {
    /// Runs blocking work and gives its result back. Once started, it runs to its end even if the
    /// caller goes away.
    ///
    /// # Errors
    /// [`Stopped`], if there is no result.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        match self {
            Self::Inline => Ok(work()),
            Self::Thread => tokio::task::spawn_blocking(work).await.map_err(|_| Stopped),
        }
    }

    /// A worker for long work that must not keep short work waiting: a thread of its own whose
    /// priority is lower by `nice` (see `nice(1)`; 0 to 19), so that whoever wakes up on a busy
    /// processor comes first. Without such a thread it works as [`Self::run`] does.
    #[must_use]
    pub fn worker(self, name: &str, nice: u8) -> Worker {
        if self == Self::Inline {
            return Worker { executor: self, thread: None };
        }
        let (jobs, work) = mpsc::sync_channel::<Job>(1);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Of this thread only, on Linux. Without it the work is done all the same.
            let _ = rustix::process::nice(nice.min(19).into());
            work.into_iter().for_each(|job| job());
        });
        if let Err(error) = &thread {
            tracing::warn!(%error, name, "cannot start a thread of low priority");
        }
        Worker { executor: self, thread: thread.ok().map(|thread| (jobs, thread)) }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Does one piece of work at a time. Its thread ends with it, or when the work panics.
#[derive(Debug)]
pub struct Worker {
    executor: Executor,
    thread: Option<(mpsc::SyncSender<Job>, JoinHandle<()>)>,
}

impl Worker {
    /// As [`Executor::run`].
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let Some((jobs, _)) = &self.thread else {
            return self.executor.run(work).await;
        };
        let (done, result) = oneshot::channel();
        // Nobody may be waiting any more.
        let job = Box::new(move || drop(done.send(work())));
        jobs.try_send(job).map_err(|_| Stopped)?;
        result.await.map_err(|_| Stopped)
    }

    /// Ends its thread, and returns when that is over. The last thread of a process gives all of its memory
    /// back, which one of low priority may need many seconds for on a busy machine: it must not be the last.
    pub async fn end(self) {
        if let Some((jobs, thread)) = self.thread {
            drop(jobs);
            // Neither a job that panicked nor a runtime that ends is a reason to stay.
            let _ = self.executor.run(move || thread.join()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use super::*;

    /// Says that the thread is over, some time after it was told to end.
    struct Over(Arc<AtomicBool>);

    impl Drop for Over {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(100));
            self.0.store(true, Ordering::Release);
        }
    }

    thread_local! {
        static OVER: std::cell::OnceCell<Over> = const { std::cell::OnceCell::new() };
    }

    #[tokio::test]
    async fn a_worker_ends_with_its_thread() {
        let mut worker = Executor::Thread.worker("test", 19);
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let first = worker.run(move || OVER.with(|cell| cell.set(Over(told)).is_ok())).await;
        assert_eq!(first, Ok(true));
        assert!(!over.load(Ordering::Acquire));
        worker.end().await;
        assert!(over.load(Ordering::Acquire), "its thread is still there");
    }
}
