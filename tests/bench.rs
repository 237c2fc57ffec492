//! `quorate bench limits` measures files, a second process and memory, and leaves nothing behind.

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
