//! A cluster of child processes on loopback: certificates, nodes, their end.
//!
//! Invariant: no child outlives this process: each stops when its standard input closes, which the
//! system does for us however we end, and is killed when its handle is dropped. Used by
//! `demo` and `bench write`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use quorate_certs::{Authority, Config, Credentials, Existing, Role, Roles, UnixTime};
use quorate_protocol::id::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::cli::fail::Fail;

/// How long a node may take until it serves.
const START: Duration = Duration::from_secs(60);
/// How long a node may take to stop.
const STOP: Duration = Duration::from_secs(15);

/// A node and its process.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) id: NodeId,
    pub(crate) addr: String,
    child: Option<Child>,
}

impl Member {
    /// Its process, while it has one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }
}

/// The processes.
pub(crate) struct Cluster {
    dir: PathBuf,
    program: PathBuf,
    pub(crate) members: Vec<Member>,
}

/// What to start.
pub(crate) struct Setup<'a> {
    /// The cluster's name.
    pub(crate) name: &'a str,
    /// Nodes, which are called n1, n2 and so on.
    pub(crate) nodes: usize,
    /// Clients and what they may do.
    pub(crate) clients: &'a [(&'a str, &'a [Role])],
}

impl Cluster {
    /// Makes the certificates and starts the nodes.
    pub(crate) async fn start(dir: &Path, setup: &Setup<'_>, now: UnixTime) -> Result<Self, Fail> {
        let names: Vec<String> = (1..=setup.nodes).map(|at| format!("n{at}")).collect();
        make_certificates(&dir.join("pki"), setup, &names, now).map_err(Fail::failed)?;
        let program = std::env::current_exe()
            .map_err(|error| Fail::failed(format!("cannot find this program: {error}")))?;
        let mut cluster = Self { dir: dir.to_owned(), program, members: Vec::new() };
        // One by one, so that ids follow names.
        for name in &names {
            let first = cluster.members.first().map(|first| first.addr.clone());
            let how = first.as_ref().map_or(vec!["--bootstrap"], |first| vec!["--join", first]);
            let member = cluster.launch(name, "127.0.0.1:0", &how).await?;
            cluster.members.push(member);
        }
        Ok(cluster)
    }

    /// Addresses to begin with.
    pub(crate) fn seeds(&self) -> Vec<String> {
        self.members.iter().map(|member| member.addr.clone()).collect()
    }

    /// The identity of one of the clients.
    pub(crate) fn credentials(&self, name: &str, now: UnixTime) -> Result<Credentials, Fail> {
        Credentials::load(&self.dir.join("pki").join(name), now).map_err(Fail::failed)
    }

    /// The command line that starts a node again, by hand.
    pub(crate) fn command(&self, member: &Member) -> String {
        let dir = self.dir.display();
        let Member { name, addr, .. } = member;
        format!("quorate node --data {dir}/{name} --listen {addr} --certs {dir}/pki/{name}")
    }

    /// The member with this id.
    pub(crate) fn member(&self, id: NodeId) -> Result<&Member, Fail> {
        let found = self.members.iter().find(|member| member.id == id);
        found.ok_or_else(|| Fail::failed(format!("node {id} is none of these")))
    }

    /// Ends a node as a power cut would: SIGKILL. Returns when the process is gone.
    pub(crate) async fn kill(&mut self, id: NodeId) -> Result<u32, Fail> {
        let member = self.members.iter_mut().find(|member| member.id == id);
        let child = member.and_then(|member| member.child.take());
        let mut child = child.ok_or_else(|| Fail::failed(format!("node {id} does not run")))?;
        let pid = child.id().unwrap_or(0);
        child
            .kill()
            .await
            .map_err(|error| Fail::failed(format!("cannot kill node {id}: {error}")))?;
        Ok(pid)
    }

    /// Stops a node in the middle of whatever it does (SIGSTOP), or lets it go on.
    pub(crate) fn freeze(&self, id: NodeId, frozen: bool) -> Result<(), Fail> {
        if let Some(child) = &self.member(id)?.child {
            signal(child, if frozen { Signal::STOP } else { Signal::CONT });
        }
        Ok(())
    }

