//! `quorate write` with files and pipes of any size: loads that are killed and go on, compressed and
//! damaged input, memory, signals.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use quorate_client::Client;
use quorate_protocol::id::NodeId;
use quorate_tests::harness::{
    limit::{real, soak},
    observe::{PATIENCE, create_database, export, wait_for},
    process::Processes,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Child};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
const NODE: NodeId = NodeId(1);

struct Scene {
    cluster: Processes,
    client: Client,
}

impl Scene {
    async fn start(databases: &[&str]) -> Self {
        let cluster = Processes::start(BINARY, 1).await;
        let client = cluster.client().await;
        for name in databases {
            create_database(&client, name, 1).await;
        }
        Self { cluster, client }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.root().join(name)
    }

    async fn export(&self, database: &str) -> String {
        export(&self.client, database, Some(NODE)).await.unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.trim()).unwrap_or_else(|_| panic!("{stdout:?}"))
}

/// Lines `from..to`, each of a point of its own.
fn lines(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("cpu,host=h{} n={n}i {}\n", n % 50, n + 1)).collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zst(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

/// How far a state says that its load got, in lines.
fn line_of(state: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(state).ok()?;
    let (_, body) = text.split_once('\n')?;
    serde_json::from_str::<Value>(body).ok()?["mark"]["line"].as_u64()
}

#[test]
fn a_load_that_is_killed_again_and_again_goes_on() {
    real(async {
        let scene = Scene::start(&["whole", "killed"]).await;
        // Good lines, lines that cannot be read, and lines that no node takes.
        let mut content = String::new();
        for n in 0..60 {
            content.push_str(&lines(n * 600, n * 600 + 600));
            content.push_str(&format!("broken {n}\ncpu,host=h0 n=\"{n}\" 5\nnow,n=k{n} v={n}i\n"));
        }
        let input = scene.file("in.lp", content.as_bytes());
        let (state, rejects) = (scene.path("state"), scene.path("bad.lp"));
        let args = ["write", "killed", text(&input), "--state", text(&state)];
        let args = [&args[..], &["--rejects", text(&rejects), "--batch", "100", "--json"]].concat();
        let mut stops = Vec::new();
        for kill in 1..=soak(4) {
            // As fast as it goes, so that batches are under way whenever it is killed.
            let mut child = scene.cluster.spawn_quorate(&args, Stdio::null());
            let goal = stops.last().copied().unwrap_or(1) + 600;
            wait_for("the load to get on", PATIENCE, async || {
                line_of(&state).filter(|line| *line >= goal).ok_or("not yet".to_owned())
            })
            .await;
            let how = if kill % 2 == 0 { Signal::INT } else { Signal::KILL };
            signal(&child, how);
            let ended = child.wait().await.unwrap();
            assert_eq!(ended.code(), (how == Signal::INT).then_some(1));
            stops.push(line_of(&state).unwrap());
            if line_of(&state).unwrap() > 25_000 {
                break;
            }
        }
        assert!(stops.windows(2).all(|two| two[0] < two[1]), "{stops:?}");
        let ended = scene.cluster.quorate(&args).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let last = *stops.last().unwrap();
        assert!(ended.stderr.contains(&format!("going on at line {last}")), "{}", ended.stderr);
        let report = json(&ended.stdout);
        // The first type of `n` that a node sees is that of the first line.
        let good = 60 * 601;
        assert_eq!(report["points"], good, "{report}");
        assert_eq!(report["rejected"], 120, "{report}");
        assert_eq!(report["errors"], 0, "{report}");
        assert_eq!(report["state"]["finished"], true);
        assert_eq!(report["state"]["resumed_at_line"], last);
        let bad = std::fs::read_to_string(&rejects).unwrap();
        for n in 0..60 {
            for line in [format!("\nbroken {n}\n"), format!("\ncpu,host=h0 n=\"{n}\" 5\n")] {
                assert_eq!(bad.matches(&line).count(), 1, "{line:?} in\n{bad}");
            }
        }
        // The same content, and lines without a time have one, as if nothing had happened.
        let found = scene.export("killed").await;
        assert_eq!(found.lines().count(), good);
        let times: std::collections::BTreeSet<&str> = found
            .lines()
            .filter(|line| line.starts_with("now,"))
            .map(|line| line.rsplit(' ').next().unwrap())
            .collect();
        assert_eq!(times.len(), 1, "{times:?}");
        let time = *times.first().unwrap();
        let at_once = ["write", "whole", text(&input), "--default-time", time];
        scene.cluster.quorate(&at_once).await;
        assert!(found == scene.export("whole").await);

        let again = scene.cluster.quorate(&args).await;
        assert!(again.stderr.contains("this load is finished"), "{}", again.stderr);
        assert_eq!((again.code, json(&again.stdout)["points"].clone()), (Some(1), good.into()));
        scene.client.close().await;
    });
}

#[test]
fn a_state_of_something_else_is_refused() {
    real(async {
        let scene = Scene::start(&["db", "other"]).await;
        let input = scene.file("in.lp", lines(0, 20).as_bytes());
        let state = scene.path("state");
        let run = async |database: &str, input: &Path, more: &[&str]| {
            let args = ["write", database, text(input), "--state", text(&state)];
            scene.cluster.quorate(&[&args[..], more].concat()).await
        };
        assert_eq!(run("db", &input, &[]).await.code, Some(0));
        let changed = scene.file("changed.lp", lines(1, 21).as_bytes());
        let shorter = scene.file("shorter.lp", lines(0, 19).as_bytes());
        let cases: [(&str, &Path, &[&str], &str); 5] = [
            ("db", &changed, &[], "is not what was loaded"),
            ("db", &shorter, &[], "has fewer lines"),
            ("other", &input, &[], "the database"),
            ("db", &input, &["--precision", "s"], "--precision"),
            ("db", &input, &["--default-time", "7"], "--default-time is another"),
        ];
        for (database, input, more, reason) in cases {
            let ended = run(database, input, more).await;
            assert_eq!(ended.code, Some(1), "{reason}");
            assert!(ended.stderr.contains(reason), "{}", ended.stderr);
            assert!(ended.stderr.contains("or another --state"), "{}", ended.stderr);
        }
        assert_eq!(scene.export("other").await, "");
        // The same content, packed, and with more behind it, is the same input.
        let packed = scene.file("grown.zst", &zst(lines(0, 30).as_bytes()));
        let ended = run("db", &packed, &["--json"]).await;
        assert_eq!((ended.code, json(&ended.stdout)["points"].clone()), (Some(0), 30.into()));
        std::fs::write(&state, "quorate-load 1 ").unwrap();
        let ended = run("db", &input, &[]).await;
        assert!(ended.stderr.contains("damaged, or no state"), "{}", ended.stderr);
        scene.client.close().await;
    });
}

#[test]
fn packed_input_is_the_same_and_what_is_cut_off_says_so() {
    real(async {
        let names = ["plain", "gz", "zst", "piped", "cut"];
        let scene = Scene::start(&names).await;
        let content = lines(0, 5000);
        let (front, back) = content.as_bytes().split_at(content.len() / 2);
        // Names say nothing.
        let gz = scene.file("in.zst", &[gzip(front), gzip(back)].concat());
        let zst_file = scene.file("in.gz", &[zst(front), zst(back)].concat());
        let plain = scene.file("in.lp", content.as_bytes());
        for (database, input) in [("plain", &plain), ("gz", &gz), ("zst", &zst_file)] {
            let ended = scene.cluster.quorate(&["write", database, text(input), "--json"]).await;
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            assert_eq!(ended.stderr, "", "no progress bar without a terminal");
            assert_eq!(json(&ended.stdout)["points"], 5000);
        }
        let stdin = std::fs::File::open(&gz).unwrap();
        let mut child = scene.cluster.spawn_quorate(&["write", "piped"], stdin.into());
        assert!(child.wait().await.unwrap().success());
        let expected = scene.export("plain").await;
        assert_eq!(expected.lines().count(), 5000);
        for database in ["gz", "zst", "piped"] {
            assert!(scene.export(database).await == expected, "{database}");
        }

        let whole = gzip(content.as_bytes());
        let cut = scene.file("cut", &whole[..whole.len() / 2]);
        let ended = scene.cluster.quorate(&["write", "cut", text(&cut), "--json"]).await;
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("the gzip data is cut off"), "{}", ended.stderr);
        let report = json(&ended.stdout);
        assert_eq!(report["rejected"], 0, "a line that was cut off is none: {}", ended.stderr);
        let points = report["points"].as_u64().unwrap();
        let place = format!("what is before line {} was read and sent", points + 1);
        assert!(ended.stderr.contains(&place), "{}", ended.stderr);
        let found = scene.export("cut").await;
        assert!(points > 1000 && found.lines().count() as u64 == points, "{points}");
        assert!(found.lines().all(|line| expected.lines().any(|other| other == line)));
        scene.client.close().await;
    });
}

