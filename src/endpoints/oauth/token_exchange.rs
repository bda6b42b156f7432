//! The grants of programs at `POST /oauth/token`: token exchange (RFC 8693), and the JWT bearer grant (RFC 7523) as
//! another name for it. A job gives the token of its own issuer and gets a session token; there is nothing to refresh.

use std::rc::Rc;

use http::{StatusCode, header};
use serde::Serialize;

use crate::config::ServiceIdentity;
use crate::domain::audit::{AuditEvent, ServiceOutcome, hours};
use crate::domain::device_grant::INTERVAL;
use crate::domain::service_identity::{self, Proven};
use crate::endpoints::oauth::answer;
use crate::endpoints::retry_after;
use crate::error::Failure;
use crate::exchange::Response;
use crate::gateway::{Context, Gateway};
use crate::idp::{self, Unproven};
use crate::sessions::Client;
use crate::upkeep;
use crate::wire::form::Form;

/// Token exchange (RFC 8693 §2.1).
pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The JWT bearer grant (RFC 7523 §2.1).
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A program's request.
pub(super) struct Presented<'a> {
    grant: Grant,
    token: &'a str,
}

/// Which of the two grants; they differ in their errors and in one member of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grant {
    TokenExchange,
    JwtBearer,
}

impl Grant {
    /// The error for a token that proves nothing (RFC 8693 §2.2.2, RFC 7523 §3.1).
    const fn error(self) -> &'static str {
        match self {
            Self::TokenExchange => "invalid_request",
            Self::JwtBearer => "invalid_grant",
        }
    }
}

/// What a program gets (RFC 8693 §2.2.1).
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
    token_type: &'static str,
    expires_in: u64,
}

/// Reads the request; `None` if it is none of these grants, or there are no service identities.
pub(super) fn presented<'a>(
    gateway: &Gateway,
    context: &Context,
    form: &'a Form,
) -> Result<Option<Presented<'a>>, Failure> {
    let grant = match form.first("grant_type") {
        Some(TOKEN_EXCHANGE) => Grant::TokenExchange,
        Some(JWT_BEARER) => Grant::JwtBearer,
        _ => return Ok(None),
    };
    if gateway.config.service_identities.is_empty() {
        return Ok(None);
    }
    let parameter = match grant {
        Grant::TokenExchange => "subject_token",
        Grant::JwtBearer => "assertion",
    };
    let token = form.non_empty(parameter).ok_or_else(|| invalid(format!("the parameter {parameter} is missing")))?;
    if grant == Grant::TokenExchange {
        match form.non_empty("subject_token_type") {
            Some(JWT | ID_TOKEN) => {}
            Some(_) => return Err(invalid(format!("subject_token_type must be {JWT} or {ID_TOKEN}"))),
            None => return Err(invalid("the parameter subject_token_type is missing")),
        }
        if form.non_empty("requested_token_type").is_some_and(|wanted| ![ACCESS_TOKEN, JWT].contains(&wanted)) {
            return Err(invalid(format!("requested_token_type must be {ACCESS_TOKEN}, or left out")));
        }
        if form.non_empty("actor_token").is_some() {
            return Err(invalid("actor_token is not supported: nobody acts for somebody else here"));
        }
        let is_elsewhere = |wanted: &str| wanted.trim_end_matches('/') != context.origin;
        if ["audience", "resource"].iter().filter_map(|name| form.non_empty(name)).any(is_elsewhere) {
            let description = format!("tokens are for {} alone: leave audience and resource out", context.origin);
            return Err(Failure::oauth(StatusCode::BAD_REQUEST, "invalid_target", description));
        }
    }
    Ok(Some(Presented { grant, token }))
}

