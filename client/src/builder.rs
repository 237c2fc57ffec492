//! How a [`Client`] comes about: where the cluster is, who is asking, what it may use.
//!
//! Invariant: everything that can be known to be wrong without a network is told before anything is
//! dialled. Called by applications and commands through [`Client::builder`], the only way to a client.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use quorate_certs::{Credentials, Folder, LoadError};
use quorate_protocol::hlc::HybridClock;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Client, StopOnDrop,
    asking::Asking,
    backlog::Backlog,
    certificates,
    config::{ClientConfig, TransportConfig, WriteOptions},
    connection::Dialer,
    core::Core,
    env::Env,
    error::Error,
    pool::Pool,
    topology::{self, Topology},
};

/// What a client cannot be made of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// No seed was given.
    #[error("no node to begin with; give at least one seed, HOST:PORT")]
    NoSeeds,
    /// A seed that cannot be dialled.
    #[error("seed {0:?} is not HOST:PORT, such as 'n1.example:7101' or '[::1]:7101'")]
    BadSeed(String),
    /// Neither a directory of certificates nor credentials were given.
    #[error("no certificate; give the directory that 'quorate certs client' makes")]
    NoCertificates,
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] LoadError),
    /// A budget without room for anything.
    #[error("budget_bytes is 0; nothing could be written, 64 MiB is the default")]
    NoBudget,
}

/// Where the credentials come from.
#[derive(Clone, Debug)]
enum Identity {
    Directory(PathBuf),
    Loaded(Box<Credentials>),
}

/// Collects what a client is made of; [`Self::connect`] makes it.
///
/// ```no_run
/// use quorate_client::{Client, Level, WriteOptions};
///
/// # async fn example() -> Result<(), quorate_client::Error> {
/// let client = Client::builder()
///     .seeds(["n1.example:7101", "n2.example:7101"])
///     .certificates("/etc/quorate/certs")
///     .budget_bytes(32 << 20)
///     .write_options(WriteOptions::at(Level::One))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens before connect"]
pub struct ClientBuilder {
    seeds: Vec<String>,
    identity: Option<Identity>,
    config: ClientConfig,
    env: Option<Env>,
}

impl ClientBuilder {
    pub(crate) fn new() -> Self {
        Self { seeds: Vec::new(), identity: None, config: ClientConfig::default(), env: None }
    }

    /// One more node to begin with, `HOST:PORT`. One that answers is enough; it names the others.
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seeds.push(seed.into());
        self
    }

    /// More nodes to begin with, as [`Self::seed`].
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// The directory of a client certificate (`ca.crt`, `tls.crt`, `tls.key`, and `ca.crl` where somebody was
    /// revoked). It is read by [`Self::connect`] and followed from then on: what is renewed in it is used
    /// without a restart. See [`CertificatesConfig`](crate::config::CertificatesConfig).
    pub fn certificates(mut self, directory: impl Into<PathBuf>) -> Self {
        self.identity = Some(Identity::Directory(directory.into()));
        self
    }

    /// Credentials that were loaded already, in place of [`Self::certificates`]. They stay until
    /// [`Client::set_credentials`].
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.identity = Some(Identity::Loaded(Box::new(credentials)));
        self
    }

    /// All settings at once; those below change single ones of them.
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// As [`ClientConfig::budget_bytes`].
    pub fn budget_bytes(mut self, bytes: usize) -> Self {
        self.config.budget_bytes = bytes;
        self
    }

    /// As [`ClientConfig::query_bytes`].
    pub fn query_bytes(mut self, bytes: usize) -> Self {
        self.config.query_bytes = bytes;
        self
    }

    /// As [`ClientConfig::connect_timeout`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// As [`ClientConfig::meta_timeout`].
    pub fn meta_timeout(mut self, timeout: Duration) -> Self {
        self.config.meta_timeout = timeout;
        self
    }

    /// As [`ClientConfig::transport`].
    pub fn transport(mut self, transport: TransportConfig) -> Self {
        self.config.transport = transport;
        self
    }

    /// What [`Client::options`] gives. Default: [`WriteOptions::default`].
    pub fn write_options(mut self, options: WriteOptions) -> Self {
        self.config.write = options;
        self
    }

    /// The world: clock, randomness, sockets. Default: the system's.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Connects to the cluster through any of its nodes. Reads the certificates first, if they are given
    /// as a directory: three small files.
    ///
    /// # Errors
    /// [`Error::Setup`] for what is wrong here, before anything is dialled. [`Error::Unreachable`] if no
    /// seed has given a map within [`ClientConfig::connect_timeout`], with the reason of the last seed
    /// that failed.
    pub async fn connect(self) -> Result<Client, Error> {
        let Self { seeds, identity, config, env } = self;
        let env = env.unwrap_or_else(Env::system);
        if seeds.is_empty() {
            return Err(SetupError::NoSeeds.into());
        }
        if let Some(bad) = seeds.iter().find(|seed| !is_host_port(seed)) {
            return Err(SetupError::BadSeed(bad.clone()).into());
        }
        if config.budget_bytes == 0 {
            return Err(SetupError::NoBudget.into());
        }
        let (credentials, folder) = match identity {
            None => return Err(SetupError::NoCertificates.into()),
            Some(Identity::Loaded(credentials)) => (*credentials, None),
            Some(Identity::Directory(directory)) => {
                let time = Some(env.certificate_time());
                let folder = Folder::open(&directory, env.unix_time(), time)
                    .map_err(SetupError::Certificates)?;
                (folder.credentials().clone(), Some(folder))
            }
        };
        let client = open(&seeds, credentials, config, env).await?;
        if let Some(folder) = folder {
            certificates::start(&client.core, folder);
        }
        Ok(client)
    }
}

