//! `/device`: the page where a person confirms a user code, and what becomes of it (auth contract §5.2 to §5.4).
//!
//! Unlike the reference, a refused post has a status that says so: 403, 404, 429 or 503, with the same page.

use std::collections::HashSet;
use std::rc::Rc;

use futures_util::future::join_all;
use http::{HeaderValue, StatusCode, header};
use url::Url;

use crate::domain::audit::AuditEvent;
use crate::domain::device_grant::{self, Asked};
use crate::domain::providers::{self, Choice, Open};
use crate::domain::sign_in::{BrowserLeg, authorization_url, is_same_origin};
use crate::domain::user_code::UserCode;
use crate::endpoints::{FormAction, form_body, page, retry_after};
use crate::error::Failure;
use crate::exchange::{Body, Request, Response};
use crate::gateway::{Context, Gateway};
use crate::idp;
use crate::log::Level;
use crate::pages::{Choose, Complaint, Confirm, Done, EnterCode, Problem, Reference, Trouble, Ways};
use crate::wire::form::Form;

/// Shows the form, or asks whether the code in the query is the person's own. Nothing is looked up.
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let query = Form::urlencoded(request.uri.query().unwrap_or_default().as_bytes());
    let Some(user_code) = query.non_empty("user_code") else {
        return Ok(form(gateway, context, StatusCode::OK, None).await);
    };
    let confirm = Confirm {
        user_code: user_code.to_owned(),
        host: host(&context.origin),
        login_notice: gateway.config.login_notice.clone(),
        ways: ways(gateway, ""),
    };
    Ok(page(gateway, StatusCode::OK, &confirm, FormAction::OursAnd(&form_targets(gateway).await)))
}

/// Sends the browser to the identity provider.
pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let posted = match posted_code(gateway, context, request).await? {
        Posted::Form(form) => form,
        Posted::Refused(refusal) => return Ok(refusal),
    };
    let user_code = user_code(&posted);
    let now = gateway.ports.clock.now();
    let grant = match &user_code {
        Some(user_code) => gateway.store().find_waiting_grant(user_code, now).await?,
        None => None,
    };
    let (Some(grant), Some(user_code)) = (grant, user_code) else {
        audit(gateway, context, "unknown_code", None);
        let complaint = "This code is not known, or it has expired. Compare it with your terminal, or start the \
            sign-in there again.";
        return Ok(form(gateway, context, StatusCode::NOT_FOUND, Some(complaint)).await);
    };
    let email = posted.non_empty("email");
    let oidc = match providers::choose(&gateway.config.oidc, posted.non_empty("provider"), email) {
        Choice::Made(provider) => provider,
        Choice::Open(why) => {
            return Ok(choose(gateway, context, &user_code, email.unwrap_or_default(), why).await);
        }
    };
    let endpoint = idp::metadata(gateway, oidc).await.map_err(|error| error.to_string()).and_then(|metadata| {
        metadata.authorization_endpoint.ok_or_else(|| "the discovery document has no authorization_endpoint".to_owned())
    });
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(cause) => {
            audit(gateway, context, "idp_unavailable", Some(&cause));
            gateway.log(Level::Error, &format!("sign-in is not possible ({}): {cause}", context.request_id));
            let reference = Reference::of(&context.request_id);
            let problem = Problem { trouble: Trouble::ProviderAway, reference, detail: None };
            return Ok(page(gateway, StatusCode::SERVICE_UNAVAILABLE, &problem, FormAction::Ours));
        }
    };
    let leg = BrowserLeg::start(grant, oidc, &[gateway.random(), gateway.random(), gateway.random()], now);
    let state = leg.seal(&*gateway.keys().await?, gateway.random());
    let location = authorization_url(&endpoint, oidc, &context.origin, &leg, &state, email);
    audit(gateway, context, "redirect", None);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, header_value(&location)?);
    headers.insert(header::SET_COOKIE, header_value(&leg.set_cookie(&context.origin))?);
    Ok(response)
}

/// Stops a sign-in.
pub(crate) mod deny {
    use super::{
        Asked, AuditEvent, Context, Done, Failure, FormAction, Gateway, Posted, Problem, Rc, Reference, Request,
        Response, StatusCode, Trouble, audit, device_grant, page, posted_code, user_code,
    };

    /// `POST /device/deny`.
    pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
        let user_code = match posted_code(gateway, context, request).await? {
            Posted::Form(form) => user_code(&form),
            Posted::Refused(refusal) => return Ok(refusal),
        };
        let now = gateway.ports.clock.now();
        let denied = match &user_code {
            Some(user_code) => gateway.store().deny_grant(user_code, now).await?,
            None => None,
        };
        let Some(sealed) = denied else {
            audit(gateway, context, "unknown_code", None);
            let reference = Reference::of(&context.request_id);
            let problem = Problem { trouble: Trouble::NothingWaits, reference, detail: None };
            return Ok(page(gateway, StatusCode::NOT_FOUND, &problem, FormAction::Ours));
        };
        // A grant that cannot be opened any more is stopped all the same.
        let asked = gateway.unseal(|keys| device_grant::open::<Asked>(&sealed, keys, now)).await?.ok().flatten();
        gateway.audit(
            context,
            &AuditEvent::DeviceDeny {
                result: "denied",
                client_ip: context.client_ip,
                requested_from: asked.as_ref().map(|asked| asked.requested_from),
                requested_at: asked.as_ref().map(|asked| asked.requested_at.as_str()),
            },
        );
        Ok(page(gateway, StatusCode::OK, &Done::Stopped, FormAction::Ours))
    }
}

