//! The story: three nodes, two writers, a murdered leader, and nothing lost.
//!
//! Invariant: it is told with facts only: a node is dead when its process is gone, hints are what
//! the nodes report, replicas are what each node reads from its own disk. Called by `demo`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quorate_certs::UnixTime;
use quorate_client::{Client, Env, Query};
use quorate_protocol::{
    change::{Change, PolicySpec},
    consistency::Level,
    id::NodeId,
    message::{QueueStatus, RaftRole},
};
use rustls::crypto::{aws_lc_rs, hash};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    fleet::{Fleet, INTERVAL},
    ledger::Ledger,
    report::Facts,
    screen::Screen,
    verify::{Found, Verifier, hosts},
    writers::{self, DATABASE, Desk, Progress},
};
use crate::cli::{
    children::Cluster, connect::unix_time, fail::Fail, fields::FieldNames, series, survey::Survey,
    table::grouped,
};

/// Points acknowledged before the leader is killed, while it is dead, and in all, of the default
/// length; less if the demo is shorter.
const POINTS: [u64; 3] = [220_000, 160_000, 540_000];
/// How much longer than planned a part may take on a slow machine.
const STRETCH: u32 = 6;
/// How long changes of the cluster are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(250);

/// How long the writers write, and how much at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Seconds of writing in all.
    pub(super) seconds: u64,
}

/// Seconds of writing by default.
pub(super) const DEFAULT_SECONDS: u64 = 28;

impl Plan {
    fn part(self, share: f64) -> Duration {
        Duration::from_secs_f64(self.seconds as f64 * share)
    }

    fn points(self, at: usize) -> u64 {
        let points = POINTS.get(at).copied().unwrap_or(0);
        points * self.seconds.min(DEFAULT_SECONDS) / DEFAULT_SECONDS
    }
}

/// Everything that acts.
pub(super) struct Story<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) screen: &'a mut Screen,
    pub(super) env: Env,
    pub(super) plan: Plan,
}

