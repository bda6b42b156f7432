//! Which hosts the component may call: patterns in the form of `allowed_outbound_hosts`, and the list that follows from
//! a configuration.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use sallyport::config::{AwsAuth, Config, FoundryAuth, GoogleAuth, Provider, destinations, is_metadata};
use url::Url;

use crate::environment;

/// One entry of `allowed_outbound_hosts`: `scheme://host[:port]`, each part possibly `*`, the host possibly `*.suffix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// `None` matches every scheme.
    scheme: Option<String>,
    host: Host,
    /// `None` matches every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// Any name that ends with this; it begins with a dot.
    Below(String),
    Exactly(String),
}

/// A pattern that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a host to allow; write `scheme://host` or `scheme://host:port`, for example `https://api.example.com`"
)]
pub(crate) struct NoPattern(String);

impl FromStr for Pattern {
    type Err = NoPattern;

    fn from_str(text: &str) -> Result<Self, NoPattern> {
        let no_pattern = || NoPattern(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(no_pattern)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if scheme.is_empty() || authority.is_empty() || authority.contains(['/', '?', '#', '@', '{']) {
            return Err(no_pattern());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            Some("*") => None,
            Some(port) => Some(port.parse().map_err(|_| no_pattern())?),
            None => Some(default_port(scheme).ok_or_else(no_pattern)?),
        };
        let host = host.to_ascii_lowercase();
        let host = match host.strip_prefix('*') {
            Some("") => Host::Any,
            Some(suffix) if suffix.starts_with('.') && suffix.len() > 1 => Host::Below(suffix.to_owned()),
            Some(_) => return Err(no_pattern()),
            None => Host::Exactly(host),
        };
        Ok(Self { scheme: (scheme != "*").then(|| scheme.to_ascii_lowercase()), host, port })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://", self.scheme.as_deref().unwrap_or("*"))?;
        match &self.host {
            Host::Any => formatter.write_str("*")?,
            Host::Below(suffix) => write!(formatter, "*{suffix}")?,
            Host::Exactly(host) => formatter.write_str(host)?,
        }
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => formatter.write_str(":*"),
        }
    }
}

impl Pattern {
    /// Whether `scheme://host:port` is allowed.
    pub(crate) fn matches(&self, scheme: &str, host: &str, port: u16) -> bool {
        self.scheme.as_deref().is_none_or(|allowed| allowed.eq_ignore_ascii_case(scheme))
            && self.port.is_none_or(|allowed| allowed == port)
            && match &self.host {
                Host::Any => true,
                Host::Below(suffix) => {
                    let host = host.as_bytes();
                    host.len() > suffix.len()
                        && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
                }
                Host::Exactly(allowed) => allowed.eq_ignore_ascii_case(host),
            }
    }
}

/// The port of `uri`, or that of its scheme.
pub(crate) fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or_else(|| default_port(uri.scheme_str()?))
}

/// The port of `scheme` when none is written.
fn default_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" => 80,
        "https" => 443,
        "postgres" | "postgresql" => 5432,
        _ => return None,
    })
}

/// What the component may reach outside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Hosts it may call.
    pub(crate) hosts: Vec<Pattern>,
    /// Of these, metadata services, which are let through the guard; lower case.
    pub(crate) metadata_hosts: Vec<String>,
}

impl Reach {
    /// Everything that `config` names or needs, and what the environment says of the credentials. What the identity
    /// provider's discovery document names is known only later.
    pub(crate) fn of(config: &Config) -> Self {
        let mut reach = Self::default();
        for origin in destinations(config) {
            reach.add(&origin);
        }
        for origin in named_by_the_environment(config) {
            reach.add(&origin);
        }
        reach
    }

    fn add(&mut self, origin: &str) {
        // What is no pattern cannot be called either: the component's requests have URLs.
        let Ok(pattern) = origin.parse::<Pattern>() else { return };
        if is_metadata(origin)
            && let Host::Exactly(host) = &pattern.host
            && !self.metadata_hosts.contains(host)
        {
            self.metadata_hosts.push(host.clone());
        }
        if !self.hosts.contains(&pattern) {
            self.hosts.push(pattern);
        }
    }
}

