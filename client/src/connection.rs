//! One QUIC connection to one node, as it is used once `Welcome` has arrived.
//!
//! Invariants: credit and open requests are bounded by permits that are returned by answers only;
//! a peer that owes answers and falls silent is given up after `mute_after`; every request ends in
//! exactly one of answer, typed failure, or "lost". No lock is held across an await. Made by
//! [`Dialer::dial`], kept by [`crate::pool`], used by the write path, drains, Raft and queries.

mod dial;
mod error;
mod mute;
mod stream;
mod trust;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use quinn::VarInt;
use quorate_certs::Identity;
use quorate_protocol::{
    code::Close,
    frame::{Frame, MAX_PAYLOAD, Message},
    hello::Welcome,
    id::NodeId,
    message::{Failure, Request},
};
use rustls_pki_types::CertificateDer;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, watch},
    time::{Instant, timeout_at},
};

pub use dial::{Dialer, Local, client_config, peer_chain};
pub use error::{ConnectError, Lost, NotSent, RequestError, alert, alert_text};
pub use stream::ReplyStream;

use self::dial::Tls;
use crate::usage::ConnectionUsage;
use crate::{
    lane::{
        Abandoned, Class, Held, LANES, Lane, credited,
        framed::{FrameReader, FrameWriter, StreamError},
    },
    traffic::NodeTraffic,
};

/// The answer to a request: its body and its payload.
pub type Reply<R> = (<R as Request>::Reply, Bytes);

/// Room for one request: a place among the open ones and credit for its payload. Returned when it
/// is dropped unused, else when the request is answered.
#[derive(Debug)]
pub struct Permit {
    held: Held,
    bytes: usize,
    home: u64,
}

/// An open connection. Dropping the last handle closes it.
pub struct Connection {
    quic: quinn::Connection,
    welcome: Welcome,
    identity: Identity,
    /// What this side presented.
    own: (CertificateDer<'static>, Identity),
    lanes: [Arc<Lane>; LANES.len()],
    /// Payload bytes the peer still takes, at most `limit`.
    credit: Arc<Semaphore>,
    limit: usize,
    /// Places for open requests.
    requests: Arc<Semaphore>,
    /// Places for streams of their own.
    streams: Arc<Semaphore>,
    /// Of these two, as many as there are in all.
    most: (usize, usize),
    state: Arc<State>,
}

/// What the tasks of a connection share with its handle.
#[derive(Debug, Default)]
struct State {
    /// Why this side gave the connection up, if it did.
    given_up: OnceLock<Lost>,
    /// Streams of their own whose peer owes a frame.
    owed: AtomicUsize,
    /// Wakes the mute watch when something is owed.
    asked: Notify,
}

impl State {
    fn lost(&self, error: &quinn::ConnectionError) -> Lost {
        match self.given_up.get() {
            Some(lost) => lost.clone(),
            None => Lost::from(error),
        }
    }

    /// Closes the connection from this side; the first reason given stands.
    fn give_up(
        &self,
        quic: &quinn::Connection,
        lanes: &[Arc<Lane>],
        why: Lost,
        code: Close,
        reason: &str,
    ) {
        let lost = self.given_up.get_or_init(|| why);
        for lane in lanes {
            lane.fail(lost);
        }
        quic.close(close_code(code), reason.as_bytes());
    }
}

impl Connection {
    /// Takes over a connection whose `Welcome` has arrived, with a stream for each lane.
    fn start(
        quic: quinn::Connection,
        welcome: Welcome,
        identity: Identity,
        lanes: Vec<(FrameWriter, FrameReader)>,
        tls: watch::Receiver<Arc<Tls>>,
        own: (CertificateDer<'static>, Identity),
        dialer: &Dialer,
    ) -> Arc<Self> {
        let (config, tasks) = (dialer.config(), dialer.tasks());
        let limit = usize::try_from(welcome.credit)
            .unwrap_or(usize::MAX)
            // Semaphores take at most u32 at once, and one frame is far less.
            .min(u32::MAX as usize);
        let most = (
            config.max_requests.max(1) as usize,
            (config.max_streams() as usize).saturating_sub(LANES.len()).max(1),
        );
        let connection = Self {
            quic,
            welcome,
            identity,
            own,
            lanes: LANES.map(|_| Lane::new()),
            credit: Arc::new(Semaphore::new(limit)),
            limit,
            requests: Arc::new(Semaphore::new(most.0)),
            streams: Arc::new(Semaphore::new(most.1)),
            most,
            state: Arc::default(),
        };
        for ((class, lane), (writer, reader)) in LANES.iter().zip(&connection.lanes).zip(lanes) {
            writer.set_priority(class.priority());
            tasks.spawn(connection.guard(Arc::clone(lane).write(writer)));
            tasks.spawn(connection.guard(Arc::clone(lane).read(reader)));
        }
        tasks.spawn(mute::watch(
            connection.quic.clone(),
            Arc::clone(&connection.state),
            connection.lanes.clone(),
            config.mute_after,
            dialer.stop().clone(),
        ));
        tasks.spawn(trust::watch(
            connection.quic.clone(),
            Arc::clone(&connection.state),
            connection.lanes.clone(),
            tls,
        ));
        Arc::new(connection)
    }

    /// Runs one half of a lane; when it ends, so does the connection.
    fn guard(
        &self,
        half: impl Future<Output = Result<(), StreamError>> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (quic, state, lanes) = (self.quic.clone(), Arc::clone(&self.state), self.lanes.clone());
        async move {
            match half.await {
                Ok(()) => {}
                Err(StreamError::Connection(error)) => {
                    let lost = state.lost(&error);
                    for lane in &lanes {
                        lane.fail(&lost);
                    }
                }
                Err(error) if error.is_violation() => {
                    let reason = error.to_string();
                    let why = Lost::Protocol(reason.clone());
                    state.give_up(&quic, &lanes, why, Close::Protocol, &reason);
                }
                Err(error) => {
                    // The peer ends its lanes, after the last answer, when it is about to leave.
                    let why = Lost::Closed { code: Close::Shutdown, reason: error.to_string() };
                    state.give_up(&quic, &lanes, why, Close::Done, "lane ended");
                }
            }
        }
    }

    /// The node that answered; 0 while it has not joined a cluster.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.welcome.node
    }

