//! What a write tells of itself: its history step by step, and its spans.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use quorate_client::{
    Client, ClientConfig, WriteHistory, WriteOptions,
    error::Certainty,
    history::{HistoryEntry, Step},
};
use quorate_protocol::{code::Code, consistency::Level, id::NodeId};
use quorate_tests::harness::{
    cluster::{Cluster, Plan},
    history::Ledger,
    limit::{real, simulated},
    load::{large, sample, write},
    observe::{PATIENCE, create_database},
    process::Processes,
    shard::no_room,
};
use tokio::time::Instant;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// Three nodes, the last one down.
async fn one_down(plan: Plan, seed: u64) -> (Cluster, Client) {
    let mut cluster = Cluster::simulated_with(plan, seed).await;
    let client = cluster.client().await;
    create_database(&client, "db", 3).await;
    cluster.stop(THREE).await;
    cluster.wait_up(&client, &[ONE, TWO]).await;
    (cluster, client)
}

/// The one entry with such a step.
fn one(history: &WriteHistory, wanted: impl Fn(&Step) -> bool) -> HistoryEntry {
    let mut found = history.entries();
    found.retain(|entry| wanted(&entry.step));
    assert_eq!(found.len(), 1, "{found:?} in\n{history}");
    found.remove(0)
}

