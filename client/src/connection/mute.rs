//! Gives up a peer that owes answers and has fallen silent.
//!
//! Invariants: any packet from the peer counts as a sign of life, and a quiet peer is asked for
//! some, so one that works on its answers for long is never mute; a peer that owes nothing is never
//! mute; silence is counted in ticks of this process, not in wall time, so that being stopped
//! ourselves does not condemn everybody else. One task per connection, started by
//! [`super::Connection`].

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quorate_protocol::code::Close;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Lost, State};
use crate::lane::{Call, Lane};

/// Silence is measured in this many ticks of `mute_after`.
const TICKS: u32 = 8;
/// Most unanswered questions for a sign of life. They are asked every silent tick, because QUIC
/// itself repeats lost packets at growing intervals and a short gap must not look like a long one.
const PROBES: usize = 8;

/// Runs until the connection is gone; closes it when the peer is mute, or when `stop` is set.
pub(super) async fn watch<const N: usize>(
    quic: quinn::Connection,
    state: Arc<State>,
    lanes: [Arc<Lane>; N],
    mute_after: Duration,
    stop: CancellationToken,
) {
    let (why, reason) = tokio::select! {
        biased;
        _ = quic.closed() => return,
        () = stop.cancelled() => (Lost::Local, ""),
        () = silent(&quic, &state, &lanes, mute_after / TICKS) => (Lost::Mute, "no sign of life"),
    };
    state.give_up(&quic, &lanes, why, Close::Done, reason);
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
        let mut probes = Vec::new();
        while owed() {
            sleep(tick).await;
            let now = heard();
            if now != last {
                (last, quiet) = (now, 0);
                probes.retain_mut(|probe: &mut Call| !probe.is_over());
                continue;
            }
            quiet += 1;
            if quiet >= TICKS {
                return;
            }
            if probes.len() < PROBES {
                probes.extend(lanes.first().and_then(Lane::probe));
            }
        }
    }
}
