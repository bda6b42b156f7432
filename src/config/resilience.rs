//! Section `resilience`: when upstreams that fail are left alone, and how much failing over may cost; and the rules of
//! weights among `upstreams`.

use std::time::Duration;

use super::decode::{Keys, section};
use super::kind::{positive, switch, whole};
use super::report::Report;
use super::{Breaker, Resilience, RetryBudget, Upstream};

/// The longest pause that can be configured; nobody waits for more than a day by mistake.
const DAY_SECS: i64 = 24 * 60 * 60;

pub(super) fn resilience(keys: &mut Keys<'_, '_>) -> Option<Resilience> {
    let breaker = keys.or(
        "breaker",
        section(breaker),
        "{}",
        "When an upstream that fails again and again is left alone for a while, on all replicas alike.",
    );
    let retry_budget = keys.or(
        "retry_budget",
        section(retry_budget),
        "{}",
        "How many further attempts there may be, so that failing over cannot multiply the load of an outage. Counted by each \
         instance for itself.",
    );
    Some(Resilience { breaker: breaker?, retry_budget: retry_budget? })
}

fn breaker(keys: &mut Keys<'_, '_>) -> Option<Breaker> {
    let enabled = keys.or("enabled", switch(), "true", "`false`: every request asks every upstream in order.");
    let failures = keys.or(
        "failures",
        whole(1, 1000),
        "10",
        "Failures in a row, seen by one instance, after which an upstream is left alone: no connection, no answer in time, \
         429, and 5xx other than 501. Those without an answer are counted for the upstream, the others for each of its \
         models.",
    );
    let cooldown = keys.or(
        "cooldown_seconds",
        whole::<u64>(1, DAY_SECS).map(Duration::from_secs),
        "10",
        "How long it is left alone the first time, in seconds, or as long as its `retry-after` asks for if that is more. Each \
         time that it fails again, twice as long. Up to a fifth is added at random.",
    );
    let max_cooldown = keys.or(
        "max_cooldown_seconds",
        whole::<u64>(1, DAY_SECS).map(Duration::from_secs),
        "300",
        "The most of that, in seconds, whatever `retry-after` says.",
    );
    let (cooldown, max_cooldown) = (cooldown?, max_cooldown?);
    if max_cooldown < cooldown {
        keys.fault("max_cooldown_seconds", "must not be less than `cooldown_seconds`");
    }
    Some(Breaker { is_enabled: enabled?, failures: failures?, cooldown, max_cooldown })
}

fn retry_budget(keys: &mut Keys<'_, '_>) -> Option<RetryBudget> {
    let enabled = keys.or("enabled", switch(), "true", "`false`: as many further attempts as there are upstreams.");
    let percent = keys.or(
        "percent",
        whole(0, 1000),
        "100",
        "Further attempts (after the first upstream of a request) for a hundred requests of the window.",
    );
    let minimum = keys.or(
        "minimum",
        whole(1, 10_000),
        "20",
        "Further attempts that a window always has, so that few requests may always fail over. Never less than one request can \
         need.",
    );
    let window = keys.or(
        "window_seconds",
        positive().map(Duration::from_secs),
        "60",
        "Length of the sliding window, in seconds.",
    );
    Some(RetryBudget { is_enabled: enabled?, percent: percent?, minimum: minimum?, window: window? })
}

/// Warns of weights that share nothing, and of failing over to nobody.
pub(super) fn advise(upstreams: &[Upstream], keys: &mut Keys<'_, '_>) {
    if let [_] = upstreams
        && keys.has("resilience")
    {
        keys.warn("resilience", "has no effect: there is one upstream, which is always asked");
    }
    if let Some(last) = upstreams.last().filter(|last| !last.failover_on.is_empty()) {
        let path = format!("upstreams[{}].failover_on", upstreams.len() - 1);
        let message = format!("has no effect: no upstream comes after `{}`", last.name);
        keys.report.warn_at(&path, message);
    }
    weights(upstreams, keys.report);
}

fn weights(upstreams: &[Upstream], report: &mut Report<'_>) {
    let mut from = 0;
    for run in upstreams.chunk_by(|one, next| one.weight.is_some() == next.weight.is_some()) {
        let weights: Vec<u32> = run.iter().filter_map(|upstream| upstream.weight).collect();
        let message = match weights[..] {
            [] => None,
            [_] => {
                Some("has no effect: requests are shared among neighbours that have a `weight`, and this one has none")
            }
            _ if weights.iter().all(|weight| *weight == 0) => {
                Some("nobody in its neighbourhood has a weight above 0: they are tried in the order of the file")
            }
            _ => None,
        };
        if let Some(message) = message {
            report.warn_at(&format!("upstreams[{from}].weight"), message);
        }
        from += run.len();
    }
}
