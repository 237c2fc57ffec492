//! Leaves a peer that new credentials refuse: it was revoked, or its CA is trusted no more.
//!
//! Invariant: an open connection never outlives the trust in its peer by more than the moment it takes to
//! close it; that the time of a certificate is over ends none. One task per connection, started by
//! [`super::Connection`].

use std::sync::Arc;

use quorate_protocol::code::Close;
use tokio::sync::watch;

use super::{Lost, State, canonical, dial::Tls, peer_chain};
use crate::lane::Lane;

/// Runs until the connection is gone. `tls` is as it was seen when the handshake began.
pub(super) async fn watch<const N: usize>(
    quic: quinn::Connection,
    state: Arc<State>,
    lanes: [Arc<Lane>; N],
    mut tls: watch::Receiver<Arc<Tls>>,
) {
    let chain = peer_chain(&quic);
    loop {
        tokio::select! {
            biased;
            _ = quic.closed() => return,
            changed = tls.changed() => if changed.is_err() { return },
        }
        let now = Arc::clone(&tls.borrow_and_update());
        if let Err(why) = now.credentials.still_accepts(&chain) {
            let (addr, why) = (canonical(quic.remote_address()), why.to_string());
            tracing::warn!("left the node at {addr}: {why}");
            state.give_up(&quic, &lanes, Lost::Local, Close::Unauthorised, &why);
            return;
        }
    }
}
