//! `POST /oauth/token`: poll a device grant (RFC 8628 §3.4, auth contract §5.7). Refreshing has a file of its own.

mod refresh;

use std::rc::Rc;

use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::domain::device_grant::{self, DeviceCode, INTERVAL, Poll, Tokens};
use crate::domain::refresh_token::RefreshToken;
use crate::domain::session;
use crate::endpoints::oauth::{answer, token_exchange};
use crate::endpoints::{form_body, retry_after};
use crate::error::Failure;
use crate::exchange::{Request, Response};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::sessions::{Beginning, Client};
use crate::wire::form::Form;

/// What a device or a session gets (RFC 6749 §5.1).
#[derive(Serialize, Deserialize)]
struct TokenResponse {
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    token_type: Bearer,
    expires_in: u64,
    /// Clients show it before they store the credential (auth contract §13).
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
}

/// The type of every token (RFC 6750).
#[derive(Serialize, Deserialize)]
enum Bearer {
    Bearer,
}

/// Gives the request to its grant.
pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, mut request: Request) -> Result<Response, Failure> {
    let client = Client::of(context, &request);
    let body = form_body(gateway, &mut request).await?;
    let form = Form::parse(request.header(header::CONTENT_TYPE), &body)
        .map_err(|error| bad_request("invalid_request", format!("{error}; send application/x-www-form-urlencoded")))?;
    match form.first("grant_type") {
        Some("urn:ietf:params:oauth:grant-type:device_code") => poll(gateway, context, &client, &form).await,
        Some("refresh_token") => refresh::refresh(gateway, context, &client, &form).await,
        _ => match token_exchange::presented(gateway, context, &form)? {
            Some(presented) => token_exchange::exchange(gateway, context, &client, presented).await,
            None => Err(bad_request("unsupported_grant_type", "grant_type must be device_code or refresh_token")),
        },
    }
}

async fn poll(gateway: &Rc<Gateway>, context: &Context, client: &Client, form: &Form) -> Result<Response, Failure> {
    let device_code = form.non_empty("device_code").ok_or_else(|| missing("device_code"))?;
    let now = gateway.ports.clock.now();
    let polled = gateway.store().poll_grant(&DeviceCode::presented(device_code).hash(), now).await?;
    // A grant whose key is gone reads as expired (auth contract §5.5).
    let poll = gateway.unseal(|keys| device_grant::answer(polled.clone(), keys, now)).await?;
    match poll.unwrap_or(Poll::ExpiredToken) {
        Poll::Tokens(tokens) => hand_over(gateway, context, client, tokens).await,
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

/// The session begins. Should the store fail at this moment, its tokens are handed over all the same, for the grant is
/// redeemed; then the next refresh makes up for it.
async fn hand_over(
    gateway: &Rc<Gateway>,
    context: &Context,
    client: &Client,
    tokens: Tokens,
) -> Result<Response, Failure> {
    let keys = gateway.keys().await?;
    let ttl = gateway.config.session.ttl;
    let beginning = Beginning {
        id: &tokens.session_id,
        means: "device",
        subject: &tokens.subject,
        email: tokens.email.as_deref(),
        name: tokens.name.as_deref(),
        key_id: &session::key_of(&tokens.access_token).unwrap_or_default(),
        generation: 0,
        is_refreshable: tokens.idp_token.is_some(),
        ttl,
    };
    let begun = gateway.begin_session(context, client, beginning).await;
    if let Err(error) = &begun {
        gateway.log(Level::Warn, &format!("a session begins that the store does not know: {error}"));
    }
    let refresh_token = tokens.idp_token.map(|idp_token| RefreshToken {
        session_id: tokens.session_id,
        generation: 0,
        is_known: begun.is_ok(),
        provider: tokens.provider,
        idp_token: Secret::new(idp_token),
    });
    Ok(answer(&TokenResponse {
        access_token: tokens.access_token,
        refresh_token: refresh_token.map(|token| token.seal(&keys, gateway.random())),
        token_type: Bearer::Bearer,
        expires_in: ttl.as_secs(),
        email: tokens.email,
    }))
}

fn missing(parameter: &str) -> Failure {
    bad_request("invalid_request", format!("the parameter {parameter} is missing"))
}

fn bad_request(kind: &'static str, description: impl Into<String>) -> Failure {
    Failure::oauth(StatusCode::BAD_REQUEST, kind, description)
}
