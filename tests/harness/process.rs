//! A cluster of child processes: the real command, real files, real signals.
//!
//! Invariants: a signal goes to a process this harness started and has not reaped yet, by its id;
//! when the harness is dropped, also by a panic, every child has been killed and reaped. Nodes keep
//! their directories and addresses over restarts. Used within [`super::limit::real`].

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use quorate_certs::{
    Authority, Config as CertsConfig, Credentials, Existing, Role, Roles, UnixTime,
};
use quorate_client::Client;
use quorate_protocol::id::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{cluster::NAME, observe};

/// How long a process may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(40);

/// A cluster of processes.
pub struct Processes {
    members: Vec<Member>,
    authority: Authority,
    binary: PathBuf,
    root: TempDir,
    /// The configuration file of all nodes, if they have one.
    config: Option<PathBuf>,
}

struct Member {
    name: String,
    addr: String,
    /// Where it serves HTTP, if it does.
    http: Option<SocketAddr>,
    process: Option<Process>,
}

/// A child and the process that is the node: the same, unless something runs the node.
struct Process {
    child: Child,
    node: Pid,
}

impl Drop for Process {
    fn drop(&mut self) {
        // If a tracer runs the node, the node would outlive it. The child is not reaped yet, so the
        // ids are still theirs.
        if self.child.id().is_some() {
            let _ = kill_process(self.node, Signal::KILL);
        }
        let _ = self.child.start_kill();
        // Reaped by the runtime in the background otherwise; here it must be over.
        for _ in 0..1000 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// How a process ended that was not meant to run on.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it said on standard output.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
}

impl Processes {
    /// So many nodes, all voting. `binary` is the command under test.
    pub async fn start(binary: &str, nodes: u64) -> Self {
        Self::start_with(binary, nodes, "").await
    }

    /// As [`Self::start`], every node with this configuration.
    pub async fn start_with(binary: &str, nodes: u64, config: &str) -> Self {
        let root = TempDir::with_prefix("quorate-test-").unwrap();
        let pki = root.path().join("pki");
        let authority = Authority::create(
            &pki,
            NAME,
            CertsConfig::default(),
            UnixTime::now(),
            Existing::Refuse,
        )
        .unwrap();
        let file = root.path().join("node.toml");
        std::fs::write(&file, config).unwrap();
        let config = (!config.is_empty()).then_some(file);
        let binary = PathBuf::from(binary);
        let mut cluster = Self { members: Vec::new(), authority, binary, root, config };
        for id in 1..=nodes {
            let name = format!("n{id}");
            cluster.issue_node(&name);
            let addr = "127.0.0.1:0".to_owned();
            cluster.members.push(Member { name, addr, http: None, process: None });
            cluster.launch(NodeId(id), &[]).await;
        }
        let client = cluster.client().await;
        observe::wait_healthy(&client, &cluster.ids()).await;
        client.close().await;
        cluster
    }

    /// Makes a node's certificate.
    pub fn issue_node(&self, name: &str) -> PathBuf {
        let sans = ["127.0.0.1".to_owned()];
        let now = UnixTime::now();
        self.authority.issue_node(&self.pki(), name, &sans, now, Existing::Refuse).unwrap()
    }

    /// Makes a client's certificate.
    pub fn issue_client(&self, name: &str) -> PathBuf {
        let (roles, now) = (Roles::default(), UnixTime::now());
        self.authority.issue_client(&self.pki(), name, roles, now, Existing::Refuse).unwrap()
    }

    /// The directory of the CA and all identities.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.root.path().join("pki")
    }

