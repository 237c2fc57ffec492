//! `quorate node`: runs one node until it is told to stop.
//!
//! Invariants: standard output has exactly one line, when the node serves; the first SIGTERM or
//! SIGINT stops it gracefully with exit code 0, also while it still waits to join.

mod notify;
mod print;

use std::{
    future::Future,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
};

use clap::Args;
use quorate_certs::Folder;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{
    connect::{is_host_port, unix_time},
    fail::Fail,
    output::Output,
};
use crate::{Node, NodeConfig, NodeEnv, StartMode, http::Http};

const EXAMPLES: &str = "\
The first node makes the cluster, the others join it:
  quorate node --data d1 --listen 127.0.0.1:7001 --certs pki/n1 --bootstrap
  quorate node --data d2 --listen 127.0.0.1:7002 --certs pki/n2 --join 127.0.0.1:7001

The same command line starts a node again: --bootstrap and --join are ignored once its data folder
belongs to a cluster. When it serves, it prints one line to standard output:
  {\"ready\":true,\"id\":1,\"name\":\"n1\",\"addr\":\"127.0.0.1:7001\"}

A configuration file (TOML) can set every limit; flags win over it. All of them, with what they mean:
  quorate node --print-config

For example:
  data = \"/var/lib/quorate\"
  listen = \"10.0.0.1:7100\"
  http = \"127.0.0.1:7101\"
  [handoff]
  max_bytes = 10737418240
  [drain]
  rate_limit = 67108864

/health answers 200 when the node serves, knows a leader and no disk has failed it, else 503; why is
in its JSON. There is no TLS: for other machines, put a proxy with TLS in front.

SIGHUP makes a node read the file again: [drain] counts at once, the rest after a restart.
Certificates, the CA and ca.crl are taken when they change, at the latest after certificates.poll
(30s), and on SIGHUP: no restart, no connection is lost but those of who was revoked.";

/// Run a node
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NodeArgs {
    /// Folder for this node's data; made if it is missing
    #[arg(long, value_name = "DIR", required_unless_present_any = ["config", "print_config"])]
    data: Option<PathBuf>,
    /// UDP address to serve on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", required_unless_present_any = ["config", "print_config"])]
    listen: Option<SocketAddr>,
    /// Folder of this node's certificate, made with 'quorate certs node'
    #[arg(
        long,
        env = "QUORATE_CERTS",
        value_name = "DIR",
        required_unless_present = "print_config"
    )]
    certs: Option<PathBuf>,
    /// Make a new cluster with this node as its first
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Join the cluster of these nodes, one is enough
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    join: Vec<String>,
    /// Where others dial this node [default: --listen, which must not be a wildcard then]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Serve /metrics (Prometheus) and /health over HTTP here; a loopback address, port 0 takes a
    /// free one
    #[arg(long, value_name = "IP:PORT")]
    http: Option<SocketAddr>,
    /// Failure domain; the replicas of a shard are spread over zones
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting with its meaning and value, as a configuration file, and end
    #[arg(long)]
    print_config: bool,
    /// Stop when standard input is closed, so that a node never outlives the process that needs it
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

impl NodeArgs {
    /// The configuration file's settings under the flags'.
    fn node_config(&self) -> Result<NodeConfig, Fail> {
        let mut config = match &self.config {
            Some(file) => read_config(file)?,
            None => NodeConfig::default(),
        };
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(advertise) = &self.advertise {
            config.advertise = Some(advertise.clone());
        }
        if let Some(zone) = &self.zone {
            config.zone = Some(zone.clone());
        }
        for address in config.advertise.iter().chain(&self.join) {
            if !is_host_port(address) {
                return Err(Fail::usage(format!("{address:?} is not HOST:PORT")));
            }
        }
        if config.listen.ip().is_unspecified() && config.advertise.is_none() {
            return Err(Fail::usage(format!(
                "--listen {} is a wildcard address; say with --advertise HOST:PORT where others \
                 dial this node",
                config.listen
            )));
        }
        config.http = self.http.or(config.http);
        if let Some(http) = config.http.filter(|http| !http.ip().is_loopback()) {
            return Err(Fail::usage(format!(
                "--http {http} would show this node to whoever reaches that address, without TLS \
                 and without asking who they are; use 127.0.0.1:{}, and for other machines a proxy \
                 with TLS in front of it",
                http.port()
            )));
        }
        Ok(config)
    }

    fn mode(&self) -> StartMode {
        if self.bootstrap {
            StartMode::Bootstrap
        } else if self.join.is_empty() {
            StartMode::Restart
        } else {
            StartMode::Join(self.join.clone())
        }
    }
}

fn read_config(file: &Path) -> Result<NodeConfig, Fail> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Fail::failed(format!("cannot read {}: {error}", file.display())))?;
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| 1 + text.get(..span.start).unwrap_or_default().matches('\n').count());
        let message = error.message().replace('\n', " ");
        Fail::usage(format!("{} line {line}: {message}", file.display()))
    })
}

