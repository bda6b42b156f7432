//! The small values that everything else is made of, parsed once and trusted after.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// An instant, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down: what JWTs carry (RFC 7519 §2, NumericDate).
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This instant and `duration` more.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same in milliseconds, as figures and audit events have it.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.since(earlier).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether `earlier` was less than `age` ago. What lies ahead was noted before the clock was set back: it counts as
    /// old, or it would stay fresh until the clock has caught up.
    pub fn is_within(self, age: Duration, earlier: Self) -> bool {
        earlier <= self && self.since(earlier) < age
    }

    /// RFC 3339 in UTC with milliseconds: `2031-02-03T04:05:06.789Z`.
    pub fn to_rfc3339(self) -> String {
        let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        )
    }
}

impl Serialize for Timestamp {
    /// As RFC 3339 text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_ahead_is_not_fresh() {
        let now = Timestamp::from_secs(100);
        for (earlier, fresh) in [(100, true), (91, true), (90, false), (101, false), (1_000_000, false)] {
            assert_eq!(now.is_within(Duration::from_secs(10), Timestamp::from_secs(earlier)), fresh, "{earlier}");
        }
    }

    #[test]
    fn timestamps_are_written_in_utc_with_milliseconds() {
        assert_eq!(Timestamp::from_millis(1_927_857_906_789).to_rfc3339(), "2031-02-03T04:05:06.789Z");
        assert_eq!(Timestamp::from_millis(-1).as_secs(), -1);
    }
}