    /// A directory for the test's own use.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The configuration file of all nodes.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.config.clone().unwrap()
    }

    /// The data directory of a node.
    #[must_use]
    pub fn data(&self, id: NodeId) -> PathBuf {
        self.root.path().join(format!("data-n{id}"))
    }

    /// All node ids, running or not.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        (1..=self.members.len() as u64).map(NodeId).collect()
    }

    /// Where a node listens.
    #[must_use]
    pub fn addr(&self, id: NodeId) -> &str {
        &self.member(id).addr
    }

    /// Where a node that is configured to serves HTTP; another port after each start.
    #[must_use]
    pub fn http(&self, id: NodeId) -> SocketAddr {
        self.member(id).http.unwrap()
    }

    fn member(&self, id: NodeId) -> &Member {
        &self.members[usize::try_from(id.0).unwrap() - 1]
    }

    fn member_mut(&mut self, id: NodeId) -> &mut Member {
        &mut self.members[usize::try_from(id.0).unwrap() - 1]
    }

    /// The command line of a node, without the command.
    #[must_use]
    pub fn node_args(&self, name: &str, addr: &str, data: &Path, mode: &[&str]) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["node", "--listen", addr].map(Into::into).into();
        args.extend(["--data".into(), data.into()]);
        args.extend(["--certs".into(), self.pki().join(name).into()]);
        args.extend(mode.iter().map(Into::into));
        args
    }

    /// Starts a node, behind the words of `wrapper` if there are any, and waits until it is ready.
    async fn launch(&mut self, id: NodeId, wrapper: &[OsString]) {
        self.spawn(id, wrapper);
        self.ready(id, !wrapper.is_empty()).await;
    }

    /// Starts one more node without waiting for anything. Ids must be given in the order of joining.
    pub fn join(&mut self) -> NodeId {
        let id = NodeId(self.members.len() as u64 + 1);
        let name = format!("n{id}");
        self.issue_node(&name);
        self.members.push(Member {
            name,
            addr: "127.0.0.1:0".to_owned(),
            http: None,
            process: None,
        });
        self.spawn(id, &[]);
        id
    }

    /// Starts a node that was killed, without waiting for anything.
    pub fn respawn(&mut self, id: NodeId) {
        self.spawn(id, &[]);
    }

    fn spawn(&mut self, id: NodeId, wrapper: &[OsString]) {
        // Those that run, else the first: it will be there.
        let others =
            self.members.iter().enumerate().filter(|(n, member)| {
                *n as u64 + 1 != id.0 && (*n == 0 || member.process.is_some())
            });
        let others: Vec<&str> = others
            .map(|(_, member)| &member.addr[..])
            .filter(|addr| !addr.ends_with(":0"))
            .collect();
        let others = others.join(",");
        let mode = if id == NodeId(1) { vec!["--bootstrap"] } else { vec!["--join", &others] };
        let member = self.member(id);
        assert!(member.process.is_none(), "node {id} runs already");
        let mut args = self.node_args(&member.name, &member.addr, &self.data(id), &mode);
        if let Some(config) = &self.config {
            args.extend(["--config".into(), config.into()]);
        }
        let mut words = wrapper.iter().cloned();
        let mut command = match words.next() {
            Some(program) => {
                let mut command = Command::new(program);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        let log = self.root.path().join(format!("n{id}.log"));
        let log = File::options().append(true).create(true).open(log).unwrap();
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let child = command.kill_on_drop(true).spawn().unwrap();
        let node = pid(child.id().unwrap());
        self.member_mut(id).process = Some(Process { child, node });
    }

    /// Waits until a node that was started is ready.
    ///
    /// # Panics
    /// If it does not become so, or has been waited for already.
    pub async fn wait_ready(&mut self, id: NodeId) {
        self.ready(id, false).await;
    }

    async fn ready(&mut self, id: NodeId, wrapped: bool) {
        let process = self.member_mut(id).process.as_mut().unwrap();
        let own = process.node;
        let mut lines = BufReader::new(process.child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            panic!("node {id} did not become ready ({line:?}):\n{}", self.log(id));
        };
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["ready"], true, "{line}");
        assert_eq!(ready["id"], id.0, "{line}");
        let addr: SocketAddr = ready["addr"].as_str().unwrap().parse().unwrap();
        let member = self.member_mut(id);
        member.addr = addr.to_string();
        member.http = ready["http"].as_str().map(|addr| addr.parse().unwrap());
        if wrapped {
            member.process.as_mut().unwrap().node = only_child(own);
        }
    }

    /// What a node has logged so far.
    #[must_use]
    pub fn log(&self, id: NodeId) -> String {
        std::fs::read_to_string(self.root.path().join(format!("n{id}.log"))).unwrap_or_default()
    }

    /// Starts a node again with the command line it had.
    pub async fn restart(&mut self, id: NodeId) {
        self.launch(id, &[]).await;
    }

    /// Starts a node again behind these words, such as `strace -f`.
    pub async fn restart_under(&mut self, id: NodeId, wrapper: &[OsString]) {
        self.launch(id, wrapper).await;
    }

    fn signal(&self, id: NodeId, signal: Signal) {
        let process = self.member(id).process.as_ref().unwrap();
        assert!(process.child.id().is_some(), "node {id} has ended by itself:\n{}", self.log(id));
        kill_process(process.node, signal).unwrap();
    }

    /// The process id of a running node.
    #[must_use]
    pub fn pid(&self, id: NodeId) -> i32 {
        self.member(id).process.as_ref().unwrap().node.as_raw_nonzero().get()
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    pub async fn kill(&mut self, id: NodeId) {
        self.kill_all(&[id]).await;
    }

    /// Kills nodes with SIGKILL, all before the first is waited for.
    pub async fn kill_all(&mut self, ids: &[NodeId]) {
        ids.iter().for_each(|id| self.signal(*id, Signal::KILL));
        for id in ids {
            let mut process = self.member_mut(*id).process.take().unwrap();
            let status = timeout(PATIENCE, process.child.wait()).await.unwrap().unwrap();
            assert!(!status.success(), "node {id} was not killed");
        }
    }

    /// Asks a node to stop, and waits until it has ended well.
    pub async fn terminate(&mut self, id: NodeId) {
        self.signal(id, Signal::TERM);
        let mut process = self.member_mut(id).process.take().unwrap();
        let status = timeout(PATIENCE, process.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "node {id} ended with {status}:\n{}", self.log(id));
    }

    /// Waits until a node has ended well by itself.
    pub async fn ended(&mut self, id: NodeId) {
        let mut process = self.member_mut(id).process.take().unwrap();
        let status = timeout(PATIENCE, process.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("node {id} goes on:\n{}", self.log(id)));
        assert!(status.unwrap().success(), "node {id} did not end well:\n{}", self.log(id));
    }

    /// Waits until a node has ended by itself, well or not.
    pub async fn gone(&mut self, id: NodeId) {
        let mut process = self.member_mut(id).process.take().unwrap();
        let status = timeout(PATIENCE, process.child.wait()).await;
        assert!(status.is_ok(), "node {id} goes on:\n{}", self.log(id));
    }

    /// Stops a node in its tracks: it keeps its memory and sockets and does nothing.
    pub fn freeze(&self, id: NodeId) {
        self.signal(id, Signal::STOP);
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self, id: NodeId) {
        self.signal(id, Signal::CONT);
    }

    /// Runs a client command as somebody with every role.
    pub async fn quorate(&self, args: &[&str]) -> Ended {
        self.run(&self.as_operator(args)).await
    }

    /// Starts a client command as somebody with every role, and leaves it running. It is killed when it
    /// is dropped.
    #[must_use]
    pub fn spawn_quorate(&self, args: &[&str], stdin: Stdio) -> Child {
        let mut command = Command::new(&self.binary);
        command.args(self.as_operator(args)).stdin(stdin);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn().unwrap()
    }

    fn as_operator(&self, args: &[&str]) -> Vec<OsString> {
        let certs = self.pki().join("operator");
        if !certs.exists() {
            let roles = [Role::Admin, Role::Write, Role::Read].into_iter().collect();
            let issued = self.authority.issue_client(
                &self.pki(),
                "operator",
                roles,
                UnixTime::now(),
                Existing::Refuse,
            );
            issued.unwrap();
        }
        let seeds: Vec<&str> = self.members.iter().map(|member| &member.addr[..]).collect();
        let mut words: Vec<OsString> = args.iter().map(Into::into).collect();
        words.extend(["--connect".into(), seeds.join(",").into()]);
        words.extend(["--certs".into(), certs.into()]);
        words
    }

    /// Runs the command once, with these arguments, to its end.
    pub async fn run(&self, args: &[OsString]) -> Ended {
        let mut command = Command::new(&self.binary);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.kill_on_drop(true).spawn().unwrap();
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("{args:?} did not end")).unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Credentials of a client with every role.
    #[must_use]
    pub fn client_credentials(&self) -> Credentials {
        let roles = [Role::Admin, Role::Write, Role::Read].into_iter().collect();
        self.authority.issue_client_in_memory("tester", roles, UnixTime::now()).unwrap()
    }

    /// A client with every role.
    pub async fn client(&self) -> Client {
        let running = self.members.iter().filter(|member| member.process.is_some());
        let seeds: Vec<String> = running.map(|member| member.addr.clone()).collect();
        let credentials = self.client_credentials();
        Client::builder().seeds(seeds).credentials(credentials).connect().await.unwrap()
    }
}

fn pid(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

/// The one child of a tracer.
fn only_child(tracer: Pid) -> Pid {
    let tracer = tracer.as_raw_nonzero();
    let mut text = String::new();
    let path = format!("/proc/{tracer}/task/{tracer}/children");
    File::open(path).unwrap().read_to_string(&mut text).unwrap();
    let children: Vec<u32> = text.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(children.len(), 1, "the tracer runs {text:?}");
    pid(children[0])
}
