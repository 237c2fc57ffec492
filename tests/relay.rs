//! A network with delay, for kernels without netem: forwards UDP datagrams, each after the same time.
//!
//! `quorate-relay-under-test LISTEN=TARGET...`: what comes to an address goes on to its target, from a socket
//! for each sender, and what comes back to that goes to the sender. Every line of standard input is the
//! delay from now on, in milliseconds, for each direction; it ends with standard input. Nothing is reordered;
//! what does not fit the queue of a direction is lost, as in a router.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Datagrams on their way in one direction.
const QUEUE: usize = 4096;

type Delay = Arc<AtomicU64>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let delay = Delay::default();
    for pair in std::env::args().skip(1) {
        let (listen, target) = pair.split_once('=').expect("LISTEN=TARGET");
        let socket = UdpSocket::bind(listen).await.unwrap();
        let target: SocketAddr = target.parse().unwrap();
        tokio::spawn(serve(Arc::new(socket), target, Arc::clone(&delay)));
    }
    println!("ready");
    let told = tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            delay.store(line.trim().parse().unwrap(), Ordering::Relaxed);
        }
    });
    told.await.unwrap();
}

async fn serve(socket: Arc<UdpSocket>, target: SocketAddr, delay: Delay) {
    let mut flows = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let flow = match flows.get(&from) {
            Some(flow) => flow,
            None => {
                let flow = open(Arc::clone(&socket), from, target, &delay).await;
                flows.entry(from).or_insert(flow)
            }
        };
        let due = Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
        let _ = flow.try_send((due, buffer[..length].to_vec()));
    }
}

/// Both directions of one sender; the way to the target.
async fn open(
    back: Arc<UdpSocket>,
    from: SocketAddr,
    target: SocketAddr,
    delay: &Delay,
) -> mpsc::Sender<(Instant, Vec<u8>)> {
    let onward = Arc::new(UdpSocket::bind("0.0.0.0:0").await.unwrap());
    onward.connect(target).await.unwrap();
    let (there, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
    let out = Arc::clone(&onward);
    tokio::spawn(async move {
        while let Some((due, datagram)) = queue.recv().await {
            sleep_until(due).await;
            let _ = out.send(&datagram).await;
        }
    });
    let (here, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
    tokio::spawn(async move {
        while let Some((due, datagram)) = queue.recv().await {
            sleep_until(due).await;
            let _ = back.send_to(&datagram, from).await;
        }
    });
    let delay = Arc::clone(delay);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            // An answer that nobody is there is no reason to stop.
            let Ok(length) = onward.recv(&mut buffer).await else { continue };
            let due = Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
            let _ = here.try_send((due, buffer[..length].to_vec()));
        }
    });
    there
}
