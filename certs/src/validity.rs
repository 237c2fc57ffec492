//! When a certificate may be used, as seconds since the Unix epoch, and how that is said.
//!
//! Invariant: no clock here; whoever asks brings the time. Called by `authority`, `load`,
//! `credentials` and `show`.

use std::fmt;

use rustls_pki_types::UnixTime;
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

/// A moment in seconds since the Unix epoch; prints as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// What X.509 can express: until the end of the year 9999.
    pub(crate) fn to_asn1(self) -> Option<ASN1Time> {
        ASN1Time::from_timestamp(self.0).ok()
    }

    /// `seconds` later, or as late as can be said.
    pub(crate) fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add_unsigned(seconds))
    }

    /// `seconds` earlier, but not before 1970.
    pub(crate) fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub_unsigned(seconds).max(0))
    }
}

impl From<UnixTime> for Moment {
    fn from(time: UnixTime) -> Self {
        Self(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(time) = self.to_asn1() else {
            return write!(f, "@{}", self.0);
        };
        let time = time.to_datetime();
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        let (hour, minute, second) = time.to_hms();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The first and the last moment of a certificate, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not usable before.
    pub not_before: Moment,
    /// Not usable after.
    pub not_after: Moment,
}

/// Where a moment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The certificate may be used.
    Valid,
    /// Its time has not come.
    NotYetValid,
    /// Its time is over.
    Expired,
}

impl Validity {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            not_before: Moment(validity.not_before.timestamp()),
            not_after: Moment(validity.not_after.timestamp()),
        }
    }

    /// Whether a certificate with this validity may be used at `now`.
    #[must_use]
    pub fn at(self, now: UnixTime) -> Standing {
        let now = Moment::from(now);
        if now < self.not_before {
            Standing::NotYetValid
        } else if now > self.not_after {
            Standing::Expired
        } else {
            Standing::Valid
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn prints_rfc_3339() {
        assert_eq!(Moment(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Moment(1_800_000_000).to_string(), "2027-01-15T08:00:00Z");
        assert_eq!(Moment(i64::MAX).to_string(), "@9223372036854775807");
    }

    #[test]
    fn both_ends_are_inclusive() {
        let validity = Validity { not_before: Moment(10), not_after: Moment(20) };
        let at = |s| validity.at(UnixTime::since_unix_epoch(Duration::from_secs(s)));
        assert_eq!(
            [9, 10, 20, 21].map(at),
            [Standing::NotYetValid, Standing::Valid, Standing::Valid, Standing::Expired]
        );
        assert_eq!(at(u64::MAX), Standing::Expired);
    }
}
