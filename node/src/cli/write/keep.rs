//! A load that goes on where it was interrupted: the state of `--state` over one run.
//!
//! Invariants: the state is on the disk before the first line is sent, so that lines without a time
//! have one time for good; the rejects file is on the disk before a mark that counts its lines.
//! Another input, or other options, never go on with a state. Used by `write`.

use std::{path::Path, sync::Arc, time::Duration};

use quorate_protocol::line::Options;
use serde_json::{Value, json};

use super::{
    Write,
    input::{Behind, Input},
    lock::Lock,
    rejects::Rejects,
    state::{Mark, State, Store},
    tally::Tally,
};
use crate::{
    cli::{fail::Fail, table::grouped, tell},
    disk::SystemDisk,
};

/// Keeps the state of a run.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Store,
    state: State,
    /// The line that this run began with, if it was not the first run.
    resumed: Option<usize>,
    /// Time of the runs before.
    before: f64,
    _lock: Lock,
}

/// How a run begins.
pub(crate) struct Begun {
    pub(crate) keeper: Keeper,
    pub(crate) rejects: Rejects,
    /// Nothing is left to do.
    pub(crate) finished: bool,
}

impl Keeper {
    /// Makes the state, or finds the place that it says.
    pub(crate) fn begin(
        args: &Write,
        path: &Path,
        parsing: Options,
        input: &mut Input,
    ) -> Result<Begun, Fail> {
        let store = Store::new(Arc::new(SystemDisk), path);
        let failed = |error| Fail::failed(format!("cannot read {}: {error}", path.display()));
        let lock = Lock::take(path).map_err(|error| {
            Fail::failed(format!("cannot lock {} by a file beside it: {error}", path.display()))
        })?;
        let lock = lock.ok_or_else(|| {
            Fail::failed(format!(
                "{} is in use by another load; wait for it, or give another --state",
                path.display()
            ))
        })?;
        let plan = args.plan();
        let Some(state) = store.load().map_err(failed)? else {
            let state = State {
                input: input.name.clone(),
                plan,
                default_time: parsing.default_time,
                mark: Mark::start(),
                finished: false,
                tally: Tally::default(),
                seconds: 0.0,
                rejects_length: 0,
            };
            let rejects = Rejects::open(args.rejects.as_deref())?;
            let keeper = Self { store, state, resumed: None, before: 0.0, _lock: lock };
            keeper.save()?;
            return Ok(Begun { keeper, rejects, finished: false });
        };
        let refused = |reason: &str| {
            Fail::failed(format!(
                "{reason}; {} is the state of a load of {} into {}: give that command line again, \
                 or another --state",
                path.display(),
                state.input,
                state.plan.database,
            ))
        };
        if state.plan != plan {
            return Err(refused("the database, --rp, --precision or --rejects is another"));
        }
        if args.default_time.is_some_and(|time| time != state.default_time) {
            return Err(refused("--default-time is another"));
        }
        let behind = input.skip(&state.mark).map_err(|reason| refused(&reason))?;
        let finished = state.finished && behind == Behind::Nothing;
        if !finished {
            tell(&format!(
                "{}: going on at line {}, {} points were written before",
                path.display(),
                state.mark.line,
                grouped(state.tally.points as u64),
            ));
        }
        let rejects = Rejects::reopen(args.rejects.as_deref(), state.rejects_length)?;
        let (resumed, before) = (Some(state.mark.line), state.seconds);
        let keeper = Self { store, state, resumed, before, _lock: lock };
        Ok(Begun { keeper, rejects, finished })
    }

    /// Time of lines without one.
    pub(crate) const fn default_time(&self) -> i64 {
        self.state.default_time
    }

    /// What was counted so far.
    pub(crate) const fn tally(&self) -> &Tally {
        &self.state.tally
    }

    /// The time of all runs, with so much of this one.
    pub(crate) fn seconds(&self, run: Duration) -> f64 {
        self.before + run.as_secs_f64()
    }

    pub(crate) fn path(&self) -> &Path {
        self.store.path()
    }

    /// Everything before the mark has an outcome, and this is what it was.
    pub(crate) fn mark(
        &mut self,
        mark: &Mark,
        tally: &Tally,
        rejects: &mut Rejects,
        run: Duration,
    ) -> Result<(), Fail> {
        self.state.rejects_length = rejects.sync()?;
        self.state.mark = mark.clone();
        self.state.tally = tally.clone();
        self.state.seconds = self.seconds(run);
        self.state.finished = false;
        self.save()
    }

    /// The mark is at the end of the input.
    pub(crate) fn finish(&mut self) -> Result<(), Fail> {
        self.state.finished = true;
        self.save()
    }

    fn save(&self) -> Result<(), Fail> {
        let failed =
            |error| Fail::failed(format!("cannot write {}: {error}", self.path().display()));
        self.store.save(&self.state).map_err(failed)
    }

    /// What `--json` says of it.
    pub(crate) fn describe(&self) -> Value {
        json!({
            "finished": self.state.finished,
            "line": self.state.mark.line,
            "offset": self.state.mark.offset,
            "resumed_at_line": self.resumed,
        })
    }
}