pub(crate) async fn run(args: NodeArgs) -> Result<(), Fail> {
    let config = args.node_config()?;
    if args.print_config {
        let mut out = Output::new();
        out.line(print::print(&config)?.trim_end())?;
        return out.flush();
    }
    let world = NodeEnv::system();
    // The command line has it, or there is nothing to run.
    let certs = args.certs.clone().ok_or_else(|| Fail::usage("--certs DIR is missing"))?;
    let time = Some(world.env.certificate_time());
    let folder = Folder::open(&certs, unix_time(&world.env), time).map_err(Fail::failed)?;
    let credentials = folder.credentials().clone();
    let stop = stop_signal(args.exit_with_stdin)?;
    tokio::pin!(stop);
    // Before the node starts, so that it counts from the beginning.
    let http = match config.http {
        Some(address) => {
            Some(Http::start(address, config.http_limits.clone()).await.map_err(Fail::failed)?)
        }
        None => None,
    };
    let start = Node::start(config, credentials, world, args.mode());
    let node = tokio::select! {
        biased;
        () = &mut stop => return Ok(()),
        started = start => started.map_err(Fail::failed)?,
    };
    let mut ready = json!({
        "ready": true,
        "id": node.id(),
        "name": node.name(),
        "addr": node.addr().to_string(),
    });
    if let (Some(http), Some(object)) = (&http, ready.as_object_mut()) {
        object.insert("http".to_owned(), json!(http.addr().to_string()));
        http.node_serves(node.view());
    }
    let mut out = Output::new();
    match out.json(&ready).and_then(|()| out.flush()) {
        // Whoever started the node need not read what it says.
        Ok(()) | Err(Fail::Closed) => {}
        Err(other) => return Err(other),
    }
    node.follow_certificates(folder);
    notify::tell(notify::State::Ready);
    tokio::select! {
        () = stop => {}
        () = node.left() => {}
        failed = reload(&node, &args) => return Err(failed),
    }
    notify::tell(notify::State::Stopping);
    tracing::info!("stopping");
    node.shutdown().await;
    Ok(())
}

/// Reads the configuration file and the certificates again whenever SIGHUP comes; ends only if signals cannot be handled.
async fn reload(node: &Node, args: &NodeArgs) -> Fail {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return Fail::failed(format!("cannot handle signals: {error}")),
    };
    while hangups.recv().await.is_some() {
        node.look_at_certificates();
        match args.node_config() {
            Ok(config) => {
                let others = node.reload(&config);
                if others.is_empty() {
                    tracing::info!("the configuration was read again");
                } else {
                    let others = others.join(", ");
                    tracing::warn!(others, "read again; these settings need a restart");
                }
            }
            // The node goes on with what it has.
            Err(Fail::Usage(why) | Fail::Failed(why)) => {
                tracing::error!(why, "the configuration was not read again");
            }
            Err(Fail::Told | Fail::Closed) => {}
        }
    }
    std::future::pending().await
}

/// Waits for SIGTERM or SIGINT, or for the end of standard input.
pub(crate) fn stop_signal(with_stdin: bool) -> Result<impl Future<Output = ()>, Fail> {
    let handler = |kind| {
        signal(kind).map_err(|error| Fail::failed(format!("cannot handle signals: {error}")))
    };
    let (mut terminate, mut interrupt) =
        (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let (closed, stdin) = oneshot::channel();
    // Held by the future where nobody watches, so that it never resolves.
    let mut unwatched = Some(closed);
    if with_stdin && let Some(closed) = unwatched.take() {
        let wait = move || {
            let mut buffer = [0; 64];
            let mut input = std::io::stdin();
            while input.read(&mut buffer).is_ok_and(|length| length > 0) {}
            let _ = closed.send(());
        };
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(wait)
            .map_err(|error| Fail::failed(format!("cannot start a thread: {error}")))?;
    }
    Ok(async move {
        let _unwatched = unwatched;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = stdin => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: NodeArgs,
    }

    fn config(extra: &[&str]) -> Result<NodeConfig, Fail> {
        let base = ["node", "--data", "d", "--certs", "c"];
        let line = base.iter().chain(extra);
        Line::try_parse_from(line).map_err(Fail::failed)?.args.node_config()
    }

    #[test]
    fn a_wildcard_address_must_be_advertised() {
        let wildcard = ["--listen", "0.0.0.0:7000"];
        assert!(matches!(config(&wildcard), Err(Fail::Usage(_))));
        let advertised = ["--listen", "[::]:7000", "--advertise", "n1.example.org:7000"];
        assert_eq!(config(&advertised).unwrap().advertise.as_deref(), Some("n1.example.org:7000"));
        assert!(config(&["--listen", "127.0.0.1:0"]).is_ok());
    }

    #[test]
    fn metrics_are_for_this_machine_only() {
        let open = ["--listen", "127.0.0.1:0", "--http", "0.0.0.0:80"];
        let Err(Fail::Usage(why)) = config(&open) else { panic!("refused") };
        assert!(why.contains("without TLS") && why.contains("127.0.0.1:80"), "{why}");
        assert!(config(&["--listen", "127.0.0.1:0", "--http", "[::1]:80"]).is_ok());
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_keys_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("node.toml");
        let path = file.to_str().unwrap();
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\nzone = \"a\"\nfuture_limit_s = 5\n")
            .unwrap();
        let both = config(&["--config", path, "--listen", "127.0.0.1:2"]).unwrap();
        assert_eq!(both.listen.port(), 2);
        assert_eq!(both.zone.as_deref(), Some("a"));
        assert_eq!(both.future_limit_s, 5);
        std::fs::write(&file, "http = \"127.0.0.1:1\"\n").unwrap();
        let http = |extra: &[&str]| config(&[&["--config", path], extra].concat()).map(|c| c.http);
        assert_eq!(http(&[]).unwrap().unwrap().port(), 1);
        assert_eq!(http(&["--http", "127.0.0.1:2"]).unwrap().unwrap().port(), 2);
        std::fs::write(&file, "http = \"10.0.0.1:1\"\n").unwrap();
        assert!(matches!(http(&[]), Err(Fail::Usage(_))));
        std::fs::write(&file, "zone = \"a\"\nfuture_limt_s = 5\n").unwrap();
        let Err(Fail::Usage(text)) = config(&["--config", path]) else { panic!("refused") };
        assert!(text.contains("line 2") && text.contains("future_limt_s"), "{text}");
    }
}
