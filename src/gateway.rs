//! [`Gateway`]: one instance's configuration and ports, and [`Gateway::handle`], the path of every request:
//! transport rules → route → caller → endpoint → failure rendered, in this order.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use futures_util::{pin_mut, select_biased};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::config::Config;
use crate::domain::audit::AuditEvent;
use crate::domain::client_address;
use crate::domain::figure::Figure;
use crate::domain::policy::{self, Policies};
use crate::domain::price::Prices;
use crate::domain::session::{Denied, Session};
use crate::domain::trace::Trace;
use crate::endpoints;
use crate::error::Failure;
use crate::exchange::{self, Body, BodyError, Request, Response, read_body};
use crate::log::Level;
use crate::pages::Brand;
use crate::ports::{Entropy, Ports};
use crate::routes::{self, Route};
use crate::store::StoreError;
use crate::store::cache::Cache;
use crate::upstream::catalog::{self, Catalog};

/// One instance of the gateway. It is shared by all requests of the instance and holds nothing of any of them.
pub struct Gateway {
    /// What the operator wrote.
    pub config: Config,
    /// The models it serves.
    pub catalog: Catalog,
    /// The policies it delivers and enforces.
    pub policies: Policies,
    /// What answers cost.
    pub prices: Prices,
    /// What pages look like.
    pub brand: Brand,
    /// The world.
    pub ports: Ports,
    /// What this instance remembers.
    pub cache: Cache,
}

/// What is known of a request before anybody looks at what it wants.
#[derive(Debug, Clone)]
pub struct Context {
    /// The id that ties the answer, the audit trail and the log together.
    pub request_id: String,
    /// Whose request it is, by address.
    pub client_ip: IpAddr,
    /// The public origin: `listen.public_url`, or what the request's `Host` says.
    pub origin: String,
    /// Its place in a trace (W3C Trace Context), if it has one.
    pub trace: Option<Trace>,
}

impl Gateway {
    /// A gateway of `config` in the world of `ports`.
    pub fn new(config: Config, ports: Ports) -> Self {
        let policies = Policies::new(&config);
        Self {
            catalog: Catalog::of(&config),
            policies,
            prices: Prices::of(&config),
            brand: Brand::of(&config.branding),
            config,
            ports,
            cache: Cache::default(),
        }
    }

    /// Answers one request.
    pub async fn handle(self: &Rc<Self>, mut request: Request) -> Response {
        self.cache.audit.adopt(self);
        if let Some(operation) = self.control_operation(&request) {
            return endpoints::control::post(self, operation, request).await;
        }
        if let Some(resolved) = routes::without_dots(&request.uri) {
            request.uri = resolved;
        }
        let context = self.context(&request);
        let (received, method) = (self.ports.clock.now(), request.method.clone());
        let route = Route::find(&request.method, request.uri.path());
        let is_head = request.method == Method::HEAD;
        let work = async {
            self.admit(&context, &request, route)?;
            endpoints::dispatch(self, &context, route, request).await
        };
        let outcome = self.cache.current.during(&context.request_id, work).await;
        let mut response = outcome.unwrap_or_else(|failure| self.rescue(&context, failure));
        if is_head {
            *response.body_mut() = Body::empty();
        }
        harden(response.headers_mut(), &context.request_id);
        self.trace_request(&context, (route, method), received, response.status().as_u16());
        response
    }

    /// Who is calling: the proof is a session token in `Authorization: Bearer`, the scheme spelled exactly so, with one
    /// space (auth contract §4.6). What is wrong with a token is not told.
    pub async fn session(self: &Rc<Self>, context: &Context, request: &Request) -> Result<Session, Failure> {
        let authorization = request.header(header::AUTHORIZATION).filter(|value| !value.is_empty());
        let is_alone = request.headers.get_all(header::AUTHORIZATION).iter().nth(1).is_none();
        let verdict = match authorization {
            None => Err("missing_token"),
            // Two proofs prove nothing: who comes after the gateway may read the other one.
            Some(_) if !is_alone => Err("invalid_token"),
            Some(value) => match value.strip_prefix("Bearer ") {
                None => Err("invalid_token"),
                Some(token) => self.verify(token, &context.origin).await?.map_err(Denied::reason),
            },
        };
        verdict.map_err(|reason| {
            let path = request.uri.path();
            self.audit(context, &AuditEvent::AuthDenied { reason, path, client_ip: context.client_ip });
            Failure::unauthenticated()
        })
    }

