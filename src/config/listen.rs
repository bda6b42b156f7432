//! Section `listen` (auth contract §3.1).

use super::address::{network, without_slash};
use super::decode::{Keys, section};
use super::kind::{Kind, formed, list, non_empty, text, whole};
use super::{Listen, Tls};

pub(super) fn listen(keys: &mut Keys<'_, '_>) -> Option<Listen> {
    let host = keys.or(
        "host",
        text(),
        "0.0.0.0",
        "Address to bind. `127.0.0.1`, `localhost` and `::1` count as loopback. Only `sallyport serve` binds; under Spin \
         the host does.",
    );
    let port = keys.or("port", whole(0, 65_535), "8080", "Port to bind. Only `sallyport serve` binds.");
    let public_url = keys.optional(
        "public_url",
        public_url(),
        "The origin at which clients and browsers reach the gateway, for example `https://gateway.example.com`. It is \
         the issuer, the prefix of every advertised URL, and where the identity provider sends browsers back to \
         (`<public_url>/oauth/callback`). Required unless `host` is loopback.",
    );
    let tls = keys.optional(
        "tls",
        section(tls),
        "Certificate and key, if the gateway terminates TLS itself. Only `sallyport serve` does; elsewhere the ingress \
         terminates TLS and this has no effect.",
    );
    let trusted_proxies = keys.or(
        "trusted_proxies",
        list(network()),
        "[]",
        "Addresses and ranges of the proxies in front of the gateway. Only from these peers is `X-Forwarded-For` \
         believed.",
    );

    let host = host?;
    let is_loopback = matches!(host.as_str(), "127.0.0.1" | "localhost" | "::1");
    if !is_loopback && !keys.has("public_url") {
        keys.lacks("public_url", "`public_url` is required unless `host` is 127.0.0.1, localhost or ::1");
    }
    if let Some(path) = public_url.as_deref().and_then(beyond_the_origin) {
        keys.warn(
            "public_url",
            format!(
                "goes on with `{path}` after the origin: clients and browsers are sent to addresses that begin with it, \
                 but the gateway answers at the root alone. Have the proxy in front take `{path}` off, or name the origin"
            ),
        );
    }
    let trusted_proxies = trusted_proxies?;
    if trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
        keys.warn("trusted_proxies", "trusts every peer: any client can then choose the address it is known by");
    }
    Some(Listen { host, port: port?, public_url, tls, trusted_proxies })
}

fn tls(keys: &mut Keys<'_, '_>) -> Option<Tls> {
    let cert = keys.required("cert", non_empty(), "Path of the certificate chain, PEM.");
    let key = keys.required("key", non_empty(), "Path of the private key, PEM.");
    Some(Tls { cert: cert?, key: key? })
}

/// What follows the origin of a URL, if anything does.
fn beyond_the_origin(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let rest = &url[url::Position::BeforePath..];
    (!matches!(rest, "" | "/")).then(|| rest.to_owned())
}

/// Used verbatim, so it is only looked at, not normalized. Its scheme is not restricted.
fn public_url() -> Kind<String> {
    formed("a URL such as https://gateway.example.com").check(|text| match url::Url::parse(&text) {
        Ok(_) => Ok(without_slash(&text)),
        Err(why) => Err(format!("is not a URL such as https://gateway.example.com: {why}")),
    })
}
