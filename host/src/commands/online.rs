//! `sallyport check --online`: whether what a configuration names answers, tried in the way the gateway will use it:
//! the same TLS settings, the same allowed hosts, the same guard. Nothing is migrated, and no model is asked anything.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use sallyport::config::{AnthropicAuth, Config, Oidc, Provider, ServiceIdentity, Upstream, upstream_origin};
use sallyport::domain::oidc::Metadata;
use sallyport::domain::service_identity::IssuerMetadata;
use sallyport::wire::jwks::JwkSet;
use serde_json::{Value, json};
use url::Url;
use wasmtime_wasi_http::RequestOptions;

use super::keys::Scratch;
use super::serve::{Host, Options, outbound};
use super::{Common, Faults};
use crate::capability::http::Outbound;
use crate::capability::postgres;
use crate::console;
use crate::manifest::{Manifest, RuntimeConfig};
use crate::settings::Settings;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST_ANSWER: usize = 1 << 20;

/// One thing that was tried.
pub(super) struct Attempt {
    /// The key of the configuration that it is about.
    pub(super) key: String,
    /// Exactly what was done.
    pub(super) tried: String,
    /// What came of it; an error is what somebody will run into.
    pub(super) outcome: Result<String, String>,
}

impl Attempt {
    pub(super) fn json(&self) -> Value {
        let (Ok(detail) | Err(detail)) = &self.outcome;
        json!({ "key": self.key, "tried": self.tried, "ok": self.outcome.is_ok(), "detail": detail })
    }

    pub(super) fn line(&self) -> String {
        match &self.outcome {
            Ok(detail) => format!("ok      {}: {}: {detail}", self.key, self.tried),
            Err(detail) => format!("failed  {}: {}: {detail}", self.key, self.tried),
        }
    }
}

/// What was found out.
pub(super) struct Online {
    pub(super) attempts: Vec<Attempt>,
    /// What a first person who signs in does and meets.
    pub(super) first_user: Vec<String>,
    /// What requests go without, because an upstream refused it: `upstream`, `left_out`, `until`.
    pub(super) refusals: Vec<Value>,
}

/// Tries everything, one after the other.
pub(super) async fn run(settings: &Settings, common: &Common) -> Result<Online, Faults> {
    let manifest = common.manifest.as_deref().map(Manifest::read).transpose()?;
    let runtime_config = common.runtime_config.as_deref().map(RuntimeConfig::read).transpose()?.unwrap_or_default();
    let outbound = outbound(settings, manifest.as_ref(), &runtime_config)?;
    let mut trial = Trial { outbound, hosts_are_fixed: manifest.is_some(), attempts: Vec::new() };
    let config = &settings.config;
    let mut found = Vec::new();
    for (index, provider) in config.oidc.iter().enumerate() {
        let key = match &provider.name {
            Some(name) => format!("oidc[{index}].issuer ({name})"),
            None => "oidc.issuer".to_owned(),
        };
        found.push(trial.identity_provider(&key, provider).await);
    }
    for (index, identity) in config.service_identities.iter().enumerate() {
        trial.issuer(index, identity).await;
    }
    trial.database(config, &common.state_dir).await;
    for (index, upstream) in config.upstreams.iter().enumerate() {
        trial.upstream(index, upstream).await;
    }
    for (index, collector) in config.telemetry.forward_to.iter().enumerate() {
        let key = format!("telemetry.forward_to[{index}]");
        trial.reach(key, &collector.url, "nothing was sent to be stored").await;
    }
    let refusals = trial.refusals(config, common).await;
    Ok(Online { first_user: first_user(config, &found, &trial.attempts), attempts: trial.attempts, refusals })
}

struct Trial {
    outbound: Arc<Outbound>,
    /// Whether the manifest alone says which hosts may be called.
    hosts_are_fixed: bool,
    attempts: Vec<Attempt>,
}

impl Trial {
    fn note(&mut self, key: impl Into<String>, tried: impl Into<String>, outcome: Result<String, String>) {
        self.attempts.push(Attempt { key: key.into(), tried: tried.into(), outcome });
    }

