//! Section `telemetry` (auth contract §3.9).

use url::{Host, Url};

use super::address::{outbound_url, without_slash};
use super::decode::{Keys, section};
use super::kind::{Kind, any_name, formed, list, map, non_empty, secret, switch};
use super::{Collector, GoogleAuth, Telemetry};
use crate::domain::telemetry_attribute;

/// Attributes that say who a person is or what the client is; they are not the operator's to choose.
const RESERVED_ATTRIBUTES: [&str; 5] = ["user.email", "user.groups", "enduser.id", "enduser.sub", "service.name"];

pub(super) fn telemetry(keys: &mut Keys<'_, '_>) -> Option<Telemetry> {
    let forward_to = keys.or(
        "forward_to",
        list(section(collector)),
        "[]",
        "OpenTelemetry collectors to which the clients' telemetry is relayed.",
    );
    let resource_attributes = keys.or(
        "resource_attributes",
        map(attribute_name, attribute_value()),
        "{}",
        "Resource attributes that every client adds to its telemetry, for example `department: research`.",
    );
    let (forward_to, resource_attributes) = (forward_to?, resource_attributes?);
    if forward_to.is_empty() && !resource_attributes.is_empty() {
        keys.warn("resource_attributes", "has no effect without `forward_to`");
    }
    Some(Telemetry { forward_to, resource_attributes })
}

fn collector(keys: &mut Keys<'_, '_>) -> Option<Collector> {
    let url = keys.required(
        "url",
        https_url(),
        "Base URL; `/v1/metrics`, `/v1/logs` and `/v1/traces` are appended. `http:` only on loopback.",
    );
    let headers =
        keys.or("headers", map(any_name, secret(0)), "{}", "Headers for every export, for example an API key.");
    let metrics = keys.or("metrics", switch(), "true", "Whether metrics are relayed to it.");
    let logs = keys.or("logs", switch(), "false", "Whether logs (events) are relayed to it. They may quote prompts.");
    let traces = keys.or("traces", switch(), "false", "Whether traces are relayed to it.");
    let auth = keys.optional("auth", section(auth), "How the gateway signs in to the collector, besides `headers`.");
    let url = url?;
    let is_google = url.host_str().is_some_and(|host| host == "googleapis.com" || host.ends_with(".googleapis.com"));
    if auth.is_some() && !is_google {
        keys.fault("auth", "a Google access token is only sent to googleapis.com");
    }
    let headers = headers?.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    Some(Collector {
        url: without_slash(url.as_str()),
        headers,
        metrics: metrics?,
        logs: logs?,
        traces: traces?,
        google: auth,
    })
}

fn auth(keys: &mut Keys<'_, '_>) -> Option<GoogleAuth> {
    keys.required("google", section(google), "Sends a Google access token.")
}

#[expect(clippy::unnecessary_wraps, reason = "it is one of several sections")]
fn google(keys: &mut Keys<'_, '_>) -> Option<GoogleAuth> {
    let file = keys.optional(
        "service_account_json",
        non_empty(),
        "Path of a service account's key file. Without it, Application Default Credentials.",
    );
    Some(file.map_or(GoogleAuth::DefaultChain, GoogleAuth::ServiceAccountFile))
}

/// Where something is sent that is nobody else's business.
pub(super) fn https_url() -> Kind<Url> {
    let may_be_used = |url: &Url| {
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        url.scheme() == "https" || is_loopback
    };
    outbound_url().such_that(may_be_used, "must begin with https://; http:// is only for loopback")
}

fn attribute_name(name: &str) -> Result<(), String> {
    if !telemetry_attribute::is_name(name) {
        return Err("an attribute name is 1 to 255 letters, digits, dots, underscores and hyphens".to_owned());
    }
    if RESERVED_ATTRIBUTES.contains(&name) {
        return Err("is reserved: clients and the gateway set it themselves".to_owned());
    }
    Ok(())
}

fn attribute_value() -> Kind<String> {
    formed("text").such_that(
        |value| telemetry_attribute::is_value(value),
        "must be 1 to 255 printable ASCII characters without spaces and without , ; = \\ \" %",
    )
}
