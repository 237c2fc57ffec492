//! Letting go of a UDP port when a node stops, so that the next one can have it at once.
//!
//! A QUIC endpoint keeps its socket until every connection has been silent for three times its
//! longest wait for an answer: seconds, where a peer does not answer. Nothing of that matters to a
//! node that stops, so the endpoint gets a socket that leads nowhere. Used by
//! [`crate::start::Node::shutdown`].

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use quorate_client::connection::close_code;
use quorate_protocol::code::Close;
use tokio::time::{sleep, timeout};

/// Longest wait for the goodbyes to be sent.
const GOODBYE: Duration = Duration::from_millis(100);
/// Longest wait for the port.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether the port is free.
const LOOK: Duration = Duration::from_millis(1);

/// The port that an endpoint was bound to.
#[derive(Debug)]
pub struct Port(Weak<dyn AsyncUdpSocket>);

impl Port {
    pub(super) fn of(socket: &Arc<dyn AsyncUdpSocket>) -> Self {
        Self(Arc::downgrade(socket))
    }

    /// Says goodbye to all peers, and returns when the port is free.
    pub async fn release(self, endpoint: quinn::Endpoint) {
        endpoint.close(close_code(Close::Done), b"");
        let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
        // An endpoint keeps its socket and the one before that.
        let nowhere: Arc<dyn AsyncUdpSocket> = Arc::new(Nowhere);
        let left = endpoint
            .rebind_abstract(Arc::clone(&nowhere))
            .and_then(|()| endpoint.rebind_abstract(nowhere));
        drop(endpoint);
        let free = async {
            // Each connection's own task lets go of it too.
            while self.0.strong_count() > 0 {
                sleep(LOOK).await;
            }
        };
        if left.is_err() || timeout(PATIENCE, free).await.is_err() {
            tracing::warn!("the node has ended, but its port is not free yet");
        }
    }
}

/// Takes every datagram and never has one.
#[derive(Debug)]
struct Nowhere;

impl AsyncUdpSocket for Nowhere {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Self)
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::UNSPECIFIED, 0).into())
    }
}

impl UdpPoller for Nowhere {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
