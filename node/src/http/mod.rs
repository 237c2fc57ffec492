//! `/metrics` and `/health` over HTTP/1.1, for monitoring on the same machine.
//!
//! Invariants: loopback only, because there is no TLS here and nobody is asked who they are; one
//! request per connection, read into bounded memory within a bounded time, and no more than
//! [`HttpConfig::max_connections`] at once: others wait in the kernel's queue. What is no HTTP is closed, and
//! costs the node nothing else. Used by `quorate node`.

mod answer;
mod config;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

pub use config::HttpConfig;

use crate::{health::View, metrics_help};

/// Bytes of a request's head at most; the least that hyper takes.
const MAX_HEAD: usize = 8 << 10;
/// Lines of a request's head at most.
const MAX_HEADERS: usize = 64;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why HTTP is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("cannot serve HTTP on {addr}: {source}; choose another --http")]
    Bind { addr: SocketAddr, source: std::io::Error },
    #[error("cannot collect metrics: {0}")]
    Recorder(String),
}

/// What answers are made of.
struct Source {
    metrics: PrometheusHandle,
    config: HttpConfig,
    /// Set once the node serves.
    node: OnceLock<View>,
}

/// A server; it stops when this is dropped.
pub(crate) struct Http {
    addr: SocketAddr,
    source: Arc<Source>,
    task: JoinHandle<()>,
}

impl Http {
    /// Begins to collect this process's metrics and to serve; health is bad until
    /// [`Self::node_serves`].
    pub(crate) async fn start(addr: SocketAddr, config: HttpConfig) -> Result<Self, HttpError> {
        let failed = |source| HttpError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let metrics = PrometheusBuilder::new().install_recorder();
        let metrics = metrics.map_err(|error| HttpError::Recorder(error.to_string()))?;
        metrics_help::describe();
        Ok(Self::serve(listener, addr, metrics, config))
    }

    fn serve(
        listener: TcpListener,
        addr: SocketAddr,
        metrics: PrometheusHandle,
        config: HttpConfig,
    ) -> Self {
        let source = Arc::new(Source { metrics, config, node: OnceLock::new() });
        let task = tokio::spawn(accept_all(listener, Arc::clone(&source)));
        Self { addr, source, task }
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on health is what the node says.
    pub(crate) fn node_serves(&self, node: View) {
        // A process starts one node; a second would change nothing.
        let _ = self.source.node.set(node);
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // Its connections are the task's and end with it.
        self.task.abort();
    }
}

async fn accept_all(listener: TcpListener, source: Arc<Source>) {
    let slots = Arc::new(Semaphore::new(source.config.max_connections.max(1) as usize));
    let mut connections = JoinSet::new();
    let mut upkeep = interval(source.config.upkeep());
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = upkeep.tick() => source.metrics.run_upkeep(),
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &slots) => if let Some((stream, slot)) = accepted {
                connections.spawn(serve_one(stream, slot, Arc::clone(&source)));
            }
        }
    }
}

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Out of file descriptors, for example: do not spin.
            tracing::warn!(%error, "cannot accept an HTTP connection");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn serve_one(stream: TcpStream, _slot: OwnedSemaphorePermit, source: Arc<Source>) {
    let config = source.config.clone();
    let service = service_fn(|request| {
        let answer = answer::answer(&source, request.method(), request.uri().path());
        async { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout())
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // A client that is too slow, gone, or speaks something else is no concern of the node.
    let _ = timeout(config.timeout(), served).await;
}
