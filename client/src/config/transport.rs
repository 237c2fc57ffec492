//! Every knob of QUIC and of what stands on it, for both sides of a connection.
//!
//! Invariant: receive windows derive from one byte budget, so that streams nobody reads can never
//! use up the window that lanes need; no 0-RTT and no datagrams, since every message needs an
//! answer and none may be replayed. Used by the client, and by the node for listening and dialling.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::duration;

/// Largest path MTU with which segmentation offload still works: the system sends ten segments at
/// once, and above 65,535 bytes in all every one is lost.
const MAX_OFFLOAD_MTU: u16 = 6_500;
/// Fewest streams each side may have open, whatever the budget says: the lanes and a few more.
const MIN_STREAMS: u32 = 8;
/// Smallest window before `Welcome`: what opens a connection fits into it, with room for later fields.
const MIN_STRANGER_WINDOW: u32 = 4 << 10;

/// Settings of connections. Both sides may differ in all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransportConfig {
    /// How long a dial may take, from name resolution to `Welcome`. Default 2 s; shorter than
    /// `idle_timeout`, so that a dead address is told from a lost connection.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// A connection is lost if nothing arrives for this long. Default 5 s. Shorter notices dead
    /// peers sooner when there is nothing to send; longer survives longer network gaps.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long a quiet connection waits before it sends a sign of life. Default 300 ms; never
    /// more than a third of `mute_after`, so that a peer that only works slowly is not mute.
    #[serde(with = "duration")]
    pub keep_alive: Duration,
    /// A peer that owes answers and sends nothing at all for this long is given up as mute.
    /// Default 1 s. A peer that is merely slow still acknowledges packets and is not mute.
    #[serde(with = "duration")]
    pub mute_after: Duration,
    /// First wait before a lost peer is dialled again. Default 50 ms; doubles per failure.
    #[serde(with = "duration")]
    pub backoff_min: Duration,
    /// Longest wait between dials of a peer that is down. Default 5 s.
    #[serde(with = "duration")]
    pub backoff_max: Duration,
    /// Answers in a row that say a node cannot store (its disk has failed or is full, its journal is
    /// poisoned, it has a defect) after which it gets no writes that others can take. Default 5.
    pub breaker_failures: u32,
    /// A node that has failed so, or whose connection was lost in a way that lets expect the same again
    /// (it went silent, or ended more than two connections in a row before they were as old as
    /// `breaker_hold`), gets a ping first, then one write at a time, then two, four, up to so many, each step when the one before has gone well.
    /// Default 16. What it does not get is hinted. More doubts longer; 1 trusts the first good answer.
    pub breaker_trials: u32,
    /// Such a node has full trust again in any case when its connection has held for so long; one that
    /// fails again before that gets one write at a time until then. Default 10 s. A node that fails more
    /// rarely costs all writes that wait for it `mute_after` each time.
    #[serde(with = "duration")]
    pub breaker_hold: Duration,
    /// When this side's own certificate is renewed, its connections are replaced, each at some moment
    /// within this time. Default 5 s. Keeps a node from having all handshakes at once. The old ones go when
    /// their last answer has come.
    #[serde(with = "duration")]
    pub renew_spread: Duration,
    /// Assumed round trip time until one is measured. Default 50 ms. Lower retransmits lost
    /// handshakes sooner; much lower than the real one sends some packets twice.
    #[serde(with = "duration")]
    pub initial_rtt: Duration,
    /// Payload bytes that a dialler may have unanswered on one connection, granted by the side
    /// that listens. Default 16 MiB, at least one largest frame. Bounds a node's memory per peer.
    pub credit: u32,
    /// Requests that may be unanswered on one connection. Default 1,024. More are answered `Busy`.
    pub max_requests: u32,
    /// Payload bytes of one request or answer over several frames. Default 256 MiB. Only the metadata,
    /// its map and its snapshots, is that large, and only nodes may send it.
    pub max_message: u32,
    /// Bytes that all streams of a connection together may have received and not yet read. Default
    /// 64 MiB. It is reached only by streams that are not read; lanes always are.
    pub receive_budget: u32,
    /// Bytes that one stream may have received and not yet read. Default 1 MiB. Must exceed
    /// bandwidth times round trip; larger adds queueing.
    pub stream_window: u32,
    /// Bytes that somebody who has dialled may have sent and not yet been read before it is known who that is, and as
    /// many again that it was sent and has not acknowledged. Default 64 KiB, at least 4 KiB. Only Hello must fit;
    /// with `max_handshakes` it bounds what strangers take. For the side that listens.
    pub stranger_window: u32,
    /// Bytes sent and not yet acknowledged per connection. Default 8 MiB. The congestion
    /// controller (CUBIC) has no limit of its own.
    pub send_window: u32,
    /// Largest UDP payload that is probed for, in bytes, 1,200 to 65,000. Default 6,000; found out
    /// by probing, never assumed. Over 6,500 segmentation offload is off, which costs more than
    /// the larger packets gain unless the network really carries them.
    pub max_mtu: u16,
    /// Whether the system may cut large sends into packets. Default true; 3.5 times faster.
    pub segmentation_offload: bool,
    /// Whether a connection goes on when the peer's address changes, as behind a NAT or on a machine that
    /// moves. Default true: QUIC proves the new address before it trusts it. False makes such a peer dial
    /// again, after `mute_after`. For the side that listens.
    pub migration: bool,
    /// UDP socket buffers in bytes, as far as the system allows. Default 4 MiB; at least 1 MiB
    /// keeps bursts from being lost.
    pub socket_buffer: u32,
    /// Connections a node keeps open at once. Default 4,096. More are refused.
    pub max_connections: u32,
    /// Handshakes a node has in progress at once. Default 256. More are refused.
    pub max_handshakes: u32,
    /// Bytes of packets that are kept of a dialler until it is decided whether it may come in. Default 16 KiB.
    /// A handshake's first packets take 2 to 4 KiB; what is dropped is sent again, which costs it time. All
    /// together keep no more than `max_handshakes` times as much.
    pub handshake_buffer: u32,
    /// How long a stopping side lets requests in progress finish. Default 5 s.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_millis(300),
            mute_after: Duration::from_secs(1),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            breaker_failures: 5,
            breaker_trials: 16,
            breaker_hold: Duration::from_secs(10),
            renew_spread: Duration::from_secs(5),
            initial_rtt: Duration::from_millis(50),
            credit: 16 << 20,
            max_requests: 1024,
            max_message: 256 << 20,
            receive_budget: 64 << 20,
            stream_window: 1 << 20,
            stranger_window: 64 << 10,
            send_window: 8 << 20,
            max_mtu: 6_000,
            segmentation_offload: true,
            migration: true,
            socket_buffer: 4 << 20,
            max_connections: 4096,
            max_handshakes: 256,
            handshake_buffer: 16 << 10,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl TransportConfig {
    /// Streams each side may have open at once: half of what the budget has windows for.
    #[must_use]
    pub fn max_streams(&self) -> u32 {
        (self.receive_budget / self.stream_window.max(1) / 2).max(MIN_STREAMS)
    }

    /// Payload bytes this side grants to a dialler: never less than one largest frame.
    #[must_use]
    pub fn granted_credit(&self) -> u32 {
        self.credit.max(quorate_protocol::frame::MAX_FRAME)
    }

    /// Bytes that all streams of a connection together may have received and not yet read.
    #[must_use]
    pub fn receive_window(&self) -> u64 {
        let window = u64::from(self.stream_window.max(64 << 10));
        // Both sides' streams fill this window; see `max_streams`.
        u64::from(self.receive_budget)
            .max(window * u64::from(self.max_streams()) * 2)
            .min((1 << 62) - 1)
    }

    fn mtu(&self) -> u16 {
        self.max_mtu.clamp(1200, 65_000)
    }

    /// The settings of a UDP endpoint.
    #[must_use]
    pub fn endpoint(&self) -> quinn::EndpointConfig {
        let mut endpoint = quinn::EndpointConfig::default();
        // `mtu` is within what this accepts (1,200 to 65,527), so nothing is lost here.
        let _ = endpoint.max_udp_payload_size(self.mtu().max(1472));
        endpoint
    }

    /// The settings of a connection, the same for both sides.
    #[must_use]
    pub fn quic(&self) -> Arc<quinn::TransportConfig> {
        Arc::new(self.settings())
    }

    /// The settings of a connection that somebody has opened who is not known yet: the windows are small
    /// until it is.
    #[must_use]
    pub fn quic_for_strangers(&self) -> Arc<quinn::TransportConfig> {
        let mut quic = self.settings();
        let window = self.stranger_window.max(MIN_STRANGER_WINDOW);
        quic.receive_window(window.into()).send_window(window.into());
        Arc::new(quic)
    }

    fn settings(&self) -> quinn::TransportConfig {
        let window = self.stream_window.max(64 << 10);
        let streams = self.max_streams();
        let connection = self.receive_window();
        let mut mtu = quinn::MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu());
        let idle = quinn::IdleTimeout::try_from(self.idle_timeout).ok();
        let mut quic = quinn::TransportConfig::default();
        quic.max_idle_timeout(idle)
            .keep_alive_interval(Some(self.keep_alive.min(self.mute_after / 3)))
            .initial_rtt(self.initial_rtt)
            .max_concurrent_bidi_streams(streams.into())
            .max_concurrent_uni_streams(0u32.into())
            .stream_receive_window(window.into())
            .receive_window(quinn::VarInt::from_u64(connection).unwrap_or(quinn::VarInt::MAX))
            .send_window(self.send_window.into())
            .mtu_discovery_config(Some(mtu))
            .enable_segmentation_offload(self.segmentation_offload && self.mtu() <= MAX_OFFLOAD_MTU)
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(quinn::congestion::CubicConfig::default()));
        quic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_window_covers_every_stream_window() {
        let config = TransportConfig::default();
        assert!(config.max_streams() * 2 * config.stream_window <= config.receive_budget);
        assert!(config.connect_timeout < config.idle_timeout);
        assert!(config.mute_after < config.idle_timeout);
        // Nothing to assert on quinn's side: it has no getters; it must not panic at the edges.
        for (budget, window, mtu) in [(0, 0, 0), (u32::MAX, 1, u16::MAX), (1, u32::MAX, 1200)] {
            let odd = TransportConfig {
                receive_budget: budget,
                stream_window: window,
                max_mtu: mtu,
                ..config.clone()
            };
            drop((odd.quic(), odd.endpoint()));
        }
    }
}
