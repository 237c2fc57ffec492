//! A cluster of nodes in this process, on loopback and a real disk, that was founded just now.

use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use quorate_certs::{Authority, Config as CertsConfig, Existing, Role, UnixTime};
use quorate_node::{
    config::NodeConfig,
    start::{Node, NodeEnv, StartMode},
};

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The nodes, and where the certificate of the client `app` is.
pub struct Found {
    pub nodes: Vec<Node>,
    pub pki: PathBuf,
}

/// Founds a cluster; the first node is its first leader.
pub async fn found(root: &Path, count: u64) -> Outcome<Found> {
    let (pki, now) = (root.join("pki"), UnixTime::now());
    let authority =
        Authority::create(&pki, "bench", CertsConfig::default(), now, Existing::Refuse)?;
    let roles = [Role::Admin, Role::Write, Role::Read].into_iter().collect();
    authority.issue_client(&pki, "app", roles, now, Existing::Refuse)?;
    let mut nodes: Vec<Node> = Vec::new();
    for id in 1..=count {
        let sans = ["127.0.0.1".to_owned()];
        let credentials = authority.issue_node_in_memory(&format!("n{id}"), &sans, now)?;
        let mode = match nodes.first() {
            None => StartMode::Bootstrap,
            Some(first) => StartMode::Join(vec![first.addr().to_string()]),
        };
        let data = root.join(format!("n{id}"));
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = NodeConfig { data, listen, ..NodeConfig::default() };
        nodes.push(Node::start(config, credentials, NodeEnv::system(), mode).await?);
    }
    Ok(Found { nodes, pki })
}