#[test]
fn a_history_has_every_step_and_goes_on_behind_the_receipt() {
    simulated(async {
        let (cluster, client) = one_down(Plan::of(3), 801).await;
        let options = WriteOptions::at(Level::One).with_history();
        let begun = Instant::now();
        let ledger = Ledger::new();
        let receipt = write(&client, "db", &[sample(1, 0)], &options, &ledger).await.unwrap();
        let took = begun.elapsed();
        let history = receipt.history.unwrap();
        assert!(client.settle(PATIENCE).await);

        let asked = one(&history, |step| matches!(step, Step::MetaAsked { fields: 3, groups: 1 }));
        let known = one(&history, |step| matches!(step, Step::MetaAnswered { refused: None }));
        let started = one(&history, |step| matches!(step, Step::Started { rows: 1, .. }));
        let reached = one(&history, |step| *step == Step::Reached);
        let told = one(&history, |step| *step == Step::Returned { reached: true });
        assert!(asked.at.is_zero() && known.at > asked.at && started.at == known.at, "{history}");
        assert_eq!((history.took(), told.at), (Some(took), took), "{history}");
        assert_eq!((started.part, reached.part, told.part), (Some(0), Some(0), None));
        // The two that are up were sent it and have it, the first of them in time for the caller.
        for node in [ONE, TWO] {
            let of: Vec<HistoryEntry> =
                history.entries().into_iter().filter(|entry| entry.owner == Some(node)).collect();
            let [sent, stored] = &of[..] else { panic!("{of:?}") };
            assert!(matches!(sent.step, Step::Sent { hints } if hints <= 1), "{sent:?}");
            assert!(matches!(stored.step, Step::Stored { buffered: false, .. }), "{stored:?}");
            assert!(sent.at == started.at && stored.at > sent.at && stored.at >= reached.at);
        }
        // The third got a hint, which travelled with a copy of another one.
        let of = history.entries().into_iter().filter(|entry| entry.owner == Some(THREE));
        let steps: Vec<Step> = of.map(|entry| entry.step).collect();
        assert_eq!(steps.len(), 3, "{history}");
        let failed = steps.iter().any(|step| {
            matches!(step, Step::Failed { code: Code::Unavailable, may_be_stored: false, .. })
        });
        let hinted = steps.iter().find_map(|step| match step {
            Step::Hinted { holder, .. } => Some(*holder),
            _ => None,
        });
        let why = Code::Unavailable;
        let asked = Step::HintAsked { holder: hinted.unwrap(), why, with_copy: true };
        assert!(failed && steps.contains(&asked), "{history}");

        let text = history.to_string();
        let head = "write to \"db\": 1 row, consistency one\n      0.0 ms  asked metadata for 3 new fields and 1 new group\n";
        assert!(text.starts_with(head), "{text}");
        for line in [
            "└─ part 1, shard 1: 1 row, ",
            "   ├─ node 1\n   │  ",
            "   └─ node 3\n",
            &format!("ms  asked node {} to keep a hint with its own copy: ", hinted.unwrap()),
            " ms  told the caller: reached\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        // A line for each step, one for the write and one for each part and owner; `Started` is the part's.
        assert_eq!(text.lines().count(), history.entries().len() + 1 + 3, "{text}");

        let silent = WriteOptions::at(Level::One);
        let receipt = write(&client, "db", &[sample(1, 1)], &silent, &ledger).await.unwrap();
        assert_eq!(receipt.history, None);
        cluster.finish().await;
    });
}

#[test]
fn an_error_says_what_was_tried() {
    simulated(async {
        let (cluster, client) = one_down(Plan::of(3), 802).await;
        let ledger = Ledger::new();
        let quorum = WriteOptions::default();
        write(&client, "db", &[sample(0, 0)], &quorum, &ledger).await.unwrap();
        // What is impossible is not sent.
        let all = WriteOptions::at(Level::All).with_history();
        let error = write(&client, "db", &[sample(1, 0)], &all, &ledger).await.unwrap_err();
        let history = error.history().unwrap();
        let certainty = Certainty::Definite;
        let missed = Step::Missed { code: Code::Unavailable, certainty };
        let steps: Vec<Step> = history.entries().into_iter().map(|entry| entry.step).collect();
        let [Step::Started { .. }, lost, Step::Returned { reached: false }] = &steps[..] else {
            panic!("{history}")
        };
        assert_eq!(*lost, missed);

        // A node that falls silent has no answer by the deadline.
        cluster.isolate(TWO);
        let timeout = Duration::from_millis(400);
        let short = WriteOptions { timeout, ..quorum.with_history() };
        let error = write(&client, "db", &[sample(1, 1)], &short, &ledger).await.unwrap_err();
        let history = error.history().unwrap();
        let (code, certainty) = (Code::Unavailable, Certainty::Indefinite);
        let lost = one(history, |step| *step == Step::Missed { code, certainty });
        assert_eq!(lost.at, timeout, "{history}");
        let answered = one(history, |step| matches!(step, Step::Stored { .. }));
        assert_eq!(answered.owner, Some(ONE));
        // What comes of it later comes into the same history.
        assert!(client.settle(PATIENCE).await);
        let hinted = |entry: &HistoryEntry| {
            entry.owner == Some(TWO) && matches!(entry.step, Step::Hinted { holder: ONE, .. })
        };
        assert!(history.entries().iter().any(hinted), "{history}");
        let down = |step: &Step| matches!(step, Step::Failed { may_be_stored: true, .. });
        assert_eq!(one(history, down).owner, Some(TWO));
        cluster.finish().await;
    });
}

#[test]
fn busy_answers_marks_and_room_are_steps_too() {
    simulated(async {
        let ledger = Ledger::new();
        // Node three is busy before long.
        let mut plan = Plan::of(3).configured(|node, config| {
            if node == THREE {
                no_room(config);
            }
        });
        plan.client = ClientConfig { budget_bytes: 3 << 10, ..ClientConfig::default() };
        let mut cluster = Cluster::simulated_with(plan, 803).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let timeout = Duration::from_millis(500);
        let quick = WriteOptions { timeout, ..WriteOptions::default().with_history() };
        let (mut busy, mut marked, mut waited) = (false, false, false);
        for n in 0..200 {
            let result = write(&client, "db", &[large(n, 2 << 10)], &quick, &ledger).await;
            let history = match &result {
                Ok(receipt) => receipt.history.clone(),
                Err(error) => error.history().cloned(),
            };
            if waited {
                assert!(client.settle(PATIENCE).await);
            }
            for HistoryEntry { owner, step, .. } in history.unwrap().entries() {
                match step {
                    Step::NotNow { code, pause } => {
                        assert_eq!((code, owner), (Code::Busy, Some(THREE)));
                        busy |= !pause.is_zero();
                    }
                    Step::Marked { holder } => marked |= owner == Some(THREE) && holder != THREE,
                    Step::RoomAwaited { took, .. } => waited |= !took.is_zero(),
                    _ => {}
                }
            }
            if busy && marked && waited {
                break;
            }
        }
        assert!(busy && marked && waited, "busy {busy}, marked {marked}, waited {waited}");
        cluster.finish().await;
    });
}

/// The fields of every span of the client's write path, by name, as they were last.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Span>>>);

#[derive(Clone, Default, Debug)]
struct Span {
    name: &'static str,
    parent: Option<u64>,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Span {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        if !metadata.target().starts_with("quorate_client::") {
            return;
        }
        let parent = context.span(id).and_then(|span| Some(span.parent()?.id().into_u64()));
        let mut span = Span { name: metadata.name(), parent, fields: BTreeMap::new() };
        attributes.record(&mut span);
        self.0.lock().unwrap().insert(id.into_u64(), span);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(span) = self.0.lock().unwrap().get_mut(&id.into_u64()) {
            values.record(span);
        }
    }
}

#[test]
fn a_write_is_a_span_with_its_parts_and_copies_below_it() {
    let spans = Spans::default();
    // With one subscriber only, a span that another test's thread meets first is off for all threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    simulated(async {
        let (cluster, client) = one_down(Plan::of(3), 804).await;
        let (options, ledger) = (WriteOptions::default(), Ledger::new());
        let points = [sample(1, 0), sample(1, 1)];
        let begun = Instant::now();
        write(&client, "db", &points, &options, &ledger).await.unwrap();
        let took = begun.elapsed();
        assert!(client.settle(PATIENCE).await);
        let all = spans.0.lock().unwrap().clone();
        let named = |name: &str| -> Vec<(u64, Span)> {
            let found = all.iter().filter(|(_, span)| span.name == name);
            found.map(|(id, span)| (*id, span.clone())).collect()
        };
        let [(id, whole)] = &named("write")[..] else { panic!("{all:#?}") };
        let expected = [
            ("db", "db".to_owned()),
            ("duration_us", took.as_micros().to_string()),
            ("level", "quorum".to_owned()),
            ("outcome", "ok".to_owned()),
            ("parts", "1".to_owned()),
            ("rows", "2".to_owned()),
        ];
        assert_eq!(whole.fields, BTreeMap::from(expected));
        let [(part, fields)] = &named("part")[..] else { panic!("{all:#?}") };
        assert_eq!((fields.parent, &fields.fields["outcome"][..]), (Some(*id), "reached"));
        let copies = named("copy");
        let mut outcomes: Vec<(&str, &str)> = copies
            .iter()
            .filter(|(_, copy)| copy.parent == Some(*part))
            .map(|(_, copy)| (&copy.fields["owner"][..], &copy.fields["outcome"][..]))
            .collect();
        outcomes.sort_unstable();
        assert_eq!(outcomes, [("1", "stored"), ("2", "stored"), ("3", "hinted")]);

        let all_three = WriteOptions::at(Level::All);
        write(&client, "db", &points, &all_three, &ledger).await.unwrap_err();
        let all = spans.0.lock().unwrap().clone();
        let mut failed = all.values().filter(|span| span.name == "write");
        assert!(failed.any(|span| span.fields["outcome"] == "definite"), "{all:#?}");
        cluster.finish().await;
    });
}

