//! Parsed batches on their way into a database, and what becomes of each.
//!
//! Invariants: so many batches are under way at most; every line of every batch is counted as
//! written, rejected, dropped or failed, and told if it was not written. They are counted and told
//! in the order of the input, so that at any time everything before one place has been, and nothing
//! behind it. Of two lines for one point the later one wins. Called by `write` and by `hints import`.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, task::Poll};

use indicatif::ProgressBar;
use quorate_client::{Client, WriteOptions};
use quorate_protocol::line::Options;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    Parsed, Rejects, Tally,
    attempts::{Patience, Sent},
    keep::Keeper,
    pace::Pace,
    progress,
    state::Mark,
    trace::Trace,
};
use crate::cli::{fail::Fail, tell};

/// Batches behind one that has no answer yet, for each that may be under way.
const AHEAD: u64 = 4;

/// Where batches go.
pub(crate) struct Target {
    /// None sends nothing: what was parsed counts as written.
    pub(crate) client: Option<Client>,
    pub(crate) database: String,
    pub(crate) options: WriteOptions,
    /// Batches under way at the same time.
    pub(crate) in_flight: usize,
    /// How long batches that fail are sent again.
    pub(crate) patience: Patience,
}

/// A batch that has been answered; its rows are no longer needed.
struct Answered {
    number: u64,
    parsed: Parsed,
    /// None if there was nothing to send.
    sent: Option<Sent>,
}

/// A run of writes.
pub(crate) struct Sending {
    target: Target,
    options: Arc<WriteOptions>,
    /// How the text was parsed; lines that failed are found by parsing it again.
    pub(crate) parsing: Options,
    pub(crate) rejects: Rejects,
    pub(crate) tally: Tally,
    pub(crate) bar: ProgressBar,
    pub(crate) pace: Option<Pace>,
    /// Tells of batches, where that was asked for.
    pub(crate) trace: Option<Trace>,
    keeper: Option<Keeper>,
    /// Points of the runs before.
    points_before: usize,
    /// Everything before it is counted, where there is one input.
    pub(crate) mark: Mark,
    started: Instant,
    tasks: JoinSet<Answered>,
    /// Batches begun.
    begun: u64,
    /// Batches counted: all of the first so many.
    settled: u64,
    /// Answered, but not all before them.
    held: BTreeMap<u64, Answered>,
}

impl Sending {
    /// `size` is that of the whole input in bytes, where it is known.
    pub(crate) fn new(
        target: Target,
        parsing: Options,
        mut rejects: Rejects,
        size: Option<u64>,
    ) -> Self {
        let bar = progress::bar(size);
        rejects.bar = bar.clone();
        Self {
            options: Arc::new(target.options.clone()),
            target,
            parsing,
            rejects,
            tally: Tally::default(),
            bar,
            pace: None,
            trace: None,
            keeper: None,
            points_before: 0,
            mark: Mark::start(),
            started: Instant::now(),
            tasks: JoinSet::new(),
            begun: 0,
            settled: 0,
            held: BTreeMap::new(),
        }
    }

    /// Counts on from what the runs before have counted, and keeps it.
    pub(crate) fn go_on(&mut self, keeper: Keeper) {
        self.tally = keeper.tally().clone();
        self.points_before = self.tally.points;
        self.keeper = Some(keeper);
    }

    /// What keeps it, if anything does.
    pub(crate) const fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    /// All of the input has been sent and answered.
    pub(crate) fn all_done(&mut self) -> Result<(), Fail> {
        self.keeper.as_mut().map_or(Ok(()), Keeper::finish)
    }

