//! `POST /oauth/device_authorization`: a device asks for a code (RFC 8628 §3.1, auth contract §5.1).

use std::rc::Rc;
use std::time::Duration;

use http::{StatusCode, header};
use serde_json::json;

use crate::domain::audit::AuditEvent;
use crate::domain::device_grant::{self, Asked, DeviceCode, INTERVAL, LIFETIME};
use crate::domain::user_code::UserCode;
use crate::endpoints::oauth::answer;
use crate::endpoints::retry_after;
use crate::error::Failure;
use crate::exchange::{Request, Response};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::store::NewGrant;
use crate::upkeep;

/// User codes tried before one gives up; one collision is already unlikely.
const ATTEMPTS: u32 = 4;

/// The least time between two warnings about the same limit.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Begins a device grant. The body is not looked at.
pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, _request: Request) -> Result<Response, Failure> {
    let client_ip = context.client_ip;
    let now = gateway.ports.clock.now();
    upkeep::after_response(gateway);
    let limit = gateway.config.rate_limits.device_authorization;
    if let Some(wait) = gateway.store().count(&format!("device_authorization {client_ip}"), limit, now).await? {
        gateway.audit(context, &AuditEvent::DeviceAuthorize { result: "rate_limited", client_ip });
        warn(gateway, context);
        let description = "too many sign-ins were started from this address; try again later";
        return Err(Failure::oauth(StatusCode::TOO_MANY_REQUESTS, "slow_down", description)
            .with_header(header::RETRY_AFTER, retry_after(wait)));
    }
    let keys = gateway.keys().await?;
    let device_code = DeviceCode::from_random(gateway.random());
    let asked = Asked { requested_from: client_ip, requested_at: now.to_rfc3339() };
    let sealed = device_grant::seal(&asked, now.plus(LIFETIME), &keys, gateway.random());
    let id = device_code.hash();
    for _ in 0..ATTEMPTS {
        let user_code = UserCode::from_random(gateway.random());
        let grant = NewGrant { id: &id, user_code: &user_code, sealed: &sealed };
        if gateway.store().begin_grant(grant, now).await? {
            gateway.audit(context, &AuditEvent::DeviceAuthorize { result: "success", client_ip });
            return Ok(answer(&description(gateway, context, &device_code, &user_code)));
        }
    }
    Err(Failure::internal("no free user code was found"))
}

fn description(
    gateway: &Gateway,
    context: &Context,
    device_code: &DeviceCode,
    user_code: &UserCode,
) -> serde_json::Value {
    let verification_uri = format!("{}/device", context.origin);
    let user_code = user_code.shown();
    let mut description = json!({
        "device_code": device_code.reveal(),
        "user_code": user_code,
        "verification_uri": verification_uri,
        "verification_uri_complete": format!("{verification_uri}?user_code={user_code}"),
        "expires_in": LIFETIME.as_secs(),
        "interval": INTERVAL.as_secs(),
    });
    if let Some(notice) = &gateway.config.login_notice {
        description["login_notice"] = notice.as_str().into();
    }
    description
}

/// At most one line a minute: a flood of requests must not become a flood of lines.
fn warn(gateway: &Gateway, context: &Context) {
    let now = gateway.ports.clock.now();
    let warned = &gateway.cache.warned_of_rate_limit;
    if warned.get().is_none_or(|at| now.since(at) >= WARN_EVERY) {
        warned.set(Some(now));
        let text = format!("rate limit for device authorization reached, for example by {}", context.client_ip);
        gateway.log(Level::Warn, &text);
    }
}
