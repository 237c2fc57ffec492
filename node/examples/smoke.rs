#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]
use std::time::{Duration, Instant, SystemTime};
use quorate_certs::{Authority, Roles, UnixTime};
use quorate_client::*;
use quorate_node::*;
use quorate_protocol::{batch::Batch, change::*, point::Point, consistency::Level};
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(std::env::var("RUST_LOG").unwrap_or("info".into())).with_writer(std::io::stderr).init();
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let ca = Authority::ephemeral("test", Default::default(), now).unwrap();
    let dir = std::env::temp_dir().join(format!("smoke-{}", std::process::id()));
    let mut nodes = vec![];
    let mut first: Option<String> = None;
    for i in 1..=3 {
        let cred = ca.issue_node_in_memory(&format!("n{i}"), &["127.0.0.1".to_string()], now).unwrap();
        let config = NodeConfig { data: dir.join(format!("n{i}")), listen: "127.0.0.1:0".parse().unwrap(), ..Default::default() };
        let mode = match &first { None => StartMode::Bootstrap, Some(a) => StartMode::Join(vec![a.clone()]) };
        let t = Instant::now();
        let node = Node::start(config, cred, NodeEnv::system(), mode).await.unwrap();
        println!("node {} {} in {:?}", node.id(), node.addr(), t.elapsed());
        first.get_or_insert(node.addr().to_string());
        nodes.push(node);
    }
    let cred = ca.issue_client_in_memory("admin", Roles::from_iter([quorate_certs::Role::Admin]), now).unwrap();
    let t = Instant::now();
    let client = Client::connect(&[first.unwrap()], cred, ClientConfig::default(), Env::system()).await.unwrap();
    println!("connected {:?} up {:?}", t.elapsed(), client.up());
    while client.map().active_nodes().count() < 3 || client.up().len() < 3 { tokio::time::sleep(Duration::from_millis(20)).await; }
    println!("three up {:?}", t.elapsed());
    let t = Instant::now();
    println!("{:?} {:?}", client.change(Change::CreateDatabase { name: "m".into(), policy: PolicySpec { name: "".into(), duration: 0, group_duration: 0, replication: 3 } }).await, t.elapsed());
    for round in 0..3 {
        let mut batch = Batch::new();
        for i in 0..5000i64 {
            let p = Point::builder("cpu").tag("host", format!("h{}", i % 100)).field("v", i as f64).field("n", i).at(1_700_000_000_000_000_000 + round * 1_000_000_000_000 + i * 1_000_000_000).unwrap();
            batch.push(&p);
        }
        let t = Instant::now();
        let r = client.write("m", &batch, &WriteOptions::at(Level::All)).await;
        match r { Ok(r) => println!("ok rows {} parts {} {:?}", r.rows(), r.parts.len(), t.elapsed()), Err(e) => println!("ERR {e} {:?}", t.elapsed()) }
    }
    let t = Instant::now();
    let mut s = client.query(Query::all("m")).await.unwrap();
    let mut rows = 0; let mut series = 0;
    while let Some(x) = s.next().await { let (_, r) = x.unwrap(); rows += r.len(); series += 1; }
    println!("read {series} series {rows} rows {:?}", t.elapsed());
    let t = Instant::now();
    client.close().await; println!("client closed {:?}", t.elapsed());
    for n in nodes { let t = Instant::now(); n.shutdown().await; println!("down {:?}", t.elapsed()); }
    std::fs::remove_dir_all(dir).unwrap();
}
