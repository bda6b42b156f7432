//! `POST /v1/metrics`, `/v1/logs`, `/v1/traces`: OpenTelemetry of clients, relayed byte for byte to the collectors that
//! want it (auth contract §10). The client gets its 200 at once, whatever becomes of the export.
//!
//! Destinations know nothing of each other: each has its own room for exports under way, its own attempts and its own
//! breaker. What does not fit is dropped and counted; nothing waits longer than its attempts take, and nothing is kept.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, header};

use crate::config::Collector;
use crate::domain::destination::{Destination, Entry};
use crate::domain::figure::Figure;
use crate::error::Failure;
use crate::exchange::{Body, Request, Response, read_body};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::ports::{BoxStream, HttpError, Outbound};
use crate::spans;
use crate::upstream::credentials::{self, Credential, Step, World};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pauses before further attempts; a random part is added, so that clients of one outage do not return together.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
const JITTER_MILLIS: u64 = 250;

/// The longest `Retry-After` that is waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The most of a collector's answer that is read, so that its connection can be used again.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

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

    fn name(self) -> &'static str {
        self.path().trim_start_matches("/v1/")
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
        if !signal.is_wanted(collector) {
            continue;
        }
        let export = Export {
            gateway: Rc::clone(gateway),
            request_id: context.request_id.clone(),
            index,
            signal,
            content_type: content_type.clone(),
            content_encoding: content_encoding.clone(),
            body: body.clone(),
        };
        if export.begin() {
            gateway.ports.tasks.spawn(export.run().boxed_local());
        }
    }
    Ok(Response::new(Body::empty()))
}

/// One export to one collector.
struct Export {
    gateway: Rc<Gateway>,
    request_id: String,
    index: usize,
    signal: Signal,
    content_type: Option<HeaderValue>,
    content_encoding: Option<HeaderValue>,
    body: Bytes,
}

/// Why an attempt did not succeed.
enum Failed {
    /// The payload is at fault: not a failure of the destination.
    Refused,
    /// It may be tried again, after this long if the destination said so.
    Again(String, Option<Duration>),
    /// It will not be better.
    ForGood(String),
}

impl Export {
    /// Takes room at the destination; false if there is none, or if it is left alone for now.
    fn begin(&self) -> bool {
        let now = self.gateway.ports.clock.now();
        let entry = self.destination(|destination| destination.enter(self.body.len() as u64, now));
        match entry {
            Entry::Admitted => return true,
            Entry::Paused => self.count("paused", 0),
            Entry::Full(told) => {
                self.count("full", 0);
                if let Some(dropped) = told {
                    self.warn(&format!("is too slow: {dropped} exports were dropped"));
                }
            }
        }
        false
    }

    fn destination<T>(&self, act: impl FnOnce(&mut Destination) -> T) -> T {
        act(self.gateway.cache.destinations.borrow_mut().entry(self.index).or_default())
    }

    async fn run(self) {
        let mut retries = 0;
        let outcome = loop {
            let outcome = self.attempt().await;
            let (Err(Failed::Again(_, asked)), Some(pause)) = (&outcome, PAUSES.get(retries)) else { break outcome };
            let pause = asked.unwrap_or(*pause);
            // One of the others under way may have found out meanwhile that this leads nowhere.
            if pause > LONGEST_PAUSE || self.is_paused() {
                break outcome;
            }
            let jitter = u64::from(self.gateway.random::<1>()[0]) * JITTER_MILLIS / 256;
            self.gateway.ports.clock.sleep(pause + Duration::from_millis(jitter)).await;
            retries += 1;
        };
        let now = self.gateway.ports.clock.now();
        let has_opened = self.destination(|destination| {
            destination.leave(self.body.len() as u64);
            match &outcome {
                Ok(()) => {
                    destination.succeeded();
                    false
                }
                Err(Failed::Refused) => false,
                Err(Failed::Again(..) | Failed::ForGood(_)) => destination.failed(now),
            }
        });
        match outcome {
            Ok(()) => self.count("sent", retries),
            Err(Failed::Refused) => {
                self.count("refused", retries);
                self.warn("refused the payload (400)");
            }
            Err(Failed::Again(reason, _) | Failed::ForGood(reason)) => {
                self.count("failed", retries);
                self.warn(&reason);
            }
        }
        if has_opened {
            self.warn("failed five times in a row: exports to it are dropped for 30 s");
        }
    }

    fn is_paused(&self) -> bool {
        let now = self.gateway.ports.clock.now();
        self.destination(|destination| destination.is_paused(now))
    }

    fn collector(&self) -> &Collector {
        &self.gateway.config.telemetry.forward_to[self.index]
    }

    fn count(&self, outcome: &str, retries: usize) {
        self.gateway.count(&Figure::Export {
            destination: spans::host(&self.collector().url),
            signal: self.signal.name(),
            outcome,
            retries: u32::try_from(retries).unwrap_or(u32::MAX),
        });
    }

    fn warn(&self, what: &str) {
        let address = shown(&self.collector().url);
        let message = format!("telemetry {address}{}: {what}", self.signal.path());
        self.gateway.say(Level::Warn, Some(&self.request_id), &message);
    }

    /// One attempt. What may be tried again is what OTLP/HTTP says (opentelemetry.io, OTLP 1.5, "Retryable Response
    /// Codes"), and a destination that cannot be reached.
    async fn attempt(&self) -> Result<(), Failed> {
        let answer = self.send(self.collector()).await?;
        let status = answer.status();
        let asked = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        // Read to its end, so that the connection can be used again.
        let _ = read_body(&mut answer.into_body(), MAX_ANSWER_BYTES).await;
        match status.as_u16() {
            _ if status.is_success() => Ok(()),
            400 => Err(Failed::Refused),
            429 | 502 | 503 | 504 => {
                Err(Failed::Again(format!("answered {}", status.as_u16()), asked.map(Duration::from_secs)))
            }
            other => Err(Failed::ForGood(format!("answered {other}"))),
        }
    }

    async fn send(&self, collector: &Collector) -> Result<http::Response<BoxStream>, Failed> {
        let request = self.request(collector).await.map_err(Failed::ForGood)?;
        let outbound = Outbound { request, first_byte_timeout: Some(PATIENCE) };
        self.gateway.ports.http.send(outbound).await.map_err(|error| match error {
            HttpError::Forbidden(_) => Failed::ForGood(error.to_string()),
            _ => Failed::Again(error.to_string(), None),
        })
    }

    async fn request(&self, collector: &Collector) -> Result<http::Request<Bytes>, String> {
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
        Ok(request)
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

/// An address without what may be secret in it: user, password and query.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let rest = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{}", path.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn an_address_in_the_log_has_no_secrets() {
        for (url, expected) in [
            ("https://otel.example.com/base", "https://otel.example.com/base"),
            (
                "https://user:placeholder@otel.example.com:4318/base?key=placeholder",
                "https://otel.example.com:4318/base",
            ),
            ("https://otel.example.com?key=a@b/c", "https://otel.example.com"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
