//! Hosts with a network between them: network namespaces, veth pairs, and a namespace that routes.
//!
//! Node `n` runs in a namespace of its own at `10.77.n.2`, the client's sockets are in one at `10.77.9.2`, and
//! every packet goes through the router, where rules of nftables lose it and a relay process delays it.
//! Invariants: the host's own network is not touched; everything is gone when this is dropped, also by a
//! panic. Where a machine cannot do this, a line says so, which `.ci/run` takes for a failure. Used within
//! [`super::limit::real`].

mod sockets;

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use quorate_certs::{Authority, Config as CertsConfig, Existing, Role, UnixTime};
use quorate_client::{Client, ClientConfig};
use quorate_protocol::id::NodeId;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command as Spawn},
    time::timeout,
};

use super::cluster::NAME;

/// How long a process may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 7100;
/// The client's host.
const CLIENT: u64 = 9;

/// A cluster of processes on hosts of their own.
pub struct Hosts {
    prefix: String,
    members: Vec<Option<Child>>,
    relay: Option<(Child, ChildStdin)>,
    authority: Authority,
    binary: PathBuf,
    root: TempDir,
}

/// Whether this process can cut the machine into hosts. If it may not, the calling test is run as root if sudo
/// allows it; if the machine cannot, the reason is printed.
#[must_use]
pub fn possible() -> bool {
    let lacks = |why: &str| {
        println!("SKIPPED: {why}");
        false
    };
    for (tool, argument) in [("ip", "-V"), ("nft", "-v")] {
        let found = Command::new(tool).arg(argument).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return lacks(&format!("there is no '{tool}'; install iproute2 and nftables"));
        }
    }
    if !rustix::process::geteuid().is_root() {
        again_as_root();
        return false;
    }
    let name = unique();
    let made = quiet(&["ip", "netns", "add", &name])
        && quiet(&["ip", "netns", "exec", &name, "nft", "add", "table", "inet", "t"]);
    quiet(&["ip", "netns", "del", &name]);
    made || lacks("network namespaces or nftables are not allowed here")
}

/// Runs the calling test in a process of its own, by sudo.
///
/// # Panics
/// If it fails there.
fn again_as_root() {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    if test == "main" || !quiet(&["sudo", "-n", "true"]) {
        println!("SKIPPED: network namespaces need root, and sudo asks for a password");
        return;
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(std::env::current_exe().unwrap());
    let status = command.args([test, "--exact", "--nocapture"]).status().unwrap();
    assert!(status.success(), "{test} failed as root");
}

/// A name of this process's own.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("q{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn quiet(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a tool with this input.
///
/// # Panics
/// If it fails.
fn run(words: &[&str], input: &str) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{words:?} with {input:?}: {said}");
}

impl Hosts {
    /// So many nodes, all voting. With a `relay`, the command of one, it is what all are dialled through.
    pub async fn start(binary: &str, nodes: u64, relay: Option<&str>) -> Self {
        let root = TempDir::with_prefix("quorate-test-").unwrap();
        let now = UnixTime::now();
        let authority = Authority::create(
            &root.path().join("pki"),
            NAME,
            CertsConfig::default(),
            now,
            Existing::Refuse,
        );
        let mut hosts = Self {
            prefix: unique(),
            members: Vec::new(),
            relay: None,
            authority: authority.unwrap(),
            binary: binary.into(),
            root,
        };
        hosts.wire(nodes, relay.is_some());
        if let Some(relay) = relay {
            hosts.start_relay(relay, nodes).await;
        }
        for id in (1..=nodes).map(NodeId) {
            let pki = hosts.root.path().join("pki");
            let name = format!("n{id}");
            hosts.authority.issue_node(&pki, &name, &[], now, Existing::Refuse).unwrap();
            hosts.members.push(None);
            hosts.launch(id).await;
        }
        hosts
    }

    /// The namespaces and what connects them.
    fn wire(&self, nodes: u64, relayed: bool) {
        let router = self.router();
        let mut all = format!("netns add {router}\n");
        let hosts = (1..=nodes).chain([CLIENT]);
        for host in hosts.clone() {
            let (name, link) = (self.host(host), format!("h{host}"));
            all += &format!("netns add {name}\n");
            all +=
                &format!("link add {link} netns {router} type veth peer name eth0 netns {name}\n");
        }
        run(&["ip", "-batch", "-"], &all);
        let mut inside = "link set lo up\n".to_owned();
        for host in hosts.clone() {
            inside += &format!("addr add 10.77.{host}.1/24 dev h{host}\nlink set h{host} up\n");
        }
        for node in (1..=nodes).filter(|_| relayed) {
            inside += &format!("addr add 10.77.0.{node}/32 dev lo\n");
        }
        run(&["ip", "-n", &router, "-batch", "-"], &inside);
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run(&["ip", "netns", "exec", &router, "sh", "-c", forward], "");
        for host in hosts {
            let inside = format!(
                "link set lo up\naddr add 10.77.{host}.2/24 dev eth0\nlink set eth0 up\n\
                 route add default via 10.77.{host}.1\n"
            );
            run(&["ip", "-n", &self.host(host), "-batch", "-"], &inside);
        }
    }

