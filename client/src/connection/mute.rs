//! Gives up a peer that owes answers and has fallen silent.
//!
//! Invariants: any packet from the peer counts as a sign of life, and keep-alives make even a peer
//! that works on its answers send some, so a slow peer is never mute; a peer that owes nothing is
//! never mute; silence is counted in ticks of this process, not in wall time, so that being stopped
//! ourselves does not condemn everybody else. One task per connection, started by
//! [`super::Connection`].

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quorate_protocol::code::Close;
use tokio::time::sleep;

use super::{Lost, State, close_code};
use crate::lane::Lane;

/// Silence is measured in this many ticks of `mute_after`.
const TICKS: u32 = 8;

pub(super) async fn watch<const N: usize>(
    quic: quinn::Connection,
    state: Arc<State>,
    lanes: [Arc<Lane>; N],
    mute_after: Duration,
) {
    tokio::select! {
        biased;
        _ = quic.closed() => {}
        () = silent(&quic, &state, &lanes, mute_after / TICKS) => {
            let _ = state.given_up.set(Lost::Mute);
            for lane in &lanes {
                lane.fail(&Lost::Mute);
            }
            quic.close(close_code(Close::Done), b"no sign of life");
        }
    }
}

/// Returns when the peer has owed something and said nothing for [`TICKS`] ticks.
async fn silent(quic: &quinn::Connection, state: &State, lanes: &[Arc<Lane>], tick: Duration) {
    let owed =
        || state.owed.load(Ordering::Relaxed) > 0 || lanes.iter().any(|lane| lane.open() > 0);
    let heard = || quic.stats().udp_rx.datagrams;
    loop {
        while !owed() {
            state.asked.notified().await;
        }
        let (mut last, mut quiet) = (heard(), 0);
        while owed() {
            sleep(tick).await;
            let now = heard();
            if now != last {
                (last, quiet) = (now, 0);
                continue;
            }
            quiet += 1;
            if quiet >= TICKS {
                return;
            }
        }
    }
}
