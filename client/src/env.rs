//! The seams to the world: wall clock, randomness and sockets.
//!
//! Invariant: nothing in the client or the node reads a clock, draws a number or opens a socket but
//! through an [`Env`], so that a whole cluster can run in one process under a paused clock and one
//! seed. Monotonic time is `tokio::time::Instant` everywhere, which a test can pause. Made by the
//! application with [`Env::system`], or by a simulation.

mod system;
mod time;

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use crate::config::TransportConfig;

/// A future that owns its type's size and may be awaited on any thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tells the time of day.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the Unix epoch.
    fn wall_ns(&self) -> u64;
}

/// Draws numbers: ids, jitter, seeds of endpoints.
pub trait Entropy: Send + Sync {
    /// The next number, uniform over all 64 bits.
    fn next_u64(&self) -> u64;
}

/// Opens UDP sockets and resolves names.
pub trait Sockets: Send + Sync {
    /// A UDP socket at `addr` (port 0: any) that asks the system for buffers of `buffer` bytes.
    ///
    /// # Errors
    /// As the system reports them, for example [`io::ErrorKind::AddrInUse`].
    fn bind(&self, addr: SocketAddr, buffer: usize) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>>;

    /// The addresses of `HOST:PORT`, in order of preference; never empty.
    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// One handle to all seams; cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The network.
    pub sockets: Arc<dyn Sockets>,
}

impl Env {
    /// The real world: system clock, system randomness, UDP sockets.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(system::SystemClock),
            entropy: Arc::new(system::SystemEntropy),
            sockets: Arc::new(system::SystemSockets),
        }
    }

    /// A QUIC endpoint at `addr` that dials, and also listens if `server` is given. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// If the socket cannot be bound.
    pub fn endpoint(
        &self,
        addr: SocketAddr,
        server: Option<quinn::ServerConfig>,
        config: &TransportConfig,
    ) -> io::Result<quinn::Endpoint> {
        let socket = self.sockets.bind(addr, config.socket_buffer as usize)?;
        self.endpoint_on(socket, server, config)
    }

    /// [`Self::endpoint`] on a socket that is open already.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn endpoint_on(
        &self,
        socket: Arc<dyn quinn::AsyncUdpSocket>,
        server: Option<quinn::ServerConfig>,
        config: &TransportConfig,
    ) -> io::Result<quinn::Endpoint> {
        let mut seed = [0; 32];
        for part in seed.chunks_exact_mut(8) {
            part.copy_from_slice(&self.entropy.next_u64().to_le_bytes());
        }
        let mut endpoint = config.endpoint();
        endpoint.rng_seed(Some(seed));
        quinn::Endpoint::new_with_abstract_socket(
            endpoint,
            server,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
    }

    /// An endpoint that only dials, on any port: IPv6 with IPv4 mapped into it, or IPv4 alone where
    /// the system has no IPv6.
    ///
    /// # Errors
    /// If neither can be bound.
    pub fn client_endpoint(&self, config: &TransportConfig) -> io::Result<quinn::Endpoint> {
        let any6 = SocketAddr::from(([0u16; 8], 0));
        let any4 = SocketAddr::from(([0u8; 4], 0));
        self.endpoint(any6, None, config).or_else(|_| self.endpoint(any4, None, config))
    }

    /// A 128-bit number, for ids.
    #[must_use]
    pub fn next_u128(&self) -> u128 {
        (u128::from(self.entropy.next_u64()) << 64) | u128::from(self.entropy.next_u64())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}
