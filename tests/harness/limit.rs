//! Runtimes for tests, each with an end.
//!
//! Invariant: a test ends, whatever the code under test does: waiting for ever trips the timeout of
//! the runtime's clock, computing for ever trips a watchdog thread. Every test is the argument of
//! [`real`] or [`simulated`].

use std::{future::Future, sync::mpsc, thread, time::Duration};

use tokio::{runtime::Builder, time::timeout};

/// Time for a test on real sockets or processes.
const REAL: Duration = Duration::from_secs(150);
/// Virtual time for a simulated test.
const VIRTUAL: Duration = Duration::from_secs(4 * 3600);
/// Real time for a simulated test: nothing in it waits, so this is work.
const WORK: Duration = Duration::from_secs(240);

/// How often a repeated test repeats: `count`, or many times that with `QUORATE_SOAK` set.
#[must_use]
pub fn soak(count: usize) -> usize {
    if std::env::var_os("QUORATE_SOAK").is_some() { count * 20 } else { count }
}

/// Runs a test on real time, with worker threads.
pub fn real<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let factor = u32::try_from(soak(1)).unwrap();
    watched(REAL * factor + Duration::from_secs(30), || {
        let done = runtime.block_on(async { timeout(REAL * factor, test).await });
        runtime.shutdown_timeout(Duration::from_secs(5));
        done.unwrap_or_else(|_| panic!("the test did not end within {:?}", REAL * factor))
    })
}

/// Runs a test on virtual time, in this thread alone: time moves only when nothing else can.
pub fn simulated<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let factor = u32::try_from(soak(1)).unwrap();
    watched(WORK * factor, || {
        let done = runtime.block_on(async { timeout(VIRTUAL * factor, test).await });
        done.unwrap_or_else(|_| panic!("the test did not end within {VIRTUAL:?} of virtual time"))
    })
}

/// Ends the process if `work` hangs where no timeout can reach it.
fn watched<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    logging();
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (done, over) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name} hangs: no end after {limit:?} of real time");
            std::process::abort();
        }
    });
    // Dropped on a panic too, which ends the watchdog.
    let _done = done;
    let result = work();
    drop(_done);
    watchdog.join().unwrap();
    result
}

/// Logs to standard error if `RUST_LOG` says what.
fn logging() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // Another test of this process may have been first.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
    }
}
