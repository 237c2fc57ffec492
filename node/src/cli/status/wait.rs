//! `--wait`: looks again until a state is reached or the time is up.
//!
//! Invariant: it ends with 0 only if one look, taken after the command began, saw the state that was
//! waited for on every member.

use std::time::Duration;

use clap::ValueEnum;
use quorate_client::{Client, Env};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Look, Status, show};
use crate::cli::{fail::Fail, output::Output, survey::PATIENCE, time::format_duration};

/// Between two looks.
const POLL: Duration = Duration::from_millis(200);
/// What is missing is told up to so many things.
const TOLD: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Wait {
    Healthy,
    Drained,
}

impl Wait {
    /// What is still missing.
    fn missing(self, look: &Look) -> Vec<String> {
        match self {
            Self::Healthy => look.complaints(),
            Self::Drained => look.survey.undrained(),
        }
    }
}

pub(super) async fn run(wait: Wait, args: &Status, env: &Env) -> Result<(), Fail> {
    let deadline = Instant::now() + Duration::from_nanos(args.timeout);
    // Mistakes on the command line are told at once; a cluster that is not up yet is waited for.
    args.connect.credentials(env)?;
    let mut missing = "no node has answered".to_owned();
    if let Ok(reached) = timeout_at(deadline, reach(wait, args, env, &mut missing)).await {
        let (client, look) = reached?;
        client.close().await;
        return show(&look, &args.connect, &mut Output::new());
    }
    let limit = format_duration(args.timeout);
    Err(Fail::failed(format!("gave up after {limit}: {missing}; see 'quorate status'")))
}

/// Looks until nothing is missing; `missing` is what the last look missed.
async fn reach(
    wait: Wait,
    args: &Status,
    env: &Env,
    missing: &mut String,
) -> Result<(Client, Look), Fail> {
    let client = loop {
        match args.connect.open(env).await {
            Ok(client) => break client,
            Err(Fail::Failed(text)) => *missing = text,
            Err(other) => return Err(other),
        }
        sleep(POLL).await;
    };
    // Also where there is little time, a look must end in it: to say which node did not answer.
    let patience = PATIENCE.min(Duration::from_nanos(args.timeout) / 4);
    loop {
        let look = Look::within(&client, patience).await;
        let what = wait.missing(&look);
        if what.is_empty() {
            return Ok((client, look));
        }
        *missing = some_of(&what);
        sleep(POLL).await;
    }
}

/// The first few, and how many more there are.
fn some_of(all: &[String]) -> String {
    let told = all[..all.len().min(TOLD)].join(", ");
    match all.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