impl Story<'_> {
    /// Tells it from the running nodes to the compared replicas.
    pub(super) async fn tell(&mut self) -> Result<Facts, Fail> {
        let admin = self.client("admin").await?;
        self.create_database(&admin).await?;
        let now = i64::try_from(self.env.clock.wall_ns()).unwrap_or(0);
        // The fleet's time runs much faster than ours and should end before now.
        let begin =
            now - now % INTERVAL - INTERVAL * 60 * i64::try_from(self.plan.seconds).unwrap_or(0);
        let fleet = Fleet { seed: self.env.entropy.next_u64(), start: begin };
        let progress = Arc::new(Progress::default());
        let stop = CancellationToken::new();
        // However this ends, the writers stop.
        let _stop = stop.clone().drop_guard();
        let desk = |client: &Client| Desk {
            client: client.clone(),
            progress: Arc::clone(&progress),
            stop: stop.clone(),
        };
        let (live_client, fleet_client) = (self.client("live").await?, self.client("fleet").await?);
        let live = tokio::spawn(writers::live(desk(&live_client), self.env.clone()));
        let generated = tokio::spawn(writers::fleet(desk(&fleet_client), fleet));
        self.screen
            .say("two writers at quorum: this host's live metrics, and a fleet of 1,000 hosts");

        let act = self.disaster(&admin, &progress).await;
        stop.cancel();
        let (live, fleet) = (live.await, generated.await);
        let drama = act?;
        let (live, live_acks) = live.map_err(Fail::failed)??;
        let (fleet, fleet_acks) = fleet.map_err(Fail::failed)??;
        live_client.close().await;
        fleet_client.close().await;
        let ledger = Arc::new(Ledger { fleet, live });
        self.screen.say(&format!(
            "writers stopped: {} points acknowledged; waiting until no hint is pending",
            grouped(ledger.points())
        ));
        let hints = self.drained(&admin, &progress).await?;

        self.screen.say("reading each node's own disk and comparing every field value");
        let compared = Instant::now();
        let replicas = self.compare(&admin, &ledger).await?;
        admin.close().await;
        let acks = live_acks.merge(fleet_acks);
        Ok(Facts {
            points_acked: ledger.points(),
            hints,
            replicas,
            compare_seconds: compared.elapsed().as_secs_f64(),
            acks,
            drama,
        })
    }

    /// A client with an identity of its own. Nodes that are down are dialled again soon.
    async fn client(&self, name: &str) -> Result<Client, Fail> {
        let now: UnixTime = unix_time(&self.env);
        let credentials = self.cluster.credentials(name, now)?;
        let client = Client::builder().seeds(self.cluster.seeds()).credentials(credentials);
        Ok(client.env(self.env.clone()).connect().await?)
    }

    async fn create_database(&self, admin: &Client) -> Result<(), Fail> {
        self.wait_for(admin, "three voting nodes and a leader", |survey| {
            let voting = |role| matches!(role, RaftRole::Leader | RaftRole::Follower);
            survey.leader().is_some()
                && survey.answers().filter(|node| voting(node.role)).count() == 3
        })
        .await?;
        let policy = PolicySpec {
            name: "autogen".to_owned(),
            duration: 0,
            group_duration: 0,
            replication: 3,
        };
        admin.change(Change::CreateDatabase { name: DATABASE.to_owned(), policy }).await?;
        self.screen.say("three nodes vote, one leads; database 'demo' keeps three copies");
        Ok(())
    }

    /// The middle act: the leader dies, everybody writes on, it comes back.
    async fn disaster(&mut self, admin: &Client, progress: &Progress) -> Result<Drama, Fail> {
        self.watch(admin, progress, self.plan.part(0.36), self.plan.points(0)).await?;
        let survey = Survey::take(admin).await;
        let victim = survey.leader().ok_or_else(|| Fail::failed("the nodes have no leader"))?;
        let pid = self.cluster.kill(victim).await?;
        // After the process has gone and before anything else, so that no healthy write counts.
        progress.node_down.store(true, Ordering::Relaxed);
        let killed = Instant::now();
        let before = progress.points();
        let name = survey.name(victim);
        self.screen.say(&format!("SIGKILL to {name} (pid {pid}), which led Raft; writing goes on"));

        let elected = self.wait_for(admin, "another leader", |survey| {
            survey.leader().is_some_and(|leader| leader != victim)
        });
        let survey = elected.await?;
        let leader = survey.leader().unwrap_or(victim);
        let election = killed.elapsed();
        let leader = survey.name(leader);
        self.screen.say(&format!("{leader} leads now, {:.1} s later", election.as_secs_f64()));
        let rest = self.plan.part(0.36).saturating_sub(killed.elapsed());
        self.watch(admin, progress, rest, before + self.plan.points(1)).await?;
        let waiting = Survey::take(admin).await.hints().pending;
        self.screen.say(&format!("{} hints wait for {name}; starting it again", grouped(waiting)));

        self.cluster.restart(victim).await?;
        progress.node_down.store(false, Ordering::Relaxed);
        let down = killed.elapsed();
        self.screen
            .say(&format!("{name} is back after {:.1} s, with its disk", down.as_secs_f64()));
        let back = Instant::now();
        self.drained(admin, progress).await?;
        let drain = back.elapsed();
        self.screen.say(&format!("its hints are delivered, {:.1} s later", drain.as_secs_f64()));
        let rest = self.plan.part(0.28).saturating_sub(drain);
        self.watch(admin, progress, rest, self.plan.points(2)).await?;
        Ok(Drama { victim: name, new_leader: leader, election, down, drain, waiting })
    }

    /// Lets the writers write for this long and until this many points are acknowledged.
    async fn watch(
        &mut self,
        admin: &Client,
        progress: &Progress,
        time: Duration,
        points: u64,
    ) -> Result<(), Fail> {
        let began = Instant::now();
        while began.elapsed() < time || progress.points() < points {
            if began.elapsed() > time.max(Duration::from_secs(1)) * STRETCH {
                return Err(Fail::failed(format!(
                    "only {} points were acknowledged in {:.0} s",
                    grouped(progress.points()),
                    began.elapsed().as_secs_f64()
                )));
            }
            self.look(admin, progress).await;
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Shows how the nodes are.
    async fn look(&mut self, admin: &Client, progress: &Progress) -> Survey {
        let survey = Survey::take(admin).await;
        let QueueStatus { accepted, delivered, pending, .. } = survey.hints();
        let hints = format!(
            "{} pending, {} delivered of {} accepted",
            grouped(pending),
            grouped(delivered),
            grouped(accepted)
        );
        self.screen.update(progress, &hints);
        survey
    }

    /// Waits until all nodes answer and no hint is pending.
    async fn drained(&mut self, admin: &Client, progress: &Progress) -> Result<QueueStatus, Fail> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let survey = self.look(admin, progress).await;
            let missing = survey.undrained();
            if missing.is_empty() {
                return Ok(survey.hints());
            }
            if Instant::now() > deadline {
                let missing = missing.join(", ");
                return Err(Fail::failed(format!("hints were not delivered in time: {missing}")));
            }
            sleep(LOOK).await;
        }
    }

    async fn wait_for(
        &self,
        admin: &Client,
        what: &str,
        reached: impl Fn(&Survey) -> bool,
    ) -> Result<Survey, Fail> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let survey = Survey::take(admin).await;
            if reached(&survey) {
                return Ok(survey);
            }
            if Instant::now() > deadline {
                return Err(Fail::failed(format!("waited in vain for {what}")));
            }
            sleep(LOOK / 2).await;
        }
    }

    /// Each replica against the ledger, all at the same time.
    async fn compare(&self, admin: &Client, ledger: &Arc<Ledger>) -> Result<Vec<Replica>, Fail> {
        let hosts = Arc::new(hosts().map_err(Fail::failed)?);
        let mut tasks = JoinSet::new();
        for member in &self.cluster.members {
            let (client, ledger, hosts) = (admin.clone(), Arc::clone(ledger), Arc::clone(&hosts));
            let (id, name) = (member.id, member.name.clone());
            tasks.spawn(async move { replica(&client, id, name, &ledger, &hosts).await });
        }
        let mut replicas = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, Fail>>()?;
        replicas.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(replicas)
    }
}

