//! Somebody with a good certificate and bad intentions, in a process of its own.
//!
//! `quorate-abuser-under-test NODE CERTS SECONDS PER_S [KIND...]`: from 127.0.0.2 and for so long, handshakes that are
//! begun and left, so many per second, and beside them garbage on lanes, frames that are begun and not ended,
//! answers that are not read, and streams opened and reset. Ends when the time is over, however much it has done
//! by then. The last line says what that was and what came of it, as JSON.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use quinn::{
    AsyncUdpSocket, Connection, ConnectionError, UdpPoller,
    crypto::rustls::QuicClientConfig,
    udp::{RecvMeta, Transmit},
};
use quorate_certs::{Credentials, SERVER_NAME, UnixTime};
use quorate_client::{Env, config::TransportConfig, lane::framed::FrameReader};
use quorate_protocol::{
    code::Close,
    frame::Frame,
    hello::{ALPN, Hello, MINOR},
    id::{ClusterId, NodeId},
    message::{Request, Status},
};
use tokio::time::{Instant, sleep, timeout};

/// Another address than everybody else's.
const HOME: ([u8; 4], u16) = ([127, 0, 0, 2], 0);

#[derive(Default)]
struct Counts {
    half_open: AtomicU64,
    giants: AtomicU64,
    unread: AtomicU64,
    refused: AtomicU64,
    protocol: AtomicU64,
    overloaded: AtomicU64,
    other: AtomicU64,
    streams: AtomicU64,
    noise_bytes: AtomicU64,
}

/// Somebody with a certificate, and the node it is after.
#[derive(Clone)]
struct Abuser {
    env: Env,
    node: SocketAddr,
    credentials: Credentials,
    counts: Arc<Counts>,
    until: Instant,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [node, certs, seconds, per_s, half_open, kinds @ ..] = &args[..] else {
        panic!("NODE CERTS SECONDS PER_S HALF_OPEN, not {args:?}")
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let abuser = Abuser {
            env: Env::system(),
            node: node.parse().unwrap(),
            credentials: Credentials::load(certs.as_ref(), UnixTime::now()).unwrap(),
            counts: Arc::default(),
            until: Instant::now() + Duration::from_secs(seconds.parse().unwrap()),
        };
        let mut tasks = tokio::task::JoinSet::new();
        // All, or those that are named.
        let does = |kind: &str| kinds.is_empty() || kinds.iter().any(|named| named == kind);
        if does("half_open") {
            tasks.spawn(
                abuser.clone().half_open(per_s.parse().unwrap(), half_open.parse().unwrap()),
            );
        }
        for _ in 0..4 {
            if does("garbage") {
                tasks.spawn(abuser.clone().again_and_again(garbage));
            }
            if does("giants") {
                tasks.spawn(abuser.clone().again_and_again(giants));
            }
            if does("slow_reader") {
                tasks.spawn(abuser.clone().again_and_again(slow_reader));
            }
            if does("stream_flood") {
                tasks.spawn(abuser.clone().again_and_again(stream_flood));
            }
        }
        while tasks.join_next().await.is_some_and(|done| done.is_ok()) {}
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &abuser.counts;
        println!(
            "{}",
            serde_json::json!({
                "half_open": count(&counts.half_open),
                "giants": count(&counts.giants),
                "unread": count(&counts.unread),
                "refused": count(&counts.refused),
                "protocol": count(&counts.protocol),
                "overloaded": count(&counts.overloaded),
                "other": count(&counts.other),
                "streams": count(&counts.streams),
                "noise_bytes": count(&counts.noise_bytes),
            })
        );
    });
}

impl Abuser {
    fn client(&self) -> quinn::ClientConfig {
        let tls = self.credentials.client_config(ALPN).unwrap();
        let mut client =
            quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut quic = quinn::TransportConfig::default();
        // Takes hardly anything of what it is sent.
        quic.stream_receive_window(2_048u32.into()).max_idle_timeout(None);
        quic.keep_alive_interval(Some(Duration::from_secs(1)));
        client.transport_config(Arc::new(quic));
        client
    }

