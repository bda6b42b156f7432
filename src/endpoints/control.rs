//! `POST /.sallyport/…`: what the host asks of the component for itself; nobody else can (see `Gateway::handle`).
//!
//! `start` prepares everything that a first request would otherwise find missing, and says what stands in the way.

use std::rc::Rc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use super::v1::organizations::spend_limits::bulk::{self, Order};
use super::v1::organizations::{Answer, Query, Refusal, usage};
use crate::config::{self, Oidc};
use crate::domain::assertion_certificate;
use crate::domain::audit::{AuditEvent, KeyChanged};
use crate::domain::ids::Timestamp;
use crate::domain::oidc::Metadata;
use crate::domain::outbound::{self, Loopback};
use crate::domain::price::Served;
use crate::exchange::{Request, Response, json, plain};
use crate::gateway::Gateway;
use crate::idp;
use crate::store::Act;
use crate::store::key_ring::{KeyInfo, Purpose, RingError};

/// Who acts here, in the audit trail.
const ACTOR: &str = "command-line";

/// Whoever changes the books by a command here.
const OPERATOR: &str = "operator";

/// What the host tells along.
#[derive(Debug, Default, Deserialize)]
struct Input {
    /// Where the configuration was read, for the audit trail.
    #[serde(default)]
    config_path: String,
    /// What `reloaded` reports: why the configuration was refused; nothing when it was taken over.
    #[serde(default)]
    faults: Vec<String>,
    /// What `keys` is to do: `list`, `rotate` or `revoke`.
    #[serde(default)]
    action: String,
    /// Which key is to be revoked.
    #[serde(default)]
    kid: String,
    /// With which ring: `masking`, or else that of sessions.
    #[serde(default)]
    ring: String,
    /// What `report` is asked for, as the query of `GET /v1/organizations/usage`.
    #[serde(default)]
    query: String,
    /// The caps that `limits` applies, YAML.
    #[serde(default)]
    text: String,
    /// Whom `erase` erases.
    #[serde(default)]
    user: String,
    /// Whether `limits` and `erase` only say what they would do.
    #[serde(default)]
    dry_run: bool,
}

/// The answer to `start`.
#[derive(Debug, Default, Serialize)]
struct Started {
    /// Why the gateway must not listen.
    faults: Vec<String>,
    /// What an operator should know.
    warnings: Vec<String>,
    /// Origins that the identity provider's endpoints are at.
    outbound_hosts: Vec<String>,
    /// What was done.
    lines: Vec<String>,
}

/// Runs one operation.
pub(crate) async fn post(gateway: &Rc<Gateway>, operation: String, mut request: Request) -> Response {
    let body = gateway.body(&mut request).await.unwrap_or_default();
    let input: Input = serde_json::from_slice(&body).unwrap_or_default();
    match operation.as_str() {
        "start" => json(StatusCode::OK, &start(gateway, &input).await),
        "migrate" => match gateway.store().migrate().await {
            Ok(applied) => json(StatusCode::OK, &json!({ "lines": applied_lines(&applied) })),
            Err(error) => failed(&format!("the database cannot be migrated: {error}")),
        },
        "upkeep" => match crate::upkeep::at_once(gateway).await {
            Ok(swept) => {
                let mut deleted = std::collections::BTreeMap::<&str, usize>::new();
                for (table, rows) in swept.deleted {
                    *deleted.entry(table).or_default() += rows;
                }
                json(StatusCode::OK, &json!({ "deleted": deleted, "expired_reservations": swept.expired }))
            }
            Err(error) => failed(&format!("upkeep stopped: {error}")),
        },
        "refusals" => refusals(gateway).await,
        "health" => json(StatusCode::OK, &super::health::report(gateway).await),
        "reloaded" => reloaded(gateway, &input),
        "keys" => keys(gateway, &input).await,
        "report" => report(gateway, &input.query).await,
        "limits" => limits(gateway, &input.text, input.dry_run).await,
        "erase" => erase(gateway, &input.user, input.dry_run).await,
        _ => plain(StatusCode::NOT_FOUND, "not found"),
    }
}

/// What upstreams are known to refuse, and until when requests go without it.
async fn refusals(gateway: &Gateway) -> Response {
    let mut known = Vec::new();
    for (index, upstream) in gateway.config.upstreams.iter().enumerate() {
        match gateway.stored_refusals(index).await {
            Ok(refusals) => known.extend(refusals.iter().map(|refusal| {
                let until = refusal.until().to_rfc3339();
                json!({ "upstream": upstream.name, "left_out": refusal.described(), "until": until })
            })),
            Err(error) => return failed(&error.to_string()),
        }
    }
    json(StatusCode::OK, &json!({ "refusals": known }))
}