/// What both posts begin with.
enum Posted {
    /// What the person posted.
    Form(Form),
    /// The post does not count.
    Refused(Response),
}

/// Same origin, then rate limit, then the code. A post from elsewhere is not counted against anybody.
async fn posted_code(gateway: &Rc<Gateway>, context: &Context, mut request: Request) -> Result<Posted, Failure> {
    let now = gateway.ports.clock.now();
    if !is_same_origin(request.header("sec-fetch-site"), request.header(header::ORIGIN), &context.origin) {
        audit(gateway, context, "csrf_rejected", None);
        let complaint = "This was blocked because it came from another site. To sign in, enter the code from your \
            terminal here.";
        return Ok(Posted::Refused(form(gateway, context, StatusCode::FORBIDDEN, Some(complaint)).await));
    }
    let body = form_body(gateway, &mut request).await?;
    let limit = gateway.config.rate_limits.device_verify;
    if let Some(wait) = gateway.store().count(&format!("device_verify {}", context.client_ip), limit, now).await? {
        audit(gateway, context, "rate_limited", None);
        let minutes = wait.as_secs().div_ceil(60);
        let plural = if minutes == 1 { "" } else { "s" };
        let complaint =
            format!("Too many codes were tried from your network. Wait {minutes} minute{plural}, then try again.");
        let mut refusal = form(gateway, context, StatusCode::TOO_MANY_REQUESTS, Some(&complaint)).await;
        refusal.headers_mut().insert(header::RETRY_AFTER, retry_after(wait));
        return Ok(Posted::Refused(refusal));
    }
    Ok(Posted::Form(Form::parse(request.header(header::CONTENT_TYPE), &body).unwrap_or_default()))
}

/// The code, if what was posted can be one.
fn user_code(form: &Form) -> Option<UserCode> {
    form.first("user_code").and_then(UserCode::parse)
}

/// What a person is asked where several providers sign people in.
fn ways(gateway: &Gateway, email: &str) -> Option<Ways> {
    let all = &gateway.config.oidc;
    let offered = providers::offered(all)
        .map(|provider| (provider.name.clone().unwrap_or_default(), providers::label(provider).to_owned()));
    (all.len() > 1)
        .then(|| Ways { email: providers::ask_for_email(all).then(|| email.to_owned()), offered: offered.collect() })
}

/// Asks who signs the person in, with what is wrong with the last answer.
async fn choose(gateway: &Gateway, context: &Context, user_code: &UserCode, email: &str, why: Open) -> Response {
    let (status, complaint) = match why {
        Open::NotAsked => (StatusCode::OK, None),
        Open::NoAddress => {
            (StatusCode::BAD_REQUEST, Some("This is no e-mail address. Give the one that you have at work."))
        }
        Open::UnknownDomain => (
            StatusCode::BAD_REQUEST,
            Some(
                "Nobody here signs in addresses of this domain. Check the spelling, or ask your administrator which \
                 address to use.",
            ),
        ),
        Open::UnknownName => {
            (StatusCode::BAD_REQUEST, Some("This choice does not exist any more. Choose another one."))
        }
    };
    if complaint.is_some() {
        audit(gateway, context, "unknown_provider", None);
    }
    let Some(ways) = ways(gateway, email) else { return form(gateway, context, status, complaint).await };
    let choose = Choose {
        user_code: user_code.shown(),
        ways,
        complaint: complaint_of(context, complaint),
        host: host(&context.origin),
    };
    page(gateway, status, &choose, FormAction::OursAnd(&form_targets(gateway).await))
}

fn complaint_of(context: &Context, text: Option<&str>) -> Option<Complaint> {
    text.map(|text| Complaint { text: text.to_owned(), reference: Reference::of(&context.request_id) })
}

/// The form for a code, with what is wrong with the last one.
async fn form(gateway: &Gateway, context: &Context, status: StatusCode, complaint: Option<&str>) -> Response {
    let enter = EnterCode {
        host: host(&context.origin),
        login_notice: gateway.config.login_notice.clone(),
        complaint: complaint_of(context, complaint),
    };
    page(gateway, status, &enter, FormAction::OursAnd(&form_targets(gateway).await))
}

/// Where a posted form may be redirected to. Without the identity provider's document the page still shows.
async fn form_targets(gateway: &Gateway) -> Vec<String> {
    let endpoint = async |provider| {
        let metadata = idp::metadata(gateway, provider).await.ok()?;
        Some(metadata.authorization_endpoint?.origin().ascii_serialization())
    };
    let providers = &gateway.config.oidc;
    // At once: one provider that is slow costs its time, not that of all.
    let mut targets: Vec<String> = join_all(providers.iter().map(endpoint)).await.into_iter().flatten().collect();
    targets.extend(providers.iter().flat_map(|provider| provider.form_action_origins.iter().cloned()));
    let mut seen = HashSet::new();
    targets.retain(|target| seen.insert(target.clone()));
    targets
}

pub(super) fn audit(gateway: &Gateway, context: &Context, result: &'static str, err: Option<&str>) {
    gateway.audit(context, &AuditEvent::DeviceVerify { result, client_ip: context.client_ip, err });
}

fn host(origin: &str) -> String {
    Url::parse(origin).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| origin.to_owned())
}

fn header_value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(text).map_err(|_| Failure::internal("a redirect holds a control character"))
}
