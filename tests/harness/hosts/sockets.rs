//! Sockets of this process on another host: in another network namespace.
//!
//! Invariant: only a thread made for it enters the namespace, and it ends before the socket is used; where a
//! socket was opened, it stays.

use std::{fs::File, io, net::SocketAddr, os::fd::AsFd, path::PathBuf, sync::Arc, thread};

use quinn::Runtime;
use quorate_client::env::{BoxFuture, Env, Sockets};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

struct OnHost {
    namespace: PathBuf,
    system: Env,
}

/// The real world, but for sockets, which are in this namespace of `ip netns`.
pub(super) fn env_on(namespace: &str) -> Env {
    let namespace = PathBuf::from("/run/netns").join(namespace);
    let system = Env::system();
    Env { sockets: Arc::new(OnHost { namespace, system: system.clone() }), ..system }
}

impl Sockets for OnHost {
    fn bind(&self, addr: SocketAddr, _buffer: usize) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        let namespace = File::open(&self.namespace)?;
        let open = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            std::net::UdpSocket::bind(addr)
        };
        let socket = thread::spawn(open).join().unwrap()?;
        quinn::TokioRuntime.wrap_udp_socket(socket)
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.system.sockets.resolve(address)
    }
}
