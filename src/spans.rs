//! Spans of the gateway's own work (`observability.otlp`): gathered for a moment, sent together behind the responses,
//! and forgotten when the collector does not take them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::config::Otlp;
use crate::domain::figure::Figure;
use crate::domain::ids::Timestamp;
use crate::domain::trace::{self, Span, Trace, Work};
use crate::exchange::read_body;
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::ports::Outbound;
use crate::routes::Route;

/// Spans that may wait; more are dropped.
const MOST_WAITING: usize = 2048;

/// How long one export may take, and how often the operator is told that none succeeds.
const PATIENCE: Duration = Duration::from_secs(10);
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Spans on their way out.
#[derive(Default)]
pub(crate) struct SpanQueue {
    waiting: RefCell<Vec<Span>>,
    is_sending: Cell<bool>,
    warned_at: Cell<Option<Timestamp>>,
}

impl Gateway {
    /// The place of a request in a trace: the caller's, or one that begins here, if traces are wanted at all.
    pub(crate) fn trace(&self, headers: &HeaderMap) -> Option<Trace> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(parent) = text("traceparent") {
            return Trace::continued(parent, text("tracestate"), self.random());
        }
        let otlp = self.config.observability.otlp.as_ref()?;
        let [dice] = self.random::<1>();
        // 256 is not a multiple of 100, which at this precision nobody notices.
        let is_sampled = u32::from(dice) * 100 < u32::from(otlp.sample_percent) * 256;
        Some(Trace::begun(self.random(), self.random(), is_sampled))
    }

    /// The request is answered, as far as its headers go.
    pub(crate) fn trace_request(
        self: &Rc<Self>,
        context: &Context,
        about: (Option<Route>, Method),
        from: Timestamp,
        status: u16,
    ) {
        let (route, method) = about;
        if route.is_some_and(Route::is_probe) {
            return;
        }
        self.trace_work(context, from, Some(status), || Work::Request {
            route: route.map_or("unknown", Route::path).to_owned(),
            method: method.to_string(),
            request_id: context.request_id.clone(),
        });
    }

    /// Notes that `work` for this request is done.
    pub(crate) fn trace_work(
        self: &Rc<Self>,
        context: &Context,
        from: Timestamp,
        status: Option<u16>,
        work: impl FnOnce() -> Work,
    ) {
        let Some(otlp) = &self.config.observability.otlp else { return };
        let Some(trace) = context.trace.as_ref().filter(|trace| trace.is_sampled()) else { return };
        let queue = &self.cache.spans;
        let mut waiting = queue.waiting.borrow_mut();
        if waiting.len() >= MOST_WAITING {
            self.count(&exported(otlp, "full"));
            return;
        }
        waiting.push(Span { trace: trace.clone(), work: work(), from, to: self.ports.clock.now(), status });
        drop(waiting);
        if !queue.is_sending.replace(true) {
            let gateway = Rc::clone(self);
            self.ports.tasks.spawn(async move { send(&gateway).await }.boxed_local());
        }
    }
}

fn exported<'a>(otlp: &'a Otlp, outcome: &'a str) -> Figure<'a> {
    Figure::Export { destination: host(&otlp.url), signal: "spans", outcome, retries: 0 }
}

/// The host in `url`, without user and port.
pub(crate) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Gathers for a moment, then sends what there is; once more if more came meanwhile.
async fn send(gateway: &Gateway) {
    let queue = &gateway.cache.spans;
    let Some(otlp) = &gateway.config.observability.otlp else { return };
    loop {
        gateway.ports.clock.sleep(otlp.delay).await;
        let spans = queue.waiting.take();
        if spans.is_empty() {
            break;
        }
        let outcome = post(gateway, otlp, &spans).await;
        gateway.count(&exported(otlp, if outcome.is_ok() { "sent" } else { "failed" }));
        if let Err(reason) = outcome {
            let now = gateway.ports.clock.now();
            if queue.warned_at.get().is_none_or(|at| now.since(at) >= WARN_EVERY) {
                queue.warned_at.set(Some(now));
                // The rest of the address may be secret.
                let message = format!("{} spans for {} are lost: {reason}", spans.len(), host(&otlp.url));
                gateway.log(Level::Warn, &message);
            }
        }
    }
    queue.is_sending.set(false);
}

async fn post(gateway: &Gateway, otlp: &Otlp, spans: &[Span]) -> Result<(), String> {
    let mut request = http::Request::new(trace::export(spans).to_string().into());
    *request.method_mut() = Method::POST;
    let address = format!("{}/v1/traces", otlp.url);
    *request.uri_mut() = address.parse().map_err(|_| "its address is not valid".to_owned())?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &otlp.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("`{name}` is no header name"))?;
        let value = HeaderValue::try_from(value.reveal().as_str()).map_err(|_| format!("{name} cannot be sent"))?;
        headers.insert(name, value);
    }
    let outbound = Outbound { request, first_byte_timeout: Some(PATIENCE) };
    let mut answer = gateway.ports.http.send(outbound).await.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("answered {}", answer.status().as_u16()));
    }
    // Read to its end, so that the connection can be used again.
    let _ = read_body(answer.body_mut(), 64 * 1024).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn the_host_of_an_address_is_a_bounded_label() {
        for (url, expected) in [
            ("https://otel.example.com/v", "otel.example.com"),
            ("http://user:secret@127.0.0.1:4318", "127.0.0.1"),
            ("http://[::1]:4318/x", "[::1]"),
            ("http://[::1]", "[::1]"),
        ] {
            assert_eq!(host(url), expected);
        }
    }
}
