//! What a kill cannot show, because the page cache survives it: an acknowledgement leaves only after
//! a completed sync, and none after a failed one. System calls are watched and changed by `strace`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quorate_client::{Client, WriteOptions, error::WriteErrorKind, receipt::CopyState};
use quorate_protocol::{code::Code, consistency::Level, id::NodeId};
use quorate_tests::harness::{
    history::Ledger,
    limit::real,
    load::{sample, write},
    observe::{PATIENCE, create_database, exports, statuses, wait_for, wait_healthy},
    process::Processes,
};

const ONE: NodeId = NodeId(1);
const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
/// How long the watched node's syncs are held up.
const DELAY: Duration = Duration::from_millis(250);

/// Whether system calls can be watched here; says so where not, for `.ci/run` to see.
fn strace() -> bool {
    let traced = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", "inject=fdatasync:delay_enter=1", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let works = traced.is_ok_and(|status| status.success());
    if !works {
        println!("SKIPPED: strace is not installed, or may not trace");
    }
    works
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// One finished system call.
#[derive(Debug)]
struct Call {
    begun: f64,
    ended: f64,
    /// The whole text, arguments and result.
    text: String,
}

/// The calls in a trace written with `-f -ttt -T`.
fn calls(trace: &Path) -> Vec<Call> {
    let mut open: Vec<(String, f64, String)> = Vec::new();
    let mut calls = Vec::new();
    for line in fs::read_to_string(trace).unwrap().lines() {
        let mut words = line.trim_start().splitn(2, ' ');
        let thread = words.next().unwrap_or_default().to_owned();
        let Some((at, text)) = words.next().and_then(|rest| rest.trim_start().split_once(' '))
        else {
            continue;
        };
        let Ok(at) = at.parse::<f64>() else { continue };
        let text = text.trim();
        if let Some(start) = text.strip_suffix("<unfinished ...>") {
            open.push((thread, at, start.to_owned()));
        } else if text.starts_with("<...") {
            let Some(index) = open.iter().position(|(of, ..)| *of == thread) else {
                continue;
            };
            let (_, begun, start) = open.swap_remove(index);
            calls.push(Call { begun, ended: at, text: start + text });
        } else if let Some((_, took)) = text.rsplit_once('<')
            && let Ok(took) = took.trim_end_matches('>').parse::<f64>()
        {
            calls.push(Call { begun: at, ended: at + took, text: text.to_owned() });
        }
    }
    calls
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// Waits until the client is connected to all nodes and they are well.
async fn ready(client: &Client, cluster: &Processes) {
    wait_healthy(client, &cluster.ids()).await;
    wait_for("connections", PATIENCE, async || {
        let up = client.up();
        if up == cluster.ids() { Ok(()) } else { Err(format!("{up:?}")) }
    })
    .await;
}

#[test]
fn no_owner_s_acknowledgement_overtakes_its_sync() {
    if !strace() {
        return;
    }
    real(async {
        let mut cluster = Processes::start(BINARY, 3).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 3).await;
        let all = WriteOptions::at(Level::All);
        write(&client, "db", &[sample(0, 0)], &all, &ledger).await.unwrap();
        // Each owner in turn has slow syncs. A write at `all` is as slow as they are, and is
        // acknowledged when the last of them has completed; were it answered before its sync, the
        // others would not hold it up.
        for (round, owner) in (0..).zip(cluster.ids()) {
            let trace = cluster.root().join(format!("n{owner}.trace"));
            cluster.terminate(owner).await;
            let delay = format!("inject=fdatasync,fsync:delay_enter={}", DELAY.as_micros());
            let mut wrapper = words(&["strace", "-f", "-ttt", "-T", "-y", "-e"]);
            wrapper.push("trace=fdatasync,fsync,sendmsg,sendmmsg,sendto".into());
            wrapper.extend(["-e".into(), delay.into(), "-o".into(), trace.clone().into()]);
            cluster.restart_under(owner, &wrapper).await;
            ready(&client, &cluster).await;
            let mut writes = Vec::new();
            for n in 0..4 {
                let begun = now();
                let point = [sample(1, round * 10 + n)];
                let receipt = write(&client, "db", &point, &all, &ledger).await.unwrap();
                writes.push((begun, now()));
                let copies = &receipt.parts[0].copies;
                let stored = |copy: &quorate_client::receipt::OwnerCopy| {
                    matches!(copy.state, CopyState::Stored { .. })
                };
                assert!(copies.len() == 3 && copies.iter().all(stored), "{copies:?}");
            }
            cluster.terminate(owner).await;
            let calls = calls(&trace);
            for (begun, acked) in writes {
                assert!(acked - begun >= DELAY.as_secs_f64(), "acknowledged during the delay");
                let sync = calls.iter().find(|call| {
                    call.text.starts_with("fdatasync")
                        && call.text.contains("/journal/")
                        && call.text.contains("= 0")
                        && call.begun >= begun
                        && call.ended <= acked
                });
                let sync = sync.unwrap_or_else(|| {
                    panic!("node {owner} has completed no sync of its journal: {calls:#?}")
                });
                // And something was sent between the sync and the acknowledgement's arrival.
                let sent = calls.iter().any(|call| {
                    call.text.starts_with("send") && (sync.ended..=acked).contains(&call.begun)
                });
                assert!(sent, "node {owner} has sent nothing after its sync");
            }
            cluster.restart(owner).await;
            ready(&client, &cluster).await;
        }
        ledger.check(&exports(&client, "db", &cluster.ids()).await).assert_whole();
        client.close().await;
    });
}

/// The journal segment that a node will make as its `nth` from its next start on.
fn next_segment(data: &Path, nth: u64) -> PathBuf {
    let journal = data.join("journal");
    let numbers = fs::read_dir(&journal).unwrap().filter_map(|entry| {
        entry.unwrap().file_name().to_str()?.trim_start_matches("spare-").parse::<u64>().ok()
    });
    journal.join(format!("{:020}", numbers.max().unwrap() + nth))
}

#[test]
fn after_a_sync_that_failed_nothing_is_acknowledged_and_the_journal_is_poisoned() {
    if !strace() {
        return;
    }
    real(async {
        let mut cluster = Processes::start(BINARY, 1).await;
        let client = cluster.client().await;
        let ledger = Ledger::new();
        create_database(&client, "db", 1).await;
        let options = WriteOptions { timeout: Duration::from_secs(3), ..WriteOptions::default() };
        write(&client, "db", &[sample(0, 0)], &options, &ledger).await.unwrap();
        cluster.terminate(ONE).await;

        let trace = cluster.root().join("n1.trace");
        // With segments this small every record gets one of its own, behind the one of the start:
        // the first record's syncs succeed, no sync of the second's does, on whatever thread.
        let settings = cluster.root().join("quorate.toml");
        fs::write(&settings, "[journal]\nsegment_bytes = 1\n").unwrap();
        let segment = next_segment(&cluster.data(ONE), 3);
        let mut wrapper = words(&["strace", "-f", "-y", "-e", "trace=fdatasync", "-e"]);
        wrapper.push("inject=fdatasync:error=EIO".into());
        wrapper.extend(["-P".into(), segment.into(), "-o".into(), trace.clone().into()]);
        let exec = format!("exec \"$0\" \"$@\" --config '{}'", settings.display());
        wrapper.extend(["sh".into(), "-c".into(), exec.into()]);
        cluster.restart_under(ONE, &wrapper).await;
        ready(&client, &cluster).await;
        write(&client, "db", &[sample(0, 1)], &options, &ledger).await.unwrap();
        let error = write(&client, "db", &[sample(0, 2)], &options, &ledger).await.unwrap_err();
        let text = fs::read_to_string(&trace).unwrap();
        assert!(text.contains("EIO") && text.contains("(INJECTED)"), "no sync has failed: {text}");
        assert_eq!(error.kind(), WriteErrorKind::Indefinite, "{error}");
        assert!(statuses(&client, &[ONE]).await.unwrap()[&ONE].poisoned);
        for n in 3..6 {
            let error = write(&client, "db", &[sample(0, n)], &options, &ledger).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (WriteErrorKind::Definite, Code::Poisoned));
        }
        cluster.terminate(ONE).await;
        let text = fs::read_to_string(&trace).unwrap();
        assert_eq!(text.matches("(INJECTED)").count(), 1, "it was synced again: {text}");

        cluster.restart(ONE).await;
        ready(&client, &cluster).await;
        write(&client, "db", &[sample(0, 7)], &options, &ledger).await.unwrap();
        ledger.check(&exports(&client, "db", &[ONE]).await).assert_whole();
        client.close().await;
    });
}
