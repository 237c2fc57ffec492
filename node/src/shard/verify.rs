//! Verification: every checksum and every invariant of what is stored of a shard.
//!
//! Invariants: nothing is changed, neither in a store that is open, nor in a directory; read
//! transactions live for a page; what folds and merges do meanwhile is no problem: a run that is
//! merged away while it is looked at does not count, and the whole begins again if the shard is
//! rewritten. Reading order: [`report`], [`runs`], [`tables`]. Called by sessions and by the command
//! line.

use std::path::Path;

use quorate_protocol::id::ShardId;

use self::{
    runs::{GarbageCheck, RunsCheck},
    tables::{IdsCheck, IndexCheck, SeriesCheck},
};
use super::{
    ShardStore, directory,
    env::{Environment, ReadOnly},
    error::ShardError,
    index::set::IdSet,
    open::{NAMES, Tables, is_stillborn},
    state::{self, State},
};

pub(super) mod report;
mod runs;
mod tables;

pub use self::report::{MAX_PROBLEMS, Problem, ProblemKind, VerifyReport};

/// Stored bytes looked at in one read transaction.
const PAGE_BYTES: usize = 1 << 20;

type Env = Environment<{ NAMES.len() }>;

/// A verification that is going on; see [`ShardStore::verify_begin`].
pub struct Verification {
    shard: ShardId,
    environment: Option<u64>,
    progress: Progress,
}

/// How far a verification is.
#[derive(Default)]
struct Progress {
    report: VerifyReport,
    phase: Phase,
}

enum Phase {
    Runs(RunsCheck),
    Garbage(GarbageCheck),
    Ids(IdsCheck),
    Series(SeriesCheck, IdSet, tables::Postings),
    Index(IndexCheck),
    Done,
}

impl Default for Phase {
    fn default() -> Self {
        Self::Runs(RunsCheck::default())
    }
}

impl Progress {
    /// Looks at another page; whether it is over. `is_building`: runs that are being written.
    fn step(&mut self, env: &Env, is_building: &dyn Fn(u32) -> bool) -> Result<bool, ShardError> {
        let Self { report, phase } = self;
        let next = env.read(|txn, tables| -> Result<_, ShardError> {
            let wrap = |error| env.wrap(error);
            Ok(match phase {
                Phase::Runs(check) => match read_state(txn, tables).map_err(wrap)? {
                    Some(state) => {
                        let done = check.page(txn, tables, &state, report).map_err(wrap)?;
                        done.then(|| Phase::Garbage(GarbageCheck::default()))
                    }
                    None => {
                        report.problem(ProblemKind::State, || "it cannot be read".into());
                        Some(Phase::Ids(IdsCheck::default()))
                    }
                },
                Phase::Garbage(check) => {
                    let state = read_state(txn, tables).map_err(wrap)?.unwrap_or_default();
                    let is_kept = |run| state.is_live(run) || is_building(run);
                    let done = check.page(txn, tables, &is_kept, report).map_err(wrap)?;
                    done.then(|| Phase::Ids(IdsCheck::default()))
                }
                Phase::Ids(check) => {
                    let done = check.page(txn, tables, report).map_err(wrap)?;
                    done.map(|(ids, postings)| Phase::Series(SeriesCheck::default(), ids, postings))
                }
                Phase::Series(check, ids, postings) => {
                    let done = check.page(txn, tables, report).map_err(wrap)?;
                    let (ids, postings) = (std::mem::take(ids), *postings);
                    if done {
                        Some(Phase::Index(IndexCheck::new(ids, postings)))
                    } else {
                        let check = std::mem::take(check);
                        Some(Phase::Series(check, ids, postings))
                    }
                }
                Phase::Index(check) => {
                    check.page(txn, tables, report).map_err(wrap)?.then_some(Phase::Done)
                }
                Phase::Done => None,
            })
        })?;
        if let Some(next) = next {
            self.phase = next;
        }
        Ok(matches!(self.phase, Phase::Done))
    }
}

/// The state record; `None` if it is damaged.
fn read_state(txn: &heed::RoTxn<'_>, [.., states]: &Tables) -> heed::Result<Option<State>> {
    Ok(match states.get(txn, state::KEY)? {
        None => Some(State::default()),
        Some(record) => State::decode(record),
    })
}

impl Verification {
    /// Looks at another page; the report when it is over.
    fn step(&mut self, store: &ShardStore) -> Result<Option<VerifyReport>, ShardError> {
        if store.inner.is_dropped(self.shard) {
            return Err(ShardError::Gone(self.shard));
        }
        let Some(shard) = store.inner.open.pin(self.shard)? else {
            return Ok(Some(VerifyReport::default()));
        };
        let environment = shard.opening();
        if self.environment.replace(environment) != Some(environment) {
            self.progress = Progress::default();
        }
        let done = self.progress.step(&shard.env, &|run| shard.is_building(run))?;
        Ok(done.then(|| std::mem::take(&mut self.progress.report)))
    }
}

impl ShardStore {
    /// Verifies what is stored of a shard. Blocks.
    ///
    /// # Errors
    /// The shard was dropped, or cannot be opened or read at all.
    pub fn verify(&self, shard: ShardId) -> Result<VerifyReport, ShardError> {
        let mut verification = self.verifying(shard);
        loop {
            if let Some(report) = verification.step(self)? {
                return Ok(report);
            }
        }
    }

    fn verifying(&self, shard: ShardId) -> Verification {
        Verification { shard, environment: None, progress: Progress::default() }
    }

    /// Begins [`Self::verify`] for tasks.
    #[must_use]
    pub fn verify_begin(&self, shard: ShardId) -> Verification {
        self.verifying(shard)
    }

    /// Goes on for about a page, for tasks; the report comes with the last call.
    ///
    /// # Errors
    /// As [`Self::verify`], or the runtime is stopping.
    pub async fn verify_page(
        &self,
        mut verification: Verification,
    ) -> Result<(Verification, Option<VerifyReport>), ShardError> {
        let store = self.clone();
        let next = self.inner.executor.run(move || {
            let done = verification.step(&store);
            (verification, done)
        });
        let (verification, done) = next.await?;
        Ok((verification, done?))
    }
}

/// Verifies the directory of a shard that nobody has open, and changes nothing in it. Blocks.
///
/// # Errors
/// It is not the directory of a shard, of a newer format, or cannot be read at all.
pub fn verify_dir(path: &Path) -> Result<VerifyReport, ShardError> {
    let bad = |why| ShardError::BadDirectory { path: path.to_owned(), why };
    // A crash may have cut the making of it short anywhere; nothing was ever stored then.
    if !directory::check(path)? {
        return if directory::is_unborn(path)? {
            Ok(VerifyReport::default())
        } else {
            Err(bad("its format marker is missing"))
        };
    }
    let data = path.join("data.mdb");
    if !data.exists() || is_stillborn(&data) {
        return Ok(VerifyReport::default());
    }
    let env = match Env::open_read_only(path, NAMES)? {
        ReadOnly::Whole(env) => env,
        ReadOnly::Unwritten => return Ok(VerifyReport::default()),
        ReadOnly::Incomplete => return Err(bad("a table is missing")),
    };
    let mut progress = Progress::default();
    while !progress.step(&env, &|_| false)? {}
    Ok(progress.report)
}

#[cfg(test)]
mod tests;
