//! Which hosts the component may call: patterns in the form of `allowed_outbound_hosts`, and the list that follows from
//! a configuration.

use std::fmt;
use std::str::FromStr;

use sallyport::config::{AnthropicAuth, AwsAuth, Config, FoundryAuth, GoogleAuth, Provider, Upstream};
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
    /// The origin of `url`.
    fn origin(url: &Url) -> Option<Self> {
        let host = Host::Exactly(url.host_str()?.to_ascii_lowercase());
        Some(Self { scheme: Some(url.scheme().to_owned()), host, port: Some(url.port_or_known_default()?) })
    }

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

/// The port of `scheme` when none is written.
pub(crate) fn default_port(scheme: &str) -> Option<u16> {
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
    /// Everything that `config` names or needs: upstreams, where their tokens come from, the identity provider's
    /// issuer and discovery document, collectors. What the discovery document names is known only later.
    pub(crate) fn of(config: &Config) -> Self {
        let mut reach = Self::default();
        for provider in &config.oidc {
            reach.add_url(&provider.issuer);
            if let Some(discovery) = &provider.discovery_url {
                reach.add_url(discovery);
            }
        }
        for identity in &config.service_identities {
            reach.add_url(&identity.issuer);
            if let Some(discovery) = &identity.discovery_url {
                reach.add_url(discovery);
            }
        }
        if config.oidc.iter().any(|provider| provider.google_groups.is_some()) {
            reach.add("https://oauth2.googleapis.com");
            reach.add("https://admin.googleapis.com");
            reach.add("https://cloudidentity.googleapis.com");
        }
        for upstream in &config.upstreams {
            reach.add_upstream(upstream);
        }
        for collector in &config.telemetry.forward_to {
            reach.add(&collector.url);
            if let Some(google) = &collector.google {
                reach.add_google(google);
            }
        }
        reach
    }

    fn add(&mut self, url: &str) {
        // The configuration was parsed: what is written here as a URL is one.
        if let Ok(url) = Url::parse(url) {
            self.add_url(&url);
        }
    }

    fn add_url(&mut self, url: &Url) {
        if let Some(pattern) = Pattern::origin(url)
            && !self.hosts.contains(&pattern)
        {
            self.hosts.push(pattern);
        }
    }

    fn add_metadata(&mut self, url: &str) {
        self.add(url);
        if let Some(host) = Url::parse(url).ok().as_ref().and_then(Url::host_str)
            && !self.metadata_hosts.iter().any(|known| known == host)
        {
            self.metadata_hosts.push(host.to_ascii_lowercase());
        }
    }

    /// Default bases and token endpoints: inference contract §10.1.
    fn add_upstream(&mut self, upstream: &Upstream) {
        let default = match &upstream.provider {
            Provider::Anthropic { auth, .. } => {
                if let AnthropicAuth::WorkloadIdentity { .. } = auth {
                    self.add("https://api.anthropic.com");
                }
                "https://api.anthropic.com".to_owned()
            }
            Provider::Bedrock { region, auth, assume_role, .. } => {
                self.add_aws(region, auth, assume_role.is_some());
                // Token counts ask the same host.
                format!("https://bedrock-runtime.{region}.amazonaws.com")
            }
            Provider::Mantle { region, auth, assume_role } => {
                self.add_aws(region, auth, assume_role.is_some());
                format!("https://bedrock-mantle.{region}.api.aws")
            }
            Provider::AnthropicAws { region, api_key, auth, .. } => {
                if api_key.is_none() {
                    self.add_aws(region, auth, false);
                }
                format!("https://aws-external-anthropic.{region}.api.aws")
            }
            Provider::AnthropicGoogleCloud { auth, .. } => {
                self.add_google(auth);
                "https://claude.googleapis.com".to_owned()
            }
            Provider::Vertex { region, auth, .. } => {
                self.add_google(auth);
                match region.as_str() {
                    "global" => "https://aiplatform.googleapis.com".to_owned(),
                    "us" | "eu" => format!("https://aiplatform.{region}.rep.googleapis.com"),
                    _ => format!("https://{region}-aiplatform.googleapis.com"),
                }
            }
            Provider::Foundry { resource, auth } => {
                if matches!(auth, FoundryAuth::AzureAd) {
                    self.add_azure();
                }
                format!("https://{resource}.services.ai.azure.com")
            }
        };
        self.add(upstream.base_url.as_deref().unwrap_or(&default));
    }

    fn add_aws(&mut self, region: &str, auth: &AwsAuth, assumes_role: bool) {
        let chain = matches!(auth, AwsAuth::DefaultChain);
        if chain || assumes_role {
            self.add(&format!("https://sts.{region}.amazonaws.com"));
            self.add("https://sts.amazonaws.com");
        }
        if chain {
            // Container credentials (ECS, EKS Pod Identity), then the instance's.
            self.add_metadata("http://169.254.170.2");
            self.add_metadata("http://169.254.170.23");
            self.add_metadata("http://169.254.169.254");
            if let Some(address) = environment::find("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
                self.add(&address);
            }
        }
    }

    fn add_google(&mut self, auth: &GoogleAuth) {
        match auth {
            GoogleAuth::AccessToken(_) => {}
            GoogleAuth::ServiceAccountFile(_) => self.add("https://oauth2.googleapis.com"),
            GoogleAuth::DefaultChain => {
                self.add("https://oauth2.googleapis.com");
                self.add("https://sts.googleapis.com");
                self.add("https://iamcredentials.googleapis.com");
                self.add_metadata("http://metadata.google.internal");
                self.add_metadata("http://169.254.169.254");
            }
        }
    }

    fn add_azure(&mut self) {
        self.add("https://login.microsoftonline.com");
        if let Some(authority) = environment::find("AZURE_AUTHORITY_HOST") {
            self.add(&authority);
        }
        self.add_metadata("http://169.254.169.254");
        for endpoint in ["IDENTITY_ENDPOINT", "MSI_ENDPOINT"] {
            if let Some(address) = environment::find(endpoint) {
                self.add(&address);
            }
        }
    }
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
