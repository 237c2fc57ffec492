//! `quorate bench`: what it measures, what it reads back, and that it leaves nothing behind.

use std::process::Command;

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

#[test]
fn the_limits_of_a_machine_are_one_json_object_and_nothing_stays_behind() {
    let dir = tempfile::tempdir().unwrap();
    let ended = Command::new(BINARY)
        .args(["bench", "limits", "--json", "--seconds", "0.01", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{stderr}");
    let figures: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let over_zero = |value: &Value| value.as_f64().is_some_and(|value| value > 0.0);
    for state in ["growing", "preallocated", "recycled"] {
        for size in ["4k", "64k", "256k", "1m", "4m"] {
            let one = &figures["append"][format!("{state}_{size}")];
            assert!(over_zero(&one["bytes_per_s"]), "{state} {size}: {one}");
            assert!(one["p50_us"].as_f64() <= one["p99_us"].as_f64(), "{state} {size}: {one}");
        }
    }
    for size in ["200b", "4k", "64k", "256k"] {
        for in_flight in [1, 32] {
            let one = &figures["quic"][format!("{size}_{in_flight}")];
            assert!(over_zero(&one["count"]), "{size} {in_flight}: {one}");
        }
    }
    for what in ["copy", "copy_cached", "crc32", "crc32_cached"] {
        assert!(over_zero(&figures["memory"][format!("{what}_bytes_per_s")]), "{what}");
    }
    assert!(figures["quic_mtu"].as_u64() >= Some(1200));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Each input and each fault: everything acknowledged is read back, and every key is there.
#[test]
fn a_load_is_measured_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let run = |rows: u64, args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["bench", "write", "--json", "--hosts", "40", "--batch", "100", "--dir"]);
        let ended = command
            .arg(dir.path())
            .args(["--rows", &rows.to_string()])
            .args(args)
            .env_remove("QUORATE_CONNECT")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{args:?}: {stderr}");
        let figures: Value = serde_json::from_slice(&ended.stdout).unwrap();
        for key in ["rows", "verified_rows"] {
            assert_eq!(figures[key], rows, "{args:?}: {key}");
        }
        for key in ["missing_rows", "errors"] {
            assert_eq!(figures[key], 0, "{args:?}: {key}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        figures
    };
    let lines = run(3_050, &["--nodes", "1", "--input", "lines", "--consistency", "one"]);
    for key in ["rows_per_s", "values_per_s", "ack_p50_ms", "ack_p99_ms", "ack_p999_ms"] {
        assert!(lines[key].as_f64() > Some(0.0), "{key}: {}", lines[key]);
    }
    for key in ["wire_bytes_per_value", "disk_bytes_per_value", "client_rss_anon_mb", "limit_share"]
    {
        assert!(lines[key].as_f64() > Some(0.0), "{key}: {}", lines[key]);
    }
    assert!(lines["client_cpu_s"].is_number() && lines["drain_rows_per_s"].is_null());
    for key in ["node_cpu_s", "node_rss_anon_mb"] {
        assert_eq!(lines[key].as_array().map(Vec::len), Some(1), "{key}");
    }
    let acked: u64 =
        lines["timeline_rows"].as_array().unwrap().iter().flat_map(Value::as_u64).sum();
    assert_eq!(acked, 3_050);
    // At 20,000 rows a second it takes as long as it takes; 2,500 s of reports lie in five shards.
    let shards = ["--shard-duration", "10m"];
    let paced = ["--nodes", "1", "--input", "api", "--rate", "20k"];
    let paced = run(10_000, &[&paced[..], &shards].concat());
    assert_eq!(paced["shard_duration_s"], 600.0);
    assert!(paced["seconds"].as_f64() >= Some(0.49), "{}", paced["seconds"]);
    let drain = run(20_000, &["--fault", "drain", "--rate", "20k"]);
    assert!(drain["hints_accepted"].as_u64() > Some(0), "{drain}");
    assert_eq!(drain["hints_accepted"], drain["hints_delivered"]);
    assert!(drain["drain_rows_per_s"].as_f64() > Some(0.0));
}
