//! `--http`: `/metrics` for Prometheus and `/health`, over the least HTTP/1.1 that both need.
//!
//! Invariants: loopback only, because nobody is asked who they are; a request is read into bounded
//! memory within a bounded time, and at most [`MAX_CONNECTIONS`] are served at once.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::cli::fail::Fail;

/// Connections served at the same time.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of a request's head at most.
const MAX_HEAD: usize = 8 << 10;
/// Time for a request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A bound address, and the metrics of this process.
pub(super) struct Http {
    listener: TcpListener,
    addr: SocketAddr,
    metrics: PrometheusHandle,
}

/// Binds and begins to collect metrics.
pub(super) async fn bind(address: SocketAddr) -> Result<Http, Fail> {
    let failed = |error: std::io::Error| {
        Fail::failed(format!("cannot serve HTTP on {address}: {error}; choose another --http"))
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let metrics = PrometheusBuilder::new().install_recorder();
    let metrics =
        metrics.map_err(|error| Fail::failed(format!("cannot collect metrics: {error}")))?;
    Ok(Http { listener, addr, metrics })
}

impl Http {
    /// Where it listens.
    pub(super) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop` is ready.
    pub(super) async fn serve_until(self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            if let Some((stream, slot)) = accepted {
                let metrics = self.metrics.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    // A client that is too slow or gone is no concern of the node.
                    let _ = timeout(PATIENCE, answer(stream, &metrics)).await;
                });
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Out of file descriptors, for example: do not spin.
            tracing::warn!(%error, "cannot accept an HTTP connection");
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &PrometheusHandle) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => {
            metrics.run_upkeep();
            ("200 OK", "text/plain; version=0.0.4", metrics.render())
        }
        (b"GET" | b"HEAD", b"/health") => {
            ("200 OK", "application/json", "{\"status\":\"ok\"}\n".to_owned())
        }
        (b"GET" | b"HEAD", _) => {
            ("404 Not Found", "text/plain", "there are /metrics and /health\n".to_owned())
        }
        _ => ("405 Method Not Allowed", "text/plain", "use GET\n".to_owned()),
    };
    let length = body.len();
    let mut reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    if method != b"HEAD" {
        reply.push_str(&body);
    }
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    async fn get(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_what_it_knows() {
        let http = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = http.addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(http.serve_until(async {
            let _ = stopped.await;
        }));
        metrics::counter!("quorate_test_total").increment(3);
        let text = get(addr, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("quorate_test_total 3"));
        let text = get(addr, "GET /health HTTP/1.0\r\n\r\n").await;
        assert!(text.ends_with("{\"status\":\"ok\"}\n"), "{text}");
        assert!(get(addr, "GET / HTTP/1.1\r\n\r\n").await.contains("404"));
        assert!(get(addr, "POST /metrics HTTP/1.1\r\n\r\n").await.contains("405"));
        assert!(get(addr, "\r\n\r\n").await.contains("405"));
        stop.send(()).unwrap();
        serving.await.unwrap();
    }
}
