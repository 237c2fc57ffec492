//! A client of a cluster on loopback, and a database for it to write to.

use std::time::Duration;

use quorate_certs::{Credentials, UnixTime};
use quorate_client::Client;
use quorate_protocol::change::{Change, PolicySpec};

use crate::loopback::Found;

/// The database's name.
pub const NAME: &str = "bench";

/// Connects, and makes the database, one group for all times, as soon as all nodes are up.
pub async fn client(found: &Found, replication: u32) -> Client {
    let app = Credentials::load(&found.pki.join("app"), UnixTime::now()).expect("it was made");
    let seeds = found.nodes.iter().map(|node| node.addr().to_string());
    let client = Client::builder().seeds(seeds).credentials(app).connect().await.expect("they run");
    let policy = PolicySpec {
        name: "all".to_owned(),
        duration: 0,
        group_duration: 5200 * 7 * 86_400 * 1_000_000_000,
        replication,
    };
    let create = Change::CreateDatabase { name: NAME.to_owned(), policy };
    client.change(create).await.expect("a leader is there");
    while client.up().len() < found.nodes.len() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client
}
