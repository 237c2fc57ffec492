//! `http_load`: line protocol over HTTP as fast as a server takes it, at as little cost as possible.
//!
//! For systems that are compared with this one (`compare.sh`). Invariants: all text is in memory before
//! the clock starts; a batch counts only if its answer is 2xx; each connection has one batch under way.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const USAGE: &str = "\
usage: http_load FILE HOST:PORT PATH [CONNECTIONS] [SECONDS]
Posts the batches of FILE (as 'fleet --framed N' writes them) to PATH over CONNECTIONS (4) for SECONDS
(60) at most, and prints one line: rows=.. errors=.. seconds=.. rows_per_s=.. p50_ms=.. p99_ms=..";

struct Plan {
    file: String,
    addr: String,
    path: String,
    connections: usize,
    limit: Duration,
}

fn plan(args: &[String]) -> Option<Plan> {
    let [file, addr, path, rest @ ..] = args else { return None };
    let connections = rest.first().map_or(Some(4), |text| text.parse().ok())?;
    let seconds = rest.get(1).map_or(Some(60), |text| text.parse().ok())?;
    Some(Plan {
        file: file.clone(),
        addr: addr.clone(),
        path: path.clone(),
        connections,
        limit: Duration::from_secs(seconds),
    })
}

/// Rows and text of each batch.
fn batches(mut data: &[u8]) -> io::Result<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while let Some((head, rest)) = data.split_first_chunk::<8>() {
        let [a, b, c, d, e, f, g, h] = *head;
        let rows = u32::from_le_bytes([a, b, c, d]);
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        let Some((body, rest)) = rest.split_at_checked(length) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is cut off"));
        };
        found.push((u64::from(rows), body));
        data = rest;
    }
    Ok(found)
}

/// The status of one answer, which is read to its end.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<u16> {
    buffer.clear();
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&piece[..length]);
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let body = body.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        // An answer in chunks is an error's; whoever gets one connects anew.
        if buffer.len() >= end + 4 + body {
            return Ok(status);
        }
    }
}

struct Shared<'a> {
    plan: &'a Plan,
    batches: Vec<(u64, &'a [u8])>,
    began: Instant,
    next: AtomicUsize,
    rows: AtomicU64,
    errors: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

fn post(shared: &Shared<'_>) -> io::Result<()> {
    let Plan { addr, path, limit, .. } = shared.plan;
    let connect = || {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok::<_, io::Error>(stream)
    };
    let (mut stream, mut buffer, mut own) = (connect()?, Vec::new(), Vec::new());
    while shared.began.elapsed() < *limit
        && let Some((rows, body)) = shared.batches.get(shared.next.fetch_add(1, Ordering::Relaxed))
    {
        let sent = Instant::now();
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {length}\r\n\r\n");
        let status = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .and_then(|()| answer(&mut stream, &mut buffer));
        if matches!(status, Ok(200..300)) {
            own.push(sent.elapsed());
            shared.rows.fetch_add(*rows, Ordering::Relaxed);
        } else {
            if shared.errors.fetch_add(1, Ordering::Relaxed) < 3 {
                eprintln!("http_load: {status:?}: {}", String::from_utf8_lossy(&buffer));
            }
            stream = connect()?;
        }
    }
    let mut all = shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    all.append(&mut own);
    Ok(())
}

fn load(plan: &Plan) -> io::Result<()> {
    let data = std::fs::read(&plan.file)?;
    let shared = Shared {
        plan,
        batches: batches(&data)?,
        began: Instant::now(),
        next: AtomicUsize::new(0),
        rows: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        latencies: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..plan.connections).map(|_| scope.spawn(|| post(&shared))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a connection panicked")))
        })
    })?;
    let seconds = shared.began.elapsed().as_secs_f64();
    let mut latencies = shared.latencies.into_inner().unwrap_or_else(PoisonError::into_inner);
    latencies.sort_unstable();
    let at = |percent: usize| {
        let rank = (latencies.len() * percent).div_ceil(100).max(1);
        latencies.get(rank - 1).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    let (rows, errors) = (shared.rows.into_inner(), shared.errors.into_inner());
    println!(
        "rows={rows} errors={errors} seconds={seconds:.3} rows_per_s={:.0} p50_ms={:.1} p99_ms={:.1}",
        rows as f64 / seconds,
        at(50),
        at(99),
    );
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = plan(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match load(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http_load: {error}");
            ExitCode::FAILURE
        }
    }
}
