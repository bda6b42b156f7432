//! Sections `access_control`, `limits`, `timeouts` and `rate_limits` (auth contract §3.10).

use std::time::Duration;

use super::address::network;
use super::decode::{Keys, section};
use super::kind::{list, positive};
use super::{AccessControl, Limits, RateLimit, RateLimits, Timeouts};

pub(super) fn access_control(keys: &mut Keys<'_, '_>) -> Option<AccessControl> {
    let allow_cidrs = keys.or(
        "allow_cidrs",
        list(network()),
        "[]",
        "If there are any, only clients from these addresses and ranges are answered (probes excepted).",
    );
    let deny_cidrs = keys.or(
        "deny_cidrs",
        list(network()),
        "[]",
        "Clients from these addresses and ranges are refused, on every path.",
    );
    if keys.has("allow_cidrs") && allow_cidrs.as_ref().is_some_and(Vec::is_empty) {
        keys.warn("allow_cidrs", "is empty, which lets every address in; name some, or remove the key");
    }
    Some(AccessControl { allow_cidrs: allow_cidrs?, deny_cidrs: deny_cidrs? })
}

/// The largest request body that is read, 64 MiB. A body is in memory once while it is read, once more while its buffer
/// grows, and once more while it is masked; together that is less than the 256 MiB which an instance has under our host.
const MOST_REQUEST_BYTES: u64 = 64 << 20;

pub(super) fn limits(keys: &mut Keys<'_, '_>) -> Option<Limits> {
    let max_request_bytes = keys.or(
        "max_request_bytes",
        positive(),
        "33554432",
        "Largest request body, in bytes; larger ones get 413. More than 67108864 counts as that.",
    );
    if max_request_bytes.is_some_and(|bytes: u64| bytes > MOST_REQUEST_BYTES) {
        keys.warn(
            "max_request_bytes",
            format!("is more than the memory of an instance has room for: bodies above {MOST_REQUEST_BYTES} get 413"),
        );
    }
    let max_request_header_bytes = keys.optional(
        "max_request_header_bytes",
        positive(),
        "Largest request header section (names, values, and four bytes for each), in bytes; larger ones get 431. \
         Without it the host's own limit applies.",
    );
    let max_url_length = keys.optional(
        "max_url_length",
        positive(),
        "Longest URL, scheme and host included, in bytes; longer ones get 414. Without it the host's own limit applies.",
    );
    let max_request_bytes = max_request_bytes?.min(MOST_REQUEST_BYTES);
    Some(Limits { max_request_bytes, max_request_header_bytes, max_url_length })
}

pub(super) fn timeouts(keys: &mut Keys<'_, '_>) -> Option<Timeouts> {
    let upstream_ttfb = keys.or(
        "upstream_ttfb_ms",
        positive().map(Duration::from_millis),
        "120000",
        "How long to wait for an upstream's response headers before the next upstream is tried, in milliseconds.",
    );
    Some(Timeouts { upstream_ttfb: upstream_ttfb? })
}

pub(super) fn rate_limits(keys: &mut Keys<'_, '_>) -> Option<RateLimits> {
    let device_authorization = keys.or(
        "device_authorization",
        section(|keys| rate_limit(keys, "30")),
        "{}",
        "Sign-ins begun (`POST /oauth/device_authorization`).",
    );
    let device_verify = keys.or(
        "device_verify",
        section(|keys| rate_limit(keys, "10")),
        "{}",
        "User codes entered (`POST /device` and `POST /device/deny`).",
    );
    Some(RateLimits { device_authorization: device_authorization?, device_verify: device_verify? })
}

fn rate_limit(keys: &mut Keys<'_, '_>, default_max: &'static str) -> Option<RateLimit> {
    let max = keys.or("max", positive(), default_max, "Requests per window and client address.");
    let window =
        keys.or("window_seconds", positive().map(Duration::from_secs), "600", "Length of the window, in seconds.");
    Some(RateLimit { max: max?, window: window? })
}
