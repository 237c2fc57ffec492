//! The wall clock as certificates want it.

use std::{fmt, sync::Arc, time::Duration};

use quorate_certs::UnixTime;
use rustls::time_provider::TimeProvider;

use super::{Clock, Env};

impl Env {
    /// The time of day, to judge certificates by.
    #[must_use]
    pub fn unix_time(&self) -> UnixTime {
        unix_time(&*self.clock)
    }

    /// The clock that TLS judges peers by.
    #[must_use]
    pub fn certificate_time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(CertificateTime(Arc::clone(&self.clock)))
    }
}

struct CertificateTime(Arc<dyn Clock>);

impl TimeProvider for CertificateTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&*self.0))
    }
}

impl fmt::Debug for CertificateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateTime").finish_non_exhaustive()
    }
}

fn unix_time(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_nanos(clock.wall_ns()))
}