    /// What the peer said when the connection came up.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Who the peer's certificate says it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate that this side presented.
    pub(crate) fn own(&self) -> &CertificateDer<'static> {
        &self.own.0
    }

    /// Who that certificate says we are.
    pub(crate) fn own_identity(&self) -> &Identity {
        &self.own.1
    }

    /// Where the peer is.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        canonical(self.quic.remote_address())
    }

    /// Tells connections of this process apart.
    #[must_use]
    pub fn stable_id(&self) -> u64 {
        self.quic.stable_id() as u64
    }

    /// What has gone over it.
    #[must_use]
    pub fn traffic(&self) -> NodeTraffic {
        let stats = self.quic.stats();
        NodeTraffic {
            node: self.node(),
            connection: self.stable_id(),
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
            mtu: stats.path.current_mtu,
            rtt: self.rtt(),
        }
    }

    /// The smoothed round trip time.
    #[must_use]
    pub fn rtt(&self) -> std::time::Duration {
        self.quic.rtt()
    }

    /// Payload bytes that could be sent at once.
    #[must_use]
    pub fn credit_left(&self) -> usize {
        self.credit.available_permits()
    }

    /// Requests without an answer, those given up included.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.lanes.iter().map(|lane| lane.open()).sum()
    }

    /// What it holds for requests that have no answer.
    #[must_use]
    pub fn usage(&self) -> ConnectionUsage {
        let taken = |of: usize, left: &Semaphore| of.saturating_sub(left.available_permits());
        ConnectionUsage {
            requests: self.open_requests(),
            places: taken(self.most.0, &self.requests),
            credit_bytes: taken(self.limit, &self.credit),
            streams: taken(self.most.1, &self.streams),
            owed: self.state.owed.load(Ordering::Relaxed),
        }
    }

    /// Why the connection is gone, if it is.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        Some(self.state.lost(&self.quic.close_reason()?))
    }

    /// Waits until the connection is gone.
    pub async fn closed(&self) -> Lost {
        let error = self.quic.closed().await;
        self.state.lost(&error)
    }

    /// Closes the connection at once; unanswered requests are lost.
    pub fn close(&self, code: Close, reason: &str) {
        self.state.give_up(&self.quic, &self.lanes, Lost::Local, code, reason);
    }

    /// Room for a request with `bytes` of payload, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`RequestError::NotSent`]: too large for the peer, no room in time, or disconnected.
    pub async fn reserve(&self, bytes: usize, deadline: Instant) -> Result<Permit, RequestError> {
        let need = self.need(bytes)?;
        if self.requests.available_permits() == 0 || self.credit_left() < need as usize {
            metrics::counter!("quorate_client_credit_waits_total").increment(1);
        }
        let acquire = async {
            let request = Arc::clone(&self.requests).acquire_owned().await;
            let credit = match need {
                0 => None,
                need => Some(Arc::clone(&self.credit).acquire_many_owned(need).await),
            };
            (request, credit.transpose())
        };
        tokio::select! {
            biased;
            lost = self.closed() => Err(RequestError::NotSent(NotSent::Disconnected(lost))),
            got = timeout_at(deadline, acquire) => match got {
                Ok((Ok(request), Ok(credit))) => Ok(self.permit(request, credit, bytes)),
                // The semaphores are never closed.
                Ok(_) => Err(RequestError::NotSent(NotSent::Disconnected(Lost::Local))),
                Err(_) => Err(RequestError::NotSent(NotSent::Deadline)),
            },
        }
    }

    /// Room for a request with `bytes` of payload, if there is any now.
    ///
    /// # Errors
    /// [`NotSent::Full`] if not, and as [`Self::reserve`].
    pub fn try_reserve(&self, bytes: usize) -> Result<Permit, RequestError> {
        let need = self.need(bytes)?;
        if let Some(lost) = self.lost() {
            return Err(RequestError::NotSent(NotSent::Disconnected(lost)));
        }
        let full = |_: TryAcquireError| RequestError::NotSent(NotSent::Full);
        let request = Arc::clone(&self.requests).try_acquire_owned().map_err(full)?;
        let credit = match need {
            0 => None,
            need => Some(Arc::clone(&self.credit).try_acquire_many_owned(need).map_err(full)?),
        };
        Ok(self.permit(request, credit, bytes))
    }

    fn need(&self, bytes: usize) -> Result<u32, RequestError> {
        let limit = self.limit.min(MAX_PAYLOAD);
        match u32::try_from(bytes) {
            Ok(need) if bytes <= limit => Ok(need),
            _ => Err(RequestError::NotSent(NotSent::TooLarge { bytes, limit })),
        }
    }

    fn permit(
        &self,
        request: OwnedSemaphorePermit,
        credit: Option<OwnedSemaphorePermit>,
        bytes: usize,
    ) -> Permit {
        Permit {
            held: Held { _bytes: credit, _request: Some(request) },
            bytes,
            home: self.stable_id(),
        }
    }

    /// As [`Self::reserve`] for payloads that do not count against the credit.
    async fn reserve_place(&self, deadline: Instant) -> Result<Permit, RequestError> {
        let permit = self.reserve(0, deadline).await?;
        Ok(Permit { bytes: MAX_PAYLOAD, ..permit })
    }

    /// Queues a request on the lane of its class, at once and in the order of these calls, and
    /// returns its answer to come. Dropping the future gives the request up.
    ///
    /// # Errors
    /// The future's: see [`RequestError`]. A permit of another connection or for fewer bytes than
    /// `payload` has is [`NotSent::Full`].
    pub fn send<R: Request>(
        &self,
        permit: Permit,
        request: &R,
        payload: Bytes,
        deadline: Instant,
    ) -> impl Future<Output = Result<Reply<R>, RequestError>> + Send + 'static + use<R> {
        let fits = permit.home == self.stable_id() && payload.len() <= permit.bytes;
        let call = Frame::new(0, request, payload)
            .and_then(|frame| frame.head().map(|_| frame))
            .map_err(|error| RequestError::NotSent(NotSent::Invalid(error.to_string())))
            .and_then(|frame| match self.lanes.get(Class::of(R::OP).lane()) {
                Some(lane) if fits => lane.submit(frame, permit.held),
                _ => Err(RequestError::NotSent(NotSent::Full)),
            });
        self.state.asked.notify_one();
        async move {
            let mut call = call?;
            let answer = match timeout_at(deadline, &mut call.answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(RequestError::Lost(Lost::Local)),
                Err(_) => match call.abandon() {
                    Abandoned::Unsent => Err(RequestError::NotSent(NotSent::Deadline)),
                    Abandoned::Sent => Err(RequestError::Deadline),
                    // The answer came in the same instant.
                    Abandoned::Answered => {
                        call.answer.try_recv().unwrap_or(Err(RequestError::Deadline))
                    }
                },
            };
            reply::<R>(&answer?)
        }
    }

    /// One request, one answer, on the lane of its class: [`Self::reserve`] and [`Self::send`].
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request<R: Request>(
        &self,
        request: &R,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Reply<R>, RequestError> {
        let permit = if credited(R::OP) {
            self.reserve(payload.len(), deadline).await?
        } else {
            self.reserve_place(deadline).await?
        };
        self.send(permit, request, payload, deadline).await
    }
}

/// Reads an answer that may be a failure.
fn reply<R: Request>(frame: &Frame) -> Result<Reply<R>, RequestError> {
    if frame.op == Failure::OP {
        return Err(RequestError::Failure(frame.message()?));
    }
    Ok((frame.message()?, frame.payload.clone()))
}

/// The QUIC application error code of a close.
#[must_use]
pub fn close_code(code: Close) -> VarInt {
    VarInt::from_u32(code as u32)
}

/// An address as people write it: IPv4 is not shown as mapped into IPv6.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close(Close::Done, "");
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("node", &self.node())
            .field("remote", &self.remote_addr())
            .field("id", &self.stable_id())
            .finish_non_exhaustive()
    }
}