/// A line that is no line, one that no node takes, a string that is never closed. (A quote further
/// down would close it: strings may have newlines.)
#[test]
fn a_bad_line_costs_its_own_line_only() {
    real(async {
        let scene = Scene::start(&["db"]).await;
        let bad = ["broken", "cpu,host=h0 n=\"no\" 1", "text,a=b s=\"never closed"];
        let content: String = bad
            .iter()
            .enumerate()
            .map(|(n, bad)| format!("{}{bad}\n", lines(n * 100, n * 100 + 100)))
            .chain([lines(300, 400)])
            .collect();
        let input = scene.file("in.lp", content.as_bytes());
        let rejects = scene.path("bad.lp");
        let args = ["write", "db", text(&input), "--json", "--rejects", text(&rejects)];
        let ended = scene.cluster.quorate(&args).await;
        assert_eq!(ended.code, Some(1));
        let (report, told) = (json(&ended.stdout), std::fs::read_to_string(&rejects).unwrap());
        assert_eq!(report["points"], 400, "{report}\n{told}");
        assert_eq!(report["rejected"], 3, "{report}\n{told}");
        let rejected: Vec<&str> = told.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rejected, bad);
        assert_eq!(scene.export("db").await.lines().count(), 400);
        scene.client.close().await;
    });
}

