//! The most that one of the nodes' own gauges has shown.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SetRecorderError,
    SharedString, Unit,
};

/// What is watched.
const GAUGE: &str = "quorate_deliveries_bytes";

/// Watches the gauge for the whole process.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Seen>);

#[derive(Default)]
struct Seen(Mutex<(f64, f64)>);

impl Watch {
    /// Begins; a process can do so once.
    pub(crate) fn install() -> Result<Self, SetRecorderError<Self>> {
        let watch = Self::default();
        metrics::set_global_recorder(watch.clone())?;
        Ok(watch)
    }

    /// Forgets what was seen.
    pub(crate) fn reset(&self) {
        self.0.with(|(now, most)| *most = *now);
    }

    /// The most since then.
    pub(crate) fn most(&self) -> f64 {
        self.0.with(|(_, most)| *most)
    }
}

impl Seen {
    fn with<T>(&self, act: impl FnOnce(&mut (f64, f64)) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, by: f64) {
        self.with(|(now, most)| {
            *now += by;
            *most = now.max(*most);
        });
    }
}

impl GaugeFn for Seen {
    fn increment(&self, value: f64) {
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.change(-value);
    }

    // A node that starts says 0; others go on.
    fn set(&self, _: f64) {}
}

impl Recorder for Watch {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        if key.name() == GAUGE { Gauge::from_arc(Arc::clone(&self.0)) } else { Gauge::noop() }
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