async fn start(gateway: &Gateway, input: &Input) -> Started {
    let mut started = Started::default();
    let sha256 = &gateway.config.sha256;
    let event = AuditEvent::ConfigLoad { path: &input.config_path, sha256 };
    gateway.record(&event, None);

    match gateway.store().migrate().await {
        Ok(applied) => started.lines.extend(applied_lines(&applied)),
        Err(error) => started.faults.push(format!("store: {error}")),
    }
    if started.faults.is_empty()
        && let Err(failure) = gateway.keys().await
    {
        started.faults.push(failure.cause().unwrap_or("the session keys cannot be read").to_owned());
    }
    if started.faults.is_empty()
        && let Err(reason) = gateway.prepare_masking().await
    {
        started.faults.push(format!("masking: the keys cannot be read: {reason}"));
    }
    let loopback = if gateway.ports.allow_loopback { Loopback::Allowed } else { Loopback::Refused };
    let mut away = Vec::new();
    for provider in &gateway.config.oidc {
        match idp::metadata(gateway, provider).await {
            Ok(metadata) => judge(&metadata, provider, loopback, &mut started),
            Err(error) => {
                let of = provider.name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
                away.push(format!("oidc.issuer: discovery{of} failed: {error}"));
            }
        }
    }
    // People of one provider do not wait for another one.
    let nobody_can_sign_in = away.len() == gateway.config.oidc.len();
    let heard = if nobody_can_sign_in { &mut started.faults } else { &mut started.warnings };
    heard.extend(away);
    for identity in &gateway.config.service_identities {
        // One program's issuer that is away keeps nobody else from working.
        let (name, issuer) = (&identity.name, &identity.issuer);
        match idp::issuer_metadata(gateway, identity).await {
            Ok(metadata) => match outbound::check_url(&metadata.jwks_uri, loopback) {
                Ok(()) => started.outbound_hosts.push(origin(&metadata.jwks_uri)),
                Err(blocked) => {
                    started.faults.push(format!("service identity {name}: jwks_uri {} {blocked}", metadata.jwks_uri));
                }
            },
            Err(error) => started.warnings.push(format!(
                "service identity {name}: {error}; its tokens are refused until {issuer} answers, and after a restart \
                 if its keys are on another host"
            )),
        }
    }
    for assertion in gateway.config.oidc.iter().filter_map(|provider| provider.client_assertion.as_ref()) {
        match assertion_certificate::judge(assertion, gateway.ports.clock.now()) {
            Ok(warning) => started.warnings.extend(warning),
            Err(fault) => started.faults.push(fault),
        }
    }
    started.lines.extend(gateway.policies.merge_notes());
    started.warnings.extend(models_without_a_price(gateway));
    started
}

/// The host has read the configuration again, and this is what came of it.
fn reloaded(gateway: &Gateway, input: &Input) -> Response {
    let err = (!input.faults.is_empty()).then(|| input.faults.join("; ").replace(['\n', '\r'], " "));
    let event = AuditEvent::ConfigReload {
        result: if err.is_some() { "fail" } else { "success" },
        path: &input.config_path,
        sha256: &gateway.config.sha256,
        err: err.as_deref(),
    };
    gateway.record(&event, None);
    json(StatusCode::OK, &json!({}))
}

/// Configured models that are billed as unknown ones (inference contract §13.3).
fn models_without_a_price(gateway: &Gateway) -> Vec<String> {
    if gateway.config.admin.is_none() {
        return Vec::new();
    }
    let models = gateway.config.models.iter().flat_map(|configured| {
        let ids = configured.upstream_model.iter();
        ids.map(|(upstream, model)| Served { upstream, model, requested: &configured.id })
    });
    models
        .filter(|served| gateway.prices.is_unknown(*served))
        .map(|Served { upstream, model, requested }| {
            format!("no price is known for {requested} ({model} at {upstream}); set pricing.overrides to give it one")
        })
        .collect()
}

fn applied_lines(applied: &[String]) -> Vec<String> {
    applied.iter().map(|name| format!("migration {name} applied")).collect()
}

