//! The operators' listener (`observability.metrics.listen`): `GET /metrics`, `/healthz` and `/readyz` with reasons. It
//! answers from the moment at which the configuration is read, so that a start that takes long can be told from one
//! that hangs; what it says is for those who show the token, or who are on the machine.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sallyport::config;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::generation::Generations;
use crate::{console, listen, metrics};

/// How long a scraper may take for the head of its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Nobody is served yet.
    Starting = 0,
    /// Everybody is.
    Serving = 1,
    /// Whoever is there may finish.
    Draining = 2,
}

static PHASE: AtomicU8 = AtomicU8::new(0);

impl Phase {
    /// The present one.
    pub(crate) fn current() -> Self {
        match PHASE.load(Ordering::Acquire) {
            0 => Self::Starting,
            1 => Self::Serving,
            _ => Self::Draining,
        }
    }

    /// From now on it is this one.
    pub(crate) fn begin(self) {
        PHASE.store(self as u8, Ordering::Release);
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// Binds the listener and has it answered for as long as the process lives.
pub(crate) async fn start(wanted: &config::Metrics, generations: Arc<Generations>) -> Result<()> {
    let listener = listen::bind(&wanted.listen.to_string()).await.context("observability.metrics.listen")?;
    let token = wanted.token.as_ref().map(|token| digest(token.reveal().as_bytes()));
    metrics::want();
    if let Some(metrics) = metrics::wanted() {
        generations.current().config.upstreams.iter().for_each(|upstream| metrics.know_upstream(&upstream.name));
    }
    console::info(&format!("metrics: http://{}/metrics", wanted.listen));
    tokio::spawn(serve(listener, token, generations));
    Ok(())
}

async fn serve(listener: TcpListener, token: Option<[u8; 32]>, generations: Arc<Generations>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let generations = Arc::clone(&generations);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let generations = Arc::clone(&generations);
                async move { Ok::<_, Infallible>(answer(&request, token, &generations).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // How a scraper's connection ends is its own business.
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer<B>(request: &Request<B>, token: Option<[u8; 32]>, generations: &Generations) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if request.method() == Method::GET && path == "/healthz" {
        return response(StatusCode::OK, "text/plain;charset=utf-8", "ok");
    }
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Digests are compared, so that time tells nothing about the token.
    if token.is_some_and(|token| given.map(digest) != Some(token)) {
        let mut refused = response(StatusCode::UNAUTHORIZED, "text/plain;charset=utf-8", "a token is required");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    }
    match (request.method(), path) {
        (&Method::GET, "/metrics") => match metrics::wanted() {
            Some(metrics) => response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text()),
            None => response(StatusCode::NOT_FOUND, "text/plain;charset=utf-8", "not found"),
        },
        (&Method::GET, "/readyz") => readiness(generations).await,
        _ => response(StatusCode::NOT_FOUND, "text/plain;charset=utf-8", "not found"),
    }
}

/// What the component says of itself, while it serves.
async fn readiness(generations: &Generations) -> Response<Full<Bytes>> {
    let phase = Phase::current();
    let mut report = json!({"phase": phase.name(), "open_requests": generations.in_flight()});
    let mut is_ready = phase == Phase::Serving;
    if phase != Phase::Starting {
        let asked = generations.current().control().call("health", &json!({})).await;
        let found = asked.unwrap_or_else(|error| json!({"ready": false, "component": error.to_string()}));
        is_ready = is_ready && found["ready"] == Value::Bool(true);
        for (name, value) in found.as_object().into_iter().flatten() {
            report[name.as_str()] = value.clone();
        }
    }
    report["ready"] = is_ready.into();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, "application/json;charset=utf-8", report.to_string())
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
