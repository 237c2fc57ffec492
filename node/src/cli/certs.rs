//! `quorate certs ca|node|client|request|sign|show`: the cluster's certificates; in files of their own what
//! comes later: `renew`, `revoke`, `rollover`.
//!
//! Invariant: nothing is overwritten without `--force`. Needs no cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_certs::{
    Authority, Bearer, CertificateInfo, Config, Existing, Role, Roles, UnixTime,
    authority::DEFAULT_CLUSTER, request, show,
};
use quorate_client::Env;
use serde_json::json;

use super::{connect::unix_time, fail::Fail, output::Output};

mod renew;
mod revoke;
mod rollover;

const EXAMPLES: &str = "\
A cluster's certificates, from nothing:
  quorate certs ca --dir pki --cluster prod
  quorate certs node --dir pki --name n1 --san n1.example.org
  quorate certs client --dir pki --name app
  quorate certs client --dir pki --name ops --role admin
  quorate certs show pki

With a CA that stays offline, each host makes its own key, and only the request travels:
  host:  quorate certs request --dir /etc/quorate --name n1 --san n1.example.org
  CA:    quorate certs sign --dir pki --as node n1.csr
  host:  put pki/n1/{tls.crt,ca.crt} beside /etc/quorate/n1/tls.key

Later, while everything runs:
  quorate certs renew --dir pki --name n1        a new certificate and key
  quorate certs revoke --dir pki --name app      throw somebody out
  quorate certs rollover --dir pki               a new CA, in three steps: see its --help
Bring the changed folders to where they are used: nodes and clients take them without a restart.

Keep pki/ca.key safe: whoever has it can join the cluster. A node or client needs its own
folder only (pki/n1, pki/app), which is what --certs takes.";

/// Make and inspect the CA and certificates
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Certs {
    /// Make the cluster's certificate authority: DIR/ca.crt and DIR/ca.key
    Ca(Ca),
    /// Make a node's certificate: DIR/NAME/{ca.crt,tls.crt,tls.key}
    Node(Node),
    /// Make a client's certificate: DIR/NAME/{ca.crt,tls.crt,tls.key}
    Client(Client),
    /// Make a key and a request for a certificate: DIR/NAME/{tls.key,tls.csr}; needs no CA
    Request(Request),
    /// Sign a request that was made elsewhere: DIR/NAME/{tls.crt,ca.crt}
    Sign(Sign),
    /// Make new certificates and keys for those who have some
    Renew(renew::Renew),
    /// Throw somebody out: nodes and clients refuse the certificate from then on
    Revoke(revoke::Revoke),
    /// Replace the CA while the cluster runs
    Rollover(rollover::Rollover),
    /// Show what certificates say; keys are never opened
    Show(Show),
}

