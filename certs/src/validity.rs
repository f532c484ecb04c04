//! From when until when a certificate holds. Holds no clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::CertificateParams;

/// A laptop's clock may be behind the relay's. RFC 5280 has no tolerance of its own, so certificates start in the past.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// 9999-12-31T23:59:59Z, the last second that X.509 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// In whole seconds since 1970, as certificates have them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    not_before: u64,
    not_after: u64,
}

impl Validity {
    /// Starts a little before `now`, ends `lifetime` after it but never later than `limit`. `None` when nothing would
    /// be left, or when the clock stands outside what a certificate can say.
    pub(crate) fn starting(now: SystemTime, lifetime: Duration, limit: Option<SystemTime>) -> Option<Self> {
        let now = seconds(now)?;
        let limit = limit.map_or(Some(LAST_SECOND), seconds)?.min(LAST_SECOND);
        let not_after = now.saturating_add(lifetime.as_secs()).min(limit);
        (not_after > now).then(|| Self { not_before: now.saturating_sub(CLOCK_SKEW.as_secs()), not_after })
    }

    pub(crate) fn not_after(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }

    pub(crate) fn apply(self, params: &mut CertificateParams) {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        // Cannot overflow: both are at most LAST_SECOND.
        params.not_before = epoch + Duration::from_secs(self.not_before);
        params.not_after = epoch + Duration::from_secs(self.not_after);
    }
}

/// `None` before 1970: such a clock is wrong, and a certificate that says so would be refused by everybody.
fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// A certificate's own words for a time, as the standard library has it.
pub(crate) fn from_asn1(time: x509_parser::time::ASN1Time) -> Option<SystemTime> {
    let since = Duration::from_secs(u64::try_from(time.timestamp()).ok()?);
    UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    #[test]
    fn a_certificate_never_outlives_its_limit() {
        let now = NOW + Duration::from_secs(1_000_000);
        let limit = now + Duration::from_secs(60);
        let validity = Validity::starting(now, Duration::from_secs(3600), Some(limit)).unwrap();
        assert_eq!(validity.not_after(), limit);
        assert_eq!(validity.not_before, 1_000_000 - 300);
        assert!(Validity::starting(limit, Duration::from_secs(3600), Some(limit)).is_none());
    }

    #[test]
    fn a_clock_or_a_lifetime_out_of_range_is_no_panic() {
        assert!(Validity::starting(NOW - Duration::from_secs(1), Duration::from_secs(60), None).is_none());
        let longest = Validity::starting(NOW, Duration::MAX, None).unwrap();
        longest.apply(&mut CertificateParams::default());
        assert_eq!(longest.not_after, LAST_SECOND);
        assert_eq!(longest.not_before, 0);
    }
}
