//! What a caller is told about a cap: response headers and the refusal (inference contract §15.2, §15.4, §15.5, §16).

use time::Month;

use super::calendar;
use super::verdict::Gauge;
use crate::domain::ids::Timestamp;

/// A response header: its name and its value.
pub type Header = (&'static str, String);

/// A refusal: headers and the public message of a `429 billing_error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Headers.
    pub headers: Vec<Header>,
    /// Message.
    pub message: String,
}

/// The headers of a success for a caller with a cap.
pub fn allowed(gauge: &Gauge) -> Vec<Header> {
    let status = if gauge.is_above(75) { "allowed_warning" } else { "allowed" };
    let resets = gauge.resets.as_secs().to_string();
    let mut headers = vec![
        ("anthropic-ratelimit-unified-status", status.to_owned()),
        ("anthropic-ratelimit-unified-overage-status", status.to_owned()),
        ("anthropic-ratelimit-unified-representative-claim", "overage".to_owned()),
        ("anthropic-ratelimit-unified-overage-utilization", hundredths(gauge.share(100).min(99))),
        ("anthropic-ratelimit-unified-reset", resets.clone()),
        ("anthropic-ratelimit-unified-overage-reset", resets),
    ];
    let threshold = [(95, "0.95"), (75, "0.75")].into_iter().find(|(percent, _)| gauge.is_above(*percent));
    if let Some((_, threshold)) = threshold {
        headers.push(("anthropic-ratelimit-unified-overage-surpassed-threshold", threshold.to_owned()));
    }
    headers
}

/// The refusal of a caller whose cap, or whose groups' pools, are exhausted. `addition` is `admin.blocked_message`.
pub fn blocked(gauge: &Gauge, addition: Option<&str>, now: Timestamp) -> Refusal {
    let wait = gauge.resets.since(now);
    let resets = gauge.resets.as_secs().to_string();
    let is_pool = gauge.source == "group_pool";
    let mut headers = vec![
        ("retry-after", (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).to_string()),
        ("x-should-retry", "false".to_owned()),
        ("anthropic-ratelimit-unified-status", "rejected".to_owned()),
        ("anthropic-ratelimit-unified-reset", resets.clone()),
        ("anthropic-ratelimit-unified-overage-reset", resets),
        ("anthropic-ratelimit-unified-overage-utilization", hundredths(gauge.share(100))),
        ("anthropic-ratelimit-unified-overage-surpassed-threshold", "1".to_owned()),
        ("anthropic-ratelimit-unified-overage-period", gauge.period.name().to_owned()),
        ("anthropic-ratelimit-unified-overage-disabled-reason", "org_spend_cap_reached".to_owned()),
    ];
    if is_pool {
        headers.push(("anthropic-ratelimit-unified-overage-scope", "group_pool".to_owned()));
    }
    let date = calendar::date(gauge.resets);
    let (month, day) = (month(date.month()), date.day());
    let message = if is_pool {
        let text = format!(
            "Your group's shared budget for this month is used up. Ask your administrator to raise it, or wait until \
             it resets on {month} {day} at 00:00 UTC."
        );
        return Refusal { headers, message: completed(text.trim_end_matches('.'), addition, ".") };
    } else if gauge.cap == 0 {
        "spend limit reached".to_owned()
    } else {
        format!("spend limit reached · resets {} {day}", &month[..3])
    };
    Refusal { headers, message: completed(&message, addition, "") }
}

/// The refusal of a caller who has something left, all of which is reserved by their other requests: those settle for
/// less, as a rule, and soon. Unlike at a cap that is reached, trying again helps.
pub fn reserved(addition: Option<&str>) -> Refusal {
    let headers = vec![("retry-after", RETRY_RESERVED.to_owned()), ("x-should-retry", "true".to_owned())];
    let message = "what is left of your spend limit is reserved by your requests under way · try again in a moment";
    Refusal { headers, message: completed(message, addition, "") }
}

/// Seconds after which the requests under way may have ended.
const RETRY_RESERVED: &str = "2";

/// The refusal of a caller whose spending cannot be looked up, where that closes the door.
pub fn unknown(addition: Option<&str>) -> Refusal {
    let headers = vec![
        ("x-should-retry", "false".to_owned()),
        ("anthropic-ratelimit-unified-overage-disabled-reason", "fetch_error".to_owned()),
    ];
    Refusal { headers, message: completed("spend limit unavailable", addition, "") }
}

