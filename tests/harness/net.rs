//! An in-memory UDP network for quinn: latency, jitter, loss, duplication, partitions.
//!
//! Invariants: what happens to a datagram depends on the seed and on the datagram alone (when, from
//! where, to where, how long, and which of its like), not on what else is sent in the same instant:
//! tokio wakes the tasks of one instant in an order that no seed decides. So under a paused
//! single-threaded runtime the same seed gives the same trace. Nothing runs in the background: a
//! datagram waits in its receiver's inbox until its time has come. Used through [`SimNet::env`],
//! which is an [`Env`] for one host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use quorate_client::env::{BoxFuture, Clock, Entropy, Env, Sockets};
use tokio::time::{Instant, Sleep};

/// How the network treats datagrams.
#[derive(Clone, Debug)]
pub struct Link {
    /// One way, at least.
    pub latency: Duration,
    /// Up to this much more, so that datagrams overtake each other.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams delivered twice, 0 to 1.
    pub duplicate: f64,
    /// Largest UDP payload that gets through, in bytes.
    pub mtu: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(5),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            mtu: 1472,
        }
    }
}

/// What has happened so far, in datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Given to the network.
    pub sent: u64,
    /// Put into an inbox, duplicates included.
    pub delivered: u64,
    /// Bytes of those.
    pub delivered_bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Delivered a second time.
    pub duplicated: u64,
    /// Stopped by a partition.
    pub blocked: u64,
    /// Larger than the link's MTU.
    pub oversized: u64,
    /// Sent to where nobody listens.
    pub unreachable: u64,
}

/// A network; clones are the same one.
#[derive(Clone, Debug)]
pub struct SimNet(Arc<Net>);

#[derive(Debug)]
struct Net {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seed: u64,
    clock_rate: u32,
    link: Link,
    inboxes: BTreeMap<SocketAddr, Arc<Mutex<Inbox>>>,
    /// One-way: (from, to).
    blocked: BTreeSet<(IpAddr, IpAddr)>,
    names: BTreeMap<String, IpAddr>,
    counters: Counters,
    trace: u64,
    /// Microseconds since the start that `alike` is about.
    instant: u64,
    /// How many datagrams of one (from, to, length) were sent in that instant.
    alike: BTreeMap<(SocketAddr, SocketAddr, usize), u64>,
    next_port: u16,
    order: u64,
}

/// The generator behind everything that is drawn here: SplitMix64.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, share: f64) -> bool {
        // Always drawn, so that a change of one setting does not shift everything behind it.
        let drawn = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        drawn < share
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimNet {
    /// An empty network. Must be called within the runtime whose clock it follows.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Net {
            start: Instant::now(),
            state: Mutex::new(State {
                seed,
                clock_rate: 1,
                link: Link::default(),
                inboxes: BTreeMap::new(),
                blocked: BTreeSet::new(),
                names: BTreeMap::new(),
                counters: Counters::default(),
                trace: 0,
                instant: 0,
                alike: BTreeMap::new(),
                next_port: 40_000,
                order: 0,
            }),
        }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut lock(&self.0.state))
    }

    /// The world as the host with this address sees it: sockets on this network, randomness from
    /// the network's seed and the address, a wall clock that follows the runtime's.
    #[must_use]
    pub fn env(&self, host: Ipv4Addr) -> Env {
        let (seed, rate) = self.with(|state| (state.seed, state.clock_rate));
        let mut mixed = SplitMix(seed ^ u64::from(u32::from(host)));
        Env {
            clock: Arc::new(SimClock { start: self.0.start, rate }),
            entropy: Arc::new(SimEntropy(AtomicU64::new(mixed.next()))),
            sockets: Arc::new(SimHost { net: self.clone(), host: host.into() }),
        }
    }

    /// Lets so many seconds pass on the wall clocks of hosts that are made from now on for each one of
    /// the runtime's. All hosts need the same rate.
    pub fn set_clock_rate(&self, rate: u32) {
        self.with(|state| state.clock_rate = rate);
    }

    /// Treats datagrams that are sent from now on like this.
    pub fn set_link(&self, link: Link) {
        self.with(|state| state.link = link);
    }

    /// Makes a name known to every host.
    pub fn set_name(&self, name: &str, host: Ipv4Addr) {
        self.with(|state| state.names.insert(name.to_owned(), host.into()));
    }

    /// Lets nothing through from one host to another; what is under way still arrives.
    pub fn block(&self, from: Ipv4Addr, to: Ipv4Addr) {
        self.with(|state| state.blocked.insert((from.into(), to.into())));
    }

    /// Lets nothing through between two hosts.
    pub fn partition(&self, a: Ipv4Addr, b: Ipv4Addr) {
        self.block(a, b);
        self.block(b, a);
    }

    /// Ends a partition of two hosts, in both directions.
    pub fn heal(&self, a: Ipv4Addr, b: Ipv4Addr) {
        let (a, b) = (IpAddr::from(a), IpAddr::from(b));
        self.with(|state| {
            state.blocked.remove(&(a, b));
            state.blocked.remove(&(b, a));
        });
    }

    /// Ends all partitions.
    pub fn heal_all(&self) {
        self.with(|state| state.blocked.clear());
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.with(|state| state.counters)
    }

    /// A hash over every datagram sent so far: when, from where, to where, how long, what became
    /// of it. The order within an instant does not count.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.with(|state| state.trace)
    }

    /// Takes a datagram, or several of equal size in one.
    fn send(&self, from: SocketAddr, transmit: &Transmit<'_>) {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(size) {
            self.send_one(from, transmit.destination, datagram);
        }
    }

    fn send_one(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let now = Instant::now();
        let mut state = lock(&self.0.state);
        let state = &mut *state;
        state.counters.sent += 1;
        let at = u64::try_from(now.duration_since(self.0.start).as_micros()).unwrap_or(u64::MAX);
        if at != state.instant {
            state.instant = at;
            state.alike.clear();
        }
        let which = state.alike.entry((from, to, datagram.len())).or_default();
        *which += 1;
        let mut parts = [at, address(from), address(to), datagram.len() as u64, *which, 0];
        let mut random = SplitMix(hash(state.seed, &parts));
        let lost = random.chance(state.link.loss);
        let twice = random.chance(state.link.duplicate);
        let fate = if state.blocked.contains(&(from.ip(), to.ip())) {
            state.counters.blocked += 1;
            1
        } else if datagram.len() > state.link.mtu {
            state.counters.oversized += 1;
            2
        } else if lost {
            state.counters.lost += 1;
            3
        } else if twice {
            state.counters.duplicated += 1;
            4
        } else {
            0
        };
        parts[5] = fate;
        state.trace = state.trace.wrapping_add(hash(0, &parts));
        let copies = match fate {
            0 => 1,
            4 => 2,
            _ => return,
        };
        let Some(inbox) = state.inboxes.get(&to).cloned() else {
            state.counters.unreachable += 1;
            return;
        };
        for _ in 0..copies {
            let jitter = u64::try_from(state.link.jitter.as_nanos()).unwrap_or(u64::MAX);
            let more = Duration::from_nanos(random.next() % jitter.saturating_add(1).max(1));
            state.order += 1;
            state.counters.delivered += 1;
            state.counters.delivered_bytes += datagram.len() as u64;
            let due = (now + state.link.latency + more, from, state.order);
            let mut inbox = lock(&inbox);
            inbox.waiting.insert(due, (from, datagram.to_vec()));
            // Wakes the receiver to look at its new earliest datagram.
            if inbox.waiting.keys().next() == Some(&due)
                && let Some(waker) = inbox.waker.take()
            {
                waker.wake();
            }
        }
    }
}

