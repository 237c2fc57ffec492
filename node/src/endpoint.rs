//! The node's UDP endpoint: it listens on it and dials from it.
//!
//! Invariant: TLS 1.3 with certificates of the cluster's CA on both sides, no early data; a port that cannot be had is told with the address and what to do. Called when the
//! node starts, and again for its server configuration when certificates are renewed.

mod port;

use std::{io, net::SocketAddr, sync::Arc};

use quinn::crypto::rustls::QuicServerConfig;
use quorate_certs::Credentials;
use quorate_client::{config::TransportConfig, env::Env};
use quorate_protocol::hello::ALPN;

pub use self::port::Port;

/// Why the node cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process has the port.
    #[error("{addr} is in use by another process; stop it or choose another --listen address")]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The machine does not have the address.
    #[error("{addr} is not an address of this machine; check --listen")]
    NotLocal {
        /// The address.
        addr: SocketAddr,
    },
    /// The process may not use the port.
    #[error("not allowed to listen on {addr}; choose a port over 1023")]
    Denied {
        /// The address.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {addr}: {source}")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate cannot be used for QUIC.
    #[error("cannot use the certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// Opens the endpoint at `addr` (port 0: any). Must be called within a tokio runtime.
///
/// # Errors
/// See [`BindError`].
pub fn bind(
    env: &Env,
    addr: SocketAddr,
    credentials: &Credentials,
    config: &TransportConfig,
) -> Result<(quinn::Endpoint, Port), BindError> {
    let server = server_config(credentials, config)?;
    let open = || {
        let socket = env.sockets.bind(addr, config.socket_buffer as usize)?;
        let port = Port::of(&socket);
        Ok((env.endpoint_on(socket, Some(server), config)?, port))
    };
    open().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { addr },
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal { addr },
        io::ErrorKind::PermissionDenied => BindError::Denied { addr },
        _ => BindError::Io { addr, source },
    })
}

/// What the endpoint answers handshakes with; for [`quinn::Endpoint::set_server_config`] too.
///
/// # Errors
/// If the TLS library cannot use the credentials.
pub fn server_config(
    credentials: &Credentials,
    config: &TransportConfig,
) -> Result<quinn::ServerConfig, rustls::Error> {
    let tls = QuicServerConfig::try_from(credentials.server_config(ALPN)?)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let (handshakes, buffer) = (config.max_handshakes.max(1), u64::from(config.handshake_buffer));
    server
        .transport_config(config.quic_for_strangers())
        .migration(config.migration)
        .max_incoming(handshakes as usize)
        .incoming_buffer_size(buffer)
        .incoming_buffer_size_total(buffer * u64::from(handshakes));
    Ok(server)
}
