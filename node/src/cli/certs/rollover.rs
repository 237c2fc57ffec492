//! `quorate certs rollover`: another CA, while the cluster runs.

use std::path::PathBuf;

use clap::Args;
use quorate_certs::{Authority, Config, UnixTime};
use serde_json::json;

use crate::cli::{fail::Fail, output::Output};

const EXAMPLES: &str = "\
Three steps; after each, bring the changed folders to all nodes and clients and wait until all have
taken them (within 30 s, nodes at once on SIGHUP; their log says so):
  quorate certs rollover --dir pki            all trust the old CA and the new one
  quorate certs renew --dir pki --all         all have certificates of the new one
  quorate certs rollover --dir pki --finish   nobody trusts the old one";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Rollover {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Stop trusting the old CA; refused while a certificate in the folder is still of it
    #[arg(long)]
    finish: bool,
    /// How long the new authority lasts
    #[arg(long, value_name = "DAYS", default_value_t = Config::default().ca_validity_days)]
    days: u32,
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Rollover, now: UnixTime) -> Result<(), Fail> {
    let config = Config { ca_validity_days: args.days, ..Config::default() };
    let ca = Authority::open(&args.dir, config.clone()).map_err(Fail::failed)?;
    let ca = if args.finish {
        ca.finish_rollover(&args.dir, config)
    } else {
        ca.roll_over(&args.dir, now)
    };
    let cas = ca.map_err(Fail::failed)?.roots().len();
    let mut out = Output::new();
    if args.json {
        out.json(&json!({"cas": cas, "finished": args.finish}))?;
    } else if args.finish {
        out.line("the old CA is gone; bring the ca.crt of every folder to where it is used")?;
    } else {
        out.line("there is a new CA; bring the ca.crt of every folder to where it is used, then")?;
        out.line(&format!("  quorate certs renew --dir {} --all", args.dir.display()))?;
    }
    out.flush()
}