/// Whether the identity provider's endpoints may be called, and where they are (auth contract §4.8).
fn judge(metadata: &Metadata, provider: &Oidc, loopback: Loopback, started: &mut Started) {
    let called = [
        ("token_endpoint", Some(&metadata.token_endpoint)),
        ("jwks_uri", Some(&metadata.jwks_uri)),
        ("userinfo_endpoint", metadata.userinfo_endpoint.as_ref()),
    ];
    for (name, url) in called.into_iter().filter_map(|(name, url)| Some((name, url?))) {
        match outbound::check_url(url, loopback) {
            Ok(()) => started.outbound_hosts.push(origin(url)),
            Err(blocked) => started.faults.push(format!("oidc discovery: {name} {url} {blocked}")),
        }
    }
    if metadata.differs_from(&provider.issuer) {
        started.warnings.push(format!(
            "the discovery document speaks for the issuer {}, not for {}; id tokens of the former are accepted",
            metadata.issuer, provider.issuer
        ));
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

async fn keys(gateway: &Gateway, input: &Input) -> Response {
    if input.ring == "masking" {
        return masking_keys(gateway, &input.action).await;
    }
    let Some(ring) = gateway.signing_keys() else {
        return failed("session.jwt_secret names the keys: change the configuration to rotate or revoke them");
    };
    let outcome = match input.action.as_str() {
        "rotate" => ring.rotate().await.inspect(|keys| {
            let kid = keys.first().map_or("", |key| key.kid.as_str());
            audit(gateway, &AuditEvent::KeyRotate(KeyChanged { kid, ring: None, actor: ACTOR, sessions: None }));
        }),
        "revoke" => match ring.revoke(&input.kid).await {
            Ok(keys) => {
                let ended = gateway.store().end_sessions_signed_by(&input.kid, gateway.ports.clock.now()).await;
                let sessions = ended.as_ref().ok().copied();
                let changed = KeyChanged { kid: &input.kid, ring: None, actor: ACTOR, sessions };
                audit(gateway, &AuditEvent::KeyRevoke(changed));
                if let Err(error) = ended {
                    let outcome = "the key is gone and its tokens are refused, but sessions are still listed";
                    return failed(&format!("{outcome}: {error}"));
                }
                Ok(keys)
            }
            Err(error) => Err(error),
        },
        _ => ring.list().await,
    };
    told(outcome)
}

/// The keys of masking: what they made is valid for nobody else, so there is nothing to revoke.
async fn masking_keys(gateway: &Gateway, action: &str) -> Response {
    let ring = gateway.key_ring(Purpose::Masking);
    told(match action {
        "rotate" => ring.rotate().await.inspect(|keys| {
            let kid = keys.first().map_or("", |key| key.kid.as_str());
            let changed = KeyChanged { kid, ring: Some("masking"), actor: ACTOR, sessions: None };
            audit(gateway, &AuditEvent::KeyRotate(changed));
        }),
        "list" => ring.list().await,
        _ => return failed("keys of masking can be listed and rotated"),
    })
}

fn told(outcome: Result<Vec<KeyInfo>, RingError>) -> Response {
    match outcome {
        Ok(keys) => json(StatusCode::OK, &json!({ "keys": keys.iter().map(described).collect::<Vec<_>>() })),
        Err(error) => failed(&error.to_string()),
    }
}

fn audit(gateway: &Gateway, event: &AuditEvent<'_>) {
    gateway.record(event, None);
}

/// A page of the usage report.
async fn report(gateway: &Rc<Gateway>, query: &str) -> Response {
    match usage::get(gateway, &Query::parse(query)).await {
        Ok(Answer::Json(report)) => json(StatusCode::OK, &report),
        Ok(Answer::Csv { text, next_page }) => json(StatusCode::OK, &json!({"csv": text, "next_page": next_page})),
        Err(refusal) => refused(&refusal),
    }
}

/// Makes the caps what `text` says.
async fn limits(gateway: &Rc<Gateway>, text: &str, dry_run: bool) -> Response {
    if gateway.config.admin.is_none() {
        return failed("the configuration has no section admin: nothing is limited");
    }
    let order = match config::caps(text) {
        Ok(document) => Order::parse(&document, dry_run),
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    let order = match order {
        Ok(order) => order,
        Err(fault) => return failed(&fault),
    };
    match bulk::apply(gateway, OPERATOR, order).await {
        Ok(done) => json(StatusCode::OK, &done),
        Err(refusal) => refused(&refusal),
    }
}

/// Erases a person.
async fn erase(gateway: &Rc<Gateway>, user: &str, dry_run: bool) -> Response {
    let act = if dry_run { Act::Look } else { Act::Write };
    match gateway.erase(None, user, OPERATOR, act).await {
        Ok(done) => json(StatusCode::OK, &done),
        Err(error) => failed(&error.to_string()),
    }
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Told { message, .. } => failed(message),
        Refusal::Broken(failure) => failed(failure.cause().unwrap_or("the database does not answer")),
    }
}

fn described(key: &KeyInfo) -> serde_json::Value {
    let at = |at: Option<Timestamp>| at.map(Timestamp::to_rfc3339);
    json!({
        "kid": key.kid,
        "created_at": key.created_at.to_rfc3339(),
        "signs_from": key.signs_from.to_rfc3339(),
        "retired_at": at(key.retired_at),
        "verifies_until": at(key.verifies_until),
    })
}

fn failed(message: &str) -> Response {
    json(StatusCode::CONFLICT, &json!({ "error": message }))
}
