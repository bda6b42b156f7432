//! Periods: which day, week and month an instant belongs to, and when they end. All in UTC (inference contract §13.5,
//! §15.3).

use time::{Date, Duration, OffsetDateTime};

use crate::domain::ids::Timestamp;
use crate::domain::money::{Money, divided};

/// What a cap is counted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// From midnight to midnight.
    Daily,
    /// From Monday to Monday.
    Weekly,
    /// From the first of a month to the first of the next.
    Monthly,
}

impl Period {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Daily, Self::Weekly, Self::Monthly];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    /// The period of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.name() == name)
    }

    /// The name of the period that `at` belongs to: `2031-02-03`, `2031-W06`, or `2031-02`.
    pub fn key(self, at: Timestamp) -> String {
        let date = date(at);
        match self {
            Self::Daily => day(date),
            Self::Weekly => {
                let (year, week, _) = date.to_iso_week_date();
                format!("{year:04}-W{week:02}")
            }
            Self::Monthly => format!("{:04}-{:02}", date.year(), u8::from(date.month())),
        }
    }

    /// When the period that `at` belongs to began.
    pub fn start(self, at: Timestamp) -> Timestamp {
        let date = date(at);
        midnight(match self {
            Self::Daily => date,
            Self::Weekly => date - Duration::days(i64::from(date.weekday().number_days_from_monday())),
            Self::Monthly => date.replace_day(1).unwrap_or(date),
        })
    }

    /// What will have been spent at the end of the period that `now` belongs to, if spending goes on as it did: exact to
    /// the nano-dollar, rounded half up. The first hour counts as a whole one: it says little.
    pub fn projected(self, spent: Money, now: Timestamp) -> Money {
        let (start, end) = (self.start(now).as_millis(), self.end(now).as_millis());
        let elapsed = (now.as_millis() - start).max(60 * 60 * 1000);
        let projected = divided(i128::from(spent.as_nanos()) * i128::from(end - start), elapsed.into());
        Money::from_nanos(i64::try_from(projected).unwrap_or(i64::MAX))
    }

    /// When the period that `at` belongs to is over.
    pub fn end(self, at: Timestamp) -> Timestamp {
        let date = date(at);
        let next = match self {
            Self::Daily => date + Duration::DAY,
            Self::Weekly => date + Duration::days(7 - i64::from(date.weekday().number_days_from_monday())),
            Self::Monthly => date.replace_day(28).map_or(date, |late| late + Duration::days(4)),
        };
        let next = if self == Self::Monthly { next.replace_day(1).unwrap_or(next) } else { next };
        midnight(next)
    }
}

/// The day of `at`.
pub fn date(at: Timestamp) -> Date {
    OffsetDateTime::from_unix_timestamp(at.as_secs()).unwrap_or(OffsetDateTime::UNIX_EPOCH).date()
}

/// Its name.
pub fn day(date: Date) -> String {
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

/// Its beginning.
pub fn midnight(date: Date) -> Timestamp {
    Timestamp::from_secs(date.midnight().assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_secs(OffsetDateTime::parse(text, &Rfc3339).expect("RFC 3339").unix_timestamp())
    }

    #[test]
    fn periods_follow_the_calendar() {
        for (now, [day, week, month], [next_day, next_week, next_month]) in [
            ("2031-02-03T04:05:06Z", ["2031-02-03", "2031-W06", "2031-02"], ["2031-02-04", "2031-02-10", "2031-03-01"]),
            ("2026-11-22T23:59:59Z", ["2026-11-22", "2026-W47", "2026-11"], ["2026-11-23", "2026-11-23", "2026-12-01"]),
            ("2026-11-23T00:00:00Z", ["2026-11-23", "2026-W48", "2026-11"], ["2026-11-24", "2026-11-30", "2026-12-01"]),
            ("2027-01-01T00:00:00Z", ["2027-01-01", "2026-W53", "2027-01"], ["2027-01-02", "2027-01-04", "2027-02-01"]),
            ("2024-12-30T12:00:00Z", ["2024-12-30", "2025-W01", "2024-12"], ["2024-12-31", "2025-01-06", "2025-01-01"]),
            ("2026-12-31T23:59:59Z", ["2026-12-31", "2026-W53", "2026-12"], ["2027-01-01", "2027-01-04", "2027-01-01"]),
            ("2028-02-28T01:00:00Z", ["2028-02-28", "2028-W09", "2028-02"], ["2028-02-29", "2028-03-06", "2028-03-01"]),
            ("2028-02-29T23:00:00Z", ["2028-02-29", "2028-W09", "2028-02"], ["2028-03-01", "2028-03-06", "2028-03-01"]),
            ("2100-02-28T23:00:00Z", ["2100-02-28", "2100-W08", "2100-02"], ["2100-03-01", "2100-03-01", "2100-03-01"]),
        ] {
            let keys = Period::ALL.map(|period| period.key(at(now)));
            assert_eq!(keys, [day, week, month], "{now}");
            let ends = Period::ALL.map(|period| period.end(at(now)));
            let expected = [next_day, next_week, next_month].map(|date| at(&format!("{date}T00:00:00Z")));
            assert_eq!(ends, expected, "{now}");
        }
    }

    #[test]
    fn spending_is_projected_to_the_end_of_its_period() {
        let noon = at("2031-02-05T12:00:00Z");
        let projected = |period: Period, now| period.projected(Money::from_nanos(7_000), now).as_nanos();
        assert_eq!(projected(Period::Daily, noon), 14_000);
        assert_eq!(projected(Period::Weekly, noon), 7_000 * 14 / 5);
        assert_eq!(projected(Period::Monthly, noon), 43_556, "28 days, four and a half of them over");
        assert_eq!(projected(Period::Daily, at("2031-02-05T00:00:01Z")), 7_000 * 24);
        assert_eq!(Period::Monthly.projected(Money::from_nanos(i64::MAX), noon).as_nanos(), i64::MAX);
    }

    proptest! {
        #[test]
        fn a_period_has_one_name_until_its_end_and_another_one_after(secs in 0..9_000_000_000_i64) {
            for period in Period::ALL {
                let now = Timestamp::from_secs(secs);
                let end = period.end(now);
                prop_assert!(end > now);
                let start = period.start(now);
                prop_assert!(start <= now);
                prop_assert_eq!(period.key(start), period.key(now));
                prop_assert_eq!(period.end(start), end);
                let last = Timestamp::from_millis(end.as_millis() - 1);
                prop_assert_eq!(period.key(last), period.key(now));
                prop_assert_ne!(period.key(end), period.key(now));
                prop_assert_eq!(period.end(last), end);
            }
        }
    }
}