    /// Sends a batch once there is a place for it. What is given up in between was not sent.
    pub(crate) async fn send(&mut self, parsed: Parsed) -> Result<(), Fail> {
        let most = self.target.in_flight as u64 * AHEAD;
        while self.tasks.len() >= self.target.in_flight || self.begun - self.settled >= most {
            let answered = self.tasks.join_next().await;
            self.answered(answered)?;
        }
        while let Some(then) = self.pace.and_then(|pace| pace.wait(Instant::now())) {
            tokio::select! {
                () = sleep_until(then) => {}
                answered = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.answered(answered)?;
                }
            }
        }
        if let Some(pace) = &mut self.pace {
            pace.gone(parsed.points, Instant::now());
        }
        let number = self.begun;
        self.begun += 1;
        let client = self.target.client.clone().filter(|_| !parsed.batch.is_empty());
        let Some(client) = client else {
            return self.answered(Some(Ok(Answered { number, parsed, sent: None })));
        };
        let (database, options) = (self.target.database.clone(), Arc::clone(&self.options));
        let (patience, bar) = (self.target.patience.clone(), self.bar.clone());
        let mut write = Box::pin(async move {
            let mut parsed = parsed;
            let batch = std::mem::take(&mut parsed.batch);
            let sent = Some(patience.send(&client, &database, &batch, &options, &bar).await);
            Answered { number, parsed, sent }
        });
        // A write has its version from the moment it is first polled. So that happens here, in the order
        // of the input: tasks may be begun in any, and then an earlier line could win over a later one.
        match poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
            Poll::Ready(answered) => self.answered(Some(Ok(answered))),
            Poll::Pending => {
                self.tasks.spawn(write);
                Ok(())
            }
        }
    }

    /// What fails from now on is not sent again.
    pub(crate) fn hurry(&self) {
        self.target.patience.stop.cancel();
    }

    /// Waits until everything has been answered.
    pub(crate) async fn finish(&mut self) -> Result<(), Fail> {
        while !self.tasks.is_empty() {
            let answered = self.tasks.join_next().await;
            self.answered(answered)?;
        }
        Ok(())
    }

    /// Takes note of a batch that has been answered. Waits for nothing but the disk, so that whoever
    /// gives up waiting for an answer cannot lose one.
    fn answered(&mut self, next: Option<Result<Answered, JoinError>>) -> Result<(), Fail> {
        let Some(next) = next else { return Ok(()) };
        let next = next.map_err(Fail::failed)?;
        self.held.insert(next.number, next);
        let before = self.settled;
        let mut stopped = Ok(());
        while stopped.is_ok()
            && let Some(next) = self.held.remove(&self.settled)
        {
            stopped = self.stops(&next);
            if stopped.is_ok() {
                self.settled += 1;
                self.settle(next)?;
            }
        }
        if self.settled > before {
            let points = self.tally.points - self.points_before;
            progress::points(&self.bar, points, self.started.elapsed());
            if let Some(keeper) = &mut self.keeper {
                let elapsed = self.started.elapsed();
                keeper.mark(&self.mark, &self.tally, &mut self.rejects, elapsed)?;
            }
        }
        stopped
    }

    /// A load that can go on later ends at the first batch that may be written later: passing it by
    /// would be to lose it.
    fn stops(&self, answered: &Answered) -> Result<(), Fail> {
        let error = answered.sent.as_ref().and_then(|sent| sent.error.as_ref());
        match error.filter(|error| error.retryable()) {
            Some(error) if self.keeper.is_some() && !self.target.patience.how_long.is_zero() => {
                Err(Fail::failed(format!(
                    "stopped before line {}: {error}; the same command line goes on there",
                    self.mark.line
                )))
            }
            _ => Ok(()),
        }
    }

    fn settle(&mut self, answered: Answered) -> Result<(), Fail> {
        let Answered { number, parsed, sent } = answered;
        let told = self.trace.zip(sent.as_ref());
        if let Some(text) = told.and_then(|(trace, sent)| trace.tell(number, sent)) {
            self.bar.suspend(|| tell(&text));
        }
        self.rejects.unreadable(&parsed)?;
        self.tally.rejected += parsed.errors.len();
        match sent {
            None if parsed.points > 0 => {
                self.tally.points += parsed.points;
                self.tally.batches += 1;
            }
            None => {}
            Some(Sent { receipts, error }) => {
                self.tally.sent(parsed.points, &receipts, error.as_ref());
                if let Some(error) = error {
                    self.rejects.failed(parsed.chunks, self.parsing, &error.failed)?;
                }
            }
        }
        if let Some((mark, stored)) = parsed.end {
            self.mark = mark;
            self.bar.set_position(stored);
        }
        Ok(())
    }
}
