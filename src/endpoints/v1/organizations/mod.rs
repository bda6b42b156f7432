//! `/v1/organizations/…`: the admin API: who may use it, its envelope, and what its parts share (inference contract §18.1,
//! §18.2).

pub(crate) mod analytics;
mod audit_events;
mod cursor;
pub(crate) mod explain;
pub(crate) mod sessions;
pub(crate) mod signing_keys;
pub(crate) mod spend_limits;
mod spend_reservations;
pub(crate) mod usage;
mod users;

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::config::{Admin, AdminKey};
use crate::domain::audit::AuditEvent;
use crate::domain::checksum::hex;
use crate::domain::erasure::is_pseudonym;
use crate::error::Failure;
use crate::exchange::{self, Body, Request, Response};
use crate::gateway::{Context, Gateway};
use crate::store::StoreError;

/// The tree of caps.
const LIMITS: &str = "/v1/organizations/spend_limits";
/// The cost report.
const COST: &str = "/v1/organizations/analytics/cost";
/// What the configuration means for somebody.
const EXPLAIN: &str = "/v1/organizations/explain";
/// Sessions.
const SESSIONS: &str = "/v1/organizations/sessions";
/// A new signing key.
const ROTATE: &str = "/v1/organizations/signing_keys/rotate";
/// The usage report.
const USAGE: &str = "/v1/organizations/usage";
/// People.
const USERS: &str = "/v1/organizations/users";
/// The list of reservations.
const RESERVATIONS: &str = "/v1/organizations/spend_reservations";

/// A request that the admin API does not grant.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// What the caller is told.
    Told {
        /// Status.
        status: StatusCode,
        /// `error.type`.
        kind: &'static str,
        /// `error.message`.
        message: String,
    },
    /// Something broke.
    Broken(Failure),
}

impl Refusal {
    fn told(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self::Told { status, kind, message: message.into() }
    }

    /// `400`.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::told(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// `404`.
    pub(crate) fn not_found(message: &str) -> Self {
        Self::told(StatusCode::NOT_FOUND, "not_found_error", message)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Broken(error.into())
    }
}

/// What is answered.
pub(crate) enum Answer {
    /// A document.
    Json(Value),
    /// A part of a table; the token of the next one goes into a header.
    Csv {
        /// Lines.
        text: String,
        /// Where the next part begins.
        next_page: Option<String>,
    },
}

impl From<Value> for Answer {
    fn from(json: Value) -> Self {
        Self::Json(json)
    }
}

/// Who administers.
pub(crate) struct Administrator {
    /// `admin-key:<id>` or `oidc:<sub>`.
    pub(crate) actor: String,
    may_write: bool,
}

/// Answers everything under the admin API's paths.
pub(crate) async fn serve(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let Some(admin) = &gateway.config.admin else {
        gateway.session(context, &request).await?;
        return Err(Failure::plain(StatusCode::NOT_FOUND, "not found"));
    };
    let is_get = request.method == Method::GET;
    if audit_events::asks_for(&request.method, request.uri.path()) == Some(true) {
        let query = Query::parse(request.uri.query().unwrap_or_default());
        let outcome = match authenticate(gateway, context, admin, &request).await {
            Ok(_) => audit_events::export(gateway, &query),
            Err(refusal) => Err(refusal),
        };
        return match outcome {
            Ok(response) => Ok(response),
            Err(Refusal::Broken(failure)) => Err(failure),
            Err(Refusal::Told { status, kind, message }) => {
                let body = json!({"type": "error", "error": {"type": kind, "message": message}});
                Ok(envelope(gateway, status, body, is_get))
            }
        };
    }
    let (status, body) = match answer(gateway, context, admin, request).await {
        Ok(Answer::Json(body)) => (StatusCode::OK, body),
        Ok(Answer::Csv { text, next_page }) => return Ok(table(gateway, text, next_page.as_deref())),
        Err(Refusal::Broken(failure)) => return Err(failure),
        Err(Refusal::Told { status, kind, message }) => {
            (status, json!({"type": "error", "error": {"type": kind, "message": message}}))
        }
    };
    Ok(envelope(gateway, status, body, is_get))
}

