//! The real clock, randomness and sockets.
//!
//! Invariant: no state; the only place in client and node that touches the system's own. Used by
//! [`super::Env::system`].

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use quinn::Runtime;
use socket2::{Domain, Protocol, Socket, Type};

use super::{BoxFuture, Clock, Entropy, Sockets};

pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn wall_ns(&self) -> u64 {
        // A clock before 1970 reads as 0, one after 2554 as the maximum: both are refused as skew.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

pub(super) struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(
        clippy::expect_used,
        reason = "a system without randomness cannot do TLS either; there is nothing to go on with"
    )]
    fn next_u64(&self) -> u64 {
        getrandom::u64().expect("the system's random number generator works")
    }
}

pub(super) struct SystemSockets;

impl Sockets for SystemSockets {
    fn bind(&self, addr: SocketAddr, buffer: usize) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // The system silently grants less than asked for where its own limit is lower; that costs
        // losses under bursts, not correctness.
        socket.set_recv_buffer_size(buffer)?;
        socket.set_send_buffer_size(buffer)?;
        socket.bind(&addr.into())?;
        quinn::TokioRuntime.wrap_udp_socket(socket.into())
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host(address).await?.collect();
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(found)
        })
    }
}
