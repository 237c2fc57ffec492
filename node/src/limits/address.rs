//! What one address takes before anybody knows who is there.
//!
//! Invariants: whoever has proven an address is counted apart from whoever only writes it into
//! packets, so that forged packets take nothing from its owner; what is remembered is bounded, whatever
//! comes. Asked by [`super::Limits`] for every handshake.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use super::LimitsConfig;

/// How often addresses that hold nothing are forgotten, at most. Not a setting: it bounds a cost, of looking at
/// all of them, and takes no room from anybody.
const SWEEP: Duration = Duration::from_secs(1);

/// An address, or an IPv6 network of one customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(IpAddr);

impl Key {
    pub(super) fn of(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            v4 => Self(v4),
        }
    }
}

/// Why an address gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Connections,
    Handshakes,
    Rate,
    Addresses,
}

#[derive(Debug)]
struct Counts {
    connections: u32,
    /// In progress: not proven, proven.
    handshakes: [u32; 2],
    /// Millionths of handshakes that may begin now: not proven, proven.
    tokens: [u64; 2],
    filled: Instant,
}

/// Everything that is known of addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    all: HashMap<Key, Counts>,
    /// When those that hold nothing were forgotten last.
    swept: Option<Instant>,
}

impl Addresses {
    /// One more connection, in its handshake.
    pub(super) fn enter(
        &mut self,
        key: Key,
        proven: bool,
        limits: &LimitsConfig,
        now: Instant,
    ) -> Result<(), Over> {
        let rate = limits.address_handshakes_per_s;
        let burst = u64::from(rate) * u64::from(limits.address_burst.max(1));
        let full = burst.saturating_mul(1_000_000);
        let most = limits.addresses.max(1) as usize;
        if self.all.len() >= most && !self.all.contains_key(&key) {
            // Looking at all of them for every newcomer would cost more than a handshake does.
            if self.swept.is_none_or(|swept| now - swept >= SWEEP) {
                self.swept = Some(now);
                self.all.retain(|_, counts| {
                    counts.fill(rate, full, now);
                    counts.connections > 0 || counts.tokens.iter().any(|tokens| *tokens < full)
                });
            }
            if self.all.len() >= most {
                return Err(Over::Addresses);
            }
        }
        let counts = self.all.entry(key).or_insert(Counts {
            connections: 0,
            handshakes: [0; 2],
            tokens: [full; 2],
            filled: now,
        });
        counts.fill(rate, full, now);
        let which = usize::from(proven);
        if counts.connections >= limits.address_connections {
            return Err(Over::Connections);
        }
        if counts.handshakes[which] >= limits.address_handshakes {
            return Err(Over::Handshakes);
        }
        if rate > 0 {
            let left = counts.tokens[which].checked_sub(1_000_000).ok_or(Over::Rate)?;
            counts.tokens[which] = left;
        }
        counts.connections += 1;
        counts.handshakes[which] += 1;
        Ok(())
    }

    /// A handshake is over, well or not.
    pub(super) fn shaken(&mut self, key: Key, proven: bool) {
        if let Some(counts) = self.all.get_mut(&key) {
            let handshakes = &mut counts.handshakes[usize::from(proven)];
            *handshakes = handshakes.saturating_sub(1);
        }
    }

    /// A connection is over.
    pub(super) fn leave(&mut self, key: Key) {
        if let Some(counts) = self.all.get_mut(&key) {
            counts.connections = counts.connections.saturating_sub(1);
        }
    }
}

impl Counts {
    fn fill(&mut self, rate: u32, full: u64, now: Instant) {
        let micros = u64::try_from((now - self.filled).as_micros()).unwrap_or(u64::MAX);
        self.filled = now;
        for tokens in &mut self.tokens {
            *tokens = tokens.saturating_add(micros.saturating_mul(rate.into())).min(full);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of(text.parse().unwrap())
    }

    fn limits() -> LimitsConfig {
        LimitsConfig {
            address_connections: 5,
            address_handshakes: 2,
            address_handshakes_per_s: 10,
            ..LimitsConfig::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forged_handshakes_take_nothing_from_who_has_proven_the_address() {
        let (mut all, limits, now) = (Addresses::default(), limits(), Instant::now());
        let one = key("10.0.0.1:5");
        for _ in 0..2 {
            all.enter(one, false, &limits, now).unwrap();
        }
        assert_eq!(all.enter(one, false, &limits, now), Err(Over::Handshakes));
        all.enter(one, true, &limits, now).unwrap();
        all.enter(key("10.0.0.2:5"), false, &limits, now).unwrap();
        all.shaken(one, false);
        all.enter(one, false, &limits, now).unwrap();
        all.shaken(one, false);
        all.enter(one, true, &limits, now).unwrap();
        all.shaken(one, true);
        assert_eq!(all.enter(one, true, &limits, now), Err(Over::Connections));
        all.leave(one);
        all.enter(one, true, &limits, now).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_comes_back() {
        let limits = LimitsConfig { address_burst: 3, ..limits() };
        let (mut all, mut now) = (Addresses::default(), Instant::now());
        let one = key("[2001:db8::1]:5");
        let mut begin = |now| {
            let begun = all.enter(one, true, &limits, now);
            if begun.is_ok() {
                all.shaken(one, true);
                all.leave(one);
            }
            begun
        };
        for _ in 0..30 {
            begin(now).unwrap();
        }
        assert_eq!(begin(now), Err(Over::Rate));
        now += Duration::from_millis(99);
        assert_eq!(begin(now), Err(Over::Rate));
        now += Duration::from_millis(1);
        begin(now).unwrap();
        assert_eq!(begin(now), Err(Over::Rate));
    }

    #[test]
    fn a_network_is_one_address_and_so_is_a_mapped_one() {
        assert_eq!(key("[2001:db8::1]:5"), key("[2001:db8::ffff:2]:9"));
        assert_ne!(key("[2001:db8::1]:5"), key("[2001:db8:0:1::1]:5"));
        assert_eq!(key("[::ffff:10.0.0.1]:5"), key("10.0.0.1:5"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let limits = LimitsConfig { addresses: 1_000, ..limits() };
        let (mut all, mut now) = (Addresses::default(), Instant::now());
        let key = |n: u32| Key(IpAddr::V4(n.into()));
        for n in 0..2_000 {
            let entered = all.enter(key(n), false, &limits, now);
            assert_eq!(entered, if n < 1_000 { Ok(()) } else { Err(Over::Addresses) });
            if entered.is_ok() {
                all.leave(key(n));
            }
        }
        assert_eq!(all.all.len(), 1_000);
        now += Duration::from_secs(1);
        all.enter(key(u32::MAX), false, &limits, now).unwrap();
        assert_eq!(all.all.len(), 1);
    }
}