#[test]
fn the_command_line_traces_what_failed_or_was_slow() {
    real(async {
        let mut cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 3).await;
        let args = ["db", "create", "db", "--replication", "3"];
        assert_eq!(cluster.quorate(&args).await.code, Some(0));
        let file = cluster.root().join("lines");
        std::fs::write(&file, "cpu,host=a n=1i 1700000000000000000\n").unwrap();
        let file = file.to_str().unwrap();

        let quiet = cluster.quorate(&["write", "db", file, "--trace=1h"]).await;
        assert_eq!((quiet.code, quiet.stderr.contains("batch 1")), (Some(0), false), "{quiet:?}");
        let slow = cluster.quorate(&["write", "db", file, "--trace=1ns"]).await;
        assert_eq!(slow.code, Some(0), "{slow:?}");
        for line in ["batch 1 was slow: write to \"db\": 1 row, consistency quorum", "└─ node "]
        {
            assert!(slow.stderr.contains(line), "{slow:?}");
        }
        cluster.kill(THREE).await;
        let args = ["write", "db", file, "--trace", "--consistency", "all", "--timeout", "3s"];
        let failed = cluster.quorate(&args).await;
        assert_eq!(failed.code, Some(1), "{failed:?}");
        for line in ["batch 1 failed: write to", "level missed", "told the caller: failed"] {
            assert!(failed.stderr.contains(line), "{failed:?}");
        }
    });
}
