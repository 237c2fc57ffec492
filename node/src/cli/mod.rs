//! The `quorate` command line: one file per subcommand.
//!
//! Invariants: standard output carries results only, logs and errors go to standard error; the exit
//! code is 0 when all was done, 1 when anything was rejected, dropped or failed, 2 for a command
//! line that makes no sense. Called by the two binaries that are this command.

mod bench;
mod certs;
mod children;
mod connect;
mod db;
mod demo;
mod export;
mod fail;
mod fields;
mod findings;
mod grants;
mod hints;
mod hints_import;
mod legacy;
mod node;
mod node_ctl;
mod output;
mod query;
mod replicas;
mod rp;
mod schema;
mod series;
mod shard;
mod status;
mod survey;
mod table;
mod time;
mod write;

use std::{future::Future, io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use quorate_client::Env;
use tracing_subscriber::EnvFilter;

use fail::Fail;

const EXAMPLES: &str = "\
See it work, on this machine, in less than a minute:
  quorate demo

Three nodes by hand:
  quorate certs ca --dir pki
  quorate certs node --dir pki --name n1          (and n2, n3)
  quorate certs client --dir pki --name me --role admin
  quorate node --data d1 --listen 127.0.0.1:7001 --certs pki/n1 --bootstrap
  quorate node --data d2 --listen 127.0.0.1:7002 --certs pki/n2 --join 127.0.0.1:7001
  quorate node --data d3 --listen 127.0.0.1:7003 --certs pki/n3 --join 127.0.0.1:7001
  export QUORATE_CONNECT=127.0.0.1:7001 QUORATE_CERTS=pki/me
  quorate status --wait healthy
  quorate db create metrics
  echo 'room,floor=2 temperature=21.5' | quorate write metrics
  quorate query metrics room

Exit codes: 0 all done; 1 anything rejected, dropped or failed; 2 wrong usage.";

/// Quorate: a replicated time-series write network.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = EXAMPLES)]
struct Cli {
    /// What to log to standard error, for example 'info' or 'quorate_node=debug' [env: RUST_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    #[command(subcommand)]
    Certs(certs::Certs),
    Node(node::NodeArgs),
    Status(status::Status),
    #[command(subcommand)]
    Db(db::Db),
    #[command(subcommand)]
    Rp(rp::Rp),
    Grant(grants::Grant),
    Revoke(grants::Revoke),
    Grants(grants::Grants),
    Schema(schema::Schema),
    Write(write::Write),
    Query(query::QueryArgs),
    Export(export::Export),
    #[command(subcommand)]
    Hints(hints::Hints),
    #[command(subcommand)]
    NodeCtl(node_ctl::NodeCtl),
    #[command(subcommand)]
    Shard(shard::Shard),
    #[command(subcommand)]
    Bench(bench::Bench),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no error; a closed one is none either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let default =
        if matches!(cli.command, Command::Node(_)) { "info,openraft=off" } else { "error" };
    let ended = start_logging(cli.log.as_deref(), default).and_then(|()| run(cli.command));
    let (code, text) = match ended {
        Ok(()) | Err(Fail::Closed) => return ExitCode::SUCCESS,
        Err(Fail::Told) => return ExitCode::FAILURE,
        Err(Fail::Failed(text)) => (1, text),
        Err(Fail::Usage(text)) => (2, text),
    };
    tell(&format!("quorate: {text}"));
    ExitCode::from(code)
}

fn run(command: Command) -> Result<(), Fail> {
    let env = Env::system();
    match command {
        Command::Bench(command) => bench::run(&command, &env),
        Command::Certs(command) => certs::run(&command, &env),
        Command::Demo(command) => block_on(demo::run(command, env)),
        Command::Node(command) => block_on(node::run(command)),
        Command::Status(command) => block_on(status::run(command, env)),
        Command::Db(command) => block_on(db::run(command, env)),
        Command::Rp(command) => block_on(rp::run(command, env)),
        Command::Grant(command) => block_on(grants::grant(command, env)),
        Command::Revoke(command) => block_on(grants::revoke(command, env)),
        Command::Grants(command) => block_on(grants::list(command, env)),
        Command::Schema(command) => block_on(schema::run(command, env)),
        Command::Write(command) => block_on(write::run(command, env)),
        Command::Query(command) => block_on(query::run(command, env)),
        Command::Export(command) => block_on(export::run(command, env)),
        Command::Hints(command) => block_on(hints::run(command, env)),
        Command::NodeCtl(command) => block_on(node_ctl::run(command, env)),
        Command::Shard(command) => block_on(shard::run(command, env)),
    }
}

fn block_on(command: impl Future<Output = Result<(), Fail>>) -> Result<(), Fail> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Fail::failed(format!("cannot start threads: {error}")))?;
    let ended = runtime.block_on(command);
    // A thread may still be blocked in a read of standard input; nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// Logs to standard error, what `--log` says, else `RUST_LOG`, else `default`.
fn start_logging(filter: Option<&str>, default: &str) -> Result<(), Fail> {
    let filter = match filter {
        Some(text) => EnvFilter::try_new(text)
            .map_err(|error| Fail::usage(format!("--log {text:?}: {error}")))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default)),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails only if this process logs already, which is as good.
    let _ = logs.try_init();
    Ok(())
}

/// One line to standard error. If that is closed there is nobody to tell.
fn tell(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
