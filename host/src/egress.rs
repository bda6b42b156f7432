//! Which way out: directly, or through a corporate proxy (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, `upstreams[].proxy`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use sallyport::config::{Config, Oidc, Proxy, upstream_origin};
use url::Url;

use crate::environment;
use crate::hosts::port;

/// The proxies that the environment names.
pub(crate) struct Environment {
    proxies: Matcher,
    /// What `NO_PROXY` says of single ports: a matcher that intercepts what is not excepted.
    exceptions: BTreeMap<u16, Matcher>,
    is_empty: bool,
}

impl Environment {
    /// Reads the process environment. The upper-case names win, as with the clients whose egress is set up the same way.
    pub(crate) fn read() -> Self {
        let find = |upper: &str| {
            let lower = upper.to_ascii_lowercase();
            [upper, &lower].into_iter().filter_map(environment::find).find(|value| !value.trim().is_empty())
        };
        let all = find("ALL_PROXY");
        let https = find("HTTPS_PROXY").or_else(|| all.clone()).unwrap_or_default();
        let http = find("HTTP_PROXY").or(all).unwrap_or_default();
        Self::new(&https, &http, &find("NO_PROXY").unwrap_or_default())
    }

    /// Proxies for `https` and `http` URLs, and the hosts that are called without one: separated by commas or blanks, each
    /// a name (with everything below it, with or without a leading dot or `*.`), an address, a range, or `*`, and possibly
    /// a port.
    fn new(https: &str, http: &str, except: &str) -> Self {
        let mut always = Vec::new();
        let mut by_port: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for entry in except.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()) {
            let entry = entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry);
            match entry.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
                // More colons, and no brackets: an IPv6 address.
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    by_port.entry(port).or_default().push(host.trim_matches(['[', ']']));
                }
                _ => always.push(entry.trim_matches(['[', ']'])),
            }
        }
        let except_at = |hosts: &[&str]| Matcher::builder().all("http://proxy.invalid").no(hosts.join(",")).build();
        Self {
            proxies: Matcher::builder().https(https.trim()).http(http.trim()).no(always.join(",")).build(),
            exceptions: by_port.iter().map(|(port, hosts)| (*port, except_at(hosts))).collect(),
            is_empty: https.is_empty() && http.is_empty(),
        }
    }

    /// The proxy for `uri`.
    fn of(&self, uri: &Uri) -> Option<Intercept> {
        let port = port(uri)?;
        if self.exceptions.get(&port).is_some_and(|others| others.intercept(uri).is_none()) {
            return None;
        }
        self.proxies.intercept(uri)
    }

    /// What an operator should know of how the identity provider is reached (auth contract §1.4).
    pub(crate) fn warnings(&self, config: &Config) -> Vec<String> {
        config.oidc.iter().filter_map(|provider| self.warning(provider)).collect()
    }

    fn warning(&self, provider: &Oidc) -> Option<String> {
        let issuer = provider.issuer.as_str().parse().ok()?;
        match provider.use_proxy {
            Some(true) if self.is_empty => Some(format!(
                "oidc.use_proxy: neither HTTPS_PROXY nor HTTP_PROXY is set; {} is called directly",
                provider.issuer
            )),
            None if self.of(&issuer).is_some() => Some(format!(
                "oidc.use_proxy: a proxy is set, but {} is called directly; say `use_proxy: true` to go through the \
                 proxy, or `use_proxy: false` to keep it so without this warning",
                provider.issuer
            )),
            _ => None,
        }
    }
}

/// The way to every server that a configuration names.
pub(crate) struct Egress {
    environment: Environment,
    /// By origin, of upstreams that say how they are reached; `None` is the direct way.
    chosen: BTreeMap<String, Option<Intercept>>,
    /// Origins of all upstreams.
    upstreams: BTreeSet<String>,
    /// Origins that are called directly: metadata services, which are beside us, and the identity provider's.
    direct: RwLock<BTreeSet<String>>,
    /// Whether any identity provider is reached through the proxy.
    uses_proxy_for_identity_provider: bool,
}

