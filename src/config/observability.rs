//! Section `observability`: what the gateway tells about itself.

use std::net::SocketAddr;
use std::time::Duration;

use super::address::{outbound_url, without_slash};
use super::decode::{Keys, section};
use super::kind::{Kind, any_name, formed, map, secret, whole};
use super::{Metrics, Observability, Otlp};

#[expect(clippy::unnecessary_wraps, reason = "it is one of several sections")]
pub(super) fn observability(keys: &mut Keys<'_, '_>) -> Option<Observability> {
    let metrics = keys.optional(
        "metrics",
        section(metrics),
        "Metrics for Prometheus, on a listener of their own. Only `sallyport serve` has one; under Spin this has no effect.",
    );
    let otlp = keys.optional(
        "otlp",
        section(otlp),
        "Traces of the gateway's own work, sent with OTLP over HTTP (JSON). Without this section there are none.",
    );
    Some(Observability { metrics, otlp })
}

fn metrics(keys: &mut Keys<'_, '_>) -> Option<Metrics> {
    let listen = keys.required(
        "listen",
        address(),
        "Address and port of the listener, for example `127.0.0.1:9464`: `GET /metrics`, `/healthz`, and `/readyz` with \
         reasons. Never the port of the gateway itself. A change takes effect at the next start.",
    );
    let token = keys.optional(
        "token",
        secret(16),
        "What a scraper shows as `Authorization: Bearer …`, at least 16 characters. Required unless `listen` is a \
         loopback address.",
    );
    let listen = listen?;
    if !listen.ip().is_loopback() && !keys.has("token") {
        keys.fault("", "`token` is required unless `listen` is a loopback address: metrics are not for everybody");
    }
    Some(Metrics { listen, token })
}

fn address() -> Kind<SocketAddr> {
    formed("an address and a port such as 127.0.0.1:9464").check(|text| {
        text.parse().map_err(|_| "expected an IP address and a port such as 127.0.0.1:9464 or [::1]:9464".to_owned())
    })
}

fn otlp(keys: &mut Keys<'_, '_>) -> Option<Otlp> {
    let url = keys.required("url", outbound_url(), "Base URL of the collector; `/v1/traces` is appended.");
    let headers =
        keys.or("headers", map(any_name, secret(0)), "{}", "Headers for every export, for example an API key.");
    let sample_percent = keys.or(
        "sample_percent",
        whole(0, 100),
        "100",
        "How many of a hundred requests without a `traceparent` are traced. One with it is traced as it says.",
    );
    let delay = keys.or(
        "delay_ms",
        whole(0, 10_000).map(Duration::from_millis),
        "1000",
        "How long spans are gathered before they are sent, in milliseconds.",
    );
    let headers = headers?.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    Some(Otlp { url: without_slash(url?.as_str()), headers, sample_percent: sample_percent?, delay: delay? })
}
