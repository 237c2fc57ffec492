//! Hints that InfluxDB 0.11 has left, imported into a running cluster.

use std::{ffi::OsString, fs, path::Path};

use quorate_client::Client;
use quorate_tests::harness::{
    limit::real,
    observe::{PATIENCE, create_database, exports, wait_for},
    process::Processes,
};
use serde_json::Value;

/// A file of blocks `(shard, lines)`, of which so many were sent.
fn segment(blocks: &[(u64, &str)], sent: usize) -> Vec<u8> {
    let (mut bytes, mut head) = (Vec::new(), 0);
    for (at, (shard, text)) in blocks.iter().enumerate() {
        bytes.extend((text.len() as u64 + 8).to_be_bytes());
        bytes.extend(shard.to_be_bytes());
        bytes.extend(text.as_bytes());
        if at < sent {
            head = bytes.len() as u64;
        }
    }
    bytes.extend(head.to_be_bytes());
    bytes
}

fn put(hh: &Path, name: &str, bytes: &[u8]) {
    let path = hh.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Waits until every node has exactly these lines.
async fn wait_lines(client: &Client, cluster: &Processes, lines: &[&str]) {
    let mut lines = lines.to_vec();
    lines.sort_unstable();
    wait_for("the imported points", PATIENCE, async || {
        for (node, text) in exports(client, "db", &cluster.ids()).await {
            let mut found: Vec<&str> = text.lines().collect();
            found.sort_unstable();
            if found != lines {
                return Err(format!("node {node} has {found:#?}"));
            }
        }
        Ok(())
    })
    .await;
}

#[test]
fn hints_of_a_legacy_directory_are_imported_in_order_past_all_damage() {
    real(async {
        let cluster = Processes::start(env!("CARGO_BIN_EXE_quorate-under-test"), 3).await;
        let client = cluster.client().await;
        create_database(&client, "db", 3).await;
        let hh = cluster.root().join("hh");
        let dir = hh.to_str().unwrap();
        // The same point in segments 1 to 12: the last one counts, and 9 is not the last.
        for number in 1..=12 {
            let text = format!("order,of=files v={}i 5\n", 100 - number);
            put(&hh, &format!("2/{number}"), &segment(&[(1, &text)], 0));
        }
        // What was sent is passed over; two nodes with the same points are no matter.
        put(&hh, "3/1", &segment(&[(1, "sent v=1 1\n"), (7, "kept v=1 1\nkept v=2 2\n")], 1));
        put(&hh, "2/13", &segment(&[(7, "kept v=2 2")], 0));

        let args = ["hints", "import", "--legacy", dir, "db", "--node-map", "2=n2,3=n3"];
        let ended = cluster.quorate(&args).await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        let row = ended.stdout.lines().find(|line| line.starts_with("3 ")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[..6], ["3", "n3", "1", "2", "1", "2"], "{}", ended.stdout);
        let clean = ["order,of=files v=88i 5", "kept v=1 1", "kept v=2 2"];
        wait_lines(&client, &cluster, &clean).await;

        // A torn last block, a length out of bounds, a footer of noise, lines that are none.
        let good = |n: u64| format!("m{n} v=1 1\n");
        let (one, two, three) = (good(1), good(2), good(3));
        let torn = segment(&[(1, &one), (1, "lost v=1 1\nlost v=2 2\n")], 0);
        put(&hh, "4/1", &torn[..torn.len() - 20]);
        let mut absurd = segment(&[(1, &two), (1, "lost v=1 1\n"), (1, "lost v=2 2\n")], 0);
        let at = 16 + two.len();
        absurd[at..at + 8].copy_from_slice(&(1_u64 << 50).to_be_bytes());
        put(&hh, "4/2", &absurd);
        let mut noise = segment(&[(1, &three)], 1);
        let at = noise.len() - 8;
        noise[at..].copy_from_slice(b"garbage!");
        put(&hh, "4/3", &noise);
        let lines = "before v=1 1\nno fields\nbetween v=1 1\nopen s=\"x 1\nbehind v=1 1\n";
        put(&hh, "4/4", &segment(&[(1, lines), (2, "next s=\"a\nb\" 1\n")], 0));
        let rejects = cluster.root().join("bad.lp");
        let bad = rejects.to_str().unwrap();
        let args = ["hints", "import", "--legacy", dir, "db", "--json", "--rejects", bad];
        for _ in 0..2 {
            let ended = cluster.quorate(&args).await;
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            let told: Value = serde_json::from_str(&ended.stdout).unwrap();
            let figures = ["segments", "blocks", "sent", "unread", "rejected", "points", "errors"]
                .map(|name| told[name].as_u64().unwrap());
            assert_eq!(figures, [18, 20, 1, 2, 2, 22, 0], "{told}");
            for name in ["4/1", "4/2"] {
                assert!(ended.stderr.contains(&format!("{name}: at byte")), "{}", ended.stderr);
            }
            let text = fs::read_to_string(&rejects).unwrap();
            assert!(text.contains("# 4/4 byte 0 line 2 column"), "{text}");
            assert!(text.contains("\nno fields\n") && text.contains("\nopen s=\"x 1\n"), "{text}");
            let all = [
                &clean[..],
                &["m1 v=1 1", "m2 v=1 1", "m3 v=1 1", "before v=1 1", "between v=1 1"],
                &["behind v=1 1", "next s=\"a", "b\" 1"],
            ];
            wait_lines(&client, &cluster, &all.concat()).await;
        }

        // A dry run asks nobody and says the same; what was sent can be had all the same.
        let dry = ["hints", "import", "--legacy", dir, "db", "--json", "--dry-run"];
        let ended = cluster.run(&dry.map(OsString::from)).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let told: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!((&told["points"], &told["rejected"]), (&22.into(), &2.into()), "{told}");
        let third = hh.join("3");
        let args = ["hints", "import", "--legacy", third.to_str().unwrap(), "db", "--all"];
        let ended = cluster.quorate(&args).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        wait_for("the point that was sent before", PATIENCE, async || {
            let texts = exports(&client, "db", &cluster.ids()).await;
            let all = texts.iter().all(|(_, text)| text.contains("sent v=1 1\n"));
            all.then_some(()).ok_or_else(|| format!("{texts:?}"))
        })
        .await;
        for wrong in [["--node-map", "2=nobody"], ["--node-map", "two"]] {
            let ended = cluster.quorate(&[&args[..5], &wrong[..]].concat()).await;
            assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        }
        client.close().await;
    });
}