/// FNV-1a.
fn hash(seed: u64, parts: &[u64]) -> u64 {
    parts
        .iter()
        .copied()
        .flat_map(u64::to_le_bytes)
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
}

fn address(addr: SocketAddr) -> u64 {
    let host = match addr.ip() {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(_) => 0,
    };
    u64::from(host) << 16 | u64::from(addr.port())
}

/// Microseconds are enough for a clock that starts on a round day.
struct SimClock {
    start: Instant,
    rate: u32,
}

impl Clock for SimClock {
    fn wall_ns(&self) -> u64 {
        const START: u64 = 1_700_000_000_000_000_000;
        let passed = self.start.elapsed() * self.rate;
        START + u64::try_from(passed.as_nanos()).unwrap_or(0)
    }
}

struct SimEntropy(AtomicU64);

impl Entropy for SimEntropy {
    fn next_u64(&self) -> u64 {
        let count = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        SplitMix(count).next()
    }
}

struct SimHost {
    net: SimNet,
    host: IpAddr,
}

impl Sockets for SimHost {
    fn bind(&self, addr: SocketAddr, _buffer: usize) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // Hosts have one IPv4 address each.
        if addr.is_ipv6() || !(addr.ip().is_unspecified() || addr.ip() == self.host) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        self.net.with(|state| {
            let port = match addr.port() {
                0 => {
                    state.next_port += 1;
                    state.next_port
                }
                port => port,
            };
            let local = SocketAddr::new(self.host, port);
            if state.inboxes.contains_key(&local) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let inbox = Arc::<Mutex<Inbox>>::default();
            state.inboxes.insert(local, Arc::clone(&inbox));
            let socket: Arc<dyn AsyncUdpSocket> =
                Arc::new(Socket { local, net: self.net.clone(), inbox });
            Ok(socket)
        })
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            if let Ok(addr) = address.parse() {
                return Ok(vec![addr]);
            }
            let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
            let (name, port) = address.rsplit_once(':').ok_or_else(invalid)?;
            let port: u16 = port.parse().map_err(|_| invalid())?;
            let host = self.net.with(|state| state.names.get(name).copied());
            let host = host.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            Ok(vec![SocketAddr::new(host, port)])
        })
    }
}

#[derive(Default)]
struct Inbox {
    /// By time of arrival, then sender, then order of sending.
    waiting: BTreeMap<(Instant, SocketAddr, u64), (SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
    /// Fires when the earliest of `waiting` arrives.
    timer: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("waiting", &self.waiting.len()).finish()
    }
}

#[derive(Debug)]
struct Socket {
    local: SocketAddr,
    net: SimNet,
    inbox: Arc<Mutex<Inbox>>,
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.net.send(self.local, transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), metas.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut inbox = lock(&self.inbox);
        let inbox = &mut *inbox;
        loop {
            let Some(next) = inbox.waiting.first_entry() else {
                inbox.timer = None;
                inbox.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let due = next.key().0;
            if due <= Instant::now() {
                let (from, datagram) = next.remove();
                let length = datagram.len().min(buffer.len());
                buffer[..length].copy_from_slice(&datagram[..length]);
                *meta = RecvMeta::default();
                meta.addr = from;
                meta.len = length;
                meta.stride = length;
                meta.dst_ip = Some(self.local.ip());
                return Poll::Ready(Ok(1));
            }
            let timer = inbox.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                inbox.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // Spent; the next datagram needs a new one.
            inbox.timer = None;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.net.with(|state| state.inboxes.remove(&self.local));
    }
}