    /// Starts a node again, with its data, where it was.
    pub(crate) async fn restart(&mut self, id: NodeId) -> Result<(), Fail> {
        let member = self.member(id)?;
        let again = self.launch(&member.name, &member.addr, &[]).await?;
        if again.id != id {
            return Err(Fail::failed(format!("node {id} came back as node {}", again.id)));
        }
        if let Some(slot) = self.members.iter_mut().find(|member| member.id == id) {
            *slot = again;
        }
        Ok(())
    }

    /// Stops all nodes gracefully.
    pub(crate) async fn stop(&mut self) -> Result<(), Fail> {
        let mut stopping = Vec::new();
        for member in &mut self.members {
            if let Some(child) = member.child.take() {
                // One that was stopped sees no other signal.
                signal(&child, Signal::CONT);
                signal(&child, Signal::TERM);
                stopping.push((member.name.clone(), child));
            }
        }
        let mut ended = Ok(());
        for (name, mut child) in stopping {
            let status = timeout(STOP, child.wait()).await;
            if !matches!(status, Ok(Ok(status)) if status.success()) {
                let how = match status {
                    Ok(Ok(status)) => status.to_string(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it took too long".to_owned(),
                };
                ended = Err(Fail::failed(format!("node {name} did not stop well: {how}")));
                // Gone either way; a second failure would tell nothing new.
                let _ = child.kill().await;
            }
        }
        ended
    }

    async fn launch(&self, name: &str, listen: &str, extra: &[&str]) -> Result<Member, Fail> {
        let log_file = self.dir.join(format!("{name}.log"));
        let failed = |what: &str, error: std::io::Error| {
            Fail::failed(format!("cannot {what} for node {name}: {error}"))
        };
        let log = File::options().create(true).append(true).open(&log_file);
        let log = log.map_err(|error| failed("open the log", error))?;
        let mut child = Command::new(&self.program)
            .arg("node")
            .arg("--data")
            .arg(self.dir.join(name))
            .arg("--certs")
            .arg(self.dir.join("pki").join(name))
            .args(["--listen", listen, "--exit-with-stdin"])
            .args(extra)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for this process, which then ends its children.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start the process", error))?;
        let ready = timeout(START, ready_line(&mut child)).await;
        let Ok(Some((id, addr))) = ready else {
            let status = child.try_wait().ok().flatten();
            return Err(Fail::failed(not_ready(name, status, &log_file)));
        };
        Ok(Member { name: name.to_owned(), id, addr, child: Some(child) })
    }
}

/// Sends a signal to a process. If it has ended already, there is nothing to ask.
fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// The id and address in the line a node prints when it serves; none if it ended before.
async fn ready_line(child: &mut Child) -> Option<(NodeId, String)> {
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if line["ready"] == true {
            let (id, addr) = (line["id"].as_u64()?, line["addr"].as_str()?);
            return Some((NodeId(id), addr.to_owned()));
        }
    }
    None
}

/// Why a node did not come up, with its own last words.
fn not_ready(name: &str, status: Option<ExitStatus>, log: &Path) -> String {
    let how = match status {
        Some(status) => format!("ended with {status}"),
        None => "did not serve in time".to_owned(),
    };
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    format!("node {name} {how}; its log {} ends with: {last}", log.display())
}

/// A CA, a certificate per node and per client.
fn make_certificates(
    dir: &Path,
    setup: &Setup<'_>,
    names: &[String],
    now: UnixTime,
) -> Result<(), quorate_certs::IssueError> {
    let refuse = Existing::Refuse;
    let authority = Authority::create(dir, setup.name, Config::default(), now, refuse)?;
    for name in names {
        authority.issue_node(dir, name, &[], now, refuse)?;
    }
    for (name, roles) in setup.clients {
        let roles: Roles = roles.iter().copied().collect();
        authority.issue_client(dir, name, roles, now, refuse)?;
    }
    Ok(())
}