/// Several batches are under way at any time, and what they say of one point has an order all the same.
#[test]
fn the_later_line_of_a_point_wins() {
    real(async {
        let scene = Scene::start(&["db"]).await;
        let content: String = (1..=1000).map(|n| format!("cpu n=1i {n}\ncpu n=2i {n}\n")).collect();
        let input = scene.file("in.lp", content.as_bytes());
        let args = ["write", "db", text(&input), "--batch", "1", "--json"];
        let ended = scene.cluster.quorate(&args).await;
        assert_eq!((ended.code, json(&ended.stdout)["batches"].clone()), (Some(0), 2000.into()));
        let found = scene.export("db").await;
        let earlier = found.lines().filter(|line| !line.contains("n=2i")).count();
        assert_eq!((found.lines().count(), earlier), (1000, 0));
        scene.client.close().await;
    });
}

#[test]
fn a_rate_is_kept() {
    real(async {
        let scene = Scene::start(&["db"]).await;
        let input = scene.file("in.lp", lines(0, 1000).as_bytes());
        let args = ["write", "db", text(&input), "--rate", "2k", "--json"];
        let report = json(&scene.cluster.quorate(&args).await.stdout);
        // Batches of 200, the last of which is sent when the others have taken their time.
        assert_eq!((&report["points"], &report["batches"]), (&1000.into(), &5.into()));
        assert!(report["seconds"].as_f64().unwrap() >= 0.3, "{report}");
        scene.client.close().await;
    });
}

