//! What happens when upstreams fail: `failover_on`, `weight` and the section `resilience`.

use super::*;

fn upstreams(more: &[&str]) -> String {
    let entries: Vec<_> = more
        .iter()
        .enumerate()
        .map(|(index, more)| format!("{{ name: u{index}, provider: anthropic, auth: {{ api_key: x }}{more} }}"))
        .collect();
    format!("upstreams: [{}]", entries.join(", "))
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = load("").config;
    let breaker = Breaker {
        is_enabled: true,
        failures: 10,
        cooldown: Duration::from_secs(10),
        max_cooldown: Duration::from_mins(5),
    };
    let retry_budget = RetryBudget { is_enabled: true, percent: 100, minimum: 20, window: Duration::from_mins(1) };
    assert_eq!(config.resilience, Resilience { breaker, retry_budget });
    assert_eq!((config.upstreams[0].failover_on.as_slice(), config.upstreams[0].weight), (&[][..], None));
}

#[test]
fn statuses_that_every_upstream_would_answer_do_not_fail_over() {
    for status in [400, 405, 406, 411, 412, 413, 414, 415, 416, 417, 422, 426, 428, 431] {
        let found = faults(&upstreams(&[&format!(", failover_on: [402, {status}]"), ""]));
        let expected = format!("upstreams[0].failover_on[1]: {status} says that the request itself is wrong");
        assert!(found.contains(&expected), "{status}: {found}");
    }
    for (status, expected) in [
        ("200", "must be at least 400"),
        ("302", "must be at least 400"),
        ("600", "must be at most 599"),
        ("x", "expected a whole number"),
    ] {
        let found = faults(&upstreams(&[&format!(", failover_on: [{status}]"), ""]));
        assert!(found.contains(expected), "{status}: {found}");
    }
    let loaded = load(&upstreams(&[", failover_on: [402, 407, 408, 409, 410, 418, 421, 423, 424, 425, 451, 499]", ""]));
    assert_eq!((loaded.config.upstreams[0].failover_on.len(), loaded.warnings.len()), (12, 0));
}

#[test]
fn what_has_no_effect_is_said() {
    let one = "upstreams: [{ provider: anthropic, auth: { api_key: x } }]\nresilience: { breaker: { failures: 3 } }";
    for (text, expected) in [
        (
            upstreams(&[", failover_on: [402, 429, 503, 402]", ""]),
            vec![
                "upstreams[0].failover_on[1]: 429 fails over anyway: it need not be listed",
                "upstreams[0].failover_on[2]: 503 fails over anyway: it need not be listed",
                "upstreams[0].failover_on[3]: 402 is listed already",
            ],
        ),
        (
            upstreams(&["", ", failover_on: [402]"]),
            vec!["upstreams[1].failover_on: has no effect: no upstream comes after `u1`"],
        ),
        (one.to_owned(), vec!["resilience: has no effect: there is one upstream, which is always asked"]),
        (
            upstreams(&[", weight: 3", ""]),
            vec![
                "upstreams[0].weight: has no effect: requests are shared among neighbours that have a `weight`, and this one has none",
            ],
        ),
        (
            upstreams(&["", ", weight: 0", ", weight: 0"]),
            vec![
                "upstreams[1].weight: nobody in its neighbourhood has a weight above 0: they are tried in the order of the file",
            ],
        ),
        (upstreams(&[", weight: 3", ", weight: 0", "", ", weight: 1", ", weight: 1"]), vec![]),
    ] {
        let warnings = load(&text).warnings;
        let said: Vec<_> = warnings.iter().map(|warning| format!("{}: {}", warning.path, warning.message)).collect();
        assert_eq!(said, expected, "{text}");
    }
}

#[test]
fn the_section_is_judged() {
    check(&[
        (
            "resilience: { breaker: { cooldown_seconds: 60, max_cooldown_seconds: 30 } }",
            "1:70: resilience.breaker.max_cooldown_seconds: must not be less than `cooldown_seconds`",
        ),
        ("resilience: { breaker: { failures: 0 } }", "1:36: resilience.breaker.failures: must be at least 1"),
        ("resilience: { retry_budget: { minimum: 0 } }", "1:40: resilience.retry_budget.minimum: must be at least 1"),
        (
            "resilience: { breaker: { enabled: 'no' } }",
            "1:35: resilience.breaker.enabled: expected true or false without quotes, found text",
        ),
    ]);
}
