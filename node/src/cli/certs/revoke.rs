//! `quorate certs revoke`: puts certificates on the list of those that count no more.

use std::path::PathBuf;

use clap::Args;
use quorate_certs::{Authority, Config, Serial, UnixTime};
use serde_json::json;

use crate::cli::{fail::Fail, output::Output};

const EXAMPLES: &str = "\
  quorate certs revoke --dir pki --name app
  quorate certs revoke --dir pki --serial 23:10:ce:53:9a:33:51:96:09:71:0c:28:ac:52:37:1c:14:ec:9f:34

The list is pki/ca.crl, and ca.crl beside every certificate in pki. Bring it to all nodes and
clients: they take it within 30 s, nodes at once on SIGHUP, and close the connections of who is on
it. To let the same name in again, renew it. --serial is for certificates that are not in the folder
any more, because they were renewed: 'quorate certs show' tells the numbers.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Revoke {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Whose certificate, as it is in the folder now; may repeat
    #[arg(long, value_name = "NAME", required_unless_present = "serial")]
    name: Vec<String>,
    /// A serial number in hex; may repeat
    #[arg(long, value_name = "HEX", value_parser = serial)]
    serial: Vec<Serial>,
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

fn serial(text: &str) -> Result<Serial, String> {
    Serial::parse(text).ok_or_else(|| "not a number in hex".to_owned())
}

pub(super) fn run(args: &Revoke, now: UnixTime) -> Result<(), Fail> {
    let ca = Authority::open(&args.dir, Config::default()).map_err(Fail::failed)?;
    let mut serials = args.serial.clone();
    for name in &args.name {
        serials.push(ca.serial(&args.dir, name).map_err(Fail::failed)?);
    }
    let listed = ca.revoke(&args.dir, &serials, now).map_err(Fail::failed)?;
    let serials: Vec<String> = serials.iter().map(Serial::to_string).collect();
    let mut out = Output::new();
    if args.json {
        out.json(&json!({"revoked": serials, "listed": listed}))?;
    } else {
        let list = args.dir.join(quorate_certs::revocation::CRL);
        out.line(&format!("revoked {}", serials.join(", ")))?;
        out.line(&format!("bring {} to all nodes and clients", list.display()))?;
    }
    out.flush()
}
