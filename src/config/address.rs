//! Kinds for addresses, which several sections have: URLs that the gateway calls, and ranges of client addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use url::Url;

use super::kind::{Kind, formed};
use crate::domain::outbound;

/// An http(s) URL that the gateway itself calls: blocked addresses are refused (auth contract §4.8).
pub(super) fn outbound_url() -> Kind<Url> {
    http_url().check_with(|url, report| match outbound::check_url(&url, report.loopback()) {
        Ok(()) => Ok(url),
        Err(blocked) => Err(format!("{} {blocked}", url.host_str().unwrap_or_default())),
    })
}

/// The same without its trailing slash, as a base to append paths to.
pub(super) fn base_url() -> Kind<String> {
    outbound_url().check(|url| match (url.query(), url.fragment()) {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("must not have a name or a password in it: credentials belong into `auth` or `headers`".to_owned())
        }
        (None, None) => Ok(without_slash(url.as_str())),
        (Some(_), _) => Err("must not have a query: paths are appended to it; remove what follows `?`".to_owned()),
        (None, Some(_)) => {
            Err("must not have a fragment: paths are appended to it; remove what follows `#`".to_owned())
        }
    })
}

/// An http(s) URL.
pub(super) fn http_url() -> Kind<Url> {
    formed("a URL that begins with https:// or http://").check(|text| {
        let url = Url::parse(&text).map_err(|why| format!("is not a URL: {why}"))?;
        match url.scheme() {
            "http" | "https" => Ok(url),
            other => Err(format!("must begin with https:// or http://, not {other}:")),
        }
    })
}

/// `text` without one trailing slash.
pub(super) fn without_slash(text: &str) -> String {
    text.strip_suffix('/').unwrap_or(text).to_owned()
}

/// An IP address or a CIDR range. Host bits may be set.
pub(super) fn network() -> Kind<IpNet> {
    formed("an IP address or a range such as 10.0.0.0/8").check(|text| {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| "expected an IP address or a range such as 10.0.0.0/8; names are not looked up".to_owned())
    })
}
