//! `POST /v1/metrics`, `/v1/logs`, `/v1/traces`: OpenTelemetry of clients, relayed byte for byte to the collectors that
//! want it (auth contract §10). The client gets its 200 at once, whatever becomes of the export.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, header};

use crate::config::Collector;
use crate::error::Failure;
use crate::exchange::{Body, Request, Response};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::ports::Outbound;
use crate::upstream::credentials::{self, Credential, Step, World};

/// How long one export may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// `/v1/metrics`.
    Metrics,
    /// `/v1/logs`.
    Logs,
    /// `/v1/traces`.
    Traces,
}

impl Signal {
    const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
            Self::Traces => "/v1/traces",
        }
    }

    const fn is_wanted(self, collector: &Collector) -> bool {
        match self {
            Self::Metrics => collector.metrics,
            Self::Logs => collector.logs,
            Self::Traces => collector.traces,
        }
    }
}

/// Answers one signal.
pub(crate) async fn post(
    gateway: &Rc<Gateway>,
    context: &Context,
    mut request: Request,
    signal: Signal,
) -> Result<Response, Failure> {
    gateway.session(context, &request).await?;
    let body = gateway.body(&mut request).await?;
    let content_type = request.headers.get(header::CONTENT_TYPE).cloned();
    let content_encoding = request.headers.get(header::CONTENT_ENCODING).cloned();
    for (index, collector) in gateway.config.telemetry.forward_to.iter().enumerate() {
        let now = gateway.ports.clock.now();
        if !signal.is_wanted(collector)
            || gateway.cache.breakers.borrow().get(&index).is_some_and(|one| one.is_open(now))
        {
            continue;
        }
        let export = Export {
            gateway: Rc::clone(gateway),
            index,
            signal,
            content_type: content_type.clone(),
            content_encoding: content_encoding.clone(),
            body: body.clone(),
        };
        gateway.ports.tasks.spawn(export.run().boxed_local());
    }
    Ok(Response::new(Body::empty()))
}

/// One export to one collector. Nothing is tried again and nothing is kept.
struct Export {
    gateway: Rc<Gateway>,
    index: usize,
    signal: Signal,
    content_type: Option<HeaderValue>,
    content_encoding: Option<HeaderValue>,
    body: Bytes,
}

impl Export {
    async fn run(self) {
        let collector = &self.gateway.config.telemetry.forward_to[self.index];
        let outcome = self.send(collector).await;
        let now = self.gateway.ports.clock.now();
        let mut breakers = self.gateway.cache.breakers.borrow_mut();
        let breaker = breakers.entry(self.index).or_default();
        match outcome {
            Ok(status) if status.is_success() => breaker.succeeded(),
            Ok(status) if status == http::StatusCode::BAD_REQUEST => {
                self.warn(collector, "refused the payload (400)");
            }
            Ok(status) => {
                self.warn(collector, &format!("answered {}", status.as_u16()));
                self.failed(collector, breaker.failed(now));
            }
            Err(reason) => {
                self.warn(collector, &reason);
                self.failed(collector, breaker.failed(now));
            }
        }
    }

    fn failed(&self, collector: &Collector, has_opened: bool) {
        if has_opened {
            self.warn(collector, "failed five times in a row: exports to it are dropped for 30 s");
        }
    }

    fn warn(&self, collector: &Collector, what: &str) {
        self.gateway.log(Level::Warn, &format!("telemetry {}{}: {what}", collector.url, self.signal.path()));
    }

    async fn send(&self, collector: &Collector) -> Result<http::StatusCode, String> {
        let mut request = http::Request::new(self.body.clone());
        *request.method_mut() = Method::POST;
        let address = format!("{}{}", collector.url, self.signal.path());
        *request.uri_mut() = address.parse().map_err(|_| "its address is not valid".to_owned())?;
        let headers = request.headers_mut();
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(header::CONTENT_TYPE, self.content_type.clone().unwrap_or(protobuf));
        if let Some(encoding) = &self.content_encoding {
            headers.insert(header::CONTENT_ENCODING, encoding.clone());
        }
        if let Some(auth) = &collector.google {
            let token = self.google_token(auth).await?;
            headers.insert(header::AUTHORIZATION, token);
        }
        for (name, value) in &collector.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("`{name}` is no header name"))?;
            let value = HeaderValue::try_from(value.reveal().as_str()).map_err(|_| format!("{name} cannot be sent"))?;
            headers.insert(name, value);
        }
        let outbound = Outbound { request, first_byte_timeout: Some(PATIENCE) };
        self.gateway.ports.http.send(outbound).await.map(|answer| answer.status()).map_err(|error| error.to_string())
    }

    async fn google_token(&self, auth: &crate::config::GoogleAuth) -> Result<HeaderValue, String> {
        let gateway = &self.gateway;
        let variable = |name: &str| gateway.ports.environment.get(name).cloned();
        let file = |path: &str| gateway.ports.files.read(path);
        let world = World { variable: &variable, file: &file, now: gateway.ports.clock.now() };
        let step: Step = credentials::obtain_google(auth, &world).map_err(|error| error.to_string())?;
        let obtained = gateway.follow(step).await?;
        let Credential::Bearer(token) = obtained.credential else { return Err("no access token".to_owned()) };
        HeaderValue::try_from(format!("Bearer {}", token.reveal()))
            .map_err(|_| "the access token is malformed".to_owned())
    }
}