const STS_ENDPOINT: &str = "AWS_ENDPOINT_URL_STS";
const AWS_ENDPOINTS: [&str; 3] =
    [STS_ENDPOINT, "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"];
const GOOGLE_ENDPOINTS: [&str; 2] = ["GCE_METADATA_HOST", "GCE_METADATA_IP"];
const AZURE_ENDPOINTS: [&str; 3] = ["AZURE_AUTHORITY_HOST", "IDENTITY_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST"];

/// Endpoints that credential chains are told by the environment, as origins.
fn named_by_the_environment(config: &Config) -> Vec<String> {
    let google = |auth: &GoogleAuth| matches!(auth, GoogleAuth::DefaultChain);
    let mut variables: Vec<&str> = Vec::new();
    for upstream in &config.upstreams {
        match &upstream.provider {
            Provider::Bedrock { auth: AwsAuth::DefaultChain, .. }
            | Provider::Mantle { auth: AwsAuth::DefaultChain, .. }
            | Provider::AnthropicAws { api_key: None, auth: AwsAuth::DefaultChain, .. } => {
                variables.extend(AWS_ENDPOINTS);
            }
            Provider::Bedrock { assume_role: Some(_), .. } | Provider::Mantle { assume_role: Some(_), .. } => {
                variables.push(STS_ENDPOINT);
            }
            Provider::Vertex { auth, .. } | Provider::AnthropicGoogleCloud { auth, .. } if google(auth) => {
                variables.extend(GOOGLE_ENDPOINTS);
            }
            Provider::Foundry { auth: FoundryAuth::AzureAd, .. } => variables.extend(AZURE_ENDPOINTS),
            _ => {}
        }
    }
    if config.telemetry.forward_to.iter().filter_map(|collector| collector.google.as_ref()).any(google) {
        variables.extend(GOOGLE_ENDPOINTS);
    }
    let origin = |name| {
        let value = environment::find(name)?;
        // Google's has no scheme, Azure's authority may have none.
        let value = match (value.contains("://"), name) {
            (true, _) => value,
            (false, name) if GOOGLE_ENDPOINTS.contains(&name) => format!("http://{value}"),
            (false, _) => format!("https://{value}"),
        };
        Some(Url::parse(&value).ok()?.origin().ascii_serialization())
    };
    variables.into_iter().filter_map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_it_says() {
        for (pattern, scheme, host, port, matches) in [
            ("https://api.example.com", "https", "api.example.com", 443, true),
            ("https://api.example.com", "https", "API.example.com", 443, true),
            ("https://api.example.com", "https", "api.example.com", 8443, false),
            ("https://api.example.com", "http", "api.example.com", 443, false),
            ("https://api.example.com:8443/", "https", "api.example.com", 8443, true),
            ("https://*.example.com", "https", "a.b.example.com", 443, true),
            ("https://*.example.com", "https", "example.com", 443, false),
            ("https://*.example.com", "https", "badexample.com", 443, false),
            ("*://127.0.0.1:*", "http", "127.0.0.1", 4000, true),
            ("*://*:*", "postgres", "db", 5432, true),
            ("https://*:443", "https", "anything", 443, true),
            ("postgres://db.example.com", "postgres", "db.example.com", 5432, true),
            ("http://[::1]:8080", "http", "[::1]", 8080, true),
            ("http://[::1]", "http", "[::1]", 80, true),
        ] {
            let parsed: Pattern = pattern.parse().expect(pattern);
            assert_eq!(parsed.matches(scheme, host, port), matches, "{pattern} {scheme}://{host}:{port}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_name() {
        for text in [
            "",
            "api.example.com",
            "https://",
            "https://a/b",
            "https://a:b",
            "foo://a",
            "https://*a",
            "*://a",
            "http://a:{b}",
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(NoPattern(text.to_owned())), "{text}");
        }
    }
}