    /// Whether the caller's policy lets them name `model` (inference contract §7.5).
    pub fn may_use(&self, session: &Session, model: &str) -> bool {
        let caller = policy::Caller { groups: session.groups(), email: session.email() };
        let Some(effective) = self.policies.effective_for(caller) else { return true };
        effective.available_models().is_none_or(|models| catalog::allows(&models, model))
            && !catalog::allows(&effective.denied_models(), model)
    }

    /// All of a request's body, within `limits.max_request_bytes`.
    pub async fn body(&self, request: &mut Request) -> Result<Bytes, Failure> {
        read_body(&mut request.body, self.config.limits.max_request_bytes).await.map_err(|error| match error {
            BodyError::TooLarge(_) => payload_too_large(),
            BodyError::BrokeOff(broken) => {
                Failure::invalid_request("the request body is incomplete").because(broken.to_string())
            }
        })
    }

    /// What comes within `limit`, if anything does.
    pub(crate) async fn in_time<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let answer = answer.fuse();
        let timeout = self.ports.clock.sleep(limit).fuse();
        pin_mut!(answer, timeout);
        select_biased! {
            answer = answer => Some(answer),
            () = timeout => None,
        }
    }

    /// What the database says within `limit`, or why it says nothing.
    pub(crate) async fn stored_in_time<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, String> {
        match self.in_time(limit, answer).await {
            Some(answer) => answer.map_err(|error| error.to_string()),
            None => Err("the database is too slow".to_owned()),
        }
    }

    /// Writes one audit event.
    pub fn audit(&self, context: &Context, event: &AuditEvent<'_>) {
        self.record(event, Some(&context.request_id));
    }

    /// Writes one audit event that belongs to `request_id`, if to any.
    pub(crate) fn record(&self, event: &AuditEvent<'_>, request_id: Option<&str>) {
        let now = self.ports.clock.now();
        let line = event.line(now, request_id);
        self.ports.log.line(&line);
        if self.config.audit.store {
            self.cache.audit.push(now, event.name(), &line);
        }
    }

    /// Writes one operational line, about the request that is being worked on, if any is.
    pub fn log(&self, level: Level, message: &str) {
        self.say(level, self.cache.current.request_id().as_deref(), message);
    }

    /// Writes one operational line about a request.
    pub fn log_of(&self, context: &Context, level: Level, message: &str) {
        self.say(level, Some(&context.request_id), message);
    }

    /// The same where the context is gone, if it is about a request.
    pub(crate) fn say(&self, level: Level, request_id: Option<&str>, message: &str) {
        if level >= self.ports.log_level {
            let line = self.ports.log_format.line(self.ports.clock.now(), level, request_id, message);
            self.ports.log.line(&line);
        }
    }

    /// Tells the host a figure for its metrics.
    pub(crate) fn count(&self, figure: &Figure<'_>) {
        if let Some(figures) = &self.ports.figures {
            figures.line(&figure.line());
        }
    }

    fn context(&self, request: &Request) -> Context {
        // A line with odd bytes is read all the same: what the proxy appended to it still counts, and comes first.
        let lines: Vec<_> = request.headers.get_all("x-forwarded-for").iter().collect();
        let lines: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        let forwarded = lines.iter().map(|line| &**line);
        // A host that does not tell the peer gets the one address that no rule trusts.
        let peer = request.peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Context {
            trace: self.trace(&request.headers),
            request_id: request_id(&request.headers, &*self.ports.entropy),
            client_ip: client_address::resolve(peer, forwarded, &self.config.listen.trusted_proxies),
            origin: self.config.listen.public_url.clone().unwrap_or_else(|| {
                format!("{}://{}", request.scheme, request.header(header::HOST).unwrap_or("localhost"))
            }),
        }
    }

    /// Transport rules, in the contract's order: addresses, then sizes (auth contract §4.6, §4.8).
    fn admit(&self, context: &Context, request: &Request, route: Option<Route>) -> Result<(), Failure> {
        let is_probe = route.is_some_and(Route::is_probe);
        client_address::admit(context.client_ip, &self.config.access_control, is_probe).map_err(|refusal| {
            let event = AuditEvent::AccessDenied { reason: refusal.reason(), client_ip: context.client_ip };
            self.audit(context, &event);
            Failure::plain(StatusCode::FORBIDDEN, "forbidden")
        })?;
        if is_probe {
            return Ok(());
        }
        let limits = &self.config.limits;
        if limits.max_url_length.is_some_and(|most| url_length(request) > most) {
            return Err(Failure::plain(StatusCode::URI_TOO_LONG, "uri too long"));
        }
        if limits.max_request_header_bytes.is_some_and(|most| header_bytes(&request.headers) > most) {
            return Err(Failure::plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request header fields too large"));
        }
        let declared = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limits.max_request_bytes) {
            return Err(payload_too_large());
        }
        Ok(())
    }

    /// The one place where a failure becomes an answer, and where its cause is logged.
    pub(crate) fn rescue(&self, context: &Context, failure: Failure) -> Response {
        if let Some(cause) = failure.cause() {
            let level = if failure.status().is_server_error() { Level::Error } else { Level::Warn };
            let message = format!("{} ({}): {cause}", failure.status().as_u16(), context.request_id);
            self.log_of(context, level, &message);
        }
        failure.render(&context.request_id)
    }

    /// The operation of a request that the host itself makes; everybody else's is an unknown path.
    fn control_operation(&self, request: &Request) -> Option<String> {
        let (expected, given) = (self.ports.control.as_ref()?, request.control.as_ref()?);
        let authentic: bool = subtle::ConstantTimeEq::ct_eq(expected.as_bytes(), given.as_bytes()).into();
        authentic.then(|| request.uri.path().strip_prefix("/.sallyport/").map(str::to_owned))?
    }
}