fn table(gateway: &Gateway, text: String, next_page: Option<&str>) -> Response {
    let mut response = Response::new(Body::Full(Bytes::from(text)));
    let headers = response.headers_mut();
    let of_page = next_page.map(|token| ("x-next-page", token.to_owned()));
    for (name, value) in [("request-id", format!("req_{}", hex(&gateway.random::<16>())))].into_iter().chain(of_page) {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"usage.csv\""));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn envelope(gateway: &Gateway, status: StatusCode, mut body: Value, is_get: bool) -> Response {
    let id = format!("req_{}", hex(&gateway.random::<16>()));
    if status != StatusCode::OK {
        body["request_id"] = id.clone().into();
    }
    let mut response = exchange::json(status, &body);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(HeaderName::from_static("request-id"), id);
    }
    if is_get && status == StatusCode::OK {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

async fn answer(
    gateway: &Rc<Gateway>,
    context: &Context,
    admin: &Admin,
    mut request: Request,
) -> Result<Answer, Refusal> {
    let administrator = authenticate(gateway, context, admin, &request).await?;
    let path = request.uri.path().to_owned();
    let query = Query::parse(request.uri.query().unwrap_or_default());
    let is_get = request.method == Method::GET;
    if path == COST {
        return if is_get {
            analytics::cost::get(gateway, &query).await.map(Answer::from)
        } else {
            Err(Refusal::not_found("not found"))
        };
    }
    if path == USAGE {
        return if is_get { usage::get(gateway, &query).await } else { Err(Refusal::not_found("not found")) };
    }
    if path == RESERVATIONS {
        return if is_get {
            spend_reservations::get(gateway, &query).await.map(Answer::from)
        } else {
            Err(Refusal::not_found("not found"))
        };
    }
    if path == EXPLAIN {
        return if is_get {
            explain::get(gateway, &query).await.map(Answer::from)
        } else {
            Err(Refusal::not_found("not found"))
        };
    }
    if path == ROTATE {
        let rotated = match request.method {
            Method::POST => signing_keys::rotate::post(gateway, context, &administrator).await,
            _ => Err(Refusal::not_found("not found")),
        };
        return rotated.map(Answer::from);
    }
    if path == USERS {
        let erased = match request.method {
            Method::DELETE => users::delete(gateway, context, &administrator, &query).await,
            _ => Err(Refusal::not_found("not found")),
        };
        return erased.map(Answer::from);
    }
    if let Some(rest) = path.strip_prefix(SESSIONS) {
        let answered = match (&request.method, rest.strip_prefix('/')) {
            (&Method::GET, None) => sessions::list(gateway, &query).await,
            (&Method::DELETE, None) => sessions::delete_all(gateway, context, &administrator, &query).await,
            (&Method::DELETE, Some(id)) if !id.contains('/') => {
                sessions::delete(gateway, context, &administrator, id).await
            }
            _ => Err(Refusal::not_found("not found")),
        };
        return answered.map(Answer::from);
    }
    if audit_events::asks_for(&request.method, &path) == Some(false) {
        return audit_events::get(gateway, &query).await.map(Answer::from);
    }
    let Some(rest) = path.strip_prefix(LIMITS) else { return Err(Refusal::not_found("not found")) };
    let answered = match (&request.method, rest.strip_prefix('/')) {
        (&Method::GET, None) => spend_limits::list(gateway, &query).await,
        (&Method::POST, None) => {
            administrator.require_write("spend_limits")?;
            let body = gateway.body(&mut request).await.map_err(Refusal::Broken)?;
            spend_limits::post(gateway, &administrator, &body).await
        }
        (&Method::GET, Some("effective")) => spend_limits::effective::get(gateway, admin, &query).await,
        (&Method::GET, Some("audit")) => spend_limits::audit::get(gateway, &query).await,
        (&Method::GET, Some(id)) if !id.contains('/') => spend_limits::get(gateway, id).await,
        (&Method::DELETE, Some(id)) if !id.contains('/') => {
            administrator.require_write("spend_limits")?;
            spend_limits::delete(gateway, &administrator, id).await
        }
        (&Method::PUT, Some("bulk")) => {
            administrator.require_write("spend_limits")?;
            let body = gateway.body(&mut request).await.map_err(Refusal::Broken)?;
            spend_limits::bulk::put(gateway, &administrator, &body).await
        }
        _ => Err(Refusal::not_found("not found")),
    };
    answered.map(Answer::from)
}

impl Administrator {
    /// Whether they may change `what`.
    fn require_write(&self, what: &str) -> Result<(), Refusal> {
        if self.may_write {
            return Ok(());
        }
        Err(Refusal::told(StatusCode::FORBIDDEN, "permission_error", format!("requires write:{what}")))
    }
}

/// A key alone decides where there is one; otherwise the session of a member of `admin.admin_groups`.
async fn authenticate(
    gateway: &Rc<Gateway>,
    context: &Context,
    admin: &Admin,
    request: &Request,
) -> Result<Administrator, Refusal> {
    let reason = if let Some(given) = request.headers.get("x-api-key") {
        let write = find_key(&admin.write_keys, given.as_bytes()).map(|key| (key, true));
        let read = find_key(&admin.read_keys, given.as_bytes()).map(|key| (key, false));
        if let Some((key, may_write)) = write.or(read) {
            return Ok(Administrator { actor: format!("admin-key:{}", key.id), may_write });
        }
        "invalid_key"
    } else {
        match request.header(header::AUTHORIZATION).filter(|value| !value.is_empty()) {
            None => "no_credentials",
            Some(value) => {
                let verified = match value.strip_prefix("Bearer ") {
                    Some(token) => gateway.verify(token, &context.origin).await.map_err(Refusal::Broken)?.ok(),
                    None => None,
                };
                let of_admin = |groups: &[String]| groups.iter().any(|group| admin.admin_groups.contains(group));
                if let Some(session) = verified.filter(|session| of_admin(session.groups())) {
                    let actor = format!("oidc:{}", session.subject().unwrap_or_default());
                    return Ok(Administrator { actor, may_write: true });
                }
                "bearer_rejected"
            }
        }
    };
    let event = AuditEvent::AdminDenied {
        reason,
        method: request.method.as_str(),
        path: request.uri.path(),
        client_ip: context.client_ip,
    };
    gateway.record(&event, None);
    let message = "missing or invalid admin credentials";
    Err(Refusal::told(StatusCode::UNAUTHORIZED, "authentication_error", message))
}

/// Every key is compared, in constant time, so that time tells nothing about any of them.
fn find_key<'a>(keys: &'a [AdminKey], given: &[u8]) -> Option<&'a AdminKey> {
    keys.iter().fold(None, |found, key| {
        let is_same: bool = key.key.reveal().as_bytes().ct_eq(given).into();
        if is_same && found.is_none() { Some(key) } else { found }
    })
}

