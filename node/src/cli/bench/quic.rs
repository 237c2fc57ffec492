//! How fast messages go to another process and are answered, over bare quinn.
//!
//! Invariants: certificates and settings are those that clients and nodes use, through the same
//! functions, but nothing of this project's protocol is on the way; the first quarter of the time is
//! not counted, so that the path's MTU has been found and windows are open. The other side is
//! [`super::peer`].

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_certs::{
    Authority, Config, Credentials, Existing, IssueError, Role, SERVER_NAME, UnixTime,
};
use quorate_client::{Env, config::TransportConfig, connection::client_config};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

use super::{peer::ANSWER, samples::Samples};
use crate::cli::{connect::unix_time, fail::Fail};

/// Bytes of a message, and their names.
pub(super) const SIZES: [(&str, usize); 4] =
    [("200b", 200), ("4k", 4 << 10), ("64k", 64 << 10), ("256k", 256 << 10)];
/// Messages that are sent before the first of them is answered.
pub(super) const IN_FLIGHT: [usize; 2] = [1, 32];
/// How long the other process may take to start, and a measurement to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to another process.
pub(super) struct Link {
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
    child: Child,
}

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Fail {
    move |error| Fail::failed(format!("cannot {what}: {error}"))
}

impl Link {
    /// Makes certificates in `dir`, starts the other process and connects to it.
    pub(super) async fn open(dir: &Path, env: &Env) -> Result<Self, Fail> {
        let now = unix_time(env);
        let (server, client) = make_certificates(dir, now).map_err(Fail::failed)?;
        let credentials = Credentials::load(&client, now).map_err(Fail::failed)?;
        let config = TransportConfig::default();
        let program = std::env::current_exe().map_err(|e| failed("find this program")(&e))?;
        let mut child = Command::new(program)
            .args(["bench", "peer", "--certs"])
            .arg(server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed("start the other process")(&e))?;
        let ready = timeout(PATIENCE, ready_line(&mut child)).await.ok().flatten();
        let addr = ready.ok_or_else(|| Fail::failed("the other process did not listen"))?;
        let addr = addr.parse().map_err(Fail::failed)?;
        let endpoint = env.client_endpoint(&config).map_err(|e| failed("open a socket")(&e))?;
        let quic = client_config(&credentials, &config).map_err(Fail::failed)?;
        let connecting = endpoint.connect_with(quic, addr, SERVER_NAME);
        let connecting = connecting.map_err(|e| failed("connect to the other process")(&e))?;
        let connection =
            connecting.await.map_err(|e| failed("connect to the other process")(&e))?;
        Ok(Self { connection, endpoint, child })
    }

    /// Sends messages of `size` bytes on one stream, `in_flight` of them unanswered, for `time`.
    pub(super) async fn measure(
        &self,
        size: usize,
        in_flight: usize,
        time: Duration,
    ) -> Result<Samples, Fail> {
        let flow = flow(&self.connection, size, in_flight, time);
        let ended = timeout(time * 2 + PATIENCE, flow).await;
        ended
            .map_err(|_| Fail::failed("the other process does not answer"))?
            .map_err(|e| failed("measure the network")(&e))
    }

    /// Bytes of a UDP payload on this path, as found by probing.
    pub(super) fn mtu(&self) -> u16 {
        self.connection.stats().path.current_mtu
    }

    /// Ends the connection and the other process.
    pub(super) async fn close(mut self) -> Result<(), Fail> {
        self.connection.close(0u32.into(), b"");
        self.endpoint.wait_idle().await;
        drop(self.child.stdin.take());
        let ended = timeout(PATIENCE, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            _ => Err(Fail::failed("the other process did not end well")),
        }
    }
}

/// A CA in `dir`, and the folders of a node and of a client.
fn make_certificates(dir: &Path, now: UnixTime) -> Result<(PathBuf, PathBuf), IssueError> {
    let refuse = Existing::Refuse;
    let authority = Authority::create(dir, "bench", Config::default(), now, refuse)?;
    let server = authority.issue_node(dir, "peer", &[], now, refuse)?;
    let roles = std::iter::once(Role::Write).collect();
    Ok((server, authority.issue_client(dir, "limits", roles, now, refuse)?))
}

/// The address in the line that says that it listens.
async fn ready_line(child: &mut Child) -> Option<String> {
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    let line = lines.next_line().await.ok().flatten()?;
    let line: Value = serde_json::from_str(&line).ok()?;
    line["addr"].as_str().map(str::to_owned)
}

/// Why a measurement stopped.
#[derive(Debug, thiserror::Error)]
enum FlowError {
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("{0}")]
    Write(#[from] quinn::WriteError),
    #[error("{0}")]
    Read(#[from] quinn::ReadError),
    #[error("an answer came that nothing asked for")]
    Surplus,
}

async fn flow(
    connection: &quinn::Connection,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> Result<Samples, FlowError> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let message = Bytes::from((0..size).map(|at| (at * 167 % 251) as u8).collect::<Vec<u8>>());
    // The times of messages that are under way: a place in it is the right to send.
    let (tx, mut rx) = mpsc::channel::<Instant>(in_flight);
    let begun = Instant::now();
    let (from, to) = (begun + time / 4, begun + time / 4 + time);
    // Set by the first answer that counts: even the shortest time sees one.
    let last = Cell::new(None);
    let write = async {
        send.write_all(&u32::try_from(size).unwrap_or(0).to_le_bytes()).await?;
        while let Ok(place) = tx.reserve().await {
            let now = Instant::now();
            if now >= to && last.get().is_some() {
                break;
            }
            place.send(now);
            send.write_chunk(message.clone()).await?;
        }
        // Everything has been sent; it cannot be finished already.
        let _ = send.finish();
        Ok::<(), FlowError>(())
    };
    let read = async {
        let (mut samples, mut held) = (Samples::of(size), 0);
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
            held += chunk.bytes.len();
            while held >= ANSWER {
                held -= ANSWER;
                let sent = rx.try_recv().map_err(|_| FlowError::Surplus)?;
                let now = Instant::now();
                if now >= from {
                    samples.add(now.duration_since(sent));
                    last.set(Some(now));
                }
            }
        }
        Ok::<Samples, FlowError>(samples)
    };
    let ((), samples) = tokio::try_join!(write, read)?;
    let took = last.get().map_or(Duration::ZERO, |last| last.duration_since(from));
    Ok(samples.finish(took))
}
