//! Many shards on a node cost what is open, not what exists.

use std::process::Command;

use quorate_tests::harness::limit::soak;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-shard-under-test");
const OPEN: u64 = 32;

#[test]
fn thousands_of_shards_cost_what_is_open() {
    // With the soak, 10,000.
    let count = soak(500);
    let dir = tempfile::TempDir::new_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let run = |mode: &str| -> Value {
        let dir = dir.path().to_str().unwrap();
        let words = [mode, dir, &count.to_string(), &OPEN.to_string()];
        let output = Command::new(BINARY).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for mode in ["many", "reopen"] {
        let found = run(mode);
        println!("{mode}: {found}");
        assert_eq!(found["shards"], count);
        assert!(found["most"].as_u64().unwrap() <= OPEN, "{found}");
        assert_eq!(found["hot_closed"], 0, "what is used often was closed: {found}");
        // Three for an environment, and some of the process's own.
        assert!(found["descriptors"].as_u64().unwrap() <= 3 * OPEN + 24, "{found}");
        // LMDB keeps lists of dirty pages, 2 MiB and a bit for an environment that is open; a shard
        // that is closed may cost what its name and its counters take.
        let allowed = 24_000 + OPEN * 2_300 + count as u64 * 2;
        assert!(found["anon_kb"].as_u64().unwrap() <= allowed, "{found}");
    }
}