/// What happened in the middle act.
#[derive(Clone, Debug)]
pub(super) struct Drama {
    pub(super) victim: String,
    pub(super) new_leader: String,
    pub(super) election: Duration,
    pub(super) down: Duration,
    pub(super) drain: Duration,
    /// Hints pending right before the restart.
    pub(super) waiting: u64,
}

/// What one node has on its own disk.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) found: Found,
    /// SHA-256 of the bytes of its export.
    pub(super) sha256: String,
    /// Their number.
    pub(super) bytes: u64,
}

impl Replica {
    /// Whether all exports are the same, byte for byte.
    pub(super) fn identical(replicas: &[Self]) -> bool {
        let exports: BTreeSet<(&str, u64)> =
            replicas.iter().map(|replica| (replica.sha256.as_str(), replica.bytes)).collect();
        exports.len() == 1
    }
}

async fn replica(
    client: &Client,
    id: NodeId,
    name: String,
    ledger: &Ledger,
    hosts: &HashMap<Vec<u8>, usize>,
) -> Result<Replica, Fail> {
    let query = Query { node: Some(id), level: Level::One, ..Query::all(DATABASE) };
    let mut names = FieldNames::new(client, DATABASE);
    let mut stream = client.query(query).await?;
    let mut verifier = Verifier::new(ledger, hosts);
    let (mut digest, mut bytes, mut lines) = (sha256()?, 0, Vec::new());
    while let Some(piece) = series::next(&mut stream, &mut names).await? {
        lines.clear();
        piece.write_lines(&mut lines);
        digest.update(&lines);
        bytes += lines.len() as u64;
        verifier.feed(&piece);
    }
    let sha256 = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Replica { name, found: verifier.finish(), sha256, bytes })
}

/// SHA-256, from the library that TLS has loaded anyway.
fn sha256() -> Result<Box<dyn hash::Context>, Fail> {
    let suites = aws_lc_rs::default_provider().cipher_suites;
    let mut hashes = suites.iter().filter_map(|suite| Some(suite.tls13()?.common.hash_provider));
    let sha256 = hashes.find(|hash| hash.algorithm() == hash::HashAlgorithm::SHA256);
    sha256.map(|hash| hash.start()).ok_or_else(|| Fail::failed("the TLS library has no SHA-256"))
}