/// Whether this is a host and a port that can be dialled.
fn is_host_port(text: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    text.rsplit_once(':').is_some_and(|(host, p)| !host.is_empty() && port(p))
}

/// A client with a map.
async fn open(
    seeds: &[String],
    credentials: Credentials,
    config: ClientConfig,
    env: Env,
) -> Result<Client, Error> {
    let deadline = Instant::now() + config.connect_timeout;
    let unreachable = |reason: String| Error::Unreachable { seeds: seeds.join(","), reason };
    let endpoint = env.client_endpoint(&config.transport);
    let endpoint = endpoint.map_err(|error| unreachable(error.to_string()))?;
    let dialer = Dialer::new(env.clone(), endpoint, credentials, config.transport.clone());
    let pool = Pool::new(Arc::new(dialer.map_err(|error| unreachable(error.to_string()))?));
    pool.seed(seeds.iter().cloned());
    let skew = u64::try_from(config.max_clock_skew.as_nanos()).unwrap_or(u64::MAX);
    let core = Arc::new(Core {
        budget: Arc::new(Semaphore::new(config.budget_bytes)),
        backlog: Arc::new(Backlog::new(&config)),
        env,
        pool,
        topology: Topology::new(),
        asking: Asking::default(),
        clock: Mutex::new(HybridClock::new(skew)),
        certificates: Notify::new(),
        tasks: TaskTracker::new(),
        cancel: CancellationToken::new(),
        config,
    });
    core.tasks.spawn(topology::follow(Arc::clone(&core)));
    let _last = Arc::new(StopOnDrop(core.cancel.clone()));
    let client = Client { core, _last };
    let mut map = client.watch();
    let first = map.wait_for(|map| map.index.0 > 0);
    let mapped = tokio::select! {
        biased;
        first = timeout_at(deadline, first) => matches!(first, Ok(Ok(_))),
        () = client.core.refused_by_all() => false,
    };
    if !mapped {
        let reason = client.core.last_failure().unwrap_or_else(|| {
            "no answer; is a node running there, and may its UDP port be reached from here?"
                .to_owned()
        });
        client.close().await;
        return Err(unreachable(reason));
    }
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(builder: ClientBuilder) -> String {
        match builder.connect().await {
            Err(Error::Setup(why)) => why.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_told_before_anything_is_dialled() {
        let some = || Client::builder().seed("n1:7101");
        assert!(refusal(Client::builder()).await.contains("HOST:PORT"));
        for bad in ["", "n1", "n1:", ":7101", "n1:0", "n1:70000", "n1:http"] {
            assert!(refusal(some().seed(bad)).await.contains("is not HOST:PORT"), "{bad}");
        }
        assert!(refusal(some()).await.contains("quorate certs client"));
        assert!(refusal(some().budget_bytes(0)).await.contains("budget_bytes"));
        let nowhere = some().certificates("/nowhere/at/all");
        assert!(refusal(nowhere).await.contains("/nowhere/at/all"));
    }
}