    async fn identity_provider(&mut self, key: &str, provider: &Oidc) -> Option<Metadata> {
        let url = Metadata::url(provider);
        let tried = format!("GET {url}");
        let read = self.document(&url).await;
        let metadata = read.and_then(|body| Metadata::parse(&body).map_err(|error| error.to_string()));
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(why) => {
                self.note(key, tried, Err(why));
                return None;
            }
        };
        let issuer = if metadata.differs_from(&provider.issuer) {
            format!("the document speaks for another issuer, {}; its id tokens are accepted", metadata.issuer)
        } else {
            "a discovery document".to_owned()
        };
        self.note(key, tried, Ok(issuer));
        // As the gateway does once it has read the document.
        let learnt = [Some(&metadata.token_endpoint), Some(&metadata.jwks_uri), metadata.userinfo_endpoint.as_ref()];
        let origins: Vec<_> = learnt.into_iter().flatten().map(|url| url.origin().ascii_serialization()).collect();
        self.outbound.know_identity_provider(&origins, !self.hosts_are_fixed);
        let keys = self.document(metadata.jwks_uri.as_str()).await;
        let keys = keys.and_then(|body| JwkSet::parse(&body).map_err(|_| "the answer is not a JWK set".to_owned()));
        let outcome = keys.map(|_| "a key set".to_owned());
        self.note(key, format!("GET {}", metadata.jwks_uri), outcome);
        let token = metadata.token_endpoint.clone();
        self.reach(key.to_owned(), token.as_str(), "the client secret was not tried").await;
        Some(metadata)
    }

    /// The issuer of a service identity: its discovery document, then its keys.
    async fn issuer(&mut self, index: usize, identity: &ServiceIdentity) {
        let key = format!("service_identities[{index}] ({})", identity.name);
        let url = IssuerMetadata::url(identity);
        let read = self.document(&url).await;
        let metadata =
            read.and_then(|body| IssuerMetadata::parse(&body, &identity.issuer).map_err(|error| error.to_string()));
        let jwks_uri = metadata.as_ref().ok().map(|metadata| metadata.jwks_uri.clone());
        self.note(key.clone(), format!("GET {url}"), metadata.map(|_| "a discovery document".to_owned()));
        let Some(jwks_uri) = jwks_uri else { return };
        if !self.hosts_are_fixed {
            self.outbound.allow(&[jwks_uri.origin().ascii_serialization()]);
        }
        let keys = self.document(jwks_uri.as_str()).await;
        let keys = keys.and_then(|body| JwkSet::parse(&body).map_err(|_| "the answer is not a JWK set".to_owned()));
        self.note(key, format!("GET {jwks_uri}"), keys.map(|_| "a key set".to_owned()));
    }

    async fn database(&mut self, config: &Config, state: &Path) {
        let Some(address) = &config.store.postgres_url else {
            let state_exists = state.is_dir();
            let outcome = match state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new(".")).metadata() {
                Ok(found) if found.permissions().readonly() => Err("cannot be written to".to_owned()),
                Ok(_) if state_exists => Ok("is there; nothing was written".to_owned()),
                Ok(_) => Ok("is not there yet; it is made at the start".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            return self.note("store", format!("look at the directory {} for SQLite", state.display()), outcome);
        };
        let limits = postgres::Limits {
            connections: config.store.max_connections,
            connect_timeout: config.store.connect_timeout,
        };
        progress("connecting to PostgreSQL");
        let outcome = match postgres::Address::parse(address.reveal()) {
            Ok(address) => address.try_connect(limits).await.map_err(|fault| fault.message),
            Err(error) => Err(error.to_string()),
        };
        let outcome = outcome.map(|()| "signed in; nothing was migrated".to_owned());
        self.note("store.postgres_url", "connect to PostgreSQL and sign in", outcome);
    }

    /// What is remembered in the store, read by the component. Where there is no store yet, none is made.
    async fn refusals(&mut self, config: &Config, common: &Common) -> Vec<Value> {
        let is_away = self.attempts.iter().any(|attempt| attempt.key.starts_with("store") && attempt.outcome.is_err());
        let has_state = common.state_dir.is_dir();
        if is_away || config.store.postgres_url.is_none() && !has_state {
            return Vec::new();
        }
        match remembered(common, has_state).await {
            Ok(refusals) => refusals,
            Err(why) => {
                self.note("self_healing", "read what upstreams are known to refuse", Err(why));
                Vec::new()
            }
        }
    }

    async fn upstream(&mut self, index: usize, upstream: &Upstream) {
        let key = format!("upstreams[{index}] ({})", upstream.name);
        let base = upstream.base_url.clone().unwrap_or_else(|| upstream_origin(upstream));
        let Provider::Anthropic { auth, .. } = &upstream.provider else {
            return self.reach(key, &base, "the credential was not tried").await;
        };
        let credential = match auth {
            AnthropicAuth::ApiKey(secret) => ("x-api-key", secret.reveal().clone()),
            AnthropicAuth::OauthToken(secret) => ("authorization", format!("Bearer {}", secret.reveal())),
            AnthropicAuth::WorkloadIdentity { .. } => {
                return self.reach(key, &base, "the identity token was not exchanged").await;
            }
        };
        let url = format!("{base}/v1/models?limit=1");
        let mut headers = vec![credential, ("anthropic-version", "2023-06-01".to_owned())];
        headers.extend(upstream.headers.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let outcome = match self.get(&url, &headers).await {
            Ok((status, body)) if status.is_success() => match serde_json::from_slice::<Value>(&body) {
                Ok(_) => Ok(format!("{status}: the credential is accepted")),
                Err(_) => Err(format!("{status}, but what comes is not JSON: something else answers at this address")),
            },
            Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => {
                Err("the credential is refused; every request to a model would fail here".to_owned())
            }
            Ok((status, _)) if status.is_redirection() => {
                Err(format!("{status}: it sends to another address, and no redirections are followed"))
            }
            Ok((status, _)) if status.is_server_error() => Err(format!("{status}: it does not work at the moment")),
            Ok((status, _)) => Ok(format!("{status}: it answers, but this says nothing about the credential")),
            Err(why) => Err(why),
        };
        self.note(key, format!("GET {url} with the credential"), outcome);
    }

    /// Whether anything answers HTTP there, over TLS that is trusted.
    async fn reach(&mut self, key: String, url: &str, untried: &str) {
        let outcome = self.get(url, &[]).await;
        let outcome = outcome.map(|(status, _)| format!("it answers ({status}); {untried}"));
        self.note(key, format!("GET {url} without a credential"), outcome);
    }

    /// A document that must be there.
    async fn document(&self, url: &str) -> Result<Bytes, String> {
        let (status, body) = self.get(url, &[]).await?;
        if status.is_success() { Ok(body) } else { Err(format!("the answer is {status}")) }
    }

    async fn get(&self, url: &str, headers: &[(&str, String)]) -> Result<(StatusCode, Bytes), String> {
        progress(&format!("GET {url}"));
        let parsed = Url::parse(url).map_err(|error| error.to_string())?;
        let mut request = Request::get(parsed.as_str());
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).map_err(|_| format!("{name} is not a header name"))?;
            let mut value = HeaderValue::try_from(value).map_err(|_| format!("the value of {name} is no header"))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = request.body(body).map_err(|error| error.to_string())?;
        let options = RequestOptions {
            connect_timeout: Some(PATIENCE),
            first_byte_timeout: Some(PATIENCE),
            between_bytes_timeout: Some(PATIENCE),
        };
        let response = Arc::clone(&self.outbound).send(request, options).await.map_err(|error| error.to_string())?;
        let status = response.status();
        // Of an answer that is too long, the status is what counts.
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        Ok((status, body.map(http_body_util::Collected::to_bytes).unwrap_or_default()))
    }
}

