//! What every command that talks to a cluster takes: where it is, and who is asking.
//!
//! Invariant: nothing is dialled before the certificates on disk have been checked, so that a wrong
//! path is told as such. Used by all client commands.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use quorate_certs::{Credentials, UnixTime};
use quorate_client::{Client, ClientConfig, Env};
use quorate_protocol::map::{ClusterMap, Database};
use tokio::time::{Instant, timeout_at};

use super::fail::Fail;

/// How long a name that is not in the map may be on its way here.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Where the cluster is and who is asking.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connect {
    /// Nodes to begin with, one is enough: HOST:PORT[,HOST:PORT...]
    #[arg(long, env = "QUORATE_CONNECT", value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub(crate) connect: Vec<String>,
    /// Folder of a client certificate made with 'quorate certs client'
    #[arg(long, env = "QUORATE_CERTS", value_name = "DIR")]
    pub(crate) certs: Option<PathBuf>,
    /// Print JSON for scripts
    #[arg(long)]
    pub(crate) json: bool,
}

impl Connect {
    /// Connects, with the defaults.
    pub(crate) async fn open(&self, env: &Env) -> Result<Client, Fail> {
        self.open_with(env, ClientConfig::default()).await
    }

    /// Connects.
    pub(crate) async fn open_with(&self, env: &Env, config: ClientConfig) -> Result<Client, Fail> {
        let (credentials, folder) = self.check(env)?;
        if let Some(soon) =
            credentials.expires_soon(env.unix_time(), config.certificates.warn_before)
        {
            eprintln!("warning: {soon}");
        }
        // Long commands outlive certificates: the folder is followed.
        let client = Client::builder().seeds(&self.connect).certificates(folder);
        Ok(client.config(config).env(env.clone()).connect().await?)
    }

    /// Reads the certificates; nothing is dialled.
    pub(crate) fn credentials(&self, env: &Env) -> Result<Credentials, Fail> {
        self.check(env).map(|(credentials, _)| credentials)
    }

    fn check(&self, env: &Env) -> Result<(Credentials, &Path), Fail> {
        if self.connect.is_empty() {
            return Err(Fail::usage(
                "which cluster? Give --connect HOST:PORT or set QUORATE_CONNECT",
            ));
        }
        if let Some(bad) = self.connect.iter().find(|seed| !is_host_port(seed)) {
            return Err(Fail::usage(format!("--connect {bad:?} is not HOST:PORT")));
        }
        let Some(certs) = &self.certs else {
            return Err(Fail::usage(
                "who is asking? Give --certs DIR or set QUORATE_CERTS; 'quorate certs client' \
                 makes one",
            ));
        };
        let credentials = Credentials::load(certs, unix_time(env)).map_err(Fail::failed)?;
        Ok((credentials, certs))
    }
}

/// Whether this is a host and a port that can be dialled.
pub(crate) fn is_host_port(text: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    text.rsplit_once(':').is_some_and(|(host, p)| !host.is_empty() && port(p))
}

/// The time as certificates want it.
pub(crate) fn unix_time(env: &Env) -> UnixTime {
    env.unix_time()
}

/// The map once it has this database: another client may have just made it.
pub(crate) async fn map_with(client: &Client, database: &str) -> Result<Arc<ClusterMap>, Fail> {
    let mut watch = client.watch();
    let there = watch.wait_for(|map| map.database_named(database).is_some());
    if let Ok(Ok(map)) = timeout_at(Instant::now() + CATCH_UP, there).await {
        return Ok(Arc::clone(&map));
    }
    Err(Fail::failed(format!(
        "database {database:?} not found; 'quorate db ls' lists databases, 'quorate db create' \
         makes one"
    )))
}

/// The database in a map that was made sure to have it.
pub(crate) fn database<'a>(map: &'a ClusterMap, name: &str) -> Result<&'a Database, Fail> {
    map.database_named(name).ok_or_else(|| Fail::failed(format!("database {name:?} was dropped")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["n1:7000", "127.0.0.1:1", "[::1]:7000"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in ["", "n1", "n1:", ":7000", "n1:0", "n1:70000", "n1:http"] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }
}
