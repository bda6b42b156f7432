//! `GET /api/oauth/usage`: a caller's spending as clients show it (inference contract §19).

use serde_json::{Value, json};

use super::calendar::Period;
use super::verdict::{Gauge, Standing, described};
use crate::config::GroupLimitMode;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;

/// The answer for a caller in this standing.
pub fn report(standing: &Standing, mode: GroupLimitMode, now: Timestamp) -> Value {
    let gauges = standing.gauges(mode, now);
    let Some(told) = described(&gauges) else { return uncapped(standing, now) };
    let limits: Vec<Value> = gauges
        .iter()
        .map(|gauge| {
            json!({
                "kind": "spend", "group": gauge.period.name(), "percent": percent(gauge), "resets_at": gauge.resets,
                "severity": severity(gauge), "is_active": gauge == told,
                "projected_percent": percent_of(&projected(gauge, now)),
                "projected_credits": projected(gauge, now).spent.whole_cents(),
            })
        })
        .collect();
    json!({
        "extra_usage": {
            "is_enabled": true, "monthly_limit": told.cap, "used_credits": told.spent.whole_cents(),
            "utilization": percent(told), "currency": "USD",
            "projected_credits": projected(told, now).spent.whole_cents(),
        },
        "limits": limits,
    })
}

/// The gauge as it will be when its period ends, at the rate so far. Clients that do not know the fields of it leave
/// them out.
fn projected(gauge: &Gauge, now: Timestamp) -> Gauge {
    Gauge { spent: gauge.period.projected(gauge.spent, now), ..gauge.clone() }
}

fn uncapped(standing: &Standing, now: Timestamp) -> Value {
    let [day, week, month] = standing.spent.map(Money::whole_cents);
    let projected = |period: Period| period.projected(standing.spent[period as usize], now).whole_cents();
    json!({
        "extra_usage": {
            "is_enabled": true, "monthly_limit": null, "used_credits": month, "utilization": null, "currency": "USD",
            "projected_credits": projected(Period::Monthly),
            "daily": {
                "limit": null, "used_credits": day, "utilization": null, "projected_credits": projected(Period::Daily),
            },
            "weekly": {
                "limit": null, "used_credits": week, "utilization": null, "projected_credits": projected(Period::Weekly),
            },
        },
        "limits": [],
    })
}

/// Whole percent; what is not exhausted is not shown as 100.
fn percent(gauge: &Gauge) -> i64 {
    if gauge.is_exhausted() { percent_of(gauge) } else { percent_of(gauge).min(99) }
}

fn percent_of(gauge: &Gauge) -> i64 {
    i64::try_from(gauge.share(100)).unwrap_or(i64::MAX)
}

fn severity(gauge: &Gauge) -> &'static str {
    if gauge.is_exhausted() || gauge.is_above(95) {
        "critical"
    } else if gauge.is_above(75) {
        "warning"
    } else {
        "normal"
    }
}

#[cfg(test)]
mod tests {
    use super::super::limit::Scope;
    use super::super::limit::tests::limit;
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_927_857_906);

    fn of(caps: [Option<i64>; 3], milli_cents: [i64; 3]) -> Value {
        let limits = Period::ALL
            .into_iter()
            .zip(caps)
            .filter_map(|(period, cap)| Some(limit(Scope::User("u".to_owned()), period, Some(cap?))));
        let spent = milli_cents.map(|spent| Money::from_nanos(spent * 10_000));
        let standing = Standing { limits: limits.collect(), spent, pools: Vec::new() };
        report(&standing, GroupLimitMode::Min, NOW)
    }

    #[test]
    fn caps_are_told_as_percentages_and_the_fullest_is_active() {
        let report = of([Some(1000), Some(2000), None], [500_000, 1_600_000, 1_600_000]);
        assert_eq!(
            report,
            json!({
                "extra_usage": {"is_enabled": true, "monthly_limit": 2000, "used_credits": 1600, "utilization": 80, "currency": "USD", "projected_credits": 65801},
                "limits": [
                    {"kind": "spend", "group": "daily", "percent": 50, "resets_at": "2031-02-04T00:00:00.000Z", "severity": "normal", "is_active": false, "projected_percent": 294, "projected_credits": 2937},
                    {"kind": "spend", "group": "weekly", "percent": 80, "resets_at": "2031-02-10T00:00:00.000Z", "severity": "warning", "is_active": true, "projected_percent": 3290, "projected_credits": 65801},
                ],
            })
        );
        for (cap, spent, percent, severity) in [
            (1000, 999_900, 99, "critical"),
            (1000, 1_500_000, 150, "critical"),
            (0, 0, 100, "critical"),
            (1000, 950_000, 95, "warning"),
            (1000, 750_000, 75, "normal"),
            (1000, 745_000, 75, "normal"),
        ] {
            let row = of([Some(cap), None, None], [spent, spent, spent])["limits"][0].clone();
            assert_eq!((&row["percent"], &row["severity"]), (&json!(percent), &json!(severity)), "{spent} of {cap}");
        }
    }

    #[test]
    fn without_a_cap_sums_are_told_rounded_down() {
        let report = of([None; 3], [12_600, 67_400, 271_500]);
        assert_eq!(report["extra_usage"]["used_credits"], 271);
        assert_eq!(
            report["extra_usage"]["daily"],
            json!({"limit": null, "used_credits": 12, "utilization": null, "projected_credits": 74})
        );
        assert_eq!(report["extra_usage"]["weekly"]["used_credits"], 67);
        assert_eq!(report["limits"], json!([]));
    }
}