#[derive(Args, Debug)]
pub(crate) struct Ca {
    /// Folder for the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of the cluster that all certificates will carry
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CLUSTER)]
    cluster: String,
    /// How long the authority lasts
    #[arg(long, value_name = "DAYS", default_value_t = Config::default().ca_validity_days)]
    days: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Node {
    #[command(flatten)]
    leaf: Leaf,
    /// Also valid for this DNS name or IP address; may repeat
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Client {
    #[command(flatten)]
    leaf: Leaf,
    /// What the client may do: admin, write or read; may repeat [default: write and read]
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    /// Accepted for symmetry with nodes; nobody dials a client
    #[arg(long, value_name = "NAME", hide = true)]
    san: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Request {
    /// Folder for the key and the request
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of the node or client: letters, digits, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Shall also be valid for this DNS name or IP address; for nodes; may repeat
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Sign {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What its bearer becomes
    #[arg(long = "as", value_name = "KIND")]
    kind: Kind,
    /// What the client may do: admin, write or read; may repeat [default: write and read]
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    /// How long the certificate lasts
    #[arg(long, value_name = "DAYS", default_value_t = Config::default().leaf_validity_days)]
    days: u32,
    /// The request
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Node,
    Client,
}

#[derive(Args, Debug)]
pub(crate) struct Leaf {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of the node or client: letters, digits, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    name: String,
    /// How long the certificate lasts
    #[arg(long, value_name = "DAYS", default_value_t = Config::default().leaf_validity_days)]
    days: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Replace what is there
    #[arg(long)]
    force: bool,
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    /// A certificate, or a folder made by 'quorate certs'
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Print JSON for scripts, one object per certificate
    #[arg(long)]
    json: bool,
}

impl Common {
    fn existing(&self) -> Existing {
        if self.force { Existing::Replace } else { Existing::Refuse }
    }

    /// Says what was made.
    fn made(&self, kind: &str, name: &str, dir: &std::path::Path) -> Result<(), Fail> {
        let mut out = Output::new();
        if self.json {
            out.json(&json!({"made": kind, "name": name, "dir": dir.to_string_lossy()}))?;
        } else {
            out.line(&format!("{kind} '{name}' is in {}", dir.display()))?;
        }
        out.flush()
    }
}

impl Leaf {
    fn authority(&self) -> Result<Authority, Fail> {
        let config = Config { leaf_validity_days: self.days, ..Config::default() };
        Authority::open(&self.dir, config).map_err(Fail::failed)
    }
}

pub(crate) fn run(command: &Certs, env: &Env) -> Result<(), Fail> {
    let now = unix_time(env);
    match command {
        Certs::Ca(ca) => {
            let config = Config { ca_validity_days: ca.days, ..Config::default() };
            Authority::create(&ca.dir, &ca.cluster, config, now, ca.common.existing())
                .map_err(Fail::failed)?;
            ca.common.made("CA of cluster", &ca.cluster, &ca.dir)
        }
        Certs::Node(Node { leaf, san }) => {
            let existing = leaf.common.existing();
            let made = leaf.authority()?.issue_node(&leaf.dir, &leaf.name, san, now, existing);
            leaf.common.made("node", &leaf.name, &made.map_err(Fail::failed)?)
        }
        Certs::Client(Client { leaf, role, san }) => {
            if !san.is_empty() {
                return Err(Fail::usage("nobody dials a client: leave --san out"));
            }
            let roles = roles(role);
            let existing = leaf.common.existing();
            let made = leaf.authority()?.issue_client(&leaf.dir, &leaf.name, roles, now, existing);
            leaf.common.made("client", &leaf.name, &made.map_err(Fail::failed)?)
        }
        Certs::Request(asked) => {
            let made = request(&asked.dir, &asked.name, &asked.san, asked.common.existing());
            asked.common.made("request of", &asked.name, &made.map_err(Fail::failed)?)
        }
        Certs::Sign(sign) => {
            if sign.kind == Kind::Node && !sign.role.is_empty() {
                return Err(Fail::usage("a node has no other role: leave --role out"));
            }
            let bearer = match sign.kind {
                Kind::Node => Bearer::Node,
                Kind::Client => Bearer::Client(roles(&sign.role)),
            };
            let config = Config { leaf_validity_days: sign.days, ..Config::default() };
            let authority = Authority::open(&sign.dir, config).map_err(Fail::failed)?;
            let existing = sign.common.existing();
            let made = authority.sign_request(&sign.dir, &sign.file, bearer, now, existing);
            let made = made.map_err(Fail::failed)?;
            let name = made.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sign.common.made("certificate of", &name, &made)
        }
        Certs::Renew(renew) => renew::run(renew, now),
        Certs::Revoke(revoke) => revoke::run(revoke, now),
        Certs::Rollover(rollover) => rollover::run(rollover, now),
        Certs::Show(show) => print(show, now),
    }
}

fn roles(given: &[Role]) -> Roles {
    if given.is_empty() { Roles::default() } else { given.iter().copied().collect() }
}

fn print(args: &Show, now: UnixTime) -> Result<(), Fail> {
    let found = show(&args.path, now).map_err(Fail::failed)?;
    let mut out = Output::new();
    for (at, info) in found.iter().enumerate() {
        if args.json {
            out.json(&serde_json::to_value(info).map_err(Fail::failed)?)?;
            continue;
        }
        if at > 0 {
            out.line("")?;
        }
        for (name, value) in lines(info) {
            if !value.is_empty() {
                out.line(&format!("{name:<12} {value}"))?;
            }
        }
    }
    out.flush()?;
    if found.iter().any(|info| info.status != "valid") { Err(Fail::Told) } else { Ok(()) }
}

fn lines(info: &CertificateInfo) -> [(&'static str, String); 11] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        ("file", info.file.clone()),
        ("kind", info.kind.clone()),
        ("cluster", text(&info.cluster)),
        ("name", text(&info.name)),
        ("identity", text(&info.identity)),
        ("names", info.sans.join(", ")),
        ("issuer", info.issuer.clone()),
        ("serial", info.serial.clone()),
        ("valid", format!("{} to {}", info.not_before, info.not_after)),
        ("status", info.status.clone()),
        ("sha256", info.fingerprint_sha256.clone()),
    ]
}