/// The parameters of a query.
pub(crate) struct Query(Vec<(String, String)>);

/// The most values that a parameter may have where it may be repeated.
const MOST_VALUES: usize = 100;

impl Query {
    /// Reads the query of a URL.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The names, in their order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Refuses every parameter that is not `known`.
    pub(crate) fn accept_only(&self, known: &[&str]) -> Result<(), Refusal> {
        let Some(name) = self.names().find(|name| !known.contains(name)) else { return Ok(()) };
        Err(Refusal::invalid(format!("{name}: unknown parameter; accepted are {}", known.join(", "))))
    }

    /// All pairs, in their order.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The first value of `name`.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of `name`.
    pub(crate) fn all(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let values: Vec<String> =
            self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect();
        if values.len() > MOST_VALUES {
            return Err(Refusal::invalid(format!("{name}: at most {MOST_VALUES} entries per request")));
        }
        Ok(values)
    }

    /// `limit`: 1 to 1000.
    pub(crate) fn limit(&self, default: i64) -> Result<i64, Refusal> {
        let Some(text) = self.first("limit") else { return Ok(default) };
        let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        let limit = text.parse().ok().filter(|limit| is_number && (1..=1000).contains(limit));
        limit.ok_or_else(|| Refusal::invalid("limit: must be between 1 and 1000"))
    }
}

/// An RFC 3339 timestamp (§5.6: `t`, `z` and a blank are as good).
fn instant(name: &str, text: &str) -> Result<OffsetDateTime, Refusal> {
    let invalid = || Refusal::invalid(format!("{name}: must be an RFC 3339 timestamp such as 2031-02-03T00:00:00Z"));
    let mut text = text.to_ascii_uppercase();
    if text.is_ascii() && text.len() > 19 {
        if &text[10..11] == " " {
            text.replace_range(10..11, "T");
        }
        // A `+` that was not escaped arrives as a blank.
        text = text.replace(' ', "+");
    }
    let at = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| invalid())?;
    let at = at.checked_to_offset(UtcOffset::UTC).ok_or_else(invalid)?;
    if (1..=9998).contains(&at.year()) { Ok(at) } else { Err(invalid()) }
}

/// A page token: opaque to clients.
fn to_token(content: &Value) -> String {
    URL_SAFE_NO_PAD.encode(content.to_string())
}

/// What [`to_token`] was given, or what somebody made up.
fn from_token(token: &str) -> Result<Value, Refusal> {
    let json = URL_SAFE_NO_PAD.decode(token).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok()).ok_or_else(invalid_token)
}

fn invalid_token() -> Refusal {
    Refusal::invalid("page: invalid page token")
}

/// What is known of a person, as reports write it.
fn actor(user_id: &str, name: &str, email: &str) -> Value {
    let known = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    json!({
        "type": "user_actor", "user_id": user_id, "name": known(name), "email_address": known(email),
        "deleted": is_pseudonym(user_id),
    })
}
