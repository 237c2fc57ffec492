//! `quorate certs renew`: new certificates and keys in place of those that are there.

use std::path::PathBuf;

use clap::Args;
use quorate_certs::{Authority, Config, UnixTime};
use serde_json::json;

use crate::cli::{fail::Fail, output::Output};

const EXAMPLES: &str = "\
  quorate certs renew --dir pki --name n1
  quorate certs renew --dir pki --all --days 90

Name, roles and --san stay. The key is a new one, unless it never was here ('certs sign'): then it
stays where it is. Bring the folder to where it is used: a running node or client takes it within
30 s, a node at once on SIGHUP.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Renew {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Whose certificate; may repeat
    #[arg(long, value_name = "NAME", required_unless_present = "all")]
    name: Vec<String>,
    /// All in the folder
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// How long the certificates last
    #[arg(long, value_name = "DAYS", default_value_t = Config::default().leaf_validity_days)]
    days: u32,
    /// Print JSON for scripts, one object per certificate
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Renew, now: UnixTime) -> Result<(), Fail> {
    let config = Config { leaf_validity_days: args.days, ..Config::default() };
    let ca = Authority::open(&args.dir, config).map_err(Fail::failed)?;
    let names = if args.all {
        Authority::names(&args.dir).map_err(Fail::failed)?
    } else {
        args.name.clone()
    };
    let mut out = Output::new();
    for name in names {
        let dir = ca.renew(&args.dir, &name, now).map_err(Fail::failed)?;
        if args.json {
            out.json(&json!({"renewed": name, "dir": dir.to_string_lossy()}))?;
        } else {
            out.line(&format!("renewed '{name}' in {}", dir.display()))?;
        }
    }
    out.flush()
}
