//! This host's live metrics, as points: CPUs, memory, disks, network interfaces, load.
//!
//! Invariant: what the kernel says is taken apart by pure functions that skip what they do not
//! understand; a sample has one time. Read by the live writer.

use std::{collections::HashMap, fs, io};

use bytes::Bytes;
use quorate_protocol::point::{Point, PointBuilder, PointError};

/// Ticks of one CPU since boot, in the order of `/proc/stat`.
type Ticks = [i64; 8];
const TICKS: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
/// Positions of the ticks in which a CPU did nothing.
const IDLE: [usize; 2] = [3, 4];
/// Sectors of `/proc/diskstats` are of this size, whatever the disk's are.
const SECTOR: i64 = 512;

/// Samples this host; remembers the last ticks of each CPU for its usage in between.
pub(super) struct Host {
    name: Bytes,
    last: HashMap<String, Ticks>,
}

impl Host {
    /// This host, by its name.
    pub(super) fn new() -> io::Result<Self> {
        let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let name = name.trim();
        let name = if name.is_empty() { "localhost" } else { name };
        Ok(Self { name: Bytes::copy_from_slice(name.as_bytes()), last: HashMap::new() })
    }

    /// Everything, now.
    pub(super) fn sample(&mut self, now_ns: i64) -> io::Result<Vec<Point>> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{name}"));
        let mut points = Vec::new();
        for (cpu, ticks) in cpus(&read("stat")?) {
            let mut point = self.start("host_cpu").tag("cpu", &cpu);
            for (name, count) in TICKS.iter().zip(ticks) {
                point = point.field(name, count);
            }
            if let Some(percent) = self.last.get(&cpu).and_then(|last| usage(last, &ticks)) {
                point = point.field("usage_percent", percent);
            }
            self.last.insert(cpu, ticks);
            points.push(point);
        }
        let memory = memory(&read("meminfo")?);
        points.push(with(self.start("host_memory"), memory));
        for (disk, counts) in disks(&read("diskstats")?) {
            points.push(with(self.start("host_disk").tag("disk", disk), counts));
        }
        for (interface, counts) in interfaces(&read("net/dev")?) {
            points.push(with(self.start("host_net").tag("interface", interface), counts));
        }
        if let Some((averages, running, tasks)) = load(&read("loadavg")?) {
            let mut point = self.start("host_load");
            for (name, average) in ["load1", "load5", "load15"].into_iter().zip(averages) {
                point = point.field(name, average);
            }
            points.push(point.field("running", running).field("tasks", tasks));
        }
        let points: Result<Vec<Point>, PointError> =
            points.into_iter().map(|point| point.at(now_ns)).collect();
        points.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn start(&self, measurement: &str) -> PointBuilder {
        Point::builder(measurement).tag("host", &self.name)
    }
}

fn with(mut point: PointBuilder, fields: Vec<(&'static str, i64)>) -> PointBuilder {
    for (name, value) in fields {
        point = point.field(name, value);
    }
    point
}

/// `/proc/stat`: each CPU with its ticks, without the line of all together.
fn cpus(text: &str) -> Vec<(String, Ticks)> {
    let cpu = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        if name == "cpu" || !name.starts_with("cpu") {
            return None;
        }
        let mut ticks = [0; 8];
        for slot in &mut ticks {
            *slot = words.next()?.parse().ok()?;
        }
        Some((name.to_owned(), ticks))
    };
    text.lines().filter_map(cpu).collect()
}

/// Percent of the time between two samples in which a CPU was busy.
fn usage(before: &Ticks, now: &Ticks) -> Option<f64> {
    let spent: i64 = now.iter().zip(before).map(|(now, before)| now - before).sum();
    let idle: i64 = IDLE.iter().map(|at| now[*at] - before[*at]).sum();
    (spent > 0).then(|| 100.0 * (spent - idle) as f64 / spent as f64)
}

/// `/proc/meminfo`, in bytes.
fn memory(text: &str) -> Vec<(&'static str, i64)> {
    const WANTED: [(&str, &str); 6] = [
        ("MemTotal", "total"),
        ("MemFree", "free"),
        ("MemAvailable", "available"),
        ("Buffers", "buffers"),
        ("Cached", "cached"),
        ("Dirty", "dirty"),
    ];
    let entry = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let (_, field) = WANTED.iter().find(|(wanted, _)| *wanted == name)?;
        let kib: i64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some((*field, kib.checked_mul(1024)?))
    };
    text.lines().filter_map(entry).collect()
}