/// Exchanges a program's token for a session token.
pub(super) async fn exchange(
    gateway: &Rc<Gateway>,
    context: &Context,
    client: &Client,
    presented: Presented<'_>,
) -> Result<Response, Failure> {
    let refused = |identity, why: &str| refusal(gateway, context, presented.grant, identity, why);
    let entries = service_identity::candidates(presented.token, &gateway.config.service_identities)
        .map_err(|error| refused(None, &error.to_string()))?;
    let mut last: Option<(&ServiceIdentity, String)> = None;
    for identity in entries {
        match idp::subject_token(gateway, identity, presented.token).await {
            Ok(proven) => return mint(gateway, context, client, &presented, identity, &proven).await,
            Err(Unproven::Passing(why)) => return Err(away(gateway, context, Some(identity), &why)),
            Err(Unproven::Final(why)) => last = Some((identity, why.to_string())),
        }
    }
    let (identity, why) = last.map_or((None, String::new()), |(identity, why)| (Some(identity), why));
    Err(refused(identity, &why))
}

async fn mint(
    gateway: &Rc<Gateway>,
    context: &Context,
    client: &Client,
    presented: &Presented<'_>,
    configured: &ServiceIdentity,
    proven: &Proven,
) -> Result<Response, Failure> {
    upkeep::after_response(gateway);
    if let Some(once) = &proven.once {
        // Without the database nobody knows whether the token was used, so it is not.
        let is_first = gateway.store().use_subject_token(once).await;
        let is_first = is_first.map_err(|error| away(gateway, context, Some(configured), &error.to_string()))?;
        if !is_first {
            let why = "the token was exchanged before";
            return Err(refusal(gateway, context, presented.grant, Some(configured), why));
        }
    }
    let identity = service_identity::identity(configured);
    let ttl = configured.ttl.min(gateway.config.session.ttl);
    let opened = gateway.open_session(context, client, &identity, "token_exchange", ttl).await;
    let opened = opened.map_err(|failure| {
        away(gateway, context, Some(configured), failure.cause().unwrap_or("no session can be opened"))
    })?;
    gateway.audit(
        context,
        &AuditEvent::ServiceMint(ServiceOutcome {
            result: "success",
            sub: Some(&identity.subject),
            issuer: Some(configured.issuer.as_str()),
            subject: proven.subject.as_deref(),
            client_ip: context.client_ip,
            ttl_hours: hours(ttl),
            answer: None,
            err: None,
        }),
    );
    Ok(answer(&TokenResponse {
        access_token: opened.access_token,
        issued_token_type: (presented.grant == Grant::TokenExchange).then_some(ACCESS_TOKEN),
        token_type: "Bearer",
        expires_in: ttl.as_secs(),
    }))
}

/// The token proves nothing. Why is for the operator.
fn refusal(
    gateway: &Gateway,
    context: &Context,
    grant: Grant,
    identity: Option<&ServiceIdentity>,
    why: &str,
) -> Failure {
    audit_failure(gateway, context, identity, grant.error(), why);
    let description = format!(
        "the token is not accepted; check its audience, its age and the conditions of service_identities, or ask the \
         operator for the reason under {}",
        context.request_id
    );
    Failure::oauth(StatusCode::BAD_REQUEST, grant.error(), description)
}

/// Whether the token proves anything cannot be found out now.
fn away(gateway: &Gateway, context: &Context, identity: Option<&ServiceIdentity>, why: &str) -> Failure {
    let kind = "temporarily_unavailable";
    audit_failure(gateway, context, identity, kind, why);
    let description = "the token cannot be checked right now; try again later";
    Failure::oauth(StatusCode::SERVICE_UNAVAILABLE, kind, description)
        .with_header(header::RETRY_AFTER, retry_after(INTERVAL))
}

fn audit_failure(
    gateway: &Gateway,
    context: &Context,
    identity: Option<&ServiceIdentity>,
    kind: &'static str,
    why: &str,
) {
    let subject = identity.map(|identity| service_identity::identity(identity).subject);
    gateway.audit(
        context,
        &AuditEvent::ServiceMint(ServiceOutcome {
            result: "fail",
            sub: subject.as_deref(),
            issuer: identity.map(|identity| identity.issuer.as_str()),
            subject: None,
            client_ip: context.client_ip,
            ttl_hours: None,
            answer: Some(kind),
            err: Some(why),
        }),
    );
}

fn invalid(description: impl Into<String>) -> Failure {
    Failure::oauth(StatusCode::BAD_REQUEST, "invalid_request", description)
}
