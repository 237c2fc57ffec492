//! `quorate demo`: a three-node cluster that loses a node, and nothing else, in under a minute.
//!
//! Invariants: real processes, real certificates, real metrics; whatever happens, the processes are
//! ended, and a folder of our own making is removed unless something went wrong.

mod fleet;
mod host;
mod ledger;
mod report;
mod screen;
mod story;
mod verify;
mod writers;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use quorate_certs::Role;
use quorate_client::Env;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    children::{Cluster, Setup},
    connect::unix_time,
    fail::Fail,
    output::Output,
};
use report::Facts;
use screen::Screen;
use story::{DEFAULT_SECONDS, Plan, Story};

const ABOUT: &str = "\
Makes certificates, starts three nodes, and writes to them: this host's live metrics, and those of a
generated fleet. Kills the node that leads, writes on, starts it again, and then compares every
value that was acknowledged with what each node has on its own disk.";

const EXAMPLES: &str = "\
  quorate demo
  quorate demo --dir /tmp/quorate-demo      keeps the cluster's folder, to go on by hand
  quorate demo --json | jq .points_missing";

/// Three nodes, one client that may do everything and two that may write.
const SETUP: Setup<'_> = Setup {
    name: "demo",
    nodes: 3,
    clients: &[("admin", &[Role::Admin]), ("live", &[Role::Write]), ("fleet", &[Role::Write])],
};

/// Show the whole story on this machine, in less than a minute
#[derive(Args, Debug)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Demo {
    /// Folder for certificates, data and logs, which is kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long the writers write
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SECONDS,
          value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// Print one JSON object for scripts instead of the report
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Demo, env: Env) -> Result<(), Fail> {
    let began = Instant::now();
    let dir = match &args.dir {
        Some(dir) => own_folder(dir)?,
        None => temporary_folder(&env)?,
    };
    let own = args.dir.is_none();
    let kept = |fail: Fail| match fail {
        Fail::Failed(text) => {
            Fail::Failed(format!("{text}; data and the nodes' logs are in {}", dir.display()))
        }
        other => other,
    };
    let (facts, commands) = match perform(&args, &dir, &env).await {
        Ok(Some(ended)) => ended,
        Ok(None) => {
            if own {
                remove(&dir);
            }
            return Err(Fail::failed("interrupted"));
        }
        Err(fail) => return Err(kept(fail)),
    };
    let seconds = began.elapsed().as_secs_f64();
    let mut out = Output::new();
    if args.json {
        out.json(&facts.describe(seconds))?;
    } else {
        out.bytes(facts.text(seconds).as_bytes())?;
    }
    let complaints = facts.complaints();
    if !complaints.is_empty() {
        out.flush()?;
        return Err(kept(Fail::Failed(format!("the demo failed: {}", complaints.join("; ")))));
    }
    if own {
        remove(&dir);
    }
    if !args.json {
        out.bytes(next_steps(args.dir.as_deref(), &commands).as_bytes())?;
    }
    out.flush()
}

/// Starts the nodes, tells the story, stops the nodes; none if it was interrupted.
async fn perform(args: &Demo, dir: &Path, env: &Env) -> Result<Option<(Facts, Vec<String>)>, Fail> {
    let mut screen = Screen::new();
    let mut cluster = tokio::select! {
        biased;
        started = Cluster::start(dir, &SETUP, unix_time(env)) => started?,
        ended = interrupt() => return ended.map(|()| None),
    };
    let addresses: Vec<String> =
        cluster.members.iter().map(|node| format!("{} {}", node.name, node.addr)).collect();
    screen.say(&format!("three nodes run: {}", addresses.join(", ")));
    let mut story = Story {
        cluster: &mut cluster,
        screen: &mut screen,
        env: env.clone(),
        plan: Plan { seconds: args.seconds },
    };
    let facts = tokio::select! {
        biased;
        facts = story.tell() => facts.map(Some),
        ended = interrupt() => ended.map(|()| None),
    };
    screen.clear();
    let commands = cluster.members.iter().map(|member| cluster.command(member)).collect();
    let stopped = cluster.stop().await;
    let Some(facts) = facts? else {
        return Ok(None);
    };
    stopped?;
    Ok(Some((facts, commands)))
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupt() -> Result<(), Fail> {
    let failed = |error: io::Error| Fail::failed(format!("cannot handle signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}

/// The folder that was asked for; new or empty, so that nothing is mixed up.
fn own_folder(dir: &Path) -> Result<PathBuf, Fail> {
    let failed = |error: io::Error| {
        Fail::failed(format!("cannot use {}: {error}; choose another --dir", dir.display()))
    };
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(Fail::usage(format!(
            "{} is not empty; choose a new folder, so that nothing is mixed up",
            dir.display()
        )));
    }
    // Nodes are started with it, and their command lines are shown.
    dir.canonicalize().map_err(failed)
}

fn temporary_folder(env: &Env) -> Result<PathBuf, Fail> {
    let name = format!("quorate-demo-{:016x}", env.entropy.next_u64());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir(&dir).map_err(|error| {
        Fail::failed(format!("cannot make {}: {error}; choose a --dir", dir.display()))
    })?;
    Ok(dir)
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        super::tell(&format!("quorate: cannot remove {}: {error}", dir.display()));
    }
}

/// What to try next.
fn next_steps(dir: Option<&Path>, commands: &[String]) -> String {
    let Some(dir) = dir else {
        return "\nTry next:\n  \
                quorate demo --dir DIR       keeps the cluster, and says how to go on with it\n  \
                quorate --help               three nodes of your own, step by step\n  \
                quorate write --help         line protocol in\n"
            .to_owned();
    };
    let addr = |command: &String| {
        let mut words = command.split(' ').skip_while(|word| *word != "--listen").skip(1);
        words.next().unwrap_or_default().to_owned()
    };
    let seeds: Vec<String> = commands.iter().map(addr).collect();
    let starts: String = commands.iter().map(|command| format!("  {command} &\n")).collect();
    format!(
        "\nTry next, with the same cluster:\n{starts}  \
         export QUORATE_CONNECT={} QUORATE_CERTS={}/pki/admin\n  \
         quorate status --wait healthy\n  \
         quorate query demo host_load --every 10s --agg mean\n  \
         quorate query demo cpu --tag hostname=host_7 --field usage_user --limit 10\n  \
         for n in n1 n2 n3; do quorate export demo --node $n | sha256sum; done\n",
        seeds.join(","),
        dir.display(),
    )
}
