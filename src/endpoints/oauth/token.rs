//! `POST /oauth/token`: poll a device grant (RFC 8628 §3.4, auth contract §5.7), refresh a session (§6).

use std::rc::Rc;

use http::{StatusCode, header};
use serde::Serialize;

use crate::domain::audit::{AuditEvent, SessionOutcome};
use crate::domain::device_grant::{self, DeviceCode, INTERVAL, Poll};
use crate::domain::refresh_token::RefreshToken;
use crate::endpoints::oauth::{answer, callback};
use crate::endpoints::{form_body, retry_after};
use crate::error::Failure;
use crate::exchange::{Request, Response};
use crate::gateway::{Context, Gateway};
use crate::idp::{self, Step, Trouble};
use crate::wire::form::Form;

/// What a device or a session gets (RFC 6749 §5.1).
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    token_type: &'static str,
    expires_in: u64,
    /// Clients show it before they store the credential (auth contract §13).
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
}

/// Gives the request to its grant.
pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, mut request: Request) -> Result<Response, Failure> {
    let body = form_body(gateway, &mut request).await?;
    let form = Form::parse(request.header(header::CONTENT_TYPE), &body)
        .map_err(|error| bad_request("invalid_request", format!("{error}; send application/x-www-form-urlencoded")))?;
    match form.first("grant_type") {
        Some("urn:ietf:params:oauth:grant-type:device_code") => poll(gateway, &form).await,
        Some("refresh_token") => refresh(gateway, context, &form).await,
        _ => Err(bad_request("unsupported_grant_type", "grant_type must be device_code or refresh_token")),
    }
}

async fn poll(gateway: &Rc<Gateway>, form: &Form) -> Result<Response, Failure> {
    let device_code = form.non_empty("device_code").ok_or_else(|| missing("device_code"))?;
    let now = gateway.ports.clock.now();
    let polled = gateway.store().poll_grant(&DeviceCode::presented(device_code).hash(), now).await?;
    // A grant whose key is gone reads as expired (auth contract §5.5).
    let poll = gateway.unseal(|keys| device_grant::answer(polled.clone(), keys, now)).await?;
    match poll.unwrap_or(Poll::ExpiredToken) {
        Poll::Tokens(tokens) => Ok(answer(&TokenResponse {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            token_type: "Bearer",
            expires_in: gateway.config.session.ttl.as_secs(),
            email: tokens.email,
        })),
        Poll::AuthorizationPending => {
            Err(bad_request("authorization_pending", "nobody has confirmed the code yet; keep polling"))
        }
        Poll::SlowDown => Err(Failure::oauth(
            StatusCode::TOO_MANY_REQUESTS,
            "slow_down",
            "wait between polls as long as `interval` says",
        )
        .with_header(header::RETRY_AFTER, retry_after(INTERVAL))),
        Poll::AccessDenied => Err(bad_request("access_denied", "the sign-in was refused or stopped; start again")),
        Poll::ExpiredToken => Err(bad_request("expired_token", "the device code has expired or was used; start again")),
    }
}

/// Nothing here touches the database: sessions go on while it is away.
async fn refresh(gateway: &Rc<Gateway>, context: &Context, form: &Form) -> Result<Response, Failure> {
    let presented = form.non_empty("refresh_token").ok_or_else(|| missing("refresh_token"))?;
    let opened = gateway.unseal(|keys| RefreshToken::open(presented, keys)).await?;
    let token = opened.map_err(|error| {
        let cause = format!("refresh token: {error}");
        refused(gateway, context, &Trouble { step: Step::TokenEndpoint, is_final: true, cause })
    })?;
    let signed_in =
        idp::refresh(gateway, &token.idp_token).await.map_err(|trouble| refused(gateway, context, &trouble))?;
    let identity = signed_in.identity;
    let keys = gateway.keys().await?;
    let access_token = callback::mint(gateway, context, &keys, &identity, &token.session_id);
    // Rotation follows the identity provider: without a new token the known one goes on (auth contract §6).
    let idp_token = signed_in.refresh_token.unwrap_or(token.idp_token);
    let generation = token.generation.saturating_add(1);
    let refresh_token = callback::seal(gateway, &keys, token.session_id, generation, idp_token);
    let ttl = gateway.config.session.ttl;
    let event = SessionOutcome::success(&identity.subject, identity.email.as_deref(), context.client_ip, ttl);
    gateway.audit(context, &AuditEvent::SessionRefresh(event));
    Ok(answer(&TokenResponse {
        access_token,
        refresh_token: Some(refresh_token),
        token_type: "Bearer",
        expires_in: ttl.as_secs(),
        email: identity.email,
    }))
}

/// The answer to a refresh that failed: final, and the session is over; or passing, and the client tries again.
fn refused(gateway: &Gateway, context: &Context, trouble: &Trouble) -> Failure {
    let (status, kind, description) = if trouble.is_final {
        (StatusCode::UNAUTHORIZED, "invalid_grant", "the session has ended; sign in again")
    } else {
        let description = "the identity provider cannot be asked right now; try again later";
        (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description)
    };
    let event = SessionOutcome::fail(context.client_ip, &trouble.cause).at(trouble.step.name(), kind);
    gateway.audit(context, &AuditEvent::SessionRefresh(event));
    let failure = Failure::oauth(status, kind, description);
    if trouble.is_final { failure } else { failure.with_header(header::RETRY_AFTER, retry_after(INTERVAL)) }
}

fn missing(parameter: &str) -> Failure {
    bad_request("invalid_request", format!("the parameter {parameter} is missing"))
}

fn bad_request(kind: &'static str, description: impl Into<String>) -> Failure {
    Failure::oauth(StatusCode::BAD_REQUEST, kind, description)
}
