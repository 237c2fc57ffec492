//! A new client's first write into a new cluster waits for messages, and for no timer: not for a
//! heartbeat, a poll or a pause. Under a paused clock only waiting takes time.

use std::time::Duration;

use quorate_client::{Client, WriteOptions};
use quorate_protocol::consistency::Level;
use quorate_tests::harness::{
    cluster::Cluster,
    history::Ledger,
    limit::simulated,
    load::{sample, write},
    net::Link,
    observe::create_database,
};
use tokio::time::Instant;

/// Some round trips on the simulated network; far less than a heartbeat, or a pause of the client.
const CONNECT: Duration = Duration::from_millis(30);
const FIRST: Duration = Duration::from_millis(60);

#[test]
fn a_first_write_waits_for_no_timer() {
    simulated(async {
        let mut cluster = Cluster::simulated(3, 773).await;
        // A machine room.
        cluster.net().set_link(Link { latency: Duration::from_micros(500), ..Link::default() });
        let ledger = Ledger::new();
        for (n, node) in cluster.ids().into_iter().enumerate() {
            let seeds = vec![cluster.seeds()[n].clone()];
            let (env, credentials) = (cluster.client_env(), cluster.client_credentials("cold"));
            let begun = Instant::now();
            let config = quorate_client::ClientConfig::default();
            let client = Client::builder().seeds(&seeds).credentials(credentials);
            let client = client.config(config).env(env).connect().await.unwrap();
            let connected = begun.elapsed();
            let database = format!("db{node}");
            create_database(&client, &database, 3).await;
            let all = WriteOptions::at(Level::All);
            write(&client, &database, &[sample(1, 1)], &all, &ledger).await.unwrap();
            let wrote = begun.elapsed();
            eprintln!("through node {node}: connected after {connected:?}, stored after {wrote:?}");
            assert!(connected < CONNECT, "through node {node}: connected after {connected:?}");
            assert!(wrote < FIRST, "through node {node}: stored after {wrote:?}");
            client.close().await;
        }
        cluster.finish().await;
    });
}
