//! Telling the service manager how a node is: systemd's `Type=notify`.
//!
//! Invariant: without NOTIFY_SOCKET nothing is done, and nothing that goes wrong here costs the node
//! anything. One datagram per state, as sd_notify(3) says.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// What can be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// It serves.
    Ready,
    /// It has begun to stop.
    Stopping,
}

impl State {
    const fn message(self) -> &'static [u8] {
        match self {
            Self::Ready => b"READY=1\nSTATUS=serving\n",
            Self::Stopping => b"STOPPING=1\nSTATUS=stopping\n",
        }
    }
}

/// Tells whoever has asked to be told.
pub(super) fn tell(state: State) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(name.as_bytes(), state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

fn send(name: &[u8], state: State) -> io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.message(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_at_a_path_or_an_abstract_name_hears_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let named = format!("quorate-{}", std::process::id());
        let at_name = SocketAddr::from_abstract_name(named.as_bytes()).unwrap();
        let managers = [
            (path.as_os_str().as_bytes().to_vec(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{named}").into_bytes(), UnixDatagram::bind_addr(&at_name).unwrap()),
        ];
        for (name, manager) in managers {
            for state in [State::Ready, State::Stopping] {
                send(&name, state).unwrap();
                let mut heard = [0; 64];
                let length = manager.recv(&mut heard).unwrap();
                assert_eq!(&heard[..length], state.message());
            }
        }
        assert!(send(b"/nowhere/at/all", State::Ready).is_err());
    }
}
