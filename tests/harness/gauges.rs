//! The gauges of everything that runs in this thread, as a scraper would see them.
//!
//! Invariant: only what is counted while the value lives, in this thread, is seen: so a simulated test
//! sees its own nodes and clients and no others. Used by tests that look at metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, LocalRecorderGuard, Metadata, Recorder,
    SharedString, Unit,
};

/// The values by name and labels.
#[derive(Debug, Default)]
struct Values(Mutex<BTreeMap<String, Arc<Value>>>);

#[derive(Debug, Default)]
struct Value(Mutex<f64>);

impl Value {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut value = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *value = change(*value);
    }
}

impl GaugeFn for Value {
    fn increment(&self, value: f64) {
        self.change(|old| old + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|old| old - value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl Recorder for Values {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Gauge::from_arc(Arc::clone(all.entry(key.to_string()).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Sees gauges until it is dropped.
pub struct Gauges {
    values: &'static Values,
    _guard: LocalRecorderGuard<'static>,
}

impl Gauges {
    /// Begins to look.
    #[must_use]
    pub fn install() -> Self {
        // The guard borrows it; a few hundred bytes per test process.
        let values: &'static Values = Box::leak(Box::default());
        Self { values, _guard: metrics::set_default_local_recorder(values) }
    }

    /// Of all gauges of this name, whatever their labels, the sum of the absolute values, so that two
    /// errors do not hide each other.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        let all = self.values.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = all.iter().filter(|(key, _)| key.contains(name));
        named.map(|(_, value)| value.0.lock().unwrap_or_else(PoisonError::into_inner).abs()).sum()
    }
}