impl Egress {
    /// As `config` and `environment` say. `metadata_hosts` are never called through a proxy.
    pub(crate) fn new(config: &Config, environment: Environment, metadata_hosts: &[String]) -> Self {
        let chosen = config.upstreams.iter().filter_map(|upstream| {
            let origin = upstream_origin(upstream);
            let via = match upstream.proxy.as_ref()? {
                Proxy::Direct => None,
                Proxy::Via(address) => {
                    Matcher::builder().all(address.reveal().as_str()).build().intercept(&origin.parse().ok()?)
                }
            };
            Some((origin, via))
        });
        let egress = Self {
            environment,
            chosen: chosen.collect(),
            upstreams: config.upstreams.iter().map(upstream_origin).collect(),
            direct: RwLock::new(metadata_hosts.iter().map(|host| format!("http://{host}")).collect()),
            uses_proxy_for_identity_provider: config.oidc.iter().any(|provider| provider.use_proxy == Some(true)),
        };
        let direct = config.oidc.iter().filter(|provider| provider.use_proxy != Some(true));
        let named = direct.flat_map(|provider| [Some(&provider.issuer), provider.discovery_url.as_ref()]);
        egress.go_directly(named.flatten().map(|url| url.origin().ascii_serialization()));
        egress
    }

    /// Adds origins that discovery documents of identity providers name. Whose they are is not known any more: with one
    /// provider behind the proxy, the environment says how they are reached.
    pub(crate) fn know_identity_provider(&self, origins: impl Iterator<Item = String>) {
        if !self.uses_proxy_for_identity_provider {
            self.go_directly(origins);
        }
    }

    /// An upstream that is called at one of these origins is called in the upstream's way.
    fn go_directly(&self, origins: impl Iterator<Item = String>) {
        let mut direct = self.direct.write().unwrap_or_else(PoisonError::into_inner);
        direct.extend(origins.filter(|origin| !self.upstreams.contains(origin)));
    }

    /// The proxy for `uri`; `None` is the direct way.
    pub(crate) fn proxy(&self, uri: &Uri) -> Option<Intercept> {
        let origin = Url::parse(&uri.to_string()).ok()?.origin().ascii_serialization();
        if let Some(chosen) = self.chosen.get(&origin) {
            return chosen.clone();
        }
        if self.direct.read().unwrap_or_else(PoisonError::into_inner).contains(&origin) {
            return None;
        }
        self.environment.of(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "http://user:pass%20word@proxy.example.com:3128";

    fn goes_through(environment: &Environment, url: &str) -> bool {
        environment.of(&url.parse().expect("a URL")).is_some()
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let environment = Environment::new(PROXY, "", "");
        assert!(goes_through(&environment, "https://api.example.com"));
        assert!(!goes_through(&environment, "http://api.example.com"));
        let proxy = environment.of(&Uri::from_static("https://api.example.com")).expect("a proxy");
        assert_eq!(proxy.uri(), "http://proxy.example.com:3128/");
        assert_eq!(proxy.basic_auth().expect("credentials"), "Basic dXNlcjpwYXNzIHdvcmQ=");
        assert!(!goes_through(&Environment::new("", "", ""), "https://api.example.com"));
        assert!(goes_through(&Environment::new("proxy:3128", "", ""), "https://api.example.com"), "without a scheme");
    }

    #[test]
    fn what_no_proxy_names_is_called_directly_in_every_form() {
        for (except, url, direct) in [
            ("*", "https://api.example.com", true),
            ("example.com", "https://example.com", true),
            ("example.com", "https://api.example.com", true),
            ("example.com", "https://notexample.com", false),
            (".example.com", "https://api.example.com", true),
            ("*.example.com", "https://api.example.com", true),
            ("*.example.com", "https://notexample.com", false),
            ("a.test,example.com", "https://example.com", true),
            ("a.test example.com", "https://example.com", true),
            (" a.test,  example.com ", "https://example.com", true),
            ("10.0.0.7", "https://10.0.0.7", true),
            ("10.0.0.0/8", "https://10.1.2.3", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("::1", "https://[::1]", true),
            ("[::1]", "https://[::1]:8443", true),
            ("[::1]:8443", "https://[::1]:8443", true),
            ("[::1]:8443", "https://[::1]", false),
            ("example.com:8443", "https://example.com:8443", true),
            ("example.com:8443", "https://api.example.com:8443", true),
            ("example.com:8443", "https://example.com", false),
            ("example.com:443", "https://example.com", true),
            ("", "https://example.com", false),
            (", ,", "https://example.com", false),
        ] {
            let environment = Environment::new(PROXY, PROXY, except);
            assert_eq!(!goes_through(&environment, url), direct, "NO_PROXY={except:?} {url}");
        }
    }
}