/// The client's own id, where it has the agreed form (inference contract §2.2).
pub fn client_request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("x-client-request-id")?.to_str().ok()?;
    let is_agreed =
        (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    is_agreed.then_some(id)
}

/// The client's own id, else a fresh UUID.
fn request_id(headers: &HeaderMap, entropy: &dyn Entropy) -> String {
    let fresh = || {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    };
    client_request_id(headers).map_or_else(fresh, str::to_owned)
}

/// What an instance answers that has no gateway because its configuration is faulty.
pub fn unconfigured(headers: &HeaderMap, entropy: &dyn Entropy) -> Response {
    let mut response = exchange::plain(StatusCode::SERVICE_UNAVAILABLE, "configuration fault: see the log");
    harden(response.headers_mut(), &request_id(headers, entropy));
    response
}

/// `413`, whether it was declared or found out while reading.
pub fn payload_too_large() -> Failure {
    Failure::plain(StatusCode::PAYLOAD_TOO_LARGE, "payload too large")
}

/// Scheme, `://`, host, path and query (auth contract §4.6).
fn url_length(request: &Request) -> u64 {
    let host = request.header(header::HOST).map_or(0, str::len);
    let path = request.uri.path_and_query().map_or(0, |path| path.as_str().len());
    (request.scheme.len() + "://".len() + host + path) as u64
}

/// Names, values and four bytes for each line (auth contract §4.6).
fn header_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| (name.as_str().len() + value.len() + 4) as u64).sum()
}

/// Headers on every response (auth contract §4.5). What an upstream sent wins, except for the id.
fn harden(headers: &mut HeaderMap, request_id: &str) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::try_from(request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
}