fn rss_anon(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// 200 MB through a pipe, in lines as long as a line may sensibly be, which a debug build gets
/// through; what is in memory is bounded by batches, not by the input.
#[test]
fn memory_is_flat_whatever_the_size_of_the_input() {
    const TOTAL: usize = 200 << 20;
    const BOUND: u64 = 64 << 20;
    real(async {
        let scene = Scene::start(&["db"]).await;
        let mut child = scene.cluster.spawn_quorate(&["write", "db"], Stdio::piped());
        let mut stdin = child.stdin.take().unwrap();
        let feed = tokio::spawn(async move {
            // Comments are read, cut and parsed like anything else, and cost the node nothing.
            let block = format!("# {}\n", "x".repeat(997)).repeat(100);
            let mut sent = 0;
            while sent < TOTAL {
                let lines = lines(sent, sent + 20);
                stdin.write_all(lines.as_bytes()).await.unwrap();
                stdin.write_all(block.as_bytes()).await.unwrap();
                sent += lines.len() + block.len();
            }
        });
        let mut most = 0;
        while !feed.is_finished() {
            most = most.max(rss_anon(&child));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        feed.await.unwrap();
        let ended = child.wait_with_output().await.unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        println!("RssAnon at most {} MB of {} MB", most >> 20, TOTAL >> 20);
        assert!(most < BOUND, "{} MB", most >> 20);
        scene.client.close().await;
    });
}

#[test]
fn an_interrupted_load_says_how_to_go_on() {
    real(async {
        let scene = Scene::start(&["db"]).await;
        for (n, how) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
            let mut child = scene.cluster.spawn_quorate(&["write", "db"], Stdio::piped());
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(lines(n * 10, n * 10 + 10).as_bytes()).await.unwrap();
            wait_for("the lines", PATIENCE, async || {
                let found = scene.export("db").await.lines().count();
                if found >= n * 10 + 10 { Ok(()) } else { Err(format!("{found}")) }
            })
            .await;
            signal(&child, how);
            let ended = child.wait_with_output().await.unwrap();
            assert_eq!(ended.status.code(), Some(1));
            let stderr = String::from_utf8_lossy(&ended.stderr);
            assert!(stderr.contains("interrupted before line 11; with --state FILE"), "{stderr}");
            assert!(String::from_utf8_lossy(&ended.stdout).starts_with("10 points"));
            drop(stdin);
        }
        scene.client.close().await;
    });
}

/// Starts a load of 20,000 lines and kills the only node amid it.
async fn outage(scene: &mut Scene, args: &[&str], state: &Path) -> Child {
    let child = scene.cluster.spawn_quorate(args, Stdio::null());
    wait_for("the load to get on", PATIENCE, async || {
        line_of(state).filter(|line| *line > 2_000).ok_or("not yet".to_owned())
    })
    .await;
    scene.cluster.kill(NODE).await;
    child
}

/// All lines, once this test's client has found the node again.
async fn all_there(scene: &Scene) {
    let found = wait_for("the node", PATIENCE, async || {
        export(&scene.client, "db", Some(NODE)).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(found.lines().count(), 20_000);
}

#[test]
fn a_load_waits_until_its_nodes_are_back() {
    real(async {
        let mut scene = Scene::start(&["db"]).await;
        let input = scene.file("in.lp", lines(0, 20_000).as_bytes());
        let state = scene.path("state");
        let args = ["write", "db", text(&input), "--state", text(&state), "--rate", "20k"];
        let args = [&args[..], &["--batch", "200", "--timeout", "300ms", "--json"]].concat();
        let child = outage(&mut scene, &args, &state).await;
        let second = scene.cluster.quorate(&args).await;
        assert_eq!(second.code, Some(1));
        assert!(second.stderr.contains("is in use by another load"), "{}", second.stderr);
        // Longer than a batch may take, so that some fail and are sent again.
        tokio::time::sleep(Duration::from_millis(700)).await;
        scene.cluster.restart(NODE).await;
        let ended = child.wait_with_output().await.unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{stderr}");
        assert_eq!(stderr.matches("; trying again for up to 1m").count(), 1, "{stderr}");
        let report = json(&String::from_utf8_lossy(&ended.stdout));
        assert_eq!((&report["points"], &report["errors"]), (&20_000.into(), &0.into()), "{report}");
        all_there(&scene).await;
        scene.client.close().await;
    });
}

#[test]
fn a_load_that_waits_too_long_stops_and_goes_on_there() {
    real(async {
        let mut scene = Scene::start(&["db"]).await;
        let input = scene.file("in.lp", lines(0, 20_000).as_bytes());
        let (state, rejects) = (scene.path("state"), scene.path("bad.lp"));
        let args = ["write", "db", text(&input), "--state", text(&state), "--rate", "20k"];
        let args = [&args[..], &["--batch", "200", "--timeout", "300ms", "--json"]].concat();
        let args = [&args[..], &["--rejects", text(&rejects), "--retry", "200ms"]].concat();
        let child = outage(&mut scene, &args, &state).await;
        let ended = child.wait_with_output().await.unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{stderr}");
        let line = line_of(&state).unwrap();
        assert!(stderr.contains(&format!("stopped before line {line}: ")), "{stderr}");
        assert_eq!(std::fs::metadata(&rejects).unwrap().len(), 0);
        scene.cluster.restart(NODE).await;
        let ended = scene.cluster.quorate(&args).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(json(&ended.stdout)["points"], 20_000);
        all_there(&scene).await;
        scene.client.close().await;
    });
}
