//! Every server that a configuration makes the gateway call: what a deployment has to allow, and nothing else.

use std::collections::BTreeSet;

use url::Url;

use super::{AnthropicAuth, AwsAuth, Config, FoundryAuth, GoogleAuth, Oidc, Provider, Upstream};

/// Where the AWS default chain may find credentials: containers (ECS, EKS) and the instance.
const AWS_METADATA: [&str; 3] = ["http://169.254.169.254", "http://169.254.170.2", "http://169.254.170.23"];
const GOOGLE_TOKENS: &str = "https://oauth2.googleapis.com";
/// Where a credential file may lead: it is a service account's key, or says how another identity is exchanged for one.
const GOOGLE_CREDENTIALS: [&str; 3] =
    [GOOGLE_TOKENS, "https://iamcredentials.googleapis.com", "https://sts.googleapis.com"];
/// Where Application Default Credentials find a token without a file.
const GOOGLE_METADATA: &str = "http://metadata.google.internal";
const ENTRA: [&str; 2] = ["https://login.microsoftonline.com", "http://169.254.169.254"];

/// Origins, sorted: `https://host`, with a port where it is not the scheme's own, `postgres://host:port` for the
/// database. `*.` stands for one label or more.
///
/// The identity provider's endpoints are in its discovery document, which is not read here. For providers that are known
/// to spread them over several hosts, those hosts are included; otherwise they are taken to be the issuer's.
pub fn destinations(config: &Config) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for provider in &config.oidc {
        identity_provider(provider, &mut found);
    }
    for identity in &config.service_identities {
        issuer(&identity.issuer, identity.discovery_url.as_ref(), &mut found);
    }
    for upstream in &config.upstreams {
        found.insert(upstream_origin(upstream));
        credentials(&upstream.provider, &mut found);
    }
    for collector in &config.telemetry.forward_to {
        found.extend(origin_of(&collector.url));
        if let Some(auth) = &collector.google {
            google(auth, &mut found);
        }
    }
    for alert in config.admin.iter().flat_map(|admin| &admin.alerts) {
        found.extend(origin_of(&alert.webhook));
    }
    found.extend(config.observability.otlp.as_ref().and_then(|otlp| origin_of(&otlp.url)));
    if let Some(address) = &config.store.postgres_url {
        found.extend(databases(address.reveal()));
    }
    found
}

/// Whether one of [`destinations`] is a metadata service, which nothing but a credential chain may call.
pub fn is_metadata(origin: &str) -> bool {
    origin.contains("//169.254.") || origin.contains("//metadata.")
}

fn origin(url: &Url) -> String {
    // For http and https, an origin is always a scheme and a host.
    url.origin().ascii_serialization()
}

fn origin_of(url: &str) -> Option<String> {
    Url::parse(url).ok().as_ref().map(origin)
}

fn identity_provider(oidc: &Oidc, found: &mut BTreeSet<String>) {
    issuer(&oidc.issuer, oidc.discovery_url.as_ref(), found);
    let mut add = |origins: &[&str]| found.extend(origins.iter().map(|origin| (*origin).to_owned()));
    let host = oidc.issuer.host_str().unwrap_or_default();
    match host {
        "accounts.google.com" => add(&[GOOGLE_TOKENS, "https://openidconnect.googleapis.com"]),
        "login.microsoftonline.com" => add(&["https://graph.microsoft.com"]),
        _ => {}
    }
    if oidc.google_groups.is_some() {
        add(&[GOOGLE_TOKENS, "https://admin.googleapis.com"]);
    }
    let cognito_region = host.strip_prefix("cognito-idp.").and_then(|host| host.strip_suffix(".amazonaws.com"));
    if let Some(region) = cognito_region {
        found.insert(format!("https://*.auth.{region}.amazoncognito.com"));
    }
}

/// An issuer's discovery document and keys.
fn issuer(issuer: &Url, discovery_url: Option<&Url>, found: &mut BTreeSet<String>) {
    found.insert(origin(issuer));
    found.extend(discovery_url.map(origin));
    if issuer.host_str() == Some("accounts.google.com") {
        found.insert("https://www.googleapis.com".to_owned());
    }
}

/// Where `upstream` is: its `base_url`'s origin, or its provider's own.
pub fn upstream_origin(upstream: &Upstream) -> String {
    if let Some(configured) = upstream.base_url.as_deref().and_then(origin_of) {
        return configured;
    }
    match &upstream.provider {
        Provider::Anthropic { .. } => "https://api.anthropic.com".to_owned(),
        Provider::Bedrock { region, .. } => format!("https://bedrock-runtime.{region}.amazonaws.com"),
        Provider::Mantle { region, .. } => format!("https://bedrock-mantle.{region}.api.aws"),
        Provider::AnthropicAws { region, .. } => format!("https://aws-external-anthropic.{region}.api.aws"),
        Provider::AnthropicGoogleCloud { .. } => "https://claude.googleapis.com".to_owned(),
        Provider::Vertex { region, .. } => match region.as_str() {
            "global" => "https://aiplatform.googleapis.com".to_owned(),
            "us" | "eu" => format!("https://aiplatform.{region}.rep.googleapis.com"),
            region => format!("https://{region}-aiplatform.googleapis.com"),
        },
        Provider::Foundry { resource, .. } => format!("https://{resource}.services.ai.azure.com"),
    }
}

/// The servers of a PostgreSQL address, which may name several; a socket is none.
fn databases(address: &str) -> impl Iterator<Item = String> {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    hosts.split(',').filter(|host| !host.is_empty()).map(|host| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
        if has_port { format!("postgres://{host}") } else { format!("postgres://{host}:5432") }
    })
}

/// What getting the credential takes. Workload identity of the Anthropic API is exchanged at the upstream itself.
fn credentials(provider: &Provider, found: &mut BTreeSet<String>) {
    match provider {
        Provider::Anthropic {
            auth: AnthropicAuth::ApiKey(_) | AnthropicAuth::OauthToken(_) | AnthropicAuth::WorkloadIdentity { .. },
            ..
        }
        | Provider::AnthropicAws { api_key: Some(_), .. }
        | Provider::Foundry { auth: FoundryAuth::ApiKey(_), .. } => {}
        Provider::Bedrock { region, auth, assume_role, .. } | Provider::Mantle { region, auth, assume_role } => {
            aws(region, auth, assume_role.is_some(), found);
        }
        Provider::AnthropicAws { region, auth, .. } => aws(region, auth, false, found),
        Provider::AnthropicGoogleCloud { auth, .. } | Provider::Vertex { auth, .. } => google(auth, found),
        Provider::Foundry { auth: FoundryAuth::AzureAd, .. } => found.extend(ENTRA.map(str::to_owned)),
    }
}

fn aws(region: &str, auth: &AwsAuth, assumes_role: bool, found: &mut BTreeSet<String>) {
    let is_default_chain = matches!(auth, AwsAuth::DefaultChain);
    if is_default_chain {
        found.extend(AWS_METADATA.map(str::to_owned));
    }
    if is_default_chain || assumes_role {
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        found.insert(format!("https://sts.{region}.{domain}"));
    }
}

fn google(auth: &GoogleAuth, found: &mut BTreeSet<String>) {
    match auth {
        GoogleAuth::AccessToken(_) => {}
        GoogleAuth::ServiceAccountFile(_) => found.extend(GOOGLE_CREDENTIALS.map(str::to_owned)),
        GoogleAuth::DefaultChain => {
            found.extend(GOOGLE_CREDENTIALS.map(str::to_owned));
            found.insert(GOOGLE_METADATA.to_owned());
        }
    }
}