    /// Handshakes that begin and do not go on, `least` of them however slow the machine is. Every second one proves its
    /// address first.
    async fn half_open(self, per_s: u32, least: u64) {
        let mut endpoints = Vec::new();
        for hears_retries in [false, true] {
            let inner = self.env.sockets.bind(HOME.into(), 1 << 20).unwrap();
            let socket = Arc::new(Deaf { inner, hears_retries });
            let config = TransportConfig::default();
            endpoints.push(self.env.endpoint_on(socket, None, &config).unwrap());
        }
        let (client, begun, mut done) = (self.client(), Instant::now(), 0);
        let mut open = std::collections::VecDeque::new();
        while Instant::now() < self.until || done < least {
            let due = (begun.elapsed().as_secs_f64() * f64::from(per_s)) as u64;
            // After a pause of the whole process not all that is due at once.
            let next = due.min(done + 50);
            for n in done..next {
                let endpoint = &endpoints[(n % 2) as usize];
                let half = endpoint.connect_with(client.clone(), self.node, SERVER_NAME).unwrap();
                open.push_back((Instant::now(), half));
            }
            done = next;
            self.counts.half_open.store(done, Ordering::Relaxed);
            // Long after the node has given them up.
            while open.front().is_some_and(|(since, _)| since.elapsed() > Duration::from_secs(4)) {
                open.pop_front();
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A connection after the other, each as bad as the last.
    async fn again_and_again<F: Future<Output = ()>>(self, bad: fn(Self, Connection) -> F) {
        let endpoint = self.env.endpoint_on(
            self.env.sockets.bind(HOME.into(), 1 << 20).unwrap(),
            None,
            &TransportConfig::default(),
        );
        let endpoint = endpoint.unwrap();
        while Instant::now() < self.until {
            let connecting = endpoint.connect_with(self.client(), self.node, SERVER_NAME).unwrap();
            match timeout(Duration::from_secs(5), connecting).await {
                Ok(Ok(connection)) => {
                    let left = self.until - Instant::now();
                    let _ = timeout(left, bad(self.clone(), connection.clone())).await;
                    self.ended(&connection);
                    connection.close(0u32.into(), b"");
                }
                _ => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn ended(&self, connection: &Connection) {
        let count = match connection.close_reason() {
            Some(ConnectionError::ApplicationClosed(close)) => {
                match Close::from_number(close.error_code.into_inner()) {
                    Close::Protocol => &self.counts.protocol,
                    Close::Overloaded => &self.counts.overloaded,
                    _ => &self.counts.other,
                }
            }
            _ => &self.counts.other,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn frame<R: Request>(id: u64, request: &R) -> Vec<u8> {
    Frame::new(id, request, Bytes::new()).unwrap().head().unwrap().to_vec()
}

async fn hello(connection: &Connection) -> Option<(quinn::SendStream, FrameReader)> {
    let nobody = NodeId(0);
    let hello =
        Hello { minor: MINOR, features: 0, cluster: ClusterId(0), node: nobody, expect: nobody };
    let (mut send, recv) = connection.open_bi().await.ok()?;
    send.write_all(&frame(1, &hello)).await.ok()?;
    let mut reader = FrameReader::new(recv);
    reader.next().await.ok()??;
    Some((send, reader))
}

/// Noise on a lane.
async fn garbage(abuser: Abuser, connection: Connection) {
    let Some((mut send, _reader)) = hello(&connection).await else { return };
    let mut noise: Vec<u8> = Vec::new();
    while noise.len() < 64 << 10 {
        noise.extend(abuser.env.entropy.next_u64().to_le_bytes());
    }
    while send.write_all(&noise).await.is_ok() {
        abuser.counts.noise_bytes.fetch_add(noise.len() as u64, Ordering::Relaxed);
        sleep(Duration::from_millis(5)).await;
    }
    connection.closed().await;
}

/// Frames as large as they may be on every stream there is, none of which ends.
async fn giants(abuser: Abuser, connection: Connection) {
    let Some(_lane) = hello(&connection).await else { return };
    let piece = [&(4u32 << 20).to_le_bytes()[..], &[0; 60_000]].concat();
    let mut streams = Vec::new();
    while let Ok(Ok((mut send, recv))) =
        timeout(Duration::from_millis(100), connection.open_bi()).await
    {
        let _ = timeout(Duration::from_millis(100), send.write_all(&piece)).await;
        streams.push((send, recv));
        abuser.counts.giants.fetch_add(1, Ordering::Relaxed);
    }
    connection.closed().await;
}

/// Questions without end, and no interest in the answers.
async fn slow_reader(abuser: Abuser, connection: Connection) {
    let Some((mut send, _unread)) = hello(&connection).await else { return };
    // Many at once, since what this costs its own side is not what is looked at.
    for first in (2..).step_by(1_000) {
        let many: Vec<u8> = (first..first + 1_000).flat_map(|id| frame(id, &Status {})).collect();
        if send.write_all(&many).await.is_err() {
            break;
        }
        abuser.counts.unread.fetch_add(1_000, Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
    connection.closed().await;
}

/// Streams that are opened and given up.
async fn stream_flood(abuser: Abuser, connection: Connection) {
    let Some(_lane) = hello(&connection).await else { return };
    let request = frame(2, &Status {});
    while let Ok((mut send, mut recv)) = connection.open_bi().await {
        if send.write_all(&request[..request.len() - 1]).await.is_err() {
            break;
        }
        let _ = send.reset(1u32.into());
        let _ = recv.stop(1u32.into());
        if abuser.counts.streams.fetch_add(1, Ordering::Relaxed).is_multiple_of(50) {
            sleep(Duration::from_millis(10)).await;
        }
    }
    connection.closed().await;
}

/// A socket that hears nothing, or nothing but that it must prove its address.
#[derive(Debug)]
struct Deaf {
    inner: Arc<dyn AsyncUdpSocket>,
    hears_retries: bool,
}

impl AsyncUdpSocket for Deaf {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buffer, meta) in bufs.iter().zip(&mut *meta).take(count) {
            // A long header of type 3.
            let retry = buffer.first().is_some_and(|first| first & 0xf0 == 0xf0);
            if !(retry && self.hears_retries) {
                meta.len = 0;
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
