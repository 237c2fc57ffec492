//! `quorate bench limits`: the figures, one after the other, and how they are shown.
//!
//! Invariant: the keys of the JSON object never change their meaning; the folder that the files lie
//! in is removed, whatever happens.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::Env;
use serde_json::{Map, Value, json};

use super::{
    append::{self, State},
    memory::{self, Memory},
    quic::{self, Link},
    samples::Samples,
};
use crate::cli::{block_on, fail::Fail, output::Output, table::Table, write::round};

const ABOUT: &str = "\
Measures what this machine can do at best, without any of Quorate's own work, so that Quorate's
figures can be read as shares of it. Run it beside what you compare it with: disks and neighbours
change within minutes.

  append   Write at the end of a file, fdatasync, again. Nothing durable can be acknowledged faster:
           p50 at the size of one batch is the least latency of one writer, bytes/s at the size of
           a group (64 KiB times the writers) the most that all writers together can reach.
           'growing' is an empty file, 'preallocated' has room but no content (a new segment of the
           journal), 'recycled' was written before (a segment that is used again).
  quic     Messages to a second process of this program over loopback, with certificates and the
           settings that clients and nodes have by default, and 32 bytes back for each. With 1 in
           flight, p50 is the round trip below every acknowledged write; with 32, bytes/s is what
           transport alone can carry when client and node share this machine.
  memory   Copies and CRC-32 by one core, of 64 MiB (memory) and of 64 KiB (cache): what any code
           that touches every byte of a batch pays at the least.";

const EXAMPLES: &str = "\
  quorate bench limits
  quorate bench limits --dir /var/lib/quorate --seconds 5
  quorate bench limits --json | jq .append.preallocated_64k.bytes_per_s";

/// Measure disk, network and memory of this machine, as a scale for Quorate's figures
#[derive(Args, Debug)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Limits {
    /// A folder on the disk to measure; about 64 MiB are needed [default: the current folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long each of the 27 figures is measured
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    seconds: f64,
    /// Print one JSON object for scripts instead of the tables
    #[arg(long)]
    json: bool,
}

/// Everything that was measured, by the keys of the JSON object.
struct Figures {
    append: Vec<(State, &'static str, Samples)>,
    quic: Vec<(&'static str, usize, Samples)>,
    mtu: u16,
    memory: Memory,
}

pub(super) fn run(args: &Limits, env: &Env) -> Result<(), Fail> {
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(Fail::usage("--seconds must be over 0 and at most 3600"));
    }
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let own = dir.join(format!("quorate-bench-{:016x}", env.entropy.next_u64()));
    fs::create_dir(&own).map_err(|error| advise(&dir, &error))?;
    let measured = measure(args, env, &own);
    if let Err(error) = fs::remove_dir_all(&own) {
        crate::cli::tell(&format!("quorate: cannot remove {}: {error}", own.display()));
    }
    let figures = measured?;
    let mut out = Output::new();
    if args.json {
        out.json(&figures.describe(args.seconds))?;
    } else {
        out.bytes(figures.text().as_bytes())?;
    }
    out.flush()
}

fn advise(dir: &Path, error: &io::Error) -> Fail {
    Fail::failed(format!("cannot measure {}: {error}; choose another --dir", dir.display()))
}

fn measure(args: &Limits, env: &Env, dir: &Path) -> Result<Figures, Fail> {
    let time = Duration::from_secs_f64(args.seconds);
    let steps = State::ALL.len() * append::SIZES.len() + quic::SIZES.len() * quic::IN_FLIGHT.len();
    let bar = ProgressBar::new(steps as u64 + 1);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let mut files = Vec::new();
    for state in State::ALL {
        for (name, size) in append::SIZES {
            bar.set_message(format!("append, {} file, {name}", state.name()));
            let samples = append::measure(dir, state, size, time);
            files.push((state, name, samples.map_err(|error| advise(dir, &error))?));
            bar.inc(1);
        }
    }
    let mut messages = Vec::new();
    let mut mtu = 0;
    block_on(async {
        let link = Link::open(&dir.join("pki"), env).await?;
        for (name, size) in quic::SIZES {
            for in_flight in quic::IN_FLIGHT {
                bar.set_message(format!("quic, {name}, {in_flight} in flight"));
                messages.push((name, in_flight, link.measure(size, in_flight, time).await?));
                bar.inc(1);
            }
        }
        mtu = link.mtu();
        link.close().await
    })?;
    bar.set_message("memory");
    let memory = memory::measure(time);
    bar.finish_and_clear();
    Ok(Figures { append: files, quic: messages, mtu, memory })
}

impl Figures {
    fn describe(&self, seconds: f64) -> Value {
        let named = |(name, samples): (String, &Samples)| (name, samples.describe());
        let append = self
            .append
            .iter()
            .map(|(state, size, samples)| named((format!("{}_{size}", state.name()), samples)));
        let quic = self
            .quic
            .iter()
            .map(|(size, in_flight, samples)| named((format!("{size}_{in_flight}"), samples)));
        json!({
            "seconds": round(seconds, 3),
            "append": append.collect::<Map<_, _>>(),
            "quic": quic.collect::<Map<_, _>>(),
            "quic_mtu": self.mtu,
            "memory": {
                "copy_bytes_per_s": self.memory.copy.round(),
                "copy_cached_bytes_per_s": self.memory.copy_cached.round(),
                "crc32_bytes_per_s": self.memory.crc32.round(),
                "crc32_cached_bytes_per_s": self.memory.crc32_cached.round(),
            },
        })
    }

    fn text(&self) -> String {
        let cells = |samples: &Samples| {
            [
                format!("{:.0}", samples.percentile_us(50)),
                format!("{:.0}", samples.percentile_us(99)),
                format!("{:.0}", samples.per_second()),
                mb(samples.bytes_per_second()),
            ]
        };
        let columns = [">p50 µs", ">p99 µs", ">per s", ">MB/s"];
        let table = |first: [&str; 2], rows: &mut dyn Iterator<Item = [String; 6]>| {
            let header: Vec<&str> = first.into_iter().chain(columns).collect();
            let mut table = Table::new(&header);
            rows.for_each(|row| table.row(row));
            table.render()
        };
        let row = |first: String, second: String, samples: &Samples| {
            let [p50, p99, per_second, bytes] = cells(samples);
            [first, second, p50, p99, per_second, bytes]
        };
        let append = table(
            ["append and fdatasync", ">bytes"],
            &mut self.append.iter().map(|(state, size, samples)| {
                row(format!("{} file", state.name()), (*size).to_owned(), samples)
            }),
        );
        let quic = table(
            ["quic round trips", ">in flight"],
            &mut self.quic.iter().map(|(size, in_flight, samples)| {
                row((*size).to_owned(), in_flight.to_string(), samples)
            }),
        );
        let mut memory = Table::new(&["one core", ">MB/s of 64 MiB", ">MB/s of 64 KiB"]);
        let Memory { copy, copy_cached, crc32, crc32_cached } = self.memory;
        memory.row(["copy".to_owned(), mb(copy), mb(copy_cached)]);
        memory.row(["crc32".to_owned(), mb(crc32), mb(crc32_cached)]);
        format!("{append}\n{quic}\n{}", memory.render())
    }
}

fn mb(bytes_per_second: f64) -> String {
    format!("{:.1}", bytes_per_second / 1e6)
}