/// `/proc/diskstats`: disks and partitions that have been used; no RAM disks, no loop devices.
fn disks(text: &str) -> Vec<(&str, Vec<(&'static str, i64)>)> {
    let disk = |line| {
        let words: Vec<&str> = str::split_ascii_whitespace(line).collect();
        let name = *words.get(2)?;
        if name.starts_with("ram") || name.starts_with("loop") {
            return None;
        }
        let number = |at: usize| words.get(at)?.parse::<i64>().ok();
        let (reads, writes) = (number(3)?, number(7)?);
        if reads + writes == 0 {
            return None;
        }
        Some((
            name,
            vec![
                ("reads", reads),
                ("read_bytes", number(5)?.checked_mul(SECTOR)?),
                ("writes", writes),
                ("written_bytes", number(9)?.checked_mul(SECTOR)?),
                ("io_ms", number(12)?),
            ],
        ))
    };
    text.lines().filter_map(disk).collect()
}

/// `/proc/net/dev`: interfaces and what went through them.
fn interfaces(text: &str) -> Vec<(&str, Vec<(&'static str, i64)>)> {
    const WANTED: [(usize, &str); 6] = [
        (0, "received_bytes"),
        (1, "received_packets"),
        (2, "receive_errors"),
        (8, "sent_bytes"),
        (9, "sent_packets"),
        (10, "send_errors"),
    ];
    let interface = |line| {
        let (name, counts) = str::split_once(line, ':')?;
        let counts: Vec<i64> =
            counts.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
        let fields = WANTED.iter().map(|(at, field)| Some((*field, *counts.get(*at)?)));
        Some((name.trim(), fields.collect::<Option<Vec<_>>>()?))
    };
    text.lines().filter_map(interface).collect()
}

/// `/proc/loadavg`: averages, running tasks, all tasks.
fn load(text: &str) -> Option<([f64; 3], i64, i64)> {
    let mut words = text.split_ascii_whitespace();
    let mut averages = [0.0; 3];
    for slot in &mut averages {
        *slot = words.next()?.parse().ok()?;
    }
    let (running, tasks) = words.next()?.split_once('/')?;
    Some((averages, running.parse().ok()?, tasks.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_and_their_usage() {
        let text = "cpu  10 20 30 40 0 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2\nintr 5 0\n";
        let found = cpus(text);
        assert_eq!(found, [("cpu0".to_owned(), [1, 2, 3, 4, 5, 6, 7, 8])]);
        let later = [4, 2, 3, 5, 5, 6, 7, 8];
        assert_eq!(usage(&found[0].1, &later), Some(75.0));
        assert_eq!(usage(&later, &later), None);
    }

    #[test]
    fn memory_in_bytes() {
        let text = "MemTotal:        8 kB\nMemFree:         2 kB\nHugePages_Total:       0\nCached: x kB\n";
        assert_eq!(memory(text), [("total", 8192), ("free", 2048)]);
    }

    #[test]
    fn disks_that_are_used() {
        let text = "   7  0 loop0 1 0 0 0 1 0 0 0 0 0 0\n 254  0 vda 10 1 80 5 20 2 160 7 0 9 12 0 0\n \
                    254 16 vdb 0 0 0 0 0 0 0 0 0 0 0\n";
        let expected = vec![
            ("reads", 10),
            ("read_bytes", 80 * 512),
            ("writes", 20),
            ("written_bytes", 160 * 512),
            ("io_ms", 9),
        ];
        assert_eq!(disks(text), [("vda", expected)]);
    }

    #[test]
    fn interfaces_and_load() {
        let text = "Inter-|   Receive          |  Transmit\n face |bytes packets errs\n    \
                    lo: 10 2 0 0 0 0 0 0 30 4 1 0 0 0 0 0\n";
        let expected = vec![
            ("received_bytes", 10),
            ("received_packets", 2),
            ("receive_errors", 0),
            ("sent_bytes", 30),
            ("sent_packets", 4),
            ("send_errors", 1),
        ];
        assert_eq!(interfaces(text), [("lo", expected)]);
        assert_eq!(load("0.51 0.94 1.19 2/91 12944\n"), Some(([0.51, 0.94, 1.19], 2, 91)));
        assert_eq!(load("?"), None);
    }

    #[test]
    fn this_host_can_be_read() {
        let mut host = Host::new().unwrap();
        let points = host.sample(5).unwrap();
        assert!(points.iter().any(|point| point.key().starts_with(b"host_cpu,")));
        assert!(points.iter().all(|point| point.time() == 5 && !point.fields().is_empty()));
    }
}
