//! `/oauth/callback`: the identity provider sends the browser back (auth contract §5.6).
//!
//! Unlike the reference, a failure has a status that says so, every one is audited, and its page carries a reference
//! to the audit trail.

use std::rc::Rc;

use http::{HeaderValue, StatusCode, header};

use crate::domain::audit::{AuditEvent, SessionOutcome};
use crate::domain::device_grant::{self, LIFETIME, Tokens};
use crate::domain::oidc::describe;
use crate::domain::providers;
use crate::domain::sign_in::{BrowserLeg, Returned, clear_cookie, cookie, redirect_uri};
use crate::endpoints::{FormAction, page};
use crate::error::Failure;
use crate::exchange::{Request, Response};
use crate::gateway::{Context, Gateway};
use crate::idp::{self, CodeExchange, SignedIn};
use crate::pages::{Done, Problem, Reference, Trouble};

/// The most of the identity provider's words that the audit trail keeps, in characters.
const MAX_SAID: usize = 300;

/// Answers every method; only the query counts.
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let now = gateway.ports.clock.now();
    let (code, state, issuer) = match Returned::parse(request.uri.query().unwrap_or_default()) {
        Returned::Code { code, state, issuer } => (code, state, issuer),
        Returned::Refused { error, description } => {
            // Anybody can write this text into a link.
            let said: String = describe(&error, description.as_deref()).chars().take(MAX_SAID).collect();
            audit(gateway, context, "idp_error", Some(&said));
            let detail = description.map_or_else(|| error.clone(), |description| format!("{error}: {description}"));
            return Ok(problem(gateway, context, StatusCode::BAD_REQUEST, Trouble::ProviderRefused, Some(detail)));
        }
        Returned::Incomplete => {
            audit(gateway, context, "invalid_state", None);
            return Ok(problem(gateway, context, StatusCode::BAD_REQUEST, Trouble::LinkExpired, None));
        }
    };
    let Ok(Some(leg)) = gateway.unseal(|keys| BrowserLeg::open(&state, keys, now)).await? else {
        audit(gateway, context, "invalid_state", None);
        return Ok(problem(gateway, context, StatusCode::BAD_REQUEST, Trouble::LinkExpired, None));
    };
    // The configuration may have changed while the person was away.
    let Some(provider) = providers::find(&gateway.config.oidc, leg.provider.as_deref()) else {
        audit(gateway, context, "invalid_state", Some("the identity provider is not configured any more"));
        return Ok(problem(gateway, context, StatusCode::BAD_REQUEST, Trouble::LinkExpired, None));
    };
    let mark = request.header(header::COOKIE).and_then(|header| cookie(header, &context.origin));
    if !leg.is_of_browser(mark) {
        audit(gateway, context, "browser_mismatch", None);
        let refusal = problem(gateway, context, StatusCode::BAD_REQUEST, Trouble::OtherBrowser, None);
        return Ok(without_mark(refusal, context));
    }
    if !gateway.store().is_waiting(&leg.grant, now).await? {
        return Ok(already_decided(gateway, context));
    }
    let exchange = CodeExchange {
        code: &code,
        redirect_uri: &redirect_uri(&context.origin),
        code_verifier: leg.code_verifier.as_deref(),
        nonce: &leg.nonce,
        issuer: issuer.as_deref(),
    };
    match idp::sign_in(gateway, provider, exchange).await {
        Ok(signed_in) => approve(gateway, context, &leg, signed_in).await,
        Err(trouble) => {
            // The code is spent, or will be: what failed here fails for the device as well (auth contract §12).
            if !gateway.store().fail_grant(&leg.grant, now).await? {
                return Ok(already_decided(gateway, context));
            }
            let event = SessionOutcome::fail(context.client_ip, &trouble.cause);
            gateway.audit(context, &AuditEvent::SessionMint(event));
            // Not 5xx: this browser's request is settled, and repeating it cannot succeed.
            let (status, trouble) = if trouble.is_final {
                (StatusCode::FORBIDDEN, Trouble::Refused)
            } else {
                (StatusCode::BAD_REQUEST, Trouble::ProviderAway)
            };
            Ok(without_mark(problem(gateway, context, status, trouble, None), context))
        }
    }
}

async fn approve(
    gateway: &Rc<Gateway>,
    context: &Context,
    leg: &BrowserLeg,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    let now = gateway.ports.clock.now();
    let keys = gateway.keys().await?;
    let session_id = gateway.new_session_id();
    let SignedIn { identity, refresh_token } = signed_in;
    let ttl = gateway.config.session.ttl;
    let tokens = Tokens {
        access_token: gateway.mint(context, &keys, &identity, &session_id, ttl),
        idp_token: refresh_token.map(|token| token.reveal().clone()),
        session_id,
        subject: identity.subject.clone(),
        provider: leg.provider.clone(),
        email: identity.email.clone(),
        name: identity.name.clone(),
    };
    let sealed = device_grant::seal(&tokens, now.plus(LIFETIME), &keys, gateway.random());
    if !gateway.store().approve_grant(&leg.grant, &sealed, now).await? {
        return Ok(already_decided(gateway, context));
    }
    let email = identity.email.as_deref();
    let event = SessionOutcome::success(&identity.subject, email, context.client_ip, ttl);
    gateway.audit(context, &AuditEvent::SessionMint(event));
    let done = Done::SignedIn { email: identity.email };
    Ok(without_mark(page(gateway, StatusCode::OK, &done, FormAction::Ours), context))
}

fn already_decided(gateway: &Gateway, context: &Context) -> Response {
    audit(gateway, context, "not_waiting", None);
    problem(gateway, context, StatusCode::BAD_REQUEST, Trouble::AlreadyDecided, None)
}

fn problem(
    gateway: &Gateway,
    context: &Context,
    status: StatusCode,
    trouble: Trouble,
    detail: Option<String>,
) -> Response {
    page(gateway, status, &Problem { trouble, reference: Reference::of(&context.request_id), detail }, FormAction::Ours)
}

fn without_mark(mut response: Response, context: &Context) -> Response {
    let cookie = HeaderValue::try_from(clear_cookie(&context.origin)).expect("a cookie name and attributes are ASCII");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

pub(in crate::endpoints) fn audit(gateway: &Gateway, context: &Context, result: &'static str, err: Option<&str>) {
    gateway.audit(context, &AuditEvent::DeviceCallback { result, client_ip: context.client_ip, err });
}