    async fn start_relay(&mut self, relay: &str, nodes: u64) {
        let mut command = Spawn::new("ip");
        command.args(["netns", "exec", &self.router(), relay]);
        command
            .args((1..=nodes).map(|node| format!("10.77.0.{node}:{PORT}=10.77.{node}.2:{PORT}")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
        let input = child.stdin.take().unwrap();
        self.relay = Some((child, input));
    }

    /// What the relay delays every packet by, from now on.
    pub async fn delay(&mut self, delay: Duration) {
        let (_, input) = self.relay.as_mut().unwrap();
        input.write_all(format!("{}\n", delay.as_millis()).as_bytes()).await.unwrap();
    }

    fn router(&self) -> String {
        format!("{}r", self.prefix)
    }

    fn host(&self, host: u64) -> String {
        format!("{}h{host}", self.prefix)
    }

    /// All node ids.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        (1..=self.members.len() as u64).map(NodeId).collect()
    }

    /// Where a node is dialled.
    #[must_use]
    pub fn addr(&self, id: NodeId) -> String {
        if self.relay.is_some() {
            format!("10.77.0.{id}:{PORT}")
        } else {
            format!("10.77.{id}.2:{PORT}")
        }
    }

    /// Takes these rules of nftables in the router, and no others. What is routed goes through the chain
    /// `forward`, whatever comes in through `arrive`; `h1` is the way to node 1.
    pub fn rules(&self, forward: &str, arrive: &str) {
        let text = format!(
            "flush ruleset\ntable inet faults {{\n\
             chain forward {{ type filter hook forward priority 0;\n{forward}\n}}\n\
             chain arrive {{ type filter hook prerouting priority 0;\n{arrive}\n}}\n}}\n"
        );
        run(&["ip", "netns", "exec", &self.router(), "nft", "-f", "-"], &text);
    }

    /// Changes a host's side of its link, with the words of `ip`.
    pub fn ip(&self, host: u64, words: &str) {
        run(&["ip", "-n", &self.host(host), "-batch", "-"], &format!("{words}\n"));
    }

    /// Gives the client's host another address, `NET.2`, in place of the one it has.
    pub fn move_client(&self, net: &str) {
        let router = format!("addr add {net}.1/24 dev h{CLIENT}\n");
        run(&["ip", "-n", &self.router(), "-batch", "-"], &router);
        self.ip(CLIENT, &format!("addr add {net}.2/24 dev eth0"));
        self.ip(CLIENT, &format!("route replace default via {net}.1"));
        self.ip(CLIENT, &format!("addr del 10.77.{CLIENT}.2/24 dev eth0"));
    }

    /// Sets the MTU of all links.
    pub fn mtu(&self, mtu: u32) {
        for host in (1..=self.members.len() as u64).chain([CLIENT]) {
            self.ip(host, &format!("link set eth0 mtu {mtu}"));
            let router = format!("link set h{host} mtu {mtu}\n");
            run(&["ip", "-n", &self.router(), "-batch", "-"], &router);
        }
    }

    /// Starts a node, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become so.
    pub async fn launch(&mut self, id: NodeId) {
        let root = self.root.path();
        let log = std::fs::File::options().append(true).create(true).open(self.log_file(id));
        let mut command = Spawn::new("ip");
        command.args(["netns", "exec", &self.host(id.0)]).arg(&self.binary);
        command.args(["node", "--listen", &format!("10.77.{id}.2:{PORT}")]);
        command.args(["--advertise", &self.addr(id)]);
        command.arg("--data").arg(root.join(format!("data-n{id}")));
        command.arg("--certs").arg(root.join("pki").join(format!("n{id}")));
        if id == NodeId(1) {
            command.arg("--bootstrap");
        } else {
            command.args(["--join", &self.addr(NodeId(1))]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.unwrap());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await;
        let ready = matches!(&line, Ok(Ok(Some(line))) if line.contains("\"ready\":true"));
        assert!(ready, "node {id} did not become ready ({line:?}):\n{}", self.log(id));
        self.members[usize::try_from(id.0).unwrap() - 1] = Some(child);
    }

    /// Kills a node with SIGKILL.
    pub async fn kill(&mut self, id: NodeId) {
        let child = self.members[usize::try_from(id.0).unwrap() - 1].take();
        child.unwrap().kill().await.unwrap();
    }

    fn log_file(&self, id: NodeId) -> PathBuf {
        self.root.path().join(format!("n{id}.log"))
    }

    /// What a node has logged so far.
    #[must_use]
    pub fn log(&self, id: NodeId) -> String {
        std::fs::read_to_string(self.log_file(id)).unwrap_or_default()
    }

    /// A client with every role, whose sockets are on the client's host.
    pub async fn client(&self, config: ClientConfig) -> Client {
        let roles = [Role::Admin, Role::Write, Role::Read].into_iter().collect();
        let now = UnixTime::now();
        let credentials = self.authority.issue_client_in_memory("tester", roles, now).unwrap();
        let env = sockets::env_on(&self.host(CLIENT));
        let seeds: Vec<String> = self.ids().into_iter().map(|id| self.addr(id)).collect();
        let client = Client::builder().seeds(seeds).credentials(credentials).config(config);
        client.env(env).connect().await.unwrap()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for child in
            self.members.iter_mut().flatten().chain(self.relay.iter_mut().map(|r| &mut r.0))
        {
            let _ = child.start_kill();
        }
        // A namespace lives for as long as a process in it; its links go with it.
        let hosts = (1..=self.members.len() as u64).chain([CLIENT]).map(|host| self.host(host));
        for name in hosts.chain([self.router()]) {
            quiet(&["ip", "netns", "del", &name]);
        }
    }
}
