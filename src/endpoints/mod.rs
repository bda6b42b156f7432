//! One file per endpoint; the path of the file is the path of the URL.

pub(crate) mod api;
pub(crate) mod control;
pub(crate) mod device;
pub(crate) mod health;
pub(crate) mod landing;
pub(crate) mod managed;
pub(crate) mod oauth;
pub(crate) mod protocol;
pub(crate) mod user;
pub(crate) mod v1;
pub(crate) mod well_known;

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use crate::error::Failure;
use crate::exchange::{self, BodyError, Request, Response, read_body};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::pages::{Page, Problem, Reference, Trouble};
use crate::routes::Route;

use v1::telemetry::Signal;

/// Gives the request to its endpoint. What is not public needs a session, also to learn that there is nothing
/// (auth contract §0).
pub(crate) async fn dispatch(
    gateway: &Rc<Gateway>,
    context: &Context,
    route: Option<Route>,
    request: Request,
) -> Result<Response, Failure> {
    let Some(route) = route else {
        gateway.session(context, &request).await?;
        return Err(Failure::plain(StatusCode::NOT_FOUND, "not found"));
    };
    match route {
        Route::Landing => landing::get(gateway, context, request).await,
        Route::Healthz => Ok(health::alive()),
        Route::Readyz => health::ready(gateway).await,
        Route::Protocol => Ok(protocol::get()),
        Route::Discovery => well_known::oauth_authorization_server::get(gateway, context, request).await,
        Route::DeviceAuthorization => oauth::device_authorization::post(gateway, context, request).await,
        Route::DevicePage => device::get(gateway, context, request).await,
        Route::DeviceVerify => {
            let outcome = device::post(gateway, context, request);
            for_browser(gateway, context, outcome, |err| device::audit(gateway, context, "error", Some(err))).await
        }
        Route::DeviceDeny => {
            let outcome = device::deny::post(gateway, context, request);
            for_browser(gateway, context, outcome, |err| device::audit(gateway, context, "error", Some(err))).await
        }
        Route::Callback => {
            let outcome = oauth::callback::get(gateway, context, request);
            for_browser(gateway, context, outcome, |err| oauth::callback::audit(gateway, context, "error", Some(err)))
                .await
        }
        Route::Token => oauth::token::post(gateway, context, request).await,
        Route::Revoke => oauth::revoke::post(gateway, context, request).await,
        Route::ManagedSettings => managed::settings::get(gateway, context, request).await,
        Route::UserBootstrap => user::bootstrap::get(gateway, context, request).await,
        Route::Messages => v1::messages::post(gateway, context, request).await,
        Route::CountTokens => v1::messages::count_tokens::post(gateway, context, request).await,
        Route::Models => v1::models::get(gateway, context, request).await,
        Route::Usage => api::oauth::usage::get(gateway, context, request).await,
        Route::Organizations => v1::organizations::serve(gateway, context, request).await,
        Route::Metrics => v1::telemetry::post(gateway, context, request, Signal::Metrics).await,
        Route::Logs => v1::telemetry::post(gateway, context, request, Signal::Logs).await,
        Route::Traces => v1::telemetry::post(gateway, context, request, Signal::Traces).await,
    }
}

/// The largest form that is read: anybody may send one, and the largest of ours carries one refresh token.
const MAX_FORM_BYTES: u64 = 256 * 1024;

/// The body of a form, within its own limit and `limits.max_request_bytes`.
async fn form_body(gateway: &Gateway, request: &mut Request) -> Result<Bytes, Failure> {
    let limit = gateway.config.limits.max_request_bytes.min(MAX_FORM_BYTES);
    read_body(&mut request.body, limit).await.map_err(|error| match error {
        BodyError::TooLarge(_) => Failure::plain(StatusCode::PAYLOAD_TOO_LARGE, "payload too large"),
        BodyError::BrokeOff(broken) => {
            Failure::oauth(StatusCode::BAD_REQUEST, "invalid_request", "the body is incomplete")
                .because(broken.to_string())
        }
    })
}

/// Where the forms of a page may lead.
#[derive(Debug, Clone, Copy)]
enum FormAction<'a> {
    /// The page has no form.
    Nowhere,
    /// To the gateway.
    Ours,
    /// To the gateway, which sends the browser on to these origins. Browsers apply the rule to redirects as well.
    OursAnd(&'a [String]),
}

/// A page with the headers of auth contract §4.5. Unlike the reference, style is let through by its hash.
fn page(gateway: &Gateway, status: StatusCode, page: &impl Page, form_action: FormAction<'_>) -> Response {
    let targets = match form_action {
        FormAction::Nowhere => "'none'".to_owned(),
        FormAction::Ours => "'self'".to_owned(),
        FormAction::OursAnd(origins) => {
            std::iter::once("'self'").chain(origins.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
        }
    };
    let policy = format!(
        "default-src 'none'; style-src {}; frame-ancestors 'none'; form-action {targets}; base-uri 'none'",
        gateway.brand.style_source()
    );
    let mut response = exchange::html(status, page.render(&gateway.brand));
    let headers = response.headers_mut();
    // Configured origins are checked when the configuration is read; an odd one costs the page its forms, no more.
    let policy = HeaderValue::try_from(policy)
        .unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'"));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// The answer to a browser: also a failure of our own is a page, with a reference that the audit event (which `audit`
/// writes) shares. What a program would rather have, such as a refused size, stays as it is.
async fn for_browser(
    gateway: &Gateway,
    context: &Context,
    outcome: impl Future<Output = Result<Response, Failure>>,
    audit: impl FnOnce(&str),
) -> Result<Response, Failure> {
    match outcome.await {
        Err(failure) if failure.status().is_server_error() => {
            let cause = failure.cause().unwrap_or("no cause");
            audit(cause);
            let message = format!("{} ({}): {cause}", failure.status().as_u16(), context.request_id);
            gateway.log_of(context, Level::Error, &message);
            let problem =
                Problem { trouble: Trouble::Ours, reference: Reference::of(&context.request_id), detail: None };
            Ok(page(gateway, failure.status(), &problem, FormAction::Ours))
        }
        outcome => outcome,
    }
}

/// Whole seconds for `Retry-After` (RFC 9110 §10.2.3), rounded up, so that nobody comes back too early.
fn retry_after(wait: std::time::Duration) -> HeaderValue {
    let rounded_up = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(rounded_up.max(1))
}

#[cfg(test)]
mod tests;