/// `text` with what the operator adds to it, or with its own end.
fn completed(text: &str, addition: Option<&str>, end: &str) -> String {
    match addition {
        Some(addition) => format!("{text} · {addition}"),
        None => format!("{text}{end}"),
    }
}

/// Hundredths as a decimal in its shortest form: `1`, `1.5`, `0.07`.
fn hundredths(hundredths: i128) -> String {
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    crate::domain::money::shortest(&text).to_owned()
}

const fn month(month: Month) -> &'static str {
    match month {
        Month::January => "January",
        Month::February => "February",
        Month::March => "March",
        Month::April => "April",
        Month::May => "May",
        Month::June => "June",
        Month::July => "July",
        Month::August => "August",
        Month::September => "September",
        Month::October => "October",
        Month::November => "November",
        Month::December => "December",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Money;
    use crate::domain::spend::calendar::Period;

    /// 2026-11-20T12:00:00.500Z.
    const NOW: Timestamp = Timestamp::from_millis(1_795_176_000_500);

    fn gauge(cap: i64, milli_cents: i64) -> Gauge {
        let spent = Money::from_nanos(milli_cents * 10_000);
        Gauge { period: Period::Daily, cap, spent, resets: Period::Daily.end(NOW), source: "user" }
    }

    fn value<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
        let name = format!("anthropic-ratelimit-unified-{name}");
        headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn thresholds_are_strict_and_exact_while_the_printed_share_is_rounded() {
        for (spent, utilization, status, threshold) in [
            (0, "0", "allowed", None),
            (70_000, "0.07", "allowed", None),
            (749_000, "0.75", "allowed", None),
            (750_000, "0.75", "allowed", None),
            (750_001, "0.75", "allowed_warning", Some("0.75")),
            (950_000, "0.95", "allowed_warning", Some("0.75")),
            (950_001, "0.95", "allowed_warning", Some("0.95")),
            (999_999, "0.99", "allowed_warning", Some("0.95")),
            (500_000, "0.5", "allowed", None),
        ] {
            let headers = allowed(&gauge(1000, spent));
            assert_eq!(value(&headers, "overage-utilization"), Some(utilization), "{spent}");
            assert_eq!(value(&headers, "status"), Some(status), "{spent}");
            assert_eq!(value(&headers, "overage-status"), Some(status), "{spent}");
            assert_eq!(value(&headers, "overage-surpassed-threshold"), threshold, "{spent}");
            assert_eq!(value(&headers, "reset"), Some("1795219200"));
        }
    }

    #[test]
    fn a_refusal_says_what_is_used_up_and_when_it_resets() {
        for (cap, spent, utilization, message) in [
            (1000, 1_000_000, "1", "spend limit reached · resets Nov 21"),
            (1000, 1_500_000, "1.5", "spend limit reached · resets Nov 21"),
            (1000, 123_456_000, "123.46", "spend limit reached · resets Nov 21"),
            (0, 7, "1", "spend limit reached"),
        ] {
            let refusal = blocked(&gauge(cap, spent), None, NOW);
            assert_eq!(value(&refusal.headers, "overage-utilization"), Some(utilization));
            assert_eq!(refusal.message, message);
            assert_eq!(refusal.headers[0], ("retry-after", "43200".to_owned()));
            assert_eq!(value(&refusal.headers, "overage-scope"), None);
            let refusal = blocked(&gauge(cap, spent), Some("ask finance"), NOW);
            assert_eq!(refusal.message, format!("{message} · ask finance"));
        }
    }

    #[test]
    fn an_exhausted_pool_is_told_as_one() {
        let pool = Gauge {
            source: "group_pool",
            period: Period::Monthly,
            resets: Period::Monthly.end(NOW),
            ..gauge(100, 200_000)
        };
        let refusal = blocked(&pool, None, NOW);
        assert_eq!(value(&refusal.headers, "overage-scope"), Some("group_pool"));
        assert!(refusal.message.ends_with("December 1 at 00:00 UTC."), "{}", refusal.message);
        let refusal = blocked(&pool, Some("ask finance"), NOW);
        assert!(refusal.message.ends_with("December 1 at 00:00 UTC · ask finance"), "{}", refusal.message);
        assert_eq!(unknown(Some("x")).message, "spend limit unavailable · x");
    }
}