async fn remembered(common: &Common, has_state: bool) -> Result<Vec<Value>, String> {
    let mut options = Options::from(common.clone());
    let mut scratch = None;
    if !has_state {
        let created = Scratch::create().map_err(|error| error.to_string())?;
        options.common.state_dir.clone_from(&scratch.insert(created).0);
    }
    let host = Host::prepare(&options).await.map_err(|_| "the component cannot be loaded".to_owned())?;
    let answer = host.control().call("refusals", &json!({})).await.map_err(|error| error.to_string());
    host.end().await;
    Ok(answer?["refusals"].as_array().cloned().unwrap_or_default())
}

/// One of them, as a line.
pub(super) fn refusal_line(refusal: &Value) -> String {
    let text = |name: &str| refusal[name].as_str().unwrap_or_default();
    format!(
        "upstream {} refuses the {}; requests go without it until {}",
        text("upstream"),
        text("left_out"),
        text("until")
    )
}

fn progress(what: &str) {
    console::plain(&format!("… {what}"));
}

/// The way of the first person who signs in, up to where it ends.
fn first_user(config: &Config, providers: &[Option<Metadata>], attempts: &[Attempt]) -> Vec<String> {
    let mut lines = Vec::new();
    let public = config.listen.public_url.clone();
    let public = public.unwrap_or_else(|| format!("http://{}:{}", config.listen.host, config.listen.port));
    lines.push(format!("opens {public}/device and confirms a code"));
    for (provider, metadata) in config.oidc.iter().zip(providers) {
        // Among several, each line says whom it is about.
        let of = |line: String| match &provider.name {
            Some(name) if providers.len() > 1 => format!("with {name}: {line}"),
            _ => line,
        };
        match metadata.as_ref().map(|metadata| metadata.authorization_endpoint.as_ref()) {
            Some(Some(endpoint)) => {
                lines.push(of(format!("is sent to {endpoint}")));
                lines.push(of(format!("comes back to {public}/oauth/callback, which must be registered there")));
            }
            Some(None) => lines.push(of("is stuck: the discovery document has no authorization_endpoint".to_owned())),
            None if providers.len() > 1 => lines.push(of("is told that the provider is away".to_owned())),
            None => lines.push("never gets there: without the identity provider the gateway does not start".to_owned()),
        }
    }
    let refused = |attempt: &&Attempt| attempt.key.starts_with("upstreams[") && attempt.outcome.is_err();
    let failing = attempts.iter().filter(refused).count();
    lines.push(match failing {
        0 => "asks a model; nothing that was tried stands in the way".to_owned(),
        all if all == config.upstreams.len() => "asks a model and gets an error: no upstream works".to_owned(),
        some => format!("asks a model; {some} of {} upstreams would fail", config.upstreams.len()),
    });
    lines
}
